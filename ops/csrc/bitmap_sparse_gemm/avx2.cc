// BitmapSparseGemm kernels, AVX2 + FMA + F16C + BMI2.
#include "../simd_avx2.h"
#include "kernels.h"
#include "loop_nest.h"

namespace slc {

void sparse_gemv_f16_1x64__avx2(const SparseArgs& args) { SparseGemv<Avx2Simd, F16Values>(args); }

void sparse_gemv_i8_1x64__avx2(const SparseArgs& args) { SparseGemv<Avx2Simd, I8Values>(args); }

void sparse_gemm_f16_8x512__avx2(const SparseArgs& args) { SparseGemm<Avx2Simd, F16Values>(args); }

void sparse_gemm_i8_8x512__avx2(const SparseArgs& args) { SparseGemm<Avx2Simd, I8Values>(args); }

}  // namespace slc
