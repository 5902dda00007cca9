// Adapter kernels, for any machine.
#include "../simd_generic.h"
#include "kernels.h"
#include "loop_nest.h"

namespace slc {

void adapter_dot_f32_3x4__generic(const DenseArgs& args) {
  AdapterDot<GenericSimd, F32Dense>(args);
}

void adapter_dot_f16_3x4__generic(const DenseArgs& args) {
  AdapterDot<GenericSimd, F16Dense>(args);
}

void adapter_dot_i8_3x4__generic(const DenseArgs& args) { AdapterDot<GenericSimd, I8Dense>(args); }

}  // namespace slc
