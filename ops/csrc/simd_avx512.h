// AVX-512 with VBMI2 and VNNI (Ice Lake, Zen 4): a mask word is a mask register, and one vpexpandb
// puts 64 values in place. What 512 bits do not improve comes from simd_avx2.h.
//
// Only files built with those flags may include this.
#ifndef SLC_SIMD_AVX512_H_
#define SLC_SIMD_AVX512_H_

#include "simd_avx2.h"

namespace slc {
namespace {

// vpexpand waits for the old content of its destination even where zeroing makes it irrelevant
// (seen on Zen 4: 10 cycles a word instead of 6). Starting from a copy of a constant breaks that
// chain. The empty statement hides that this constant is zero, or the compiler would zero again.
inline __m512i HiddenZero() {
  __m512i zero = _mm512_setzero_si512();
  __asm__("" : "+v"(zero));
  return zero;
}

struct Avx512Simd : Avx2Simd {
  static void ExpandF16x64(const uint8_t* p, const uint8_t* masks, float* out) {
    const uint64_t mask = LoadMask(masks);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const auto bits = static_cast<uint32_t>(mask >> (32 * half));
      const __m512i v = _mm512_mask_expandloadu_epi16(HiddenZero(), bits, p);
      p += 2 * __builtin_popcount(bits);
      const __m256i high = _mm512_extracti64x4_epi64(v, 1);
      _mm512_storeu_ps(out + 32 * half, _mm512_cvtph_ps(_mm512_castsi512_si256(v)));
      _mm512_storeu_ps(out + 32 * half + 16, _mm512_cvtph_ps(high));
    }
  }

  // 64 weights, each plus 128: vpdpbusd wants one unsigned side.
  struct Bytes {
    __m512i v;
  };
  using Codebook = __m512i;  // its entries plus 128
  static Codebook LoadCodebook(const uint8_t* p) {
    return _mm512_xor_si512(_mm512_broadcast_i32x4(Load16(p)), Shift());
  }

