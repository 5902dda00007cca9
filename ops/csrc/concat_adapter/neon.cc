// Adapter kernels, NEON.
#include "../simd_neon.h"
#include "kernels.h"
#include "loop_nest.h"

namespace slc {

void adapter_dot_f32_3x4__neon(const DenseArgs& args) { AdapterDot<NeonSimd, F32Dense>(args); }

void adapter_dot_f16_3x4__neon(const DenseArgs& args) { AdapterDot<NeonSimd, F16Dense>(args); }

void adapter_dot_i8_3x4__neon(const DenseArgs& args) { AdapterDot<NeonSimd, I8Dense>(args); }

}  // namespace slc
