// The loops of every BitmapSparseGemm kernel, over a Simd type (simd_generic.h, simd_avx2.h) and a
// value type (F16Values, I8Values below).
#ifndef SLC_BITMAP_SPARSE_GEMM_LOOP_NEST_H_
#define SLC_BITMAP_SPARSE_GEMM_LOOP_NEST_H_

#include <cstring>

#include "bitmap_sparse_gemm.h"

namespace slc {
namespace {

struct F16Values {
  static constexpr int64_t kBytes = 2;
  static constexpr bool kScaled = false;
  template <class S>
  static typename S::Vec Expand(const uint8_t* p, unsigned mask) {
    return S::ExpandF16(p, mask);
  }
};

struct I8Values {
  static constexpr int64_t kBytes = 1;
  static constexpr bool kScaled = true;
  template <class S>
  static typename S::Vec Expand(const uint8_t* p, unsigned mask) {
    return S::ExpandI8(p, mask);
  }
};

inline uint64_t LoadWord(const uint8_t* p) {
  uint64_t word;
  std::memcpy(&word, p, sizeof word);
  return word;
}

// The factor of what ExpandI8 makes of a group.
template <class S>
inline float LoadScale(const uint8_t* p) {
  uint16_t half;
  std::memcpy(&half, p, sizeof half);
  return S::Half(half) * S::kI8Unit;
}

// Byte i: the number of set bits in bytes 0 ... i of the word. The eight loads that a word needs
// then start from independent addresses instead of a chain of additions.
inline uint64_t PrefixCounts(uint64_t word) {
  word -= (word >> 1) & 0x5555555555555555u;
  word = (word & 0x3333333333333333u) + ((word >> 2) & 0x3333333333333333u);
  word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0fu;
  return word * 0x0101010101010101u;
}

template <class V>
const uint8_t* RowValues(const PackedView& w, int64_t row) {
  return w.values + V::kBytes * LoadWord(w.starts + 8 * (row / w.tile_rows));
}

// sums[i] += word w of a row times x[i]; returns where the next word's values begin.
template <class S, class V, int M, int A>
inline const uint8_t* GemvWord(const uint8_t* mask, const uint8_t* values, const float* x,
                               int64_t ldx, typename S::Vec (&sums)[M][A]) {
  const uint64_t ends =
      PrefixCounts(LoadWord(mask)) * V::kBytes;  // at most 128: no carry between bytes
  const uint64_t begins = ends << 8;
#pragma GCC unroll 8
  for (int byte = 0; byte < 8; ++byte) {
    const uint8_t* p = values + (begins >> (8 * byte) & 255u);
    const auto v = V::template Expand<S>(p, mask[byte]);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      auto& sum = sums[i][byte % A];
      sum = S::MulAdd(v, S::Load(x + i * ldx + 8 * byte), sum);
    }
  }
  return values + (ends >> 56);
}

// One row of w: writes y[i, row] for M rows of x, returns where the next row's values begin.
template <class S, class V, int M>
inline const uint8_t* GemvRow(const SparseArgs& a, int64_t row, const uint8_t* values) {
  constexpr int A =
      M == 1 && !V::kScaled ? 4 : 2;  // enough independent sums to hide the latency of MulAdd
  const PackedView& w = *a.w;
  const uint8_t* mask = w.masks + 8 * row * w.words;
  const uint8_t* scale = V::kScaled ? w.scales + 2 * row * w.groups : nullptr;
  typename S::Vec total[M];
  for (auto& t : total) t = S::Zero();
  for (int64_t begin = 0; begin < w.words; begin += w.group_words) {
    const int64_t end = begin + w.group_words < w.words ? begin + w.group_words : w.words;
    typename S::Vec sums[M][A];
    for (auto& row_sums : sums) {
      for (auto& sum : row_sums) sum = S::Zero();
    }
    for (int64_t i = begin; i < end; ++i) {
      values = GemvWord<S, V, M, A>(mask + 8 * i, values, a.x + 64 * i, a.ldx, sums);
    }
    const auto factor = S::Set(V::kScaled ? LoadScale<S>(scale) : 1.0f);
    for (int i = 0; i < M; ++i) {
      auto sum = S::Add(sums[i][0], sums[i][1]);
      if (A == 4) sum = S::Add(sum, S::Add(sums[i][A - 2], sums[i][A - 1]));
      total[i] = S::MulAdd(sum, factor, total[i]);
    }
    scale += V::kScaled ? 2 : 0;
  }
  const float bias = a.bias == nullptr ? 0.0f : a.bias[row];
  for (int i = 0; i < M; ++i) a.y[i * a.ldy + row] = S::Sum(total[i]) * w.factor + bias;
  return values;
}

template <class S, class V, int M>
inline void GemvRows(const SparseArgs& a) {
  const uint8_t* values = RowValues<V>(*a.w, a.row_begin);
  for (int64_t row = a.row_begin; row < a.row_end; ++row) {
    values = GemvRow<S, V, M>(a, row, values);
  }
}

template <class S, class V>
inline void SparseGemv(const SparseArgs& a) {
  if (a.m == 1) GemvRows<S, V, 1>(a);
  if (a.m == 2) GemvRows<S, V, 2>(a);
  if (a.m == 3) GemvRows<S, V, 3>(a);
}

// The GEMM's tile: eight rows of w by 512 columns, decoded to float32 in L1 and used for all of x.
// Three rows of x meet four rows of the tile in registers, so x comes from L2 once for two such
// meetings.
constexpr int kPanelRows = 8;
constexpr int kDotRows = 4;
constexpr int64_t kPanelColumns = kBlockColumns;
constexpr int64_t kPanelWords = kPanelColumns / 64;

// Decodes `words` mask words of one row from word `begin` on; returns where the values go on.
template <class S, class V>
inline const uint8_t* DecodeRow(const PackedView& w, int64_t row, int64_t begin, int64_t words,
                                const uint8_t* values, float* out) {
  const uint8_t* mask = w.masks + 8 * (row * w.words + begin);
  for (int64_t i = 0; i < words; ++i, out += 64) {
    const uint64_t ends = PrefixCounts(LoadWord(mask + 8 * i)) * V::kBytes;
    const uint64_t begins = ends << 8;
    auto scale = S::Set(1.0f);
    if (V::kScaled) {
      const int64_t group = (begin + i) / w.group_words;
      scale = S::Set(LoadScale<S>(w.scales + 2 * (row * w.groups + group)));
    }
#pragma GCC unroll 8
    for (int byte = 0; byte < 8; ++byte) {
      const uint8_t* p = values + (begins >> (8 * byte) & 255u);
      auto v = V::template Expand<S>(p, mask[8 * i + byte]);
      if (V::kScaled) v = S::Mul(v, scale);
      S::Store(out + 8 * byte, v);
    }
    values += ends >> 56;
  }
  return values;
}

// out[i][r] = x row i · panel row r over `columns` columns, a multiple of 8.
template <class S, int M>
inline void PanelDot(const float* x, int64_t ldx, const float* panel, int64_t columns,
                     float (*out)[kDotRows]) {
  typename S::Vec sums[M][kDotRows];
  for (auto& row_sums : sums) {
    for (auto& sum : row_sums) sum = S::Zero();
  }
  for (int64_t k = 0; k < columns; k += 8) {
    typename S::Vec xs[M];
    for (int i = 0; i < M; ++i) xs[i] = S::Load(x + i * ldx + k);
#pragma GCC unroll 4
    for (int r = 0; r < kDotRows; ++r) {
      const auto v = S::Load(panel + r * kPanelColumns + k);
#pragma GCC unroll 4
      for (int i = 0; i < M; ++i) sums[i][r] = S::MulAdd(v, xs[i], sums[i][r]);
    }
  }
  for (int i = 0; i < M; ++i) S::Sum4(sums[i], out[i]);
}

// sums[i][r] += x row i · panel row r.
template <class S>
inline void PanelGemm(const SparseArgs& a, const float* x, int rows, const float* panel,
                      int64_t columns, float (*sums)[kPanelRows]) {
  for (int64_t i = 0; i < a.m; i += 3, x += 3 * a.ldx) {
    const int count = static_cast<int>(a.m - i < 3 ? a.m - i : 3);
    for (int begin = 0; begin < rows; begin += kDotRows) {
      float out[3][kDotRows];
      const float* w = panel + begin * kPanelColumns;
      if (count == 3) PanelDot<S, 3>(x, a.ldx, w, columns, out);
      if (count == 2) PanelDot<S, 2>(x, a.ldx, w, columns, out);
      if (count == 1) PanelDot<S, 1>(x, a.ldx, w, columns, out);
      for (int j = 0; j < count; ++j) {
        for (int r = 0; r < kDotRows; ++r) sums[i + j][begin + r] += out[j][r];
      }
    }
  }
}

// y = sums * factor + bias.
inline void Epilogue(const SparseArgs& a, const float (*sums)[kPanelRows], int64_t row, int rows) {
  for (int64_t i = 0; i < a.m; ++i) {
    float* y = a.y + i * a.ldy + row;
    for (int r = 0; r < rows; ++r) {
      y[r] = sums[i][r] * a.w->factor + (a.bias == nullptr ? 0.0f : a.bias[row + r]);
    }
  }
}

inline int64_t RowCount(const PackedView& w, int64_t row) {
  int64_t count = 0;
  const uint8_t* mask = w.masks + 8 * row * w.words;
  for (int64_t i = 0; i < w.words; ++i) count += __builtin_popcountll(LoadWord(mask + 8 * i));
  return count;
}

// All rows row_begin ... row_end of w, at most kBlockRows rows of x.
template <class S, class V>
inline void GemmBlock(const SparseArgs& a) {
  const PackedView& w = *a.w;
  alignas(64) float panel[kPanelRows * kPanelColumns];
  // Rows of y may lie a large power of two apart and evict each other: sum here, write y once.
  alignas(64) float sums[kBlockRows][kPanelRows];
  std::memset(panel, 0, sizeof panel);  // rows past row_end stay zero
  const uint8_t* next = RowValues<V>(w, a.row_begin);
  for (int64_t row = a.row_begin; row < a.row_end; row += kPanelRows) {
    const int rows = static_cast<int>(a.row_end - row < kPanelRows ? a.row_end - row : kPanelRows);
    const uint8_t* values[kPanelRows];
    for (int r = 0; r < rows; ++r) {
      values[r] = next;
      next += V::kBytes * RowCount(w, row + r);
    }
    std::memset(sums, 0, sizeof sums[0] * static_cast<size_t>(a.m));
    for (int64_t begin = 0; begin < w.words; begin += kPanelWords) {
      const int64_t words = w.words - begin < kPanelWords ? w.words - begin : kPanelWords;
      for (int r = 0; r < rows; ++r) {
        values[r] = DecodeRow<S, V>(w, row + r, begin, words, values[r], panel + r * kPanelColumns);
      }
      PanelGemm<S>(a, a.x + begin / kPanelWords * a.x_block, rows, panel, 64 * words, sums);
    }
    Epilogue(a, sums, row, rows);
  }
}

template <class S, class V>
inline void SparseGemm(const SparseArgs& args) {
  for (int64_t i = 0; i < args.m; i += kBlockRows) {
    SparseArgs a = args;
    a.m = args.m - i < kBlockRows ? args.m - i : kBlockRows;
    a.x += i * a.ldx;
    a.y += i * a.ldy;
    GemmBlock<S, V>(a);
  }
}

}  // namespace
}  // namespace slc

#endif  // SLC_BITMAP_SPARSE_GEMM_LOOP_NEST_H_
