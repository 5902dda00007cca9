// BitmapSparseGemm kernels, NEON.
#include "../simd_neon.h"
#include "delta.h"
#include "gemm.h"
#include "gemv_f32.h"
#include "gemv_int8.h"
#include "kernels.h"
#include "quantize.h"

namespace slc {

void sparse_gemv_f16_f32_1x64__neon(const SparseArgs& a) { SparseGemv<NeonSimd, F16Expand>(a); }

void sparse_gemv_i8_f32_1x64__neon(const SparseArgs& a) { SparseGemv<NeonSimd, I8Expand>(a); }

void sparse_gemv_i4rows_f32_1x64__neon(const SparseArgs& a) {
  SparseGemvDecoded<NeonSimd, I4RowsReader<NeonSimd>>(a);
}

void sparse_gemv_i4planes_f32_1x64__neon(const SparseArgs& a) {
  SparseGemvDecoded<NeonSimd, I4PlanesReader<NeonSimd>>(a);
}

void sparse_gemv_deltaf16_f32_1x8__neon(const SparseArgs& a) {
  SparseDeltaGemv<NeonSimd, F16Dense>(a);
}

void sparse_gemv_deltai8_f32_1x8__neon(const SparseArgs& a) {
  SparseDeltaGemv<NeonSimd, I8Dense>(a);
}

void sparse_gemv_i8_int8_1x64__neon(const SparseArgs& a) {
  SparseGemvInt8<NeonSimd, I8Reader<NeonSimd>>(a);
}

void sparse_gemv_i4rows_int8_1x64__neon(const SparseArgs& a) {
  SparseGemvInt8<NeonSimd, I4RowsReader<NeonSimd>>(a);
}

void sparse_gemv_i4planes_int8_1x64__neon(const SparseArgs& a) {
  SparseGemvInt8<NeonSimd, I4PlanesReader<NeonSimd>>(a);
}

void sparse_gemm_f16_f32_16x256__neon(const SparseArgs& a) {
  SparseGemm<NeonSimd, F16Reader<NeonSimd>, Level::kF32>(a);
}

void sparse_gemm_i8_f32_16x256__neon(const SparseArgs& a) {
  SparseGemm<NeonSimd, I8Reader<NeonSimd>, Level::kF32>(a);
}

void sparse_gemm_i4rows_f32_16x256__neon(const SparseArgs& a) {
  SparseGemm<NeonSimd, I4RowsReader<NeonSimd>, Level::kF32>(a);
}

void sparse_gemm_i4planes_f32_16x256__neon(const SparseArgs& a) {
  SparseGemm<NeonSimd, I4PlanesReader<NeonSimd>, Level::kF32>(a);
}

void sparse_gemm_deltaf16_f32_1x8__neon(const SparseArgs& a) {
  SparseDeltaGemm<NeonSimd, F16Dense>(a);
}

void sparse_gemm_deltai8_f32_1x8__neon(const SparseArgs& a) {
  SparseDeltaGemm<NeonSimd, I8Dense>(a);
}

void sparse_gemm_i8_int8_16x256__neon(const SparseArgs& a) {
  SparseGemm<NeonSimd, I8Reader<NeonSimd>, Level::kInt8>(a);
}

void sparse_gemm_i4rows_int8_16x256__neon(const SparseArgs& a) {
  SparseGemm<NeonSimd, I4RowsReader<NeonSimd>, Level::kInt8>(a);
}

void sparse_gemm_i4planes_int8_16x256__neon(const SparseArgs& a) {
  SparseGemm<NeonSimd, I4PlanesReader<NeonSimd>, Level::kInt8>(a);
}

// QuantizeBlock of quantize.h, whose clamps no compiler turns into vector code here. The conversion
// rounds to the nearest integer, halves to even, and makes 0 of a NaN.
void sparse_gemv_fullf16_f32_1x64__neon(const SparseArgs& a) { SparseGemv<NeonSimd, F16Full>(a); }

void sparse_gemv_fulli8_f32_1x64__neon(const SparseArgs& a) { SparseGemv<NeonSimd, I8Full>(a); }

void sparse_gemv_fulli4_f32_1x64__neon(const SparseArgs& a) {
  SparseGemvDecoded<NeonSimd, FullI4Reader<NeonSimd>>(a);
}

void sparse_gemv_fulli8_int8_1x64__neon(const SparseArgs& a) {
  SparseGemvInt8<NeonSimd, FullI8Reader<NeonSimd>>(a);
}

void sparse_gemv_fulli4_int8_1x64__neon(const SparseArgs& a) {
  SparseGemvInt8<NeonSimd, FullI4Reader<NeonSimd>>(a);
}

void sparse_gemm_fullf16_f32_16x256__neon(const SparseArgs& a) {
  SparseGemm<NeonSimd, FullF16Reader<NeonSimd>, Level::kF32>(a);
}

void sparse_gemm_fulli8_f32_16x256__neon(const SparseArgs& a) {
  SparseGemm<NeonSimd, FullI8Reader<NeonSimd>, Level::kF32>(a);
}

void sparse_gemm_fulli4_f32_16x256__neon(const SparseArgs& a) {
  SparseGemm<NeonSimd, FullI4Reader<NeonSimd>, Level::kF32>(a);
}

void sparse_gemm_fulli8_int8_16x256__neon(const SparseArgs& a) {
  SparseGemm<NeonSimd, FullI8Reader<NeonSimd>, Level::kInt8>(a);
}

void sparse_gemm_fulli4_int8_16x256__neon(const SparseArgs& a) {
  SparseGemm<NeonSimd, FullI4Reader<NeonSimd>, Level::kInt8>(a);
}

void quantize_block__neon(const float* x, int8_t* q, uint8_t* magnitude, float* step,
                          int32_t* sums) {
  float32x4_t largest = vdupq_n_f32(0.0f);
#pragma GCC unroll 16
  for (int i = 0; i < 64; i += 4) largest = vmaxq_f32(largest, vabsq_f32(vld1q_f32(x + i)));
  const float inverse = InverseStep(vmaxvq_f32(largest), step);
#pragma GCC unroll 4
  for (int i = 0; i < 64; i += 16) {
    int32x4_t rounded[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      rounded[j] = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i + 4 * j), inverse));
    }
    const int16x8_t low = vmovn_high_s32(vmovn_s32(rounded[0]), rounded[1]);
    const int16x8_t high = vmovn_high_s32(vmovn_s32(rounded[2]), rounded[3]);
    const int8x16_t bytes = vmovn_high_s16(vmovn_s16(low), high);
    vst1q_s8(q + i, bytes);
    vst1q_u8(magnitude + i, vreinterpretq_u8_s8(vabsq_s8(bytes)));
    vst1q_s32(sums + i / 4, vpaddlq_s16(vpaddlq_s8(bytes)));
  }
}

}  // namespace slc
