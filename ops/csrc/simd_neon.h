// Eight floats at a time in NEON as every armv8.0 has it; the twin of simd_avx2.h.
#ifndef SLC_SIMD_NEON_H_
#define SLC_SIMD_NEON_H_

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "simd_generic.h"

namespace slc {
namespace {

constexpr uint8_t kNowhere = 0xff;  // TBL gives 0 for an index past its table

// Where each output lane finds its value (TBL), by mask byte: lane i takes value number (set bits
// below i) if bit i is set, else zero. Constant data: no code runs when the library is loaded. An
// int8 lands in the top byte of its 32-bit lane, which widens it without another instruction.
struct ExpandTables {
  alignas(64) uint8_t f16[256][16];
  alignas(64) uint8_t i8_first[256][16];  // columns 0-3
  alignas(64) uint8_t i8_last[256][16];   // columns 4-7
  // 16 columns by two mask bytes: low[first] + high[second], saturating. The places of the second
  // byte's values come after those of the first, so low's upper half is the count of the first.
  alignas(64) uint8_t low[256][16];
  alignas(64) uint8_t high[256][16];
};

constexpr ExpandTables MakeExpandTables() {
  ExpandTables tables{};
  for (unsigned mask = 0; mask < 256; ++mask) {
    uint8_t next = 0;
    for (unsigned lane = 0; lane < 8; ++lane) {
      const bool set = (mask >> lane & 1u) != 0;
      for (unsigned byte = 0; byte < 2; ++byte) {
        tables.f16[mask][2 * lane + byte] = set ? static_cast<uint8_t>(2 * next + byte) : kNowhere;
      }
      for (unsigned byte = 0; byte < 4; ++byte) {
        uint8_t* half = lane < 4 ? tables.i8_first[mask] : tables.i8_last[mask];
        half[lane % 4 * 4 + byte] = set && byte == 3 ? next : kNowhere;
      }
      tables.low[mask][lane] = tables.high[mask][8 + lane] = set ? next : kNowhere;
      if (set) ++next;
    }
    for (unsigned lane = 8; lane < 16; ++lane) tables.low[mask][lane] = next;
  }
  return tables;
}

constexpr ExpandTables kExpand = MakeExpandTables();

struct NeonSimd {
  using Vec = float32x4x2_t;

  static Vec Zero() { return Set(0.0f); }
  static Vec Set(float x) { return {{vdupq_n_f32(x), vdupq_n_f32(x)}}; }
  static Vec Load(const float* p) { return {{vld1q_f32(p), vld1q_f32(p + 4)}}; }
  static void Store(float* p, const Vec& v) {
    vst1q_f32(p, v.val[0]);
    vst1q_f32(p + 4, v.val[1]);
  }
  static Vec Mul(const Vec& a, const Vec& b) {
    return {{vmulq_f32(a.val[0], b.val[0]), vmulq_f32(a.val[1], b.val[1])}};
  }
  static Vec Add(const Vec& a, const Vec& b) {
    return {{vaddq_f32(a.val[0], b.val[0]), vaddq_f32(a.val[1], b.val[1])}};
  }
  static Vec MulAdd(const Vec& a, const Vec& b, const Vec& c) {
    return {{vfmaq_f32(c.val[0], a.val[0], b.val[0]), vfmaq_f32(c.val[1], a.val[1], b.val[1])}};
  }
  static float Sum(const Vec& v) { return vaddvq_f32(vaddq_f32(v.val[0], v.val[1])); }
  static void Sum4(const Vec* v, float* out) {
    float32x4_t sums[4];
    for (int i = 0; i < 4; ++i) sums[i] = vaddq_f32(v[i].val[0], v[i].val[1]);
    vst1q_f32(out, vpaddq_f32(vpaddq_f32(sums[0], sums[1]), vpaddq_f32(sums[2], sums[3])));
  }

