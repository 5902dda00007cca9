// From a C++ kernel class to the callback table that onnxruntime wants.
//
// A kernel class has
//   Kernel(const OrtApi& api, const OrtKernelInfo* info);
//   void Compute(OrtKernelContext* context) const;          // many threads at once
// and may throw from each of them.
//
// There is no shape inference: onnxruntime before 1.32 reads a null pointer before it calls ours
// when a node leaves out an optional input, so graphs carry the types and shapes of our outputs
// instead.
#ifndef SLC_CUSTOM_OP_H_
#define SLC_CUSTOM_OP_H_

#include <climits>

#include "ort_glue.h"

namespace slc {

struct InputSpec {
  OrtElementType type;  // kOrtUndefined: any
  OrtParameterKind kind;
};

inline constexpr char kCpuProvider[] = "CPUExecutionProvider";
inline constexpr char kCudaProvider[] = "CUDAExecutionProvider";

// One operator for one type of its activations (X, and the output), on one execution provider.
struct CustomOp : OrtCustomOp {
  const char* name = nullptr;
  const char* provider = kCpuProvider;
  OrtElementType activation = kOrtUndefined;
  std::vector<InputSpec> inputs;
};

// Fills everything that does not depend on the kernel class.
void FillCommon(CustomOp* op);

template <class Kernel>
CustomOp MakeCustomOp(const char* name, OrtElementType activation, std::vector<InputSpec> inputs,
                      const char* provider = kCpuProvider) {
  CustomOp op{};
  FillCommon(&op);
  op.name = name;
  op.provider = provider;
  op.activation = activation;
  op.inputs = std::move(inputs);
  struct Holder {
    const OrtApi& api;
    Kernel kernel;
  };
  op.CreateKernelV2 = [](const OrtCustomOp*, const OrtApi* kernel_api, const OrtKernelInfo* info,
                         void** out) {
    return Guard(*kernel_api, [&] { *out = new Holder{*kernel_api, Kernel(*kernel_api, info)}; });
  };
  op.KernelComputeV2 = [](void* holder, OrtKernelContext* context) {
    const auto& held = *static_cast<const Holder*>(holder);
    return Guard(held.api, [&] { held.kernel.Compute(context); });
  };
  op.KernelDestroy = [](void* holder) { delete static_cast<Holder*>(holder); };
  return op;
}

// The operators, one entry per activation type.
std::vector<CustomOp> BitmapSparseGemmOps();
std::vector<CustomOp> ConcatAdapterOps();
// Those for the CUDA provider; none where libslc_ops_cuda.so does not lie beside this library.
std::vector<CustomOp> CudaOps();

}  // namespace slc

#endif  // SLC_CUSTOM_OP_H_
