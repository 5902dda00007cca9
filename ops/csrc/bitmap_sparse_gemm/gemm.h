// The loops of the GEMM kernels: decode a panel of w once, use it for every row of x.
//
// A task's rows of w are taken 64 at a time, and x in blocks of kBlockColumns columns that stay in
// L2 meanwhile. Panels of S::kPanelVecs vectors' worth of rows are decoded row by row into a small
// tile, transposed, and stored column by column: [unit][panel row], where a unit is one column in
// float32 or four in int8. Then kTileRows rows of x meet the panel in registers: one broadcast of a
// unit of x for each row, one multiply-add for each row and vector, no sums across lanes.
#ifndef SLC_BITMAP_SPARSE_GEMM_GEMM_H_
#define SLC_BITMAP_SPARSE_GEMM_GEMM_H_

#include "gemv_f32.h"
#include "values.h"

namespace slc {
namespace {

// Rows of x and of w whose sums are kept at a time. Rows of y may lie a large power of two apart
// and evict each other: sum here, write y once.
constexpr int64_t kSumRows = 264;
constexpr int64_t kSumColumns = 64;
constexpr int64_t kBlockWords64 = kBlockColumns / 64;

template <class S, class Reader, Level L>
struct Gemm {
  static constexpr bool kInt8 = L == Level::kInt8;
  static constexpr int kPanelRows = S::kPanelVecs * S::kLanes;
  static constexpr int kUnits = kInt8 ? 16 : 64;  // of a mask word
  static constexpr int kTile = kInt8 ? S::kInt8TileRows : S::kTileRows;
  static_assert(kSumColumns % kPanelRows == 0, "panels tile the sums");
  using Lanes = typename S::Lanes;

  const SparseArgs& a;
  const PackedView& w;
  const Reader reader;
  const uint8_t* values[kSumColumns];  // of each row, at the block of columns to be decoded next
  alignas(64) float sums[kSumRows][kSumColumns];
  alignas(64) float panel[kBlockWords64 * kUnits * kPanelRows];
  alignas(64) float scales[kBlockWords64][kPanelRows];  // int8: of each word and panel row
  alignas(64) float tile[S::kLanes][kUnits];            // one word of kLanes rows

  explicit Gemm(const SparseArgs& args) : a(args), w(*args.w), reader(*args.w) {}

  void Run() {
    const uint8_t* next = RowValues(w, a.row_begin);
    for (int64_t row = a.row_begin; row < a.row_end; row += kSumColumns) {
      const int64_t rows = a.row_end - row < kSumColumns ? a.row_end - row : kSumColumns;
      const uint8_t* first[kSumColumns];
      for (int64_t r = 0; r < rows; ++r) {
        first[r] = next;
        next += RowBytes<Reader>(w, row + r);
      }
      for (int64_t m = 0; m < a.m; m += kSumRows) {
        std::memcpy(values, first, sizeof values);
        RunRows(row, rows, m, a.m - m < kSumRows ? a.m - m : kSumRows);
      }
    }
  }

 private:
  void RunRows(int64_t row, int64_t rows, int64_t m_begin, int64_t m) {
    std::memset(sums, 0, sizeof sums[0] * static_cast<size_t>(m));
    for (int64_t begin = 0; begin < w.words; begin += kBlockWords64) {
      const int64_t words = w.words - begin < kBlockWords64 ? w.words - begin : kBlockWords64;
      for (int64_t p = 0; p < rows; p += kPanelRows) {
        DecodePanel(row, rows, p, begin, words);
        for (int64_t i = 0; i < m; i += kTile) {
          Multiply<kTile>(m_begin + i, i, m - i, p, begin, words);
        }
      }
    }
    for (int64_t i = 0; i < m; ++i) {
      float* y = a.y + (m_begin + i) * a.ldy + row;
      for (int64_t r = 0; r < rows; ++r) {
        y[r] = sums[i][r] * w.factor + (a.bias == nullptr ? 0.0f : a.bias[row + r]);
      }
    }
  }

  // Rows p ... of the 64 that start at `row`, columns from mask word `begin` on.
  void DecodePanel(int64_t row, int64_t rows, int64_t p, int64_t begin, int64_t words) {
    for (int64_t i = 0; i < words; ++i) {
      for (int v = 0; v < S::kPanelVecs; ++v) {
        const int64_t first = p + v * S::kLanes;
        for (int r = 0; r < S::kLanes; ++r) {
          const bool inside = first + r < rows;
          DecodeWord(row + first + r, begin + i, i, v * S::kLanes + r, inside,
                     inside ? &values[first + r] : nullptr);
        }
        float* out = panel + i * kUnits * kPanelRows + v * S::kLanes;
        for (int u = 0; u < kUnits; u += S::kLanes) {
          S::Transpose(&tile[0][u], kUnits, out + u * kPanelRows, kPanelRows);
        }
      }
    }
  }

