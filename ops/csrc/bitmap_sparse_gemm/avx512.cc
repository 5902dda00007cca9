// BitmapSparseGemm kernels, AVX-512 VBMI2 + VNNI.
#include "../simd_avx512.h"
#include "gemm.h"
#include "gemv_f32.h"
#include "gemv_int8.h"
#include "gemv_split.h"
#include "kernels.h"
#include "quantize.h"

namespace slc {

void sparse_gemv_f16_f32_1x64__avx512(const SparseArgs& a) { SparseGemvSplit(a); }

void sparse_gemv_i8_int8_1x64__avx512(const SparseArgs& a) {
  SparseGemvInt8<Avx512Simd, I8Reader<Avx512Simd>>(a);
}

void sparse_gemv_i4rows_int8_1x64__avx512(const SparseArgs& a) {
  SparseGemvInt8<Avx512Simd, I4RowsReader<Avx512Simd>>(a);
}

void sparse_gemm_f16_f32_32x256__avx512(const SparseArgs& a) {
  SparseGemm<Avx512Simd, F16Reader<Avx512Simd>, Level::kF32>(a);
}

void sparse_gemm_i8_f32_32x256__avx512(const SparseArgs& a) {
  SparseGemm<Avx512Simd, I8Reader<Avx512Simd>, Level::kF32>(a);
}

void sparse_gemm_i4rows_f32_32x256__avx512(const SparseArgs& a) {
  SparseGemm<Avx512Simd, I4RowsReader<Avx512Simd>, Level::kF32>(a);
}

void sparse_gemm_i4planes_f32_32x256__avx512(const SparseArgs& a) {
  SparseGemm<Avx512Simd, I4PlanesReader<Avx512Simd>, Level::kF32>(a);
}

void sparse_gemm_i8_int8_32x256__avx512(const SparseArgs& a) {
  SparseGemm<Avx512Simd, I8Reader<Avx512Simd>, Level::kInt8>(a);
}

void sparse_gemm_i4rows_int8_32x256__avx512(const SparseArgs& a) {
  SparseGemm<Avx512Simd, I4RowsReader<Avx512Simd>, Level::kInt8>(a);
}

void sparse_gemm_i4planes_int8_32x256__avx512(const SparseArgs& a) {
  SparseGemm<Avx512Simd, I4PlanesReader<Avx512Simd>, Level::kInt8>(a);
}

void sparse_gemv_fulli8_int8_1x64__avx512(const SparseArgs& a) {
  SparseGemvInt8<Avx512Simd, FullI8Reader<Avx512Simd>>(a);
}

void sparse_gemv_fulli4_int8_1x64__avx512(const SparseArgs& a) {
  SparseGemvInt8<Avx512Simd, FullI4Reader<Avx512Simd>>(a);
}

void sparse_gemm_fullf16_f32_32x256__avx512(const SparseArgs& a) {
  SparseGemm<Avx512Simd, FullF16Reader<Avx512Simd>, Level::kF32>(a);
}

void sparse_gemm_fulli8_f32_32x256__avx512(const SparseArgs& a) {
  SparseGemm<Avx512Simd, FullI8Reader<Avx512Simd>, Level::kF32>(a);
}

void sparse_gemm_fulli4_f32_32x256__avx512(const SparseArgs& a) {
  SparseGemm<Avx512Simd, FullI4Reader<Avx512Simd>, Level::kF32>(a);
}

void sparse_gemm_fulli8_int8_32x256__avx512(const SparseArgs& a) {
  SparseGemm<Avx512Simd, FullI8Reader<Avx512Simd>, Level::kInt8>(a);
}

void sparse_gemm_fulli4_int8_32x256__avx512(const SparseArgs& a) {
  SparseGemm<Avx512Simd, FullI4Reader<Avx512Simd>, Level::kInt8>(a);
}

}  // namespace slc
