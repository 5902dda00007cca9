// Eight floats at a time in AVX2 + FMA + F16C; the twin of simd_generic.h.
//
// Only files built with those flags may include this.
#ifndef SLC_SIMD_AVX2_H_
#define SLC_SIMD_AVX2_H_

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace slc {
namespace {

// One shuffle per mask byte: output lane i takes value number (set bits below i) if bit i is set,
// else zero (index 0x80). Constant data: no code runs when the library is loaded. An int8 lands in
// the top byte of its 32-bit lane, which widens it without another instruction: it is then 2^24
// times itself, sign and all.
struct ExpandTables {
  alignas(64) uint8_t f16[256][16];
  alignas(64) uint8_t i8[256][32];
  alignas(64) uint8_t low[256][16];   // to bytes 0-7, zeros above
  alignas(64) uint8_t high[256][16];  // to bytes 8-15, zeros below
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
      tables.low[mask][lane] = tables.high[mask][8 + lane] = set ? next : 0x80;
      tables.low[mask][8 + lane] = tables.high[mask][lane] = 0x80;
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

  static float MulAddScalar(float a, float b, float c) {
    return _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c)));
  }
  static float HalfAt(const uint8_t* p) {
    uint16_t half;
    std::memcpy(&half, p, sizeof half);
    return _cvtsh_ss(half);
  }
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

  // One mask word of 64 columns: its eight bytes at `masks`, its values from p on.
  static uint64_t LoadMask(const uint8_t* masks) {
    uint64_t mask;
    std::memcpy(&mask, masks, sizeof mask);
    return mask;
  }
  static void ExpandF16x64(const uint8_t* p, const uint8_t* masks, float* out) {
#pragma GCC unroll 8
    for (int byte = 0; byte < 8; ++byte) {
      Store(out + 8 * byte, ExpandF16(p, masks[byte]));
      p += 2 * __builtin_popcount(masks[byte]);
    }
  }

  struct Bytes {
    __m256i v[2];
  };
  using Codebook = __m256i;
  static Codebook LoadCodebook(const uint8_t* p) { return _mm256_broadcastsi128_si256(Load16(p)); }

  static Bytes ExpandI8x64(const uint8_t* p, const uint8_t* masks) {
    __m128i parts[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const unsigned first = masks[2 * i], second = masks[2 * i + 1];
      const __m128i low = _mm_shuffle_epi8(Load16(p), Load16(kExpand.low[first]));
      p += __builtin_popcount(first);
      const __m128i high = _mm_shuffle_epi8(Load16(p), Load16(kExpand.high[second]));
      p += __builtin_popcount(second);
      parts[i] = _mm_or_si128(low, high);
    }
    return {{Join(parts[0], parts[1]), Join(parts[2], parts[3])}};
  }
  static Bytes LoadI8x64(const uint8_t* p) { return {{Load32(p), Load32(p + 32)}}; }
  static Bytes LoadNibbles(const uint8_t* p, const Codebook& codebook) {
    return {{LookUpNibbles(Load16(p), codebook), LookUpNibbles(Load16(p + 16), codebook)}};
  }
  static Bytes ExpandNibbles(const uint8_t* p, const uint8_t* masks, const Codebook& codebook) {
    alignas(32) uint8_t bytes[64 + 16];  // the expansion may read 16 past the last
    Store32(bytes, LookUpNibbles(Load16(p), codebook));
    Store32(bytes + 32, LookUpNibbles(Load16(p + 16), codebook));
    return ExpandI8x64(bytes, masks);
  }
  // Each plane's bits go to the positions of the mask, then to bits `plane` of 64 code bytes.
  static Bytes ExpandPlanes(const uint8_t* p, const uint8_t* masks, const Codebook& codebook) {
    const uint64_t mask = LoadMask(masks);
    const int64_t plane_bytes = (__builtin_popcountll(mask) + 7) >> 3;
    Bytes codes = {{_mm256_setzero_si256(), _mm256_setzero_si256()}};
#pragma GCC unroll 4
    for (int plane = 0; plane < 4; ++plane) {
      uint64_t bits;
      std::memcpy(&bits, p + plane * plane_bytes, sizeof bits);
      const __m256i set = _mm256_set1_epi64x(static_cast<int64_t>(_pdep_u64(bits, mask)));
      const __m256i bit = _mm256_set1_epi8(static_cast<char>(1 << plane));
      codes.v[0] = _mm256_or_si256(codes.v[0], _mm256_and_si256(BitsToBytes(set, 0), bit));
      codes.v[1] = _mm256_or_si256(codes.v[1], _mm256_and_si256(BitsToBytes(set, 4), bit));
    }
    for (auto& v : codes.v) v = _mm256_shuffle_epi8(codebook, v);
    return codes;
  }
  static void ToFloats(const Bytes& bytes, float scale, float* out) {
    alignas(32) int8_t ints[64];
    StorePanelBytes(bytes, ints);
    const Vec factor = Set(scale);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const auto* p = reinterpret_cast<const uint8_t*>(ints + 8 * i);
      Store(out + 8 * i, Mul(LoadI8(p), factor));
    }
  }

  static constexpr int kCorrections = 16;
  static __m256i Dot64(const Bytes& w, const int8_t* q, const uint8_t* magnitude, const int32_t*) {
    const __m256i low = SignedDot(w.v[0], Load32(q), Load32(magnitude));
    return _mm256_add_epi32(low, SignedDot(w.v[1], Load32(q + 32), Load32(magnitude + 32)));
  }
  using Sums = __m256;
  static Sums ZeroSums() { return Zero(); }
  static Sums AddScaled(__m256i dot, float factor, Sums sums) {
    return MulAdd(_mm256_cvtepi32_ps(dot), Set(factor), sums);
  }
  static Sums MulAddSums(Sums a, float factor, Sums sums) { return MulAdd(a, Set(factor), sums); }
  static float Total(Sums sums) { return Sum(sums); }
  static void Total4(const Sums* sums, float* out) { Sum4(sums, out); }

  using Lanes = __m256;
  static constexpr int kLanes = 8, kPanelVecs = 2, kTileRows = 6, kInt8TileRows = 4;
  static Lanes LoadLanes(const float* p) { return Load(p); }
  static void StoreLanes(float* p, Lanes v) { Store(p, v); }
  static Lanes Broadcast(const float* p) { return _mm256_broadcast_ss(p); }
  static Lanes MulAddLanes(Lanes a, Lanes b, Lanes c) { return MulAdd(a, b, c); }
  static Lanes MulLanes(Lanes a, Lanes b) { return Mul(a, b); }
  static void Transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    // The upper half of a register comes from four rows further down: that is the exchange of
    // 128-bit lanes, done by the loads.
    Vec r[8], t[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const float* low = from + i * from_stride;
      r[i] = LoadHalves(low, low + 4 * from_stride);
      r[4 + i] = LoadHalves(low + 4, low + 4 * from_stride + 4);
    }