  static float MulAddScalar(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
  static float HalfAt(const uint8_t* p) {
    __fp16 half;
    std::memcpy(&half, p, sizeof half);
    return half;
  }
  static Vec LoadF16(const uint8_t* p) { return HalvesToFloats(vld1q_u8(p)); }
  static Vec LoadI8(const uint8_t* p) {
    const int16x8_t v = vmovl_s8(vreinterpret_s8_u8(vld1_u8(p)));
    return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(v))), vcvtq_f32_s32(vmovl_high_s16(v))}};
  }
  static Vec ExpandF16(const uint8_t* p, unsigned mask) {
    return HalvesToFloats(vqtbl1q_u8(vld1q_u8(p), vld1q_u8(kExpand.f16[mask])));
  }
  static constexpr float kI8Unit = 1.0f;
  static Vec ExpandI8(const uint8_t* p, unsigned mask) {
    const uint8x16_t values = vld1q_u8(p);
    const uint8x16_t low = vqtbl1q_u8(values, vld1q_u8(kExpand.i8_first[mask]));
    const uint8x16_t high = vqtbl1q_u8(values, vld1q_u8(kExpand.i8_last[mask]));
    // Fixed point with 24 fractional bits: what the top byte made 2^24 times itself.
    return {{vcvtq_n_f32_s32(vreinterpretq_s32_u8(low), 24),
             vcvtq_n_f32_s32(vreinterpretq_s32_u8(high), 24)}};
  }

  // One mask word of 64 columns: its eight bytes at `masks`, its values from p on.
  static void ExpandF16x64(const uint8_t* p, const uint8_t* masks, float* out) {
    const uint64_t begins = Begins(masks);
#pragma GCC unroll 8
    for (int byte = 0; byte < 8; ++byte) {
      Store(out + 8 * byte, ExpandF16(p + 2 * (begins >> (8 * byte) & 255u), masks[byte]));
    }
  }

  struct Bytes {
    int8x16_t v[4];
  };
  using Codebook = uint8x16_t;
  static Codebook LoadCodebook(const uint8_t* p) { return vld1q_u8(p); }

  static Bytes ExpandI8x64(const uint8_t* p, const uint8_t* masks) {
    const uint64_t begins = Begins(masks);
    Bytes bytes;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const uint8x16_t values = vld1q_u8(p + (begins >> (16 * i) & 255u));
      bytes.v[i] = vreinterpretq_s8_u8(vqtbl1q_u8(values, Places(masks + 2 * i)));
    }
    return bytes;
  }
  static Bytes LoadI8x64(const uint8_t* p) {
    return {{vreinterpretq_s8_u8(vld1q_u8(p)), vreinterpretq_s8_u8(vld1q_u8(p + 16)),
             vreinterpretq_s8_u8(vld1q_u8(p + 32)), vreinterpretq_s8_u8(vld1q_u8(p + 48))}};
  }
  static Bytes LoadNibbles(const uint8_t* p, const Codebook& codebook) {
    const uint8x16x2_t first = LookUpNibbles(vld1q_u8(p), codebook);
    const uint8x16x2_t second = LookUpNibbles(vld1q_u8(p + 16), codebook);
    return {{vreinterpretq_s8_u8(first.val[0]), vreinterpretq_s8_u8(first.val[1]),
             vreinterpretq_s8_u8(second.val[0]), vreinterpretq_s8_u8(second.val[1])}};
  }
  // All 64 entries wait in four registers and TBL takes from as many of them as a part's values can
  // reach. Writing them out and loading at odd addresses would wait for the stores.
  static Bytes ExpandNibbles(const uint8_t* p, const uint8_t* masks, const Codebook& codebook) {
    const uint8x16x2_t first = LookUpNibbles(vld1q_u8(p), codebook);
    const uint8x16x2_t second = LookUpNibbles(vld1q_u8(p + 16), codebook);
    const uint8x16x4_t all = {{first.val[0], first.val[1], second.val[0], second.val[1]}};
    const uint8x8_t begins = vcreate_u8(Begins(masks));
    const uint8x16_t places[4] = {Places(masks),
                                  vqaddq_u8(Places(masks + 2), vdupq_lane_u8(begins, 2)),
                                  vqaddq_u8(Places(masks + 4), vdupq_lane_u8(begins, 4)),
                                  vqaddq_u8(Places(masks + 6), vdupq_lane_u8(begins, 6))};
    const uint8x16x3_t three = {{all.val[0], all.val[1], all.val[2]}};
    return {{vreinterpretq_s8_u8(vqtbl1q_u8(all.val[0], places[0])),
             vreinterpretq_s8_u8(vqtbl2q_u8(first, places[1])),
             vreinterpretq_s8_u8(vqtbl3q_u8(three, places[2])),
             vreinterpretq_s8_u8(vqtbl4q_u8(all, places[3]))}};
  }
  // Planes are for processors with pdep: here they are only readable.
  static Bytes ExpandPlanes(const uint8_t* p, const uint8_t* masks, const Codebook& codebook) {
    int8_t entries[16];
    vst1q_s8(entries, vreinterpretq_s8_u8(codebook));
    const GenericSimd::Bytes bytes = GenericSimd::ExpandPlanes(p, masks, entries);
    return {{vld1q_s8(bytes.v), vld1q_s8(bytes.v + 16), vld1q_s8(bytes.v + 32),
             vld1q_s8(bytes.v + 48)}};
  }
  static void ToFloats(const Bytes& bytes, float scale, float* out) {
    const float32x4_t factor = vdupq_n_f32(scale);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const int16x8_t low = vmovl_s8(vget_low_s8(bytes.v[i])), high = vmovl_high_s8(bytes.v[i]);
      const int32x4_t wide[4] = {vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low),
                                 vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)};
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        vst1q_f32(out + 16 * i + 4 * j, vmulq_f32(vcvtq_f32_s32(wide[j]), factor));
      }
    }
  }

  static constexpr int kCorrections = 16;
  static int32x4_t Dot64(const Bytes& w, const int8_t* q, const uint8_t*, const int32_t*) {
    int32x4_t sums = vpaddlq_s16(PairProducts(w.v[0], vld1q_s8(q)));
#pragma GCC unroll 4
    for (int i = 1; i < 4; ++i) {
      sums = vpadalq_s16(sums, PairProducts(w.v[i], vld1q_s8(q + 16 * i)));
    }
    return sums;
  }
  using Sums = float32x4_t;
  static Sums ZeroSums() { return vdupq_n_f32(0.0f); }
  static Sums AddScaled(int32x4_t dot, float factor, Sums sums) {
    return vfmaq_n_f32(sums, vcvtq_f32_s32(dot), factor);
  }
  static Sums MulAddSums(Sums a, float factor, Sums sums) { return vfmaq_n_f32(sums, a, factor); }
  static float Total(Sums sums) { return vaddvq_f32(sums); }
  static void Total4(const Sums* sums, float* out) {
    vst1q_f32(out, vpaddq_f32(vpaddq_f32(sums[0], sums[1]), vpaddq_f32(sums[2], sums[3])));
  }

  // 32 registers: 24 for sums, 4 for the panel, one for a row of x.
  using Lanes = float32x4_t;
  static constexpr int kLanes = 4, kPanelVecs = 4, kTileRows = 4, kInt8TileRows = 3;
  static Lanes LoadLanes(const float* p) { return vld1q_f32(p); }
  static void StoreLanes(float* p, Lanes v) { vst1q_f32(p, v); }
  static Lanes Broadcast(const float* p) { return vld1q_dup_f32(p); }
  static Lanes MulAddLanes(Lanes a, Lanes b, Lanes c) { return vfmaq_f32(c, a, b); }
  static Lanes MulLanes(Lanes a, Lanes b) { return vmulq_f32(a, b); }
  static void Transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    float64x2_t pairs[4];  // pairs[2 * i + j]: columns j and j + 2 of rows 2 * i and 2 * i + 1
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const float32x4_t even = vld1q_f32(from + 2 * i * from_stride);
      const float32x4_t odd = vld1q_f32(from + (2 * i + 1) * from_stride);
      pairs[2 * i] = vreinterpretq_f64_f32(vtrn1q_f32(even, odd));
      pairs[2 * i + 1] = vreinterpretq_f64_f32(vtrn2q_f32(even, odd));
    }
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const float64x2_t top = pairs[j], bottom = pairs[2 + j];
      vst1q_f32(to + j * to_stride, vreinterpretq_f32_f64(vtrn1q_f64(top, bottom)));
      vst1q_f32(to + (j + 2) * to_stride, vreinterpretq_f32_f64(vtrn2q_f64(top, bottom)));
    }
  }

  using Ints = int32x4_t;
  static constexpr bool kShifted = false;
  static void StorePanelBytes(const Bytes& bytes, int8_t* out) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) vst1q_s8(out + 16 * i, bytes.v[i]);
  }
  static Ints ZeroInts() { return vdupq_n_s32(0); }
  static Ints SetInts(int32_t x) { return vdupq_n_s32(x); }
  // Both sides of PairProducts in the order of SplitQuads, so that it adds up products of one row.
  using Quad = int8x16_t;
  static Quad LoadQuad(const int8_t* q, const uint8_t*) { return SplitQuads(BroadcastQuad(q)); }
  using PanelBytes = int8x16_t;
  static PanelBytes LoadPanelBytes(const float* p) {
    return SplitQuads(vreinterpretq_s8_f32(vld1q_f32(p)));
  }
  static Ints Dot4(Ints sums, PanelBytes w, Quad q) {
    return vpadalq_s16(sums, PairProducts(w, q));
  }
  static Lanes IntsToLanes(Ints v) { return vcvtq_f32_s32(v); }

 protected:
  static int8x16_t BroadcastQuad(const int8_t* q) {
    int32_t four;
    std::memcpy(&four, q, sizeof four);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
  }

 private:
  static Vec HalvesToFloats(uint8x16_t halves) {
    const float16x8_t v = vreinterpretq_f16_u8(halves);
    return {{vcvt_f32_f16(vget_low_f16(v)), vcvt_high_f32_f16(v)}};
  }
  // Byte i: the number of set bits in mask bytes 0 ... i - 1. Processors here count in vectors
  // only.
  static uint64_t Begins(const uint8_t* masks) {
    const uint64_t counts = vget_lane_u64(vreinterpret_u64_u8(vcnt_u8(vld1_u8(masks))), 0);
    return counts * 0x0101010101010100u;
  }
  // Where 16 columns find their values, for TBL. Saturation keeps kNowhere out of range.
  static uint8x16_t Places(const uint8_t* masks) {
    return vqaddq_u8(vld1q_u8(kExpand.low[masks[0]]), vld1q_u8(kExpand.high[masks[1]]));
  }
  // 16 bytes of codes, two in each, to 32 codebook entries.
  static uint8x16x2_t LookUpNibbles(uint8x16_t codes, Codebook codebook) {
    const uint8x16_t low = vqtbl1q_u8(codebook, vandq_u8(codes, vdupq_n_u8(15)));
    const uint8x16_t high = vqtbl1q_u8(codebook, vshrq_n_u8(codes, 4));
    return {{vzip1q_u8(low, high), vzip2q_u8(low, high)}};
  }
  // Lane i: w[i] * q[i] + w[i + 8] * q[i + 8]. |q| <= 127, so two products stay within int16 even
  // for the -128 that only a damaged blob holds.
  static int16x8_t PairProducts(int8x16_t w, int8x16_t q) {
    return vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(q)), w, q);
  }
  // The first halves of four dwords, then their second halves.
  static int8x16_t SplitQuads(int8x16_t quads) {
    constexpr uint8_t kOrder[16] = {0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15};
    return vqtbl1q_s8(quads, vld1q_u8(kOrder));
  }
};

}  // namespace
}  // namespace slc

#endif  // SLC_SIMD_NEON_H_
