// QuantizeBlock of quantize.h in AVX2, bit for bit: compilers make several times as many
// instructions of that.
//
// Only files built for AVX2 may include this.
#ifndef SLC_BITMAP_SPARSE_GEMM_QUANTIZE_AVX2_H_
#define SLC_BITMAP_SPARSE_GEMM_QUANTIZE_AVX2_H_

#include "../simd_avx2.h"
#include "quantize.h"

namespace slc {
namespace {

inline float LargestMagnitude(const float* x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  __m256i largest = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (int i = 0; i < 64; i += 8) {
    // As integers, like quantize.h: a NaN is then the largest.
    const __m256 magnitude = _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i));
    largest = _mm256_max_epi32(largest, _mm256_castps_si256(magnitude));
  }
  __m128i four =
      _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1));
  return BitsToFloat(static_cast<uint32_t>(_mm_cvtsi128_si32(four)));
}

// x times inverse to the nearest integer, halves to even, -127 ... 127; a NaN gives 127.
inline __m256i Rounded(const float* x, __m256 inverse) {
  const __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x), inverse);
  const __m256 below = _mm256_min_ps(v, _mm256_set1_ps(127.0f));
  return _mm256_cvtps_epi32(_mm256_max_ps(below, _mm256_set1_ps(-127.0f)));
}

inline void QuantizeBlockAvx2(const float* x, int8_t* q, uint8_t* magnitude, float* step,
                              int32_t* sums) {
  const __m256 inverse = _mm256_set1_ps(InverseStep(LargestMagnitude(x), step));
  const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
#pragma GCC unroll 2
  for (int i = 0; i < 64; i += 32) {
    const __m256i low = _mm256_packs_epi32(Rounded(x + i, inverse), Rounded(x + i + 8, inverse));
    const __m256i high =
        _mm256_packs_epi32(Rounded(x + i + 16, inverse), Rounded(x + i + 24, inverse));
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), in_order);
    Avx2Simd::Store32(q + i, bytes);
    Avx2Simd::Store32(magnitude + i, _mm256_abs_epi8(bytes));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
    Avx2Simd::Store32(sums + i / 4, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
}

}  // namespace
}  // namespace slc

#endif  // SLC_BITMAP_SPARSE_GEMM_QUANTIZE_AVX2_H_
