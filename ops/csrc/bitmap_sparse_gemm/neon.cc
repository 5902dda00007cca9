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
  SparseDeltaGemv<NeonSimd, F16Deltas>(a);
}

void sparse_gemv_deltai8_f32_1x8__neon(const SparseArgs& a) {
  SparseDeltaGemv<NeonSimd, I8Deltas>(a);
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

void sparse_gemm_f16_f32_16x512__neon(const SparseArgs& a) {
  SparseGemm<NeonSimd, F16Reader<NeonSimd>, Level::kF32>(a);
}

void sparse_gemm_i8_f32_16x512__neon(const SparseArgs& a) {
  SparseGemm<NeonSimd, I8Reader<NeonSimd>, Level::kF32>(a);
}

void sparse_gemm_i4rows_f32_16x512__neon(const SparseArgs& a) {
  SparseGemm<NeonSimd, I4RowsReader<NeonSimd>, Level::kF32>(a);
}

void sparse_gemm_i4planes_f32_16x512__neon(const SparseArgs& a) {
  SparseGemm<NeonSimd, I4PlanesReader<NeonSimd>, Level::kF32>(a);
}

void sparse_gemm_deltaf16_f32_1x8__neon(const SparseArgs& a) {
  SparseDeltaGemm<NeonSimd, F16Deltas>(a);
}

void sparse_gemm_deltai8_f32_1x8__neon(const SparseArgs& a) {
  SparseDeltaGemm<NeonSimd, I8Deltas>(a);
}

void sparse_gemm_i8_int8_16x512__neon(const SparseArgs& a) {
  SparseGemm<NeonSimd, I8Reader<NeonSimd>, Level::kInt8>(a);
}

void sparse_gemm_i4rows_int8_16x512__neon(const SparseArgs& a) {
  SparseGemm<NeonSimd, I4RowsReader<NeonSimd>, Level::kInt8>(a);
}

void sparse_gemm_i4planes_int8_16x512__neon(const SparseArgs& a) {
  SparseGemm<NeonSimd, I4PlanesReader<NeonSimd>, Level::kInt8>(a);
}

void quantize_block__neon(const float* x, int8_t* q, uint8_t* magnitude, float* step,
                          int32_t* sums) {
  QuantizeBlock(x, q, magnitude, step, sums);
}

}  // namespace slc
