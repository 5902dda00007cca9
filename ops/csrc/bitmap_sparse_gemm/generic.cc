// BitmapSparseGemm kernels, for any machine.
#include "../simd_generic.h"
#include "kernels.h"
#include "loop_nest.h"

namespace slc {

void sparse_gemv_f16_1x64__generic(const SparseArgs& args) {
  SparseGemv<GenericSimd, F16Values>(args);
}

void sparse_gemv_i8_1x64__generic(const SparseArgs& args) {
  SparseGemv<GenericSimd, I8Values>(args);
}

void sparse_gemm_f16_8x512__generic(const SparseArgs& args) {
  SparseGemm<GenericSimd, F16Values>(args);
}

void sparse_gemm_i8_8x512__generic(const SparseArgs& args) {
  SparseGemm<GenericSimd, I8Values>(args);
}

}  // namespace slc
