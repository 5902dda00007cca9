// X as onnxruntime gives it, put in the order that a kernel wants.
#ifndef SLC_BITMAP_SPARSE_GEMM_ACTIVATIONS_H_
#define SLC_BITMAP_SPARSE_GEMM_ACTIVATIONS_H_

#include "../scratch.h"
#include "bitmap_sparse_gemm.h"

namespace slc {

struct Rows {
  const void* x;  // [m, k], float32 or float16
  bool is_half;
  int64_t m, k;
};

// Owns what it had to copy; borrows `rows.x` where that already has the order.
class PackedActivations {
 public:
  PackedActivations(const Rows& rows, Order order, Isa isa, const Parallel& parallel);
  const Activations& view() const { return view_; }

 private:
  Activations view_;
  ScratchOf<float> floats_, steps_;
  ScratchOf<int8_t> q_;
  ScratchOf<uint8_t> magnitude_;
  ScratchOf<int32_t> corrections_;
};

}  // namespace slc

#endif  // SLC_BITMAP_SPARSE_GEMM_ACTIVATIONS_H_
