// Declares every kernel of kernels.inc.
#ifndef SLC_BITMAP_SPARSE_GEMM_KERNELS_H_
#define SLC_BITMAP_SPARSE_GEMM_KERNELS_H_

#include "bitmap_sparse_gemm.h"

namespace slc {

#define SLC_SPARSE_KERNEL(op, type, tile, isa, kind, value_enum, isa_enum) \
  void sparse_##op##_##type##_##tile##__##isa(const SparseArgs& args);
#include "kernels.inc"
#undef SLC_SPARSE_KERNEL

}  // namespace slc

#endif  // SLC_BITMAP_SPARSE_GEMM_KERNELS_H_
