// Adapter kernels, AVX2 + FMA + F16C + BMI2.
#include "../simd_avx2.h"
#include "kernels.h"
#include "loop_nest.h"

namespace slc {

void adapter_dot_f32_3x4__avx2(const DenseArgs& args) { AdapterDot<Avx2Simd, F32Dense>(args); }

void adapter_dot_f16_3x4__avx2(const DenseArgs& args) { AdapterDot<Avx2Simd, F16Dense>(args); }

void adapter_dot_i8_3x4__avx2(const DenseArgs& args) { AdapterDot<Avx2Simd, I8Dense>(args); }

}  // namespace slc
