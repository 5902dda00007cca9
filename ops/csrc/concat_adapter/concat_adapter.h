// ConcatAdapterDown and ConcatAdapterUp on the CPU, accumulated in float32.
//
// The contracts of the operators stand in ops/concat_adapter.py. Both are products with a few short
// dense matrices, so they share one kernel family: y = x · wᵀ for w in float32, float16 or int8.
#ifndef SLC_CONCAT_ADAPTER_H_
#define SLC_CONCAT_ADAPTER_H_

#include <cstdint>

#include "../cpu_features.h"
#include "../parallel.h"

namespace slc {

enum class DenseType : uint8_t { kF32, kF16, kI8 };

struct DenseArgs {
  const void* w;    // [rows, k], any alignment
  int64_t rows, k;  // k >= 1
  const float* x;   // [m, ldx]
  int64_t m, ldx;
  float* y;  // [m, ldy]: columns 0 ... rows - 1 are overwritten
  int64_t ldy;
};

using DenseKernelFn = void (*)(const DenseArgs& args);

struct DenseKernel {
  const char* name;
  DenseType type;
  Isa isa;
  DenseKernelFn run;
};

// All kernels of kernels.inc, `count` of them.
const DenseKernel* DenseKernels(int* count);

DenseKernelFn SelectDenseKernel(DenseType type, Isa isa);

inline int64_t ElementBytes(DenseType type) {
  return type == DenseType::kF32 ? 4 : type == DenseType::kF16 ? 2 : 1;
}

// One adapter's matrix: A [rank, K] or B [N, rank]. Rank 0 is an empty slot and has no data.
struct AdapterPart {
  const void* data;
  DenseType type;
  int64_t rank;
  int64_t first;       // sum of the ranks before it
  const float* scale;  // one per row of an int8 matrix, else null
};

struct DownArgs {
  const AdapterPart* parts;
  int64_t count;
  const float* x;  // [m, k]
  int64_t m, k;
  const float* gate;  // [rank_sum] or null
  float* h;           // [m, rank_sum]
  int64_t rank_sum;
};

struct UpArgs {
  const AdapterPart* parts;
  int64_t count;
  const float* h;  // [m, ldh], the first adapter's column first
  int64_t m, ldh;
  const float* y0;  // [m, n]
  float* y;         // [m, n], may be y0
  int64_t n;
};

void AdapterDown(const DownArgs& args, Isa isa, const Parallel& parallel);
void AdapterUp(const UpArgs& args, Isa isa, const Parallel& parallel);

}  // namespace slc

#endif  // SLC_CONCAT_ADAPTER_H_
