// From a C++ kernel class to the callback table that onnxruntime wants.
//
// A kernel class has
//   Kernel(const OrtApi& api, const OrtKernelInfo* info);
//   void Compute(OrtKernelContext* context) const;          // many threads at once
//   static void InferShape(const OrtApi& api, OrtShapeInferContext* context);
// and may throw from each of them.
#ifndef SLC_CUSTOM_OP_H_
#define SLC_CUSTOM_OP_H_

#include <climits>

#include "ort_glue.h"

namespace slc {

struct InputSpec {
  OrtElementType type;  // kOrtUndefined: any
  OrtParameterKind kind;
};

// One operator for one type of its activations (X, and the output).
struct CustomOp : OrtCustomOp {
  const char* name = nullptr;
  OrtElementType activation = kOrtUndefined;
  std::vector<InputSpec> inputs;
  const OrtApi* api = nullptr;  // set on registration; shape inference is not given one
};

// Fills everything that does not depend on the kernel class.
void FillCommon(CustomOp* op);

template <class Kernel>
CustomOp MakeCustomOp(const char* name, OrtElementType activation, std::vector<InputSpec> inputs,
                      const OrtApi* api) {
  CustomOp op{};
  FillCommon(&op);
  op.name = name;
  op.activation = activation;
  op.inputs = std::move(inputs);
  op.api = api;
  struct Holder {
    const OrtApi& api;
    Kernel kernel;
  };
  op.CreateKernelV2 = [](const OrtCustomOp*, const OrtApi* kernel_api, const OrtKernelInfo* info,
                         void** out) {
    return Guard(*kernel_api,
                 [&] { *out = new Holder{*kernel_api, Kernel(*kernel_api, info)}; });
  };
  op.KernelComputeV2 = [](void* holder, OrtKernelContext* context) {
    const auto& held = *static_cast<const Holder*>(holder);
    return Guard(held.api, [&] { held.kernel.Compute(context); });
  };
  op.KernelDestroy = [](void* holder) { delete static_cast<Holder*>(holder); };
  op.InferOutputShapeFn = [](const OrtCustomOp* self, OrtShapeInferContext* context) {
    const OrtApi& infer_api = *static_cast<const CustomOp*>(self)->api;
    return Guard(infer_api, [&] { Kernel::InferShape(infer_api, context); });
  };
  return op;
}

// The operators, one entry per activation type.
std::vector<CustomOp> BitmapSparseGemmOps(const OrtApi* api);
std::vector<CustomOp> ConcatAdapterOps(const OrtApi* api);

}  // namespace slc

#endif  // SLC_CUSTOM_OP_H_
