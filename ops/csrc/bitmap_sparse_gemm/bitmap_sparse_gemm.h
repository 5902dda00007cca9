// BitmapSparseGemm on the CPU: y = x · decode(w)ᵀ + bias, accumulated in float32.
//
// The contract of the operator stands in ops/bitmap_sparse_gemm.py; this is the contract of one
// kernel. kernels.inc lists the kernels; gemv_*.h, gemm.h and delta.h hold their loops, values.h
// reads the stored values, one thin file per ISA instantiates them. KERNELS.md says why they look
// as they do.
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

// How a blob stores its values: encoding, value type and layout in one word.
enum class Stored : uint8_t {
  kF16,
  kI8,
  kI4Rows,
  kI4Planes,
  kDeltaF16,
  kDeltaI8,
  kFullF16,
  kFullI8,
  kFullI4
};
Stored StoredOf(const PackedView& w);

// accuracy_level 1 and 4: activations as they are, or as int8 in blocks of 64 columns.
enum class Level : uint8_t { kF32 = 1, kInt8 = 4 };

// gemv: m from 1 to kGemvRowsMax, weights stay in registers. gemm: any m, weights are decoded once
// for all rows of x.
enum class Kind : uint8_t { kGemv, kGemm };
inline constexpr int64_t kGemvRowsMax = 3;

// The order in which a kernel wants the rows of x; activations.h makes it.
enum class Order : uint8_t {
  kRows,     // float32 [m, 64 * words]
  kBlocks,   // float32 [blocks, m, kBlockColumns]: the rows of one block of columns lie together,
             // and rows a large power of two apart do not fight for the same cache sets
  kColumns,  // float32 [ceil(m / kColumnRows), 64 * words, kColumnRows]
  kSplit,  // float32 [m, 64 * words], scaled; of every 32 columns first the even, then the odd ones
  kInt8Rows,    // int8 [m, 64 * words]
  kInt8Blocks,  // int8 [blocks, m, kBlockColumns]
  kInt8Split,   // int8 [m, 64 * words]; of every 64 columns first the even, then the odd ones
  kInt8Planes,  // int8 [m, 256 * ceil(words / 4)]: byte 256 c + 32 t + b is column 256 c + 8 b + t
};
inline constexpr int64_t kBlockColumns = 256;
inline constexpr int64_t kColumnRows = 16;

// Rows of x in one of these orders, all zero beyond K. What has no use in an order is null.
struct Activations {
  Order order;
  const float* x;
  const int8_t* q;
  const uint8_t* magnitude;  // |q|, in the order of q
  int64_t row_stride;        // elements of x or q from a row to the next
  int64_t block_stride;      // and from a block of kBlockColumns columns to the next
  // x = step * q, one step for each block of 64 columns (kInt8Planes: the step twice). kSplit: one
  // number a row, 2^112 over the power of two that it was scaled by.
  const float* steps;  // [m, step_stride]
  int64_t step_stride;
  // What makes up for a kernel's weights being shifted to unsigned bytes, for the columns that one
  // integer lane sums: kInt8Rows, -128 times the sum of q over each 4 columns; kInt8Blocks, over
  // each block of 64; kInt8Split and kInt8Planes, -64 times the sum over each 8 and each 32.
  const int32_t* corrections;  // [m, correction_stride]
  int64_t correction_stride;
};

struct SparseArgs {
  const PackedView* w;
  Activations x;
  int64_t m;
  int64_t row_begin;  // rows of w to compute; a multiple of tile_rows
  int64_t row_end;    // at most N
  const float* bias;  // [N] or null
  float* y;           // [m, ldy], columns row_begin ... row_end - 1 are written
  int64_t ldy;
};

using SparseKernelFn = void (*)(const SparseArgs& args);

struct SparseKernel {
  const char* name;
  Kind kind;
  Stored stored;
  Level level;
  Order order;
  Isa isa;
  SparseKernelFn run;
};

// All kernels of kernels.inc, `count` of them.
const SparseKernel* SparseKernels(int* count);

// The best kernel for `m` rows of x on a machine with `isa`; null when there is none, which is so
// only at level kInt8 for values that are not int8 or int4.
const SparseKernel* SelectSparseKernel(int64_t m, Stored stored, Level level, Isa isa);

// The whole product: all rows of w, m rows of x, split into tasks of about equal cost.
// args.x.order must be the kernel's; args.row_begin and row_end are ignored.
void BitmapSparseGemm(const SparseKernel& kernel, const SparseArgs& args, const Parallel& parallel);

}  // namespace slc

#endif  // SLC_BITMAP_SPARSE_GEMM_H_
