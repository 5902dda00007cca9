// What GEMV on int8 activations asks of AVX2 for full i4 blobs.
//
// The low halves of 32 bytes are the even columns of a word, the high halves the odd ones: with x
// in the order kInt8Split nothing needs to be put in place. Codebook entries become 1 ... 127, so
// that one side of vpmaddubsw is unsigned and no pair of products leaves int16; the activations'
// corrections take the 64s off again, in the lane of the columns that they are of.
//
// Only files built for AVX2 may include this.
#ifndef SLC_BITMAP_SPARSE_GEMM_GEMV_NIBBLES_H_
#define SLC_BITMAP_SPARSE_GEMM_GEMV_NIBBLES_H_

#include "../simd_avx2.h"

namespace slc {
namespace {

struct Avx2NibblesSimd : Avx2Simd {
  static Codebook LoadCodebook(const uint8_t* p) {
    return _mm256_add_epi8(Avx2Simd::LoadCodebook(p), _mm256_set1_epi8(64));
  }
  // v[0]: the even columns, v[1]: the odd ones.
  static Bytes LoadNibbles(const uint8_t* p, const Codebook& codebook) {
    const __m256i codes = Load32(p), low = _mm256_set1_epi8(15);
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(codes, 4), low);
    return {{_mm256_shuffle_epi8(codebook, _mm256_and_si256(codes, low)),
             _mm256_shuffle_epi8(codebook, high)}};
  }
  static constexpr int kCorrections = 8;
  static __m256i Dot64(const Bytes& w, const int8_t* q, const uint8_t*, const int32_t* correction) {
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i even = _mm256_madd_epi16(_mm256_maddubs_epi16(w.v[0], Load32(q)), ones);
    const __m256i odd = _mm256_madd_epi16(_mm256_maddubs_epi16(w.v[1], Load32(q + 32)), ones);
    return _mm256_add_epi32(_mm256_add_epi32(even, odd), Load32(correction));
  }
};

}  // namespace
}  // namespace slc

#endif  // SLC_BITMAP_SPARSE_GEMM_GEMV_NIBBLES_H_
