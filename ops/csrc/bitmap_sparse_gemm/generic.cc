// BitmapSparseGemm kernels, for any machine.
#include "../simd_generic.h"
#include "delta.h"
#include "gemm.h"
#include "gemv_f32.h"
#include "gemv_int8.h"
#include "kernels.h"
#include "quantize.h"

namespace slc {

void sparse_gemv_f16_f32_1x64__generic(const SparseArgs& a) {
  SparseGemv<GenericSimd, F16Expand>(a);
}

void sparse_gemv_i8_f32_1x64__generic(const SparseArgs& a) { SparseGemv<GenericSimd, I8Expand>(a); }

void sparse_gemv_i4rows_f32_1x64__generic(const SparseArgs& a) {
  SparseGemvDecoded<GenericSimd, I4RowsReader<GenericSimd>>(a);
}

void sparse_gemv_i4planes_f32_1x64__generic(const SparseArgs& a) {
  SparseGemvDecoded<GenericSimd, I4PlanesReader<GenericSimd>>(a);
}

void sparse_gemv_deltaf16_f32_1x8__generic(const SparseArgs& a) {
  SparseDeltaGemv<GenericSimd, F16Dense>(a);
}

void sparse_gemv_deltai8_f32_1x8__generic(const SparseArgs& a) {
  SparseDeltaGemv<GenericSimd, I8Dense>(a);
}

void sparse_gemv_i8_int8_1x64__generic(const SparseArgs& a) {
  SparseGemvInt8<GenericSimd, I8Reader<GenericSimd>>(a);
}

void sparse_gemv_i4rows_int8_1x64__generic(const SparseArgs& a) {
  SparseGemvInt8<GenericSimd, I4RowsReader<GenericSimd>>(a);
}

void sparse_gemv_i4planes_int8_1x64__generic(const SparseArgs& a) {
  SparseGemvInt8<GenericSimd, I4PlanesReader<GenericSimd>>(a);
}

void sparse_gemm_f16_f32_8x256__generic(const SparseArgs& a) {
  SparseGemm<GenericSimd, F16Reader<GenericSimd>, Level::kF32>(a);
}

void sparse_gemm_i8_f32_8x256__generic(const SparseArgs& a) {
  SparseGemm<GenericSimd, I8Reader<GenericSimd>, Level::kF32>(a);
}

void sparse_gemm_i4rows_f32_8x256__generic(const SparseArgs& a) {
  SparseGemm<GenericSimd, I4RowsReader<GenericSimd>, Level::kF32>(a);
}

void sparse_gemm_i4planes_f32_8x256__generic(const SparseArgs& a) {
  SparseGemm<GenericSimd, I4PlanesReader<GenericSimd>, Level::kF32>(a);
}

void sparse_gemm_deltaf16_f32_1x8__generic(const SparseArgs& a) {
  SparseDeltaGemm<GenericSimd, F16Dense>(a);
}

void sparse_gemm_deltai8_f32_1x8__generic(const SparseArgs& a) {
  SparseDeltaGemm<GenericSimd, I8Dense>(a);
}

void sparse_gemm_i8_int8_8x256__generic(const SparseArgs& a) {
  SparseGemm<GenericSimd, I8Reader<GenericSimd>, Level::kInt8>(a);
}

void sparse_gemm_i4rows_int8_8x256__generic(const SparseArgs& a) {
  SparseGemm<GenericSimd, I4RowsReader<GenericSimd>, Level::kInt8>(a);
}

void sparse_gemm_i4planes_int8_8x256__generic(const SparseArgs& a) {
  SparseGemm<GenericSimd, I4PlanesReader<GenericSimd>, Level::kInt8>(a);
}

void sparse_gemv_fullf16_f32_1x64__generic(const SparseArgs& a) {
  SparseGemv<GenericSimd, F16Full>(a);
}

void sparse_gemv_fulli8_f32_1x64__generic(const SparseArgs& a) {
  SparseGemv<GenericSimd, I8Full>(a);
}

void sparse_gemv_fulli4_f32_1x64__generic(const SparseArgs& a) {
  SparseGemvDecoded<GenericSimd, FullI4Reader<GenericSimd>>(a);
}

void sparse_gemv_fulli8_int8_1x64__generic(const SparseArgs& a) {
  SparseGemvInt8<GenericSimd, FullI8Reader<GenericSimd>>(a);
}

void sparse_gemv_fulli4_int8_1x64__generic(const SparseArgs& a) {
  SparseGemvInt8<GenericSimd, FullI4Reader<GenericSimd>>(a);
}

void sparse_gemm_fullf16_f32_8x256__generic(const SparseArgs& a) {
  SparseGemm<GenericSimd, FullF16Reader<GenericSimd>, Level::kF32>(a);
}

void sparse_gemm_fulli8_f32_8x256__generic(const SparseArgs& a) {
  SparseGemm<GenericSimd, FullI8Reader<GenericSimd>, Level::kF32>(a);
}

void sparse_gemm_fulli4_f32_8x256__generic(const SparseArgs& a) {
  SparseGemm<GenericSimd, FullI4Reader<GenericSimd>, Level::kF32>(a);
}

void sparse_gemm_fulli8_int8_8x256__generic(const SparseArgs& a) {
  SparseGemm<GenericSimd, FullI8Reader<GenericSimd>, Level::kInt8>(a);
}

void sparse_gemm_fulli4_int8_8x256__generic(const SparseArgs& a) {
  SparseGemm<GenericSimd, FullI4Reader<GenericSimd>, Level::kInt8>(a);
}

void quantize_block__generic(const float* x, int8_t* q, uint8_t* magnitude, float* step,
                             int32_t* sums) {
  QuantizeBlock(x, q, magnitude, step, sums);
}

}  // namespace slc
