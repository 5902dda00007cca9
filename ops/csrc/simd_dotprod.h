// NEON with the dot products of armv8.2: sdot adds four int8 products to each 32-bit lane. All else
// comes from simd_neon.h.
//
// Only files built with that flag may include this.
#ifndef SLC_SIMD_DOTPROD_H_
#define SLC_SIMD_DOTPROD_H_

#include "simd_neon.h"

namespace slc {
namespace {

struct DotprodSimd : NeonSimd {
  static int32x4_t Dot64(const Bytes& w, const int8_t* q, const uint8_t*, const int32_t*) {
    int32x4_t sums = vdupq_n_s32(0);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sums = vdotq_s32(sums, w.v[i], vld1q_s8(q + 16 * i));
    return sums;
  }

  static constexpr int kInt8TileRows = 4;
  static Quad LoadQuad(const int8_t* q, const uint8_t*) { return BroadcastQuad(q); }
  static PanelBytes LoadPanelBytes(const float* p) { return vreinterpretq_s8_f32(vld1q_f32(p)); }
  static Ints Dot4(Ints sums, PanelBytes w, Quad q) { return vdotq_s32(sums, w, q); }
};

}  // namespace
}  // namespace slc

#endif  // SLC_SIMD_DOTPROD_H_
