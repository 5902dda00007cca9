#include "ort_glue.h"

#include <memory>

#include "f16.h"

namespace slc {
namespace {

using TensorInfo = OrtTensorTypeAndShapeInfo;
using TensorInfoPtr = std::unique_ptr<TensorInfo, void (*)(TensorInfo*)>;

const char* TypeName(OrtElementType type) {
  switch (type) {
    case kOrtFloat:
      return "float32";
    case kOrtUint8:
      return "uint8";
    case kOrtInt8:
      return "int8";
    case kOrtFloat16:
      return "float16";
    case kOrtUndefined:
      break;
  }
  return "another type";
}

}  // namespace

void Check(const OrtApi& api, OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = api.GetErrorMessage(status);
  api.ReleaseStatus(status);
  throw OpError(message, kOrtFail);
}

int64_t Tensor::elements() const {
  int64_t count = 1;
  for (const int64_t dim : dims) count *= dim;
  return count;
}

std::string Tensor::Describe() const {
  std::string text = std::string(TypeName(type)) + " [";
  for (size_t i = 0; i < dims.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(dims[i]);
  }
  return text + "]";
}

Tensor ReadTensor(const OrtApi& api, const OrtValue* value) {
  Tensor tensor;
  TensorInfo* raw = nullptr;
  Check(api, api.GetTensorTypeAndShape(value, &raw));
  const TensorInfoPtr info(raw, api.ReleaseTensorTypeAndShapeInfo);
  size_t rank = 0;
  Check(api, api.GetTensorElementType(raw, &tensor.type));
  Check(api, api.GetDimensionsCount(raw, &rank));
  tensor.dims.resize(rank);
  Check(api, api.GetDimensions(raw, tensor.dims.data(), rank));
  // The one accessor of the data is the mutable one; inputs are only read through it.
  Check(api, api.GetTensorMutableData(const_cast<OrtValue*>(value), &tensor.data));
  tensor.present = true;
  return tensor;
}

Tensor ReadInput(const OrtApi& api, const OrtKernelContext* context, size_t index) {
  const OrtValue* value = nullptr;
  Check(api, api.KernelContext_GetInput(context, index, &value));
  return value == nullptr ? Tensor() : ReadTensor(api, value);
}

size_t InputCount(const OrtApi& api, const OrtKernelContext* context) {
  size_t count = 0;
  Check(api, api.KernelContext_GetInputCount(context, &count));
  return count;
}

void* MakeOutput(const OrtApi& api, OrtKernelContext* context, const std::vector<int64_t>& dims) {
  OrtValue* value = nullptr;
  void* data = nullptr;
  Check(api, api.KernelContext_GetOutput(context, 0, dims.data(), dims.size(), &value));
  Check(api, api.GetTensorMutableData(value, &data));
  return data;
}

int64_t IntAttribute(const OrtApi& api, const OrtKernelInfo* info, const char* name) {
  int64_t value = 0;
  Check(api, api.KernelInfoGetAttribute_int64(info, name, &value));
  return value;
}

int64_t IntAttribute(const OrtApi& api, const OrtKernelInfo* info, const char* name,
                     int64_t fallback) {
  int64_t value = 0;
  OrtStatus* status = api.KernelInfoGetAttribute_int64(info, name, &value);
  if (status == nullptr) return value;
  api.ReleaseStatus(status);
  return fallback;
}

void Refuse(const char* op, const char* what, const std::string& got, const std::string& wanted) {
  throw OpError(std::string(op) + ": " + what + ": got " + got + ", wanted " + wanted);
}

Parallel ParallelOf(SessionThreads* threads) {
  const auto run = [](void* context, Parallel::Task task, size_t count, void* data) {
    const auto& session = *static_cast<const SessionThreads*>(context);
    Check(*session.api,
          session.api->KernelContext_ParallelFor(session.context, task, count, count, data));
  };
  return {run, threads};
}

void HalvesToFloats(const void* halves, int64_t count, float* out) {
  const auto* in = static_cast<const uint16_t*>(halves);
  for (int64_t i = 0; i < count; ++i) out[i] = HalfToFloat(in[i]);
}

void FloatsToHalves(const float* floats, int64_t count, void* out) {
  auto* halves = static_cast<uint16_t*>(out);
  for (int64_t i = 0; i < count; ++i) halves[i] = FloatToHalf(floats[i]);
}

}  // namespace slc
