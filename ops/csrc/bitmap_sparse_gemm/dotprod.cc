// BitmapSparseGemm kernels, NEON + sdot: those whose activations are int8.
#include "../simd_dotprod.h"
#include "gemm.h"
#include "gemv_int8.h"
#include "kernels.h"

namespace slc {

void sparse_gemv_i8_int8_1x64__dotprod(const SparseArgs& a) {
  SparseGemvInt8<DotprodSimd, I8Reader<DotprodSimd>>(a);
}

void sparse_gemv_i4rows_int8_1x64__dotprod(const SparseArgs& a) {
  SparseGemvInt8<DotprodSimd, I4RowsReader<DotprodSimd>>(a);
}

void sparse_gemm_i8_int8_16x256__dotprod(const SparseArgs& a) {
  SparseGemm<DotprodSimd, I8Reader<DotprodSimd>, Level::kInt8>(a);
}

void sparse_gemm_i4rows_int8_16x256__dotprod(const SparseArgs& a) {
  SparseGemm<DotprodSimd, I4RowsReader<DotprodSimd>, Level::kInt8>(a);
}

void sparse_gemm_i4planes_int8_16x256__dotprod(const SparseArgs& a) {
  SparseGemm<DotprodSimd, I4PlanesReader<DotprodSimd>, Level::kInt8>(a);
}

void sparse_gemv_fulli8_int8_1x64__dotprod(const SparseArgs& a) {
  SparseGemvInt8<DotprodSimd, FullI8Reader<DotprodSimd>>(a);
}

void sparse_gemv_fulli4_int8_1x64__dotprod(const SparseArgs& a) {
  SparseGemvInt8<DotprodSimd, FullI4Reader<DotprodSimd>>(a);
}

void sparse_gemm_fulli8_int8_16x256__dotprod(const SparseArgs& a) {
  SparseGemm<DotprodSimd, FullI8Reader<DotprodSimd>, Level::kInt8>(a);
}

void sparse_gemm_fulli4_int8_16x256__dotprod(const SparseArgs& a) {
  SparseGemm<DotprodSimd, FullI4Reader<DotprodSimd>, Level::kInt8>(a);
}

}  // namespace slc
