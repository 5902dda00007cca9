// GEMV on float32 activations for f16 values, AVX-512 VBMI2.
//
// vpexpandw puts 32 values in place. Their conversion to float32 by vcvtph2ps would cost two
// operations and a lane crossing for each 16, on the ports that the expansion needs too; shifting
// the bits costs less: a float16 in the upper half of a lane, moved right by three with its sign
// kept, is the float32 of the same value times 2^-112, subnormals included. Upper halves are the
// odd columns and lower halves the even ones, so x comes as kSplit: for every 32 columns first the
// even ones, then the odd ones, and scaled so that its largest magnitude is near the top of
// float32's range: the products then keep the precision that 2^-112 would cost them.
//
// Only files built for AVX-512 may include this.
#ifndef SLC_BITMAP_SPARSE_GEMM_GEMV_SPLIT_H_
#define SLC_BITMAP_SPARSE_GEMM_GEMV_SPLIT_H_

#include "../simd_avx512.h"
#include "gemv_f32.h"
#include "values.h"

namespace slc {
namespace {

// 32 columns: even ones to sums[0], odd ones to sums[1].
template <int M>
inline void AddSplit(__m512i halves, const float* x, int64_t ldx, __m512 (&sums)[M][2]) {
  const __m512i sign_and_rest = _mm512_set1_epi32(static_cast<int>(0x8fffe000u));
  const __m512i upper = _mm512_slli_epi32(halves, 16);
  const __m512i even = _mm512_and_si512(_mm512_srai_epi32(upper, 3), sign_and_rest);
  const __m512i odd = _mm512_and_si512(_mm512_srai_epi32(halves, 3), sign_and_rest);
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m) {
    const float* p = x + m * ldx;
    sums[m][0] = _mm512_fmadd_ps(_mm512_castsi512_ps(even), _mm512_loadu_ps(p), sums[m][0]);
    sums[m][1] = _mm512_fmadd_ps(_mm512_castsi512_ps(odd), _mm512_loadu_ps(p + 16), sums[m][1]);
  }
}

template <int M>
inline void GemvSplitRows(const SparseArgs& a) {
  const PackedView& w = *a.w;
  const __m512i zero = HiddenZero();
  const uint8_t* values = RowValues(w, a.row_begin);
  for (int64_t row = a.row_begin; row < a.row_end; ++row) {
    const uint8_t* mask = w.masks + 8 * row * w.words;
    __m512 low[M][2], high[M][2];
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
      for (int i = 0; i < 2; ++i) low[m][i] = high[m][i] = _mm512_setzero_ps();
    }
    for (int64_t i = 0; i < w.words; ++i) {
      const uint64_t bits = LoadWord(mask + 8 * i);
      const auto first = static_cast<uint32_t>(bits);
      const auto second = static_cast<uint32_t>(bits >> 32);
      const uint8_t* middle = values + 2 * __builtin_popcount(first);
      PrefetchValues(values);
      __builtin_prefetch(mask + 8 * i + kPrefetchBytes / 4);
      const float* x = a.x.x + 64 * i;
      const __m512i first_halves = _mm512_mask_expandloadu_epi16(zero, first, values);
      const __m512i second_halves = _mm512_mask_expandloadu_epi16(zero, second, middle);
      AddSplit<M>(first_halves, x, a.x.row_stride, low);
      AddSplit<M>(second_halves, x + 32, a.x.row_stride, high);
      values = middle + 2 * __builtin_popcount(second);
    }
    const float bias = a.bias == nullptr ? 0.0f : a.bias[row];
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      const __m512 sum =
          _mm512_add_ps(_mm512_add_ps(low[m][0], low[m][1]), _mm512_add_ps(high[m][0], high[m][1]));
      // x.steps: 2^112 over the scale of the row of x.
      const float total = Avx512Simd::Total(sum) * a.x.steps[m * a.x.step_stride];
      a.y[m * a.ldy + row] = total * w.factor + bias;
    }
  }
}

inline void SparseGemvSplit(const SparseArgs& a) {
  WithRowsOfX(a.m, [&](auto m) { GemvSplitRows<decltype(m)::value>(a); });
}

}  // namespace
}  // namespace slc

#endif  // SLC_BITMAP_SPARSE_GEMM_GEMV_SPLIT_H_
