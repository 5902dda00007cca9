// BitmapSparseGemm kernels, AVX2 + FMA + F16C + BMI2.
#include "../simd_avx2.h"
#include "delta.h"
#include "gemm.h"
#include "gemv_f32.h"
#include "gemv_int8.h"
#include "gemv_nibbles.h"
#include "gemv_planes.h"
#include "kernels.h"
#include "quantize_avx2.h"

namespace slc {

void sparse_gemv_f16_f32_1x64__avx2(const SparseArgs& a) { SparseGemv<Avx2Simd, F16Expand>(a); }

void sparse_gemv_i8_f32_1x64__avx2(const SparseArgs& a) { SparseGemv<Avx2Simd, I8Expand>(a); }

void sparse_gemv_i4rows_f32_1x64__avx2(const SparseArgs& a) {
  SparseGemvDecoded<Avx2Simd, I4RowsReader<Avx2Simd>>(a);
}

void sparse_gemv_i4planes_f32_1x64__avx2(const SparseArgs& a) {
  SparseGemvDecoded<Avx2Simd, I4PlanesReader<Avx2Simd>>(a);
}

void sparse_gemv_deltaf16_f32_1x8__avx2(const SparseArgs& a) {
  SparseDeltaGemv<Avx2Simd, F16Dense>(a);
}

void sparse_gemv_deltai8_f32_1x8__avx2(const SparseArgs& a) {
  SparseDeltaGemv<Avx2Simd, I8Dense>(a);
}

void sparse_gemv_i8_int8_1x64__avx2(const SparseArgs& a) {
  SparseGemvInt8<Avx2Simd, I8Reader<Avx2Simd>>(a);
}

void sparse_gemv_i4rows_int8_1x64__avx2(const SparseArgs& a) {
  SparseGemvInt8<Avx2Simd, I4RowsReader<Avx2Simd>>(a);
}

void sparse_gemv_i4planes_int8_1x256__avx2(const SparseArgs& a) { SparseGemvPlanes(a); }

void sparse_gemm_f16_f32_16x256__avx2(const SparseArgs& a) {
  SparseGemm<Avx2Simd, F16Reader<Avx2Simd>, Level::kF32>(a);
}

void sparse_gemm_i8_f32_16x256__avx2(const SparseArgs& a) {
  SparseGemm<Avx2Simd, I8Reader<Avx2Simd>, Level::kF32>(a);
}

void sparse_gemm_i4rows_f32_16x256__avx2(const SparseArgs& a) {
  SparseGemm<Avx2Simd, I4RowsReader<Avx2Simd>, Level::kF32>(a);
}

void sparse_gemm_i4planes_f32_16x256__avx2(const SparseArgs& a) {
  SparseGemm<Avx2Simd, I4PlanesReader<Avx2Simd>, Level::kF32>(a);
}

void sparse_gemm_deltaf16_f32_1x8__avx2(const SparseArgs& a) {
  SparseDeltaGemm<Avx2Simd, F16Dense>(a);
}

void sparse_gemm_deltai8_f32_1x8__avx2(const SparseArgs& a) {
  SparseDeltaGemm<Avx2Simd, I8Dense>(a);
}

void sparse_gemm_i8_int8_16x256__avx2(const SparseArgs& a) {
  SparseGemm<Avx2Simd, I8Reader<Avx2Simd>, Level::kInt8>(a);
}

void sparse_gemm_i4rows_int8_16x256__avx2(const SparseArgs& a) {
  SparseGemm<Avx2Simd, I4RowsReader<Avx2Simd>, Level::kInt8>(a);
}

void sparse_gemm_i4planes_int8_16x256__avx2(const SparseArgs& a) {
  SparseGemm<Avx2Simd, I4PlanesReader<Avx2Simd>, Level::kInt8>(a);
}

void sparse_gemv_fullf16_f32_1x64__avx2(const SparseArgs& a) { SparseGemv<Avx2Simd, F16Full>(a); }

void sparse_gemv_fulli8_f32_1x64__avx2(const SparseArgs& a) { SparseGemv<Avx2Simd, I8Full>(a); }

void sparse_gemv_fulli4_f32_1x64__avx2(const SparseArgs& a) {
  SparseGemvDecoded<Avx2Simd, FullI4Reader<Avx2Simd>>(a);
}

void sparse_gemv_fulli8_int8_1x64__avx2(const SparseArgs& a) {
  SparseGemvInt8<Avx2Simd, FullI8Reader<Avx2Simd>>(a);
}

void sparse_gemv_fulli4_int8_1x64__avx2(const SparseArgs& a) {
  SparseGemvInt8<Avx2NibblesSimd, FullI4Reader<Avx2NibblesSimd>>(a);
}

void sparse_gemm_fullf16_f32_16x256__avx2(const SparseArgs& a) {
  SparseGemm<Avx2Simd, FullF16Reader<Avx2Simd>, Level::kF32>(a);
}

void sparse_gemm_fulli8_f32_16x256__avx2(const SparseArgs& a) {
  SparseGemm<Avx2Simd, FullI8Reader<Avx2Simd>, Level::kF32>(a);
}

void sparse_gemm_fulli4_f32_16x256__avx2(const SparseArgs& a) {
  SparseGemm<Avx2Simd, FullI4Reader<Avx2Simd>, Level::kF32>(a);
}

void sparse_gemm_fulli8_int8_16x256__avx2(const SparseArgs& a) {
  SparseGemm<Avx2Simd, FullI8Reader<Avx2Simd>, Level::kInt8>(a);
}

void sparse_gemm_fulli4_int8_16x256__avx2(const SparseArgs& a) {
  SparseGemm<Avx2Simd, FullI4Reader<Avx2Simd>, Level::kInt8>(a);
}

void quantize_block__avx2(const float* x, int8_t* q, uint8_t* magnitude, float* step,
                          int32_t* sums) {
  QuantizeBlockAvx2(x, q, magnitude, step, sums);
}

}  // namespace slc
