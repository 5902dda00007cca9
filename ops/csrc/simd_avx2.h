// Eight floats at a time in AVX2 + FMA + F16C; the twin of simd_generic.h.
//
// Only files built with those flags may include this.
#ifndef SLC_SIMD_AVX2_H_
#define SLC_SIMD_AVX2_H_

#include <immintrin.h>

#include <cstdint>

namespace slc {
namespace {

// One shuffle per mask byte: output lane i takes value number (set bits below i) if bit i is set,
// else zero (index 0x80). Constant data: no code runs when the library is loaded. An int8 lands in
// the top byte of its 32-bit lane, which widens it without another instruction: it is then 2^24
// times itself, sign and all.
struct ExpandTables {
  alignas(64) uint8_t f16[256][16];
  alignas(64) uint8_t i8[256][32];
};

constexpr ExpandTables MakeExpandTables() {
  ExpandTables tables{};
  for (unsigned mask = 0; mask < 256; ++mask) {
    uint8_t next = 0;
    for (unsigned lane = 0; lane < 8; ++lane) {
      const bool set = (mask >> lane & 1u) != 0;
      tables.f16[mask][2 * lane] = set ? static_cast<uint8_t>(2 * next) : 0x80;
      tables.f16[mask][2 * lane + 1] = set ? static_cast<uint8_t>(2 * next + 1) : 0x80;
      for (unsigned byte = 0; byte < 4; ++byte) {
        tables.i8[mask][4 * lane + byte] = set && byte == 3 ? next : 0x80;
      }
      if (set) ++next;
    }
  }
  return tables;
}

constexpr ExpandTables kExpand = MakeExpandTables();

struct Avx2Simd {
  using Vec = __m256;

  static Vec Zero() { return _mm256_setzero_ps(); }
  static Vec Set(float x) { return _mm256_set1_ps(x); }
  static Vec Load(const float* p) { return _mm256_loadu_ps(p); }
  static void Store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
  static Vec Mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
  static Vec Add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
  static Vec MulAdd(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
  static float Sum(Vec v) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
  }
  static void Sum4(const Vec* v, float* out) {
    const Vec pairs = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
  }

  static float Half(uint16_t half) { return _cvtsh_ss(half); }
  static Vec LoadF16(const uint8_t* p) { return _mm256_cvtph_ps(Load16(p)); }
  static Vec LoadI8(const uint8_t* p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(Load8(p))); }
  static Vec ExpandF16(const uint8_t* p, unsigned mask) {
    return _mm256_cvtph_ps(_mm_shuffle_epi8(Load16(p), Load16(kExpand.f16[mask])));
  }
  static constexpr float kI8Unit = 0x1p-24f;
  static Vec ExpandI8(const uint8_t* p, unsigned mask) {
    const __m256i twice = _mm256_broadcastsi128_si256(Load16(p));
    const auto* order = reinterpret_cast<const __m256i*>(kExpand.i8[mask]);
    return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(twice, _mm256_load_si256(order)));
  }

 private:
  static __m128i Load16(const uint8_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  static __m128i Load8(const uint8_t* p) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  }
};

}  // namespace
}  // namespace slc

#endif  // SLC_SIMD_AVX2_H_
