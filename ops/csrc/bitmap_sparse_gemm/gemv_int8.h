// The loops of the GEMV kernels on int8 activations, one word at a time.
#ifndef SLC_BITMAP_SPARSE_GEMM_GEMV_INT8_H_
#define SLC_BITMAP_SPARSE_GEMM_GEMV_INT8_H_

#include "gemv_f32.h"
#include "values.h"

namespace slc {
namespace {

constexpr int64_t kScaleWords = 64;  // words whose scales are read ahead

// out[i] = scale of word begin + i of a row, times its step, i < count <= kScaleWords. Whole
// vectors: what lies behind the row's scales is still the blob, and what lands beyond count is not
// used.
template <class S>
inline void WordFactors(const PackedView& w, int64_t row, int64_t begin, int64_t count,
                        const float* steps, float* out) {
  if (w.group_words != 1) {
    WordScales<S>(w, row, begin, count, out);
    for (int64_t i = 0; i < count; ++i) out[i] *= steps[i];
    return;
  }
  const uint8_t* scales = w.scales + 2 * (row * w.groups + begin);
  for (int64_t i = 0; i < count; i += 8) {
    S::Store(out + i, S::Mul(S::LoadF16(scales + 2 * i), S::Load(steps + i)));
  }
}

// One row of w times M rows of x: integer sums are exact, and each word's sum is scaled into float
// lanes. Returns where the next row's values begin.
template <class S, class Reader, int M>
inline const uint8_t* GemvRowInt8(const SparseArgs& a, const Reader& reader, int64_t row,
                                  const uint8_t* values) {
  const PackedView& w = *a.w;
  alignas(64) float factors[M][kScaleWords];
  typename S::Sums sums[M];
#pragma GCC unroll 4
  for (auto& sum : sums) sum = S::ZeroSums();
  for (int64_t begin = 0; begin < w.words; begin += kScaleWords) {
    const int64_t count = w.words - begin < kScaleWords ? w.words - begin : kScaleWords;
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      const float* steps = a.x.steps + m * a.x.step_stride + begin;
      WordFactors<S>(w, row, begin, count, steps, factors[m]);
    }
    for (int64_t i = 0; i < count; ++i) {
      const uint8_t* masks = MasksAt<Reader>(w, row, begin + i);
      __builtin_prefetch(values + kPrefetchBytes);
      const typename S::Bytes weights = reader.Ints(values, masks);
      values += Reader::Bytes(masks);
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) {
        const int64_t at = m * a.x.row_stride + 64 * (begin + i);
        const int32_t* correction =
            a.x.corrections + m * a.x.correction_stride + S::kCorrections * (begin + i);
        const auto dot = S::Dot64(weights, a.x.q + at, a.x.magnitude + at, correction);
        sums[m] = S::AddScaled(dot, factors[m][i], sums[m]);
      }
    }
  }
  const float bias = a.bias == nullptr ? 0.0f : a.bias[row];
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m) a.y[m * a.ldy + row] = S::Total(sums[m]) * w.factor + bias;
  return values;
}

template <class S, class Reader>
inline void SparseGemvInt8(const SparseArgs& a) {
  const Reader reader(*a.w);
  WithRowsOfX(a.m, [&](auto m) {
    ForEachRow<Reader>(a, [&](int64_t row, const uint8_t* values) {
      return GemvRowInt8<S, Reader, decltype(m)::value>(a, reader, row, values);
    });
  });
}

}  // namespace
}  // namespace slc

#endif  // SLC_BITMAP_SPARSE_GEMM_GEMV_INT8_H_