#pragma GCC unroll 2
    for (int h = 0; h < 8; h += 4) {
      t[h] = _mm256_unpacklo_ps(r[h], r[h + 1]);
      t[h + 1] = _mm256_unpackhi_ps(r[h], r[h + 1]);
      t[h + 2] = _mm256_unpacklo_ps(r[h + 2], r[h + 3]);
      t[h + 3] = _mm256_unpackhi_ps(r[h + 2], r[h + 3]);
      Store(to + h * to_stride, _mm256_shuffle_ps(t[h], t[h + 2], 0x44));
      Store(to + (h + 1) * to_stride, _mm256_shuffle_ps(t[h], t[h + 2], 0xee));
      Store(to + (h + 2) * to_stride, _mm256_shuffle_ps(t[h + 1], t[h + 3], 0x44));
      Store(to + (h + 3) * to_stride, _mm256_shuffle_ps(t[h + 1], t[h + 3], 0xee));
    }
  }

  using Ints = __m256i;
  static constexpr bool kShifted = false;
  static void StorePanelBytes(const Bytes& bytes, int8_t* out) {
    Store32(out, bytes.v[0]);
    Store32(out + 32, bytes.v[1]);
  }
  static Ints ZeroInts() { return _mm256_setzero_si256(); }
  static Ints SetInts(int32_t x) { return _mm256_set1_epi32(x); }
  struct Quad {
    __m256i q, magnitude;
  };
  static Quad LoadQuad(const int8_t* q, const uint8_t* magnitude) {
    int32_t four, absolute;
    std::memcpy(&four, q, sizeof four);
    std::memcpy(&absolute, magnitude, sizeof absolute);
    return {SetInts(four), SetInts(absolute)};
  }
  using PanelBytes = __m256i;
  static PanelBytes LoadPanelBytes(const float* p) { return Load32(p); }
  static Ints Dot4(Ints sums, PanelBytes w, const Quad& quad) {
    return _mm256_add_epi32(sums, SignedDot(w, quad.q, quad.magnitude));
  }
  static Lanes IntsToLanes(Ints v) { return _mm256_cvtepi32_ps(v); }

  static __m128i Load16(const uint8_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  static __m128i Load8(const uint8_t* p) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  }
  static __m256i Load32(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  static void Store32(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

 private:
  static Vec LoadHalves(const float* low, const float* high) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
  }
  static __m256i Join(__m128i low, __m128i high) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
  }
  // vpmaddubsw wants one unsigned side: |q| takes it and its sign goes to w. 127 * 127 * 2 stays
  // below 2^15, so nothing saturates.
  static __m256i SignedDot(__m256i w, __m256i q, __m256i magnitude) {
    const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(w, q));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }
  // 16 bytes of codes, two in each, to 32 codebook entries.
  static __m256i LookUpNibbles(__m128i codes, const Codebook& codebook) {
    const __m256i wide = _mm256_cvtepu8_epi16(codes);
    const __m256i both = _mm256_or_si256(wide, _mm256_slli_epi16(wide, 4));
    return _mm256_shuffle_epi8(codebook, _mm256_and_si256(both, _mm256_set1_epi8(15)));
  }
  // 0xff in byte i where bit 8 * first + i of the quadword is set, i < 32.
  static __m256i BitsToBytes(__m256i quadwords, int first) {
    const __m256i order = _mm256_add_epi8(
        _mm256_set1_epi8(static_cast<char>(first)),
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303));
    const __m256i bits = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201u));
    const __m256i bytes = _mm256_shuffle_epi8(quadwords, order);
    return _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bits), bits);
  }
};

}  // namespace
}  // namespace slc

#endif  // SLC_SIMD_AVX2_H_
