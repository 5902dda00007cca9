// BitmapSparseGemm on the CPU: y = x · decode(w)ᵀ + bias, accumulated in float32.
//
// The contract of the operator stands in ops/bitmap_sparse_gemm.py; this is the contract of one
// kernel. kernels.inc lists the kernels, loop_nest.h holds their loops, one thin file per ISA
// instantiates them.
//
// Every kernel computes an element of y in an order that depends only on K and on the kernel, so
// splitting rows of w or rows of x over threads never changes a bit of the result.
#ifndef SLC_BITMAP_SPARSE_GEMM_H_
#define SLC_BITMAP_SPARSE_GEMM_H_

#include <cstdint>

#include "../cpu_features.h"
#include "../packed_blob.h"
#include "../parallel.h"

namespace slc {

// The gemm kernels walk x in blocks of this many columns. Stored block by block, the rows of one
// block lie together; stored row by row, rows a large power of two apart fight for the same cache
// sets.
inline constexpr int64_t kBlockColumns = 512;
// And in blocks of this many rows: 129 x 512 float32 stay in a 512 KiB L2, and 3 divides it.
inline constexpr int64_t kBlockRows = 129;

struct SparseArgs {
  const PackedView* w;
  const float* x;     // m rows, finite; columns K ... 64 * words - 1 are readable and 0
  int64_t m, ldx;     // elements from a row to the next
  int64_t x_block;    // elements from a block of kBlockColumns columns to the next (gemm only)
  int64_t row_begin;  // rows of w to compute; a multiple of tile_rows
  int64_t row_end;    // at most N
  const float* bias;  // [N] or null
  float* y;           // [m, ldy], columns row_begin ... row_end - 1 are written
  int64_t ldy;
};

using SparseKernelFn = void (*)(const SparseArgs& args);

// gemv: m from 1 to 3, weights stay in registers. gemm: any m, panels of weights are decoded once.
enum class SparseKind { kGemv, kGemm };
inline constexpr int64_t kGemvRowsMax = 3;

struct SparseKernel {
  const char* name;
  SparseKind kind;
  ValueType value_type;
  Isa isa;
  SparseKernelFn run;
};

// All kernels of kernels.inc, `count` of them.
const SparseKernel* SparseKernels(int* count);

// The best kernel for `m` rows of x on a machine with `isa`.
SparseKernelFn SelectSparseKernel(int64_t m, ValueType value_type, Isa isa);

// The whole product: all rows of w, m rows of x, split into tasks of about equal cost.
// args.row_begin and row_end are ignored.
void BitmapSparseGemm(const SparseArgs& args, Isa isa, const Parallel& parallel);

}  // namespace slc

#endif  // SLC_BITMAP_SPARSE_GEMM_H_
