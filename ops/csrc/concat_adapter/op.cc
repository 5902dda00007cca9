// ConcatAdapterDown and ConcatAdapterUp as onnxruntime operators. Contracts: ops/concat_adapter.py.
#include <algorithm>

#include "../custom_op.h"
#include "concat_adapter.h"

namespace slc {
namespace {

constexpr char kDownName[] = "ConcatAdapterDown";
constexpr char kUpName[] = "ConcatAdapterUp";

bool IsActivation(const Tensor& tensor) {
  return (tensor.type == kOrtFloat || tensor.type == kOrtFloat16) && !tensor.dims.empty();
}

bool TypeOf(const Tensor& tensor, DenseType* type) {
  if (tensor.type == kOrtFloat) *type = DenseType::kF32;
  if (tensor.type == kOrtFloat16) *type = DenseType::kF16;
  if (tensor.type == kOrtInt8) *type = DenseType::kI8;
  return tensor.type == kOrtFloat || tensor.type == kOrtFloat16 || tensor.type == kOrtInt8;
}

// A float32 vector of `count` elements. When `may_lack`, it may be left out or have no elements.
const float* Floats(const char* op, const char* what, const Tensor& tensor, int64_t count,
                    bool may_lack) {
  const std::vector<int64_t> empty = {0}, wanted = {count};
  if (may_lack && (!tensor.present || (tensor.type == kOrtFloat && tensor.dims == empty))) {
    return nullptr;
  }
  if (tensor.type != kOrtFloat || tensor.dims != wanted) {
    Refuse(op, what, tensor.present ? tensor.Describe() : "nothing",
           "float32 [" + std::to_string(count) + "]" + (may_lack ? " or [0]" : ""));
  }
  return static_cast<const float*>(tensor.data);
}

// The activations as float32: in place, or converted into `scratch`.
const float* AsFloats(const Tensor& tensor, const Scratch& scratch) {
  if (tensor.type == kOrtFloat) return static_cast<const float*>(tensor.data);
  HalvesToFloats(tensor.data, tensor.elements(), scratch.data());
  return scratch.data();
}

int64_t ScratchSize(const Tensor& tensor) {
  return tensor.type == kOrtFloat16 ? tensor.elements() : 0;
}

// The adapters' matrices from input `first_input` on. `rank_dim` is where the rank stands, `fixed`
// the other dimension.
struct Parts {
  std::vector<AdapterPart> parts;
  int64_t rank_sum = 0;
  int64_t i8_rows = 0;

  Parts(const char* op, const OrtApi& api, const OrtKernelContext* context, size_t first_input,
        size_t rank_dim, int64_t fixed) {
    const size_t count = InputCount(api, context);
    for (size_t i = first_input; i < count; ++i) {
      const Tensor tensor = ReadInput(api, context, i);
      DenseType type{};
      if (!tensor.present || tensor.dims.size() != 2 || tensor.dims[1 - rank_dim] != fixed ||
          !TypeOf(tensor, &type)) {
        const std::string what = "adapter " + std::to_string(i - first_input);
        const std::string size = std::to_string(fixed);
        Refuse(op, what.c_str(), tensor.present ? tensor.Describe() : "nothing",
               "float32, float16 or int8 [" + (rank_dim == 0 ? "rank, " + size : size + ", rank") +
                   "]");
      }
      const int64_t rank = tensor.dims[rank_dim];
      parts.push_back({tensor.data, type, rank, rank_sum, nullptr});
      rank_sum += rank;
      if (type == DenseType::kI8) i8_rows += tensor.dims[0];
    }
  }

  // Hands each int8 matrix its slice of scale: as many as it has rows, in order.
  void SetScales(const float* scale, bool rows_are_ranks, int64_t n) {
    for (AdapterPart& part : parts) {
      if (part.type != DenseType::kI8) continue;
      part.scale = scale;
      scale += rows_are_ranks ? part.rank : n;
    }
  }

  AdapterPart const* data() const { return parts.data(); }
  int64_t count() const { return static_cast<int64_t>(parts.size()); }
};

class DownKernel {
 public:
  DownKernel(const OrtApi& api, const OrtKernelInfo*) : api_(api), isa_(UsableIsa()) {}