  static Bytes ExpandI8x64(const uint8_t* p, const uint8_t* masks) {
    const __m512i shifted = _mm512_xor_si512(Load64(p), Shift());
    return {_mm512_mask_expand_epi8(Shift(), LoadMask(masks), shifted)};
  }
  static Bytes LoadI8x64(const uint8_t* p) { return {_mm512_xor_si512(Load64(p), Shift())}; }
  static Bytes LoadNibbles(const uint8_t* p, const Codebook& codebook) {
    // Four bytes of codes to each quadword, then one code to the low half of each byte. vpermb
    // looks at six bits and the codebook stands there four times, so the upper half need not be
    // cleared.
    const __m512i fours = _mm512_cvtepu32_epi64(Load32(p));
    const __m512i shifts = _mm512_set1_epi64(0x1c1814100c080400);
    const __m512i codes = _mm512_multishift_epi64_epi8(shifts, fours);
    return {_mm512_permutexvar_epi8(codes, codebook)};
  }
  static Bytes ExpandNibbles(const uint8_t* p, const uint8_t* masks, const Codebook& codebook) {
    const __m512i entries = LoadNibbles(p, codebook).v;
    return {_mm512_mask_expand_epi8(Shift(), LoadMask(masks), entries)};
  }
  static Bytes ExpandPlanes(const uint8_t* p, const uint8_t* masks, const Codebook& codebook) {
    const uint64_t mask = LoadMask(masks);
    const int64_t plane_bytes = (__builtin_popcountll(mask) + 7) >> 3;
    __m512i codes = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int plane = 0; plane < 4; ++plane) {
      uint64_t bits;
      std::memcpy(&bits, p + plane * plane_bytes, sizeof bits);
      const __m512i bit = _mm512_set1_epi8(static_cast<char>(1 << plane));
      codes = _mm512_mask_add_epi8(codes, _pdep_u64(bits, mask), codes, bit);
    }
    return {_mm512_shuffle_epi8(codebook, codes)};
  }
  static void ToFloats(const Bytes& bytes, float scale, float* out) {
    alignas(64) int8_t ints[64];
    _mm512_store_si512(ints, _mm512_xor_si512(bytes.v, Shift()));
    const __m512 factor = _mm512_set1_ps(scale);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512i wide =
          _mm512_cvtepi8_epi32(Load16(reinterpret_cast<const uint8_t*>(ints + 16 * i)));
      _mm512_storeu_ps(out + 16 * i, _mm512_mul_ps(_mm512_cvtepi32_ps(wide), factor));
    }
  }

  // `correction` takes 128 times the sum of q off in each lane, so that the lanes are exact and
  // small.
  static __m512i Dot64(const Bytes& w, const int8_t* q, const uint8_t*, const int32_t* correction) {
    return _mm512_dpbusd_epi32(Load64(correction), w.v, Load64(q));
  }
  using Sums = __m512;
  static Sums ZeroSums() { return _mm512_setzero_ps(); }
  static Sums AddScaled(__m512i dot, float factor, Sums sums) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_set1_ps(factor), sums);
  }
  static Sums MulAddSums(Sums a, float factor, Sums sums) {
    return _mm512_fmadd_ps(a, _mm512_set1_ps(factor), sums);
  }
  static float Total(Sums sums) { return Sum(Halves(sums)); }
  static void Total4(const Sums* sums, float* out) {
    const Vec halves[4] = {Halves(sums[0]), Halves(sums[1]), Halves(sums[2]), Halves(sums[3])};
    Sum4(halves, out);
  }

  using Lanes = __m512;
  static constexpr int kLanes = 16, kPanelVecs = 2, kTileRows = 12, kInt8TileRows = 6;
  static Lanes LoadLanes(const float* p) { return _mm512_loadu_ps(p); }
  static void StoreLanes(float* p, Lanes v) { _mm512_storeu_ps(p, v); }
  static Lanes Broadcast(const float* p) { return _mm512_set1_ps(*p); }
  static Lanes MulAddLanes(Lanes a, Lanes b, Lanes c) { return _mm512_fmadd_ps(a, b, c); }
  static Lanes MulLanes(Lanes a, Lanes b) { return _mm512_mul_ps(a, b); }
  // Sixteen rows of sixteen: four quarters of eight by eight.
  static void Transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    for (int i = 0; i < 16; i += 8) {
      for (int j = 0; j < 16; j += 8) {
        Avx2Simd::Transpose(from + i * from_stride + j, from_stride, to + j * to_stride + i,
                            to_stride);
      }
    }
  }

  using Ints = __m512i;
  static constexpr bool kShifted = true;
  static void StorePanelBytes(const Bytes& bytes, int8_t* out) {
    _mm512_storeu_si512(out, bytes.v);
  }
  static Ints ZeroInts() { return _mm512_setzero_si512(); }
  static Ints SetInts(int32_t x) { return _mm512_set1_epi32(x); }
  using Quad = __m512i;
  static Quad LoadQuad(const int8_t* q, const uint8_t*) {
    int32_t four;
    std::memcpy(&four, q, sizeof four);
    return SetInts(four);
  }
  using PanelBytes = __m512i;
  static PanelBytes LoadPanelBytes(const float* p) { return Load64(p); }
  static Ints Dot4(Ints sums, PanelBytes w, Quad q) { return _mm512_dpbusd_epi32(sums, w, q); }
  static Lanes IntsToLanes(Ints v) { return _mm512_cvtepi32_ps(v); }

  static __m512i Load64(const void* p) { return _mm512_loadu_si512(p); }

 private:
  static Vec Halves(Sums v) {
    return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  }
  static __m512i Shift() { return _mm512_set1_epi8(-128); }
};

}  // namespace
}  // namespace slc

#endif  // SLC_SIMD_AVX512_H_
