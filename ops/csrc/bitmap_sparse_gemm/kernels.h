// Declares every kernel of kernels.inc, and each ISA's copy of what prepares x for them.
#ifndef SLC_BITMAP_SPARSE_GEMM_KERNELS_H_
#define SLC_BITMAP_SPARSE_GEMM_KERNELS_H_

#include "bitmap_sparse_gemm.h"

namespace slc {

#define SLC_SPARSE_KERNEL(op, stored, level, tile, isa, kind, stored_enum, level_enum, order, \
                          isa_enum)                                                           \
  void sparse_##op##_##stored##_##level##_##tile##__##isa(const SparseArgs& a);
#include "kernels.inc"
#undef SLC_SPARSE_KERNEL

// quantize.h
using QuantizeBlockFn = void (*)(const float* x, int8_t* q, uint8_t* magnitude, float* step,
                                 int32_t* sums);
void quantize_block__generic(const float* x, int8_t* q, uint8_t* magnitude, float* step,
                             int32_t* sums);
#if SLC_HAVE_AVX2
void quantize_block__avx2(const float* x, int8_t* q, uint8_t* magnitude, float* step,
                          int32_t* sums);
#endif
#if SLC_HAVE_NEON
void quantize_block__neon(const float* x, int8_t* q, uint8_t* magnitude, float* step,
                          int32_t* sums);
#endif

}  // namespace slc

#endif  // SLC_BITMAP_SPARSE_GEMM_KERNELS_H_