  void Compute(OrtKernelContext* context) const {
    const Tensor x = ReadInput(api_, context, 0);
    if (!IsActivation(x)) Refuse(kDownName, "X", x.Describe(), "float32 or float16 [..., K]");
    const int64_t k = x.dims.back();
    Parts parts(kDownName, api_, context, 3, 0, k);
    const Tensor scale = ReadInput(api_, context, 1);
    const Tensor gate = ReadInput(api_, context, 2);
    parts.SetScales(Floats(kDownName, "scale", scale, parts.i8_rows, parts.i8_rows == 0), true, 0);
    const float* gates = Floats(kDownName, "gate", gate, parts.rank_sum, true);

    std::vector<int64_t> dims = x.dims;
    dims.back() = parts.rank_sum;
    void* h = MakeOutput(api_, context, dims);
    if (k == 0) Refuse(kDownName, "X", x.Describe(), "K of 1 or more");
    const int64_t m = x.elements() / k;
    const bool is_half = x.type == kOrtFloat16;
    const Scratch x_scratch(ScratchSize(x)), h_scratch(is_half ? m * parts.rank_sum : 0);
    float* out = is_half ? h_scratch.data() : static_cast<float*>(h);
    SessionThreads threads{&api_, context};
    AdapterDown(
        {parts.data(), parts.count(), AsFloats(x, x_scratch), m, k, gates, out, parts.rank_sum},
        isa_, ParallelOf(&threads));
    if (is_half) FloatsToHalves(out, m * parts.rank_sum, h);
  }

 private:
  const OrtApi& api_;
  Isa isa_;
};

class UpKernel {
 public:
  UpKernel(const OrtApi& api, const OrtKernelInfo* info)
      : api_(api), isa_(UsableIsa()), offset_(IntAttribute(api, info, "offset", 0)) {
    if (offset_ < 0) Refuse(kUpName, "offset", std::to_string(offset_), "0 or more");
  }

  void Compute(OrtKernelContext* context) const {
    const Tensor y0 = ReadInput(api_, context, 0);
    const Tensor h = ReadInput(api_, context, 1);
    if (!IsActivation(y0)) Refuse(kUpName, "Y0", y0.Describe(), "float32 or float16 [..., N]");
    const int64_t n = y0.dims.back();
    if (h.type != y0.type || h.dims.size() != y0.dims.size() ||
        !std::equal(h.dims.begin(), h.dims.end() - 1, y0.dims.begin())) {
      Refuse(kUpName, "H", h.Describe(), "the type and leading dimensions of " + y0.Describe());
    }
    Parts parts(kUpName, api_, context, 3, 1, n);
    const Tensor scale = ReadInput(api_, context, 2);
    parts.SetScales(Floats(kUpName, "scale", scale, parts.i8_rows, parts.i8_rows == 0), false, n);
    if (parts.rank_sum > h.dims.back() || offset_ > h.dims.back() - parts.rank_sum) {
      Refuse(kUpName, "H", h.Describe(),
             "a last dimension of at least " + std::to_string(offset_) + " + " +
                 std::to_string(parts.rank_sum));
    }
    Run(parts, y0, h, MakeOutput(api_, context, y0.dims), context);
  }

 private:
  void Run(const Parts& parts, const Tensor& y0, const Tensor& h, void* y,
           OrtKernelContext* context) const {
    const int64_t n = y0.dims.back();
    if (y0.elements() == 0) return;
    const Scratch y_scratch(ScratchSize(y0)), h_scratch(ScratchSize(h));
    const bool is_half = y0.type == kOrtFloat16;
    float* out = is_half ? y_scratch.data() : static_cast<float*>(y);
    SessionThreads threads{&api_, context};
    AdapterUp({parts.data(), parts.count(), AsFloats(h, h_scratch) + offset_, y0.elements() / n,
               h.dims.back(), AsFloats(y0, y_scratch), out, n},
              isa_, ParallelOf(&threads));
    if (is_half) FloatsToHalves(out, y0.elements(), y);
  }

  const OrtApi& api_;
  Isa isa_;
  int64_t offset_;
};

}  // namespace

std::vector<CustomOp> ConcatAdapterOps() {
  std::vector<CustomOp> ops;
  for (const OrtElementType type : {kOrtFloat, kOrtFloat16}) {
    const InputSpec activation = {type, kOrtRequired}, optional = {kOrtFloat, kOrtOptional};
    const InputSpec adapters = {kOrtUndefined, kOrtVariadic};
    ops.push_back(
        MakeCustomOp<DownKernel>(kDownName, type, {activation, optional, optional, adapters}));
    ops.push_back(
        MakeCustomOp<UpKernel>(kUpName, type, {activation, activation, optional, adapters}));
  }
  return ops;
}

}  // namespace slc