  // One word of one row to the tile; a row past the end gives numbers that are not used.
  void DecodeWord(int64_t row, int64_t word, int64_t i, int panel_row, bool inside,
                  const uint8_t** p) {
    float* out = tile[panel_row % S::kLanes];
    static constexpr uint8_t kNothing[8] = {};
    const uint8_t* masks = inside ? MasksAt<Reader>(w, row, word) : kNothing;
    WordBuffer buffer;
    const uint8_t* from = inside ? WholeWord<Reader>(w, word, *p, &buffer) : w.values;
    float scale = 0.0f;
    if constexpr (Reader::kInts) {
      if (inside) {
        scale = S::HalfAt(w.scales + 2 * (row * w.groups + word / w.group_words));
      }
    }
    __builtin_prefetch(from + kBlockColumns);
    if constexpr (kInt8) {
      S::StorePanelBytes(reader.Ints(from, masks), reinterpret_cast<int8_t*>(out));
      scales[i][panel_row] = scale;
    } else {
      reader.Floats(from, masks, scale, out);
    }
    if (inside) *p += Reader::Bytes(masks);
  }

  // Rows m ... m + T - 1 of x, at most `left`, with the panel; x_row is m in a.x, i in sums.
  template <int T>
  void Multiply(int64_t x_row, int64_t i, int64_t left, int64_t p, int64_t begin, int64_t words) {
    if constexpr (T > 1) {
      if (left < T) return Multiply<T - 1>(x_row, i, left, p, begin, words);
    }
    const int64_t at = begin / kBlockWords64 * a.x.block_stride + x_row * a.x.row_stride;
    if constexpr (kInt8) {
      MultiplyInt8<T>(at, x_row, i, p, begin, words);
    } else {
      MultiplyFloats<T>(a.x.x + at, &sums[i][p], 64 * words);
    }
  }

  template <int T>
  [[gnu::noinline]] void MultiplyFloats(const float* x, float* out, int64_t columns) {
    Lanes acc[T][S::kPanelVecs];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 4
      for (int v = 0; v < S::kPanelVecs; ++v) {
        acc[t][v] = S::LoadLanes(out + t * kSumColumns + v * S::kLanes);
      }
    }
    const int64_t stride = a.x.row_stride;
    const float* weights = panel;
    for (int64_t k = 0; k < columns; ++k, weights += kPanelRows) {
      Lanes wv[S::kPanelVecs];
#pragma GCC unroll 4
      for (int v = 0; v < S::kPanelVecs; ++v) wv[v] = S::LoadLanes(weights + v * S::kLanes);
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) {
        const Lanes xv = S::Broadcast(x + t * stride + k);
#pragma GCC unroll 4
        for (int v = 0; v < S::kPanelVecs; ++v) {
          acc[t][v] = S::MulAddLanes(xv, wv[v], acc[t][v]);
        }
      }
    }
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 4
      for (int v = 0; v < S::kPanelVecs; ++v) {
        S::StoreLanes(out + t * kSumColumns + v * S::kLanes, acc[t][v]);
      }
    }
  }

  // The integer sum of each word is exact; scale and step come in once a word.
  template <int T>
  [[gnu::noinline]] void MultiplyInt8(int64_t at, int64_t x_row, int64_t i, int64_t p,
                                      int64_t begin, int64_t words) {
    for (int64_t word = 0; word < words; ++word) {
      const float* steps = a.x.steps + x_row * a.x.step_stride + begin + word;
      const int32_t* corrections = a.x.corrections + x_row * a.x.correction_stride + begin + word;
      typename S::Ints acc[T][S::kPanelVecs];
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
#pragma GCC unroll 4
        for (int v = 0; v < S::kPanelVecs; ++v) {
          acc[t][v] =
              S::kShifted ? S::SetInts(corrections[t * a.x.correction_stride]) : S::ZeroInts();
        }
      }
      const int8_t* q = a.x.q + at + 64 * word;
      const uint8_t* magnitude = a.x.magnitude + at + 64 * word;
      const float* weights = panel + word * kUnits * kPanelRows;
      for (int u = 0; u < kUnits; ++u, weights += kPanelRows) {
        typename S::PanelBytes wv[S::kPanelVecs];
#pragma GCC unroll 4
        for (int v = 0; v < S::kPanelVecs; ++v) wv[v] = S::LoadPanelBytes(weights + v * S::kLanes);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) {
          const int64_t from = t * a.x.row_stride + 4 * u;
          const auto quad = S::LoadQuad(q + from, magnitude + from);
#pragma GCC unroll 4
          for (int v = 0; v < S::kPanelVecs; ++v) acc[t][v] = S::Dot4(acc[t][v], wv[v], quad);
        }
      }
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const Lanes step = S::Broadcast(steps + t * a.x.step_stride);
#pragma GCC unroll 4
        for (int v = 0; v < S::kPanelVecs; ++v) {
          float* out = &sums[i + t][p + v * S::kLanes];
          const Lanes factor = S::MulLanes(step, S::LoadLanes(&scales[word][v * S::kLanes]));
          S::StoreLanes(out, S::MulAddLanes(S::IntsToLanes(acc[t][v]), factor, S::LoadLanes(out)));
        }
      }
    }
  }
};

template <class S, class Reader, Level L>
inline void SparseGemm(const SparseArgs& args) {
  Gemm<S, Reader, L> gemm(args);
  gemm.Run();
}

}  // namespace
}  // namespace slc

#endif  // SLC_BITMAP_SPARSE_GEMM_GEMM_H_
