// BitmapSparseGemm as an onnxruntime operator. Contract: ops/bitmap_sparse_gemm.py.
#include <algorithm>
#include <cstring>

#include "../custom_op.h"
#include "activations.h"

namespace slc {
namespace {

constexpr char kName[] = "BitmapSparseGemm";
enum Input : size_t { kX = 0, kPacked = 1, kBias = 2 };

class Kernel {
 public:
  Kernel(const OrtApi& api, const OrtKernelInfo* info) : api_(api), isa_(UsableIsa()) {
    const int64_t n = IntAttribute(api, info, "N");
    const int64_t k = IntAttribute(api, info, "K");
    const int64_t level = IntAttribute(api, info, "accuracy_level", 0);
    if (level != 0 && level != 1 && level != 4) {
      Refuse(kName, "accuracy_level", std::to_string(level), "0, 1 or 4");
    }
    level_ = level == 4 ? Level::kInt8 : Level::kF32;
    int is_constant = 0;
    const OrtValue* value = nullptr;
    Check(api, api.KernelInfoGetConstantInput_tensor(info, kPacked, &is_constant, &value));
    if (is_constant == 0 || value == nullptr) {
      Refuse(kName, "packed", "an input known only at run time", "a constant initializer");
    }
    view_ = Parse(ReadTensor(api, value));
    if (view_.n != n) Refuse(kName, "N", std::to_string(view_.n) + " in packed", std::to_string(n));
    if (view_.k != k) Refuse(kName, "K", std::to_string(view_.k) + " in packed", std::to_string(k));
    if (SelectSparseKernel(1, StoredOf(view_), level_, isa_) == nullptr) {
      const char* kind =
          view_.encoding == Encoding::kDelta ? "4 with a delta blob" : "4 with f16 values";
      Refuse(kName, "accuracy_level", kind, "0 or 1 (float32 activations)");
    }
  }

  void Compute(OrtKernelContext* context) const {
    const Tensor x = ReadInput(api_, context, kX);
    const Tensor bias =
        InputCount(api_, context) > kBias ? ReadInput(api_, context, kBias) : Tensor();
    CheckInputs(x, bias);
    PackedView view = view_;
    const Tensor packed = ReadInput(api_, context, kPacked);
    if (packed.data != view.base) view = Parse(packed);  // a runtime that moves its constants
    std::vector<int64_t> dims = x.dims;
    dims.back() = view.n;
    void* y = MakeOutput(api_, context, dims);
    Run(view, x, bias, y, context);
  }

 private:
  static PackedView Parse(const Tensor& packed) {
    if (packed.type != kOrtUint8 || packed.dims.size() != 1) {
      Refuse(kName, "packed", packed.Describe(), "uint8 [bytes]");
    }
    PackedView view;
    std::string error;
    if (!ParsePackedBlob(packed.data, static_cast<size_t>(packed.dims[0]), &view, &error)) {
      throw OpError(std::string(kName) + ": " + error);
    }
    return view;
  }

  void CheckInputs(const Tensor& x, const Tensor& bias) const {
    if ((x.type != kOrtFloat && x.type != kOrtFloat16) || x.dims.empty() ||
        x.dims.back() != view_.k) {
      Refuse(kName, "X", x.Describe(), "float32 or float16 [..., " + std::to_string(view_.k) + "]");
    }
    if (bias.present && (bias.type != kOrtFloat || bias.dims != std::vector<int64_t>{view_.n})) {
      Refuse(kName, "bias", bias.Describe(), "float32 [" + std::to_string(view_.n) + "]");
    }
  }

  void Run(const PackedView& view, const Tensor& x, const Tensor& bias, void* y,
           OrtKernelContext* context) const {
    const bool is_half = x.type == kOrtFloat16;
    const int64_t m = x.elements() / view.k;
    if (m == 0) return;
    const SparseKernel& kernel = *SelectSparseKernel(m, StoredOf(view), level_, isa_);
    SessionThreads threads{&api_, context};
    const Parallel parallel = ParallelOf(&threads);
    const PackedActivations packed({x.data, is_half, m, view.k}, kernel.order, isa_, parallel);
    const Scratch floats(is_half ? m * view.n : 0);
    float* out = is_half ? floats.data() : static_cast<float*>(y);
    const auto* bias_data = static_cast<const float*>(bias.data);
    BitmapSparseGemm(kernel, {&view, packed.view(), m, 0, view.n, bias_data, out, view.n},
                     parallel);
    if (is_half) FloatsToHalves(out, m * view.n, y);
  }

  const OrtApi& api_;
  Isa isa_;
  Level level_ = Level::kF32;
  PackedView view_;
};

}  // namespace

std::vector<CustomOp> BitmapSparseGemmOps() {
  std::vector<CustomOp> ops;
  for (const OrtElementType type : {kOrtFloat, kOrtFloat16}) {
    const std::vector<InputSpec> inputs = {
        {type, kOrtRequired}, {kOrtUint8, kOrtRequired}, {kOrtFloat, kOrtOptional}};
    ops.push_back(MakeCustomOp<Kernel>(kName, type, inputs));
  }
  return ops;
}

}  // namespace slc
