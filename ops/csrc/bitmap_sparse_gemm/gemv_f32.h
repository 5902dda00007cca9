// The loops of the GEMV kernels on float32 activations.
#ifndef SLC_BITMAP_SPARSE_GEMM_GEMV_F32_H_
#define SLC_BITMAP_SPARSE_GEMM_GEMV_F32_H_

#include "../dense_values.h"
#include "values.h"

namespace slc {
namespace {

// Bytes of values ahead of the reader that are asked for: the memory's latency at one thread's
// speed. Without it the chain from mask to address leaves the hardware prefetchers too little time.
constexpr int64_t kPrefetchBytes = 2048;

inline void PrefetchValues(const uint8_t* values) {
  __builtin_prefetch(values + kPrefetchBytes);
  __builtin_prefetch(values + kPrefetchBytes + 64);
}

// Values that a shuffle by one mask byte expands: eight floats from p.
struct F16Expand {
  static constexpr int64_t kBytes = 2;
  static constexpr bool kFull = false, kInts = false;
  template <class S>
  static typename S::Vec Expand(const uint8_t* p, unsigned mask) {
    return S::ExpandF16(p, mask);
  }
};

struct I8Expand {
  static constexpr int64_t kBytes = 1;
  static constexpr bool kFull = false, kInts = true;
  // What makes 1 of the value 1.
  template <class S>
  static constexpr float kUnit = S::kI8Unit;
  template <class S>
  static typename S::Vec Expand(const uint8_t* p, unsigned mask) {
    return S::ExpandI8(p, mask);
  }
};

// Values that lie as they are used: those of full blobs.
struct F16Full : F16Dense, FullF16 {};
struct I8Full : I8Dense, FullI8 {
  template <class S>
  static constexpr float kUnit = 1.0f;
};

// sums[i] += word w of a row times x[i]; returns where the next word's values begin.
template <class S, class V, int M, int A>
inline const uint8_t* GemvWord(const uint8_t* mask, const uint8_t* values, const float* x,
                               int64_t ldx, typename S::Vec (&sums)[M][A]) {
  uint64_t ends = 0;
  if constexpr (!V::kFull) {
    ends = PrefixCounts(LoadWord(mask)) * V::kBytes;  // at most 128: no carry between bytes
  }
  const uint64_t begins = ends << 8;
  PrefetchValues(values);
#pragma GCC unroll 8
  for (int byte = 0; byte < 8; ++byte) {
    typename S::Vec v;
    if constexpr (V::kFull) {
      v = V::template Load<S>(values + 8 * V::kBytes * byte);
    } else {
      v = V::template Expand<S>(values + (begins >> (8 * byte) & 255u), mask[byte]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      auto& sum = sums[i][byte % A];
      sum = S::MulAdd(v, S::Load(x + i * ldx + 8 * byte), sum);
    }
  }
  return values + (V::kFull ? 64 * V::kBytes : static_cast<int64_t>(ends >> 56));
}

// One row of w: writes y[i, row] for M rows of x, returns where the next row's values begin.
template <class S, class V, int M>
inline const uint8_t* GemvRow(const SparseArgs& a, int64_t row, const uint8_t* values) {
  constexpr int A =
      M == 1 && !V::kInts ? 4 : 2;  // enough independent sums to hide the latency of MulAdd
  const PackedView& w = *a.w;
  const uint8_t* scale = V::kInts ? w.scales + 2 * row * w.groups : nullptr;
  WordBuffer buffer;
  typename S::Vec total[M];
#pragma GCC unroll 4
  for (auto& t : total) t = S::Zero();
  for (int64_t begin = 0; begin < w.words; begin += w.group_words) {
    const int64_t end = begin + w.group_words < w.words ? begin + w.group_words : w.words;
    typename S::Vec sums[M][A];
#pragma GCC unroll 4
    for (auto& row_sums : sums) {
#pragma GCC unroll 4
      for (auto& sum : row_sums) sum = S::Zero();
    }
    for (int64_t i = begin; i < end; ++i) {
      values = GemvWord<S, V, M, A>(MasksAt<V>(w, row, i), WholeWord<V>(w, i, values, &buffer),
                                    a.x.x + 64 * i, a.x.row_stride, sums);
    }
    float factor = 1.0f;
    if constexpr (V::kInts) factor = S::HalfAt(scale) * V::template kUnit<S>;
    const auto factors = S::Set(factor);
#pragma GCC unroll 4
    for (int i = 0; i < M; ++i) {
      auto sum = S::Add(sums[i][0], sums[i][1]);
      if (A == 4) sum = S::Add(sum, S::Add(sums[i][A - 2], sums[i][A - 1]));
      total[i] = S::MulAdd(sum, factors, total[i]);
    }
    scale += V::kInts ? 2 : 0;
  }
  const float bias = a.bias == nullptr ? 0.0f : a.bias[row];
#pragma GCC unroll 4
  for (int i = 0; i < M; ++i) a.y[i * a.ldy + row] = S::Sum(total[i]) * w.factor + bias;
  return values;
}

// One row whose words a Reader turns into 64 integers: i4.
template <class S, class Reader, int M>
inline const uint8_t* GemvRowDecoded(const SparseArgs& a, const Reader& reader, int64_t row,
                                     const uint8_t* values) {
  const PackedView& w = *a.w;
  alignas(64) float weights[64];
  float scales[64];
  typename S::Vec sums[M][2];
#pragma GCC unroll 4
  for (auto& row_sums : sums) {
#pragma GCC unroll 4
    for (auto& sum : row_sums) sum = S::Zero();
  }
  for (int64_t i = 0; i < w.words; ++i) {
    if (i % 64 == 0) WordScales<S>(w, row, i, w.words - i < 64 ? w.words - i : 64, scales);
    const uint8_t* masks = MasksAt<Reader>(w, row, i);
    reader.Floats(values, masks, scales[i % 64], weights);
    values += Reader::Bytes(masks);
#pragma GCC unroll 8
    for (int c = 0; c < 8; ++c) {
      const auto v = S::Load(weights + 8 * c);
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) {
        sums[m][c % 2] =
            S::MulAdd(v, S::Load(a.x.x + m * a.x.row_stride + 64 * i + 8 * c), sums[m][c % 2]);
      }
    }
  }
  const float bias = a.bias == nullptr ? 0.0f : a.bias[row];
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m) {
    a.y[m * a.ldy + row] = S::Sum(S::Add(sums[m][0], sums[m][1])) * w.factor + bias;
  }
  return values;
}

template <class S, class V>
inline void SparseGemv(const SparseArgs& a) {
  WithRowsOfX(a.m, [&](auto m) {
    ForEachRow<V>(a, [&](int64_t row, const uint8_t* values) {
      return GemvRow<S, V, decltype(m)::value>(a, row, values);
    });
  });
}

template <class S, class Reader>
inline void SparseGemvDecoded(const SparseArgs& a) {
  const Reader reader(*a.w);
  WithRowsOfX(a.m, [&](auto m) {
    ForEachRow<Reader>(a, [&](int64_t row, const uint8_t* values) {
      return GemvRowDecoded<S, Reader, decltype(m)::value>(a, reader, row, values);
    });
  });
}

}  // namespace
}  // namespace slc

#endif  // SLC_BITMAP_SPARSE_GEMM_GEMV_F32_H_
