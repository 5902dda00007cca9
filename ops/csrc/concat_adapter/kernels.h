// Declares every kernel of kernels.inc.
#ifndef SLC_CONCAT_ADAPTER_KERNELS_H_
#define SLC_CONCAT_ADAPTER_KERNELS_H_

#include "concat_adapter.h"

namespace slc {

#define SLC_DENSE_KERNEL(type, tile, isa, type_enum, isa_enum) \
  void adapter_dot_##type##_##tile##__##isa(const DenseArgs& args);
#include "kernels.inc"
#undef SLC_DENSE_KERNEL

}  // namespace slc

#endif  // SLC_CONCAT_ADAPTER_KERNELS_H_
