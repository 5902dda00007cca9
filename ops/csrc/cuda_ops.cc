// The operators of ai.slc for the CUDA execution provider: onnxruntime's side of
// libslc_ops_cuda.so. Contracts: ops/bitmap_sparse_gemm.py, ops/concat_adapter.py. Inputs are in
// device memory, so that only their types and shapes are looked at here; X in float32 is rounded to
// float16.
#include <algorithm>

#include "cuda_library.h"
#include "custom_op.h"

namespace slc {
namespace {

constexpr char kGemmName[] = "BitmapSparseGemm";
constexpr char kDownName[] = "ConcatAdapterDown";
constexpr char kUpName[] = "ConcatAdapterUp";

// Throws when the library gives a reason.
void CheckReason(const char* op, const char* reason) {
  if (reason != nullptr) throw OpError(std::string(op) + " (CUDA): " + reason, kOrtFail);
}

void* StreamOf(const OrtApi& api, const OrtKernelContext* context) {
  void* stream = nullptr;
  Check(api, api.KernelContext_GetGPUComputeStream(context, &stream));
  return stream;
}

bool IsActivation(const Tensor& tensor) {
  return (tensor.type == kOrtFloat || tensor.type == kOrtFloat16) && !tensor.dims.empty();
}

int XTypeOf(const Tensor& tensor) {
  return tensor.type == kOrtFloat ? cuda::kXFloat : cuda::kXHalf;
}

class GemmKernel {
 public:
  GemmKernel(const OrtApi& api, const OrtKernelInfo* info)
      : api_(api), library_(*FindCudaLibrary()) {
    const int64_t n = IntAttribute(api, info, "N"), k = IntAttribute(api, info, "K");
    const int64_t level = IntAttribute(api, info, "accuracy_level", 0);
    if (level != 0 && level != 1) {
      Refuse(kGemmName, "accuracy_level", std::to_string(level), "0 or 1 on CUDA");
    }
    int is_constant = 0;
    const OrtValue* value = nullptr;
    Check(api, api.KernelInfoGetConstantInput_tensor(info, 1, &is_constant, &value));
    if (is_constant == 0 || value == nullptr) {
      Refuse(kGemmName, "packed", "an input known only at run time", "a constant initializer");
    }
    packed_ = ReadTensor(api, value);
    blob_ = Open(packed_);
    if (blob_.S.n != n || blob_.S.k != k) {
      Refuse(kGemmName, "packed",
             "N " + std::to_string(blob_.S.n) + ", K " + std::to_string(blob_.S.k),
             "N " + std::to_string(n) + ", K " + std::to_string(k));
    }
  }

  void Compute(OrtKernelContext* context) const {
    const Tensor x = ReadInput(api_, context, 0);
    const Tensor packed = ReadInput(api_, context, 1);
    const Tensor bias = InputCount(api_, context) > 2 ? ReadInput(api_, context, 2) : Tensor();
    if (!IsActivation(x) || x.dims.back() != blob_.S.k) {
      Refuse(kGemmName, "X", x.Describe(),
             "float32 or float16 [..., " + std::to_string(blob_.S.k) + "]");
    }
    if (bias.present && (bias.type != kOrtFloat || bias.dims != std::vector<int64_t>{blob_.S.n})) {
      Refuse(kGemmName, "bias", bias.Describe(), "float32 [" + std::to_string(blob_.S.n) + "]");
    }
    std::vector<int64_t> dims = x.dims;
    dims.back() = blob_.S.n;
    void* y = MakeOutput(api_, context, dims);
    const int64_t m = x.elements() / blob_.S.k;
    if (m == 0) return;
    // A runtime that moves its constants: looked at again, which no CUDA graph can capture.
    const cuda::Blob blob = packed.data == packed_.data ? blob_ : Open(packed);
    CheckReason(kGemmName, library_.bitmap_sparse_gemm(&blob, x.data, XTypeOf(x),
                                                       static_cast<const float*>(bias.data), y, m,
                                                       StreamOf(api_, context)));
  }

 private:
  cuda::Blob Open(const Tensor& packed) const {
    if (packed.type != kOrtUint8 || packed.dims.size() != 1) {
      Refuse(kGemmName, "packed", packed.Describe(), "uint8 [bytes]");
    }
    cuda::Blob blob{};
    CheckReason(
        kGemmName,
        library_.open_blob(packed.data, static_cast<unsigned long long>(packed.dims[0]), &blob));
    return blob;
  }

  const OrtApi& api_;
  const CudaLibrary& library_;
  Tensor packed_;
  cuda::Blob blob_{};
};

// The adapters' matrices from input 3 on, with their places in H and in scale.
std::vector<cuda::Adapter> ReadAdapters(const char* op, const OrtApi& api,
                                        const OrtKernelContext* context, const Tensor& scale,
                                        size_t rank_dim, int64_t fixed, int64_t begin) {
  std::vector<cuda::Adapter> adapters;
  const auto* scales = static_cast<const float*>(scale.data);
  int64_t scaled_rows = 0;
  const size_t count = InputCount(api, context);
  for (size_t i = 3; i < count; ++i) {
    const Tensor tensor = ReadInput(api, context, i);
    const bool known =
        tensor.type == kOrtFloat || tensor.type == kOrtFloat16 || tensor.type == kOrtInt8;
    if (!tensor.present || !known || tensor.dims.size() != 2 ||
        tensor.dims[1 - rank_dim] != fixed) {
      const std::string what = "adapter " + std::to_string(i - 3), size = std::to_string(fixed);
      Refuse(
          op, what.c_str(), tensor.present ? tensor.Describe() : "nothing",
          "float32, float16 or int8 [" + (rank_dim == 0 ? "rank, " + size : size + ", rank") + "]");
    }
    cuda::Adapter adapter{};
    adapter.data = tensor.data;
    adapter.rank = tensor.dims[rank_dim];
    adapter.begin = begin;
    adapter.type = tensor.type == kOrtFloat     ? cuda::kDenseF32
                   : tensor.type == kOrtFloat16 ? cuda::kDenseF16
                                                : cuda::kDenseI8;
    begin += adapter.rank;
    if (tensor.type == kOrtInt8) {
      adapter.scale = scales + scaled_rows;
      scaled_rows += tensor.dims[0];
    }
    if (adapter.rank > 0) adapters.push_back(adapter);
  }
  const int64_t given = scale.present ? scale.elements() : 0;
  if (scaled_rows != given || (given > 0 && scale.type != kOrtFloat)) {
    Refuse(op, "scale", scale.present ? scale.Describe() : "nothing",
           "float32 [" + std::to_string(scaled_rows) + "]");
  }
  return adapters;
}

int64_t RankSum(const std::vector<cuda::Adapter>& adapters) {
  int64_t sum = 0;
  for (const cuda::Adapter& adapter : adapters) sum += adapter.rank;
  return sum;
}

// Fills `arguments` with up to kAdaptersMax adapters from `at` on; how many.
template <class Arguments>
size_t Take(const std::vector<cuda::Adapter>& adapters, size_t at, Arguments* arguments) {
  const size_t count = std::min<size_t>(adapters.size() - at, cuda::kAdaptersMax);
  std::copy_n(adapters.begin() + static_cast<std::ptrdiff_t>(at), count, arguments->adapters);
  arguments->count = static_cast<int>(count);
  return count;
}

class DownKernel {
 public:
  DownKernel(const OrtApi& api, const OrtKernelInfo*) : api_(api), library_(*FindCudaLibrary()) {
    CheckReason(kDownName, library_.prepare());
  }

  void Compute(OrtKernelContext* context) const {
    const Tensor x = ReadInput(api_, context, 0);
    if (!IsActivation(x) || x.dims.back() < 1) {
      Refuse(kDownName, "X", x.Describe(), "float32 or float16 [..., K], K of 1 or more");
    }
    const int64_t k = x.dims.back();
    const Tensor scale = ReadInput(api_, context, 1), gate = ReadInput(api_, context, 2);
    const std::vector<cuda::Adapter> adapters =
        ReadAdapters(kDownName, api_, context, scale, 0, k, 0);
    const int64_t ranks = RankSum(adapters), gates = gate.present ? gate.elements() : 0;
    if (gates != 0 && (gate.type != kOrtFloat || gates != ranks)) {
      Refuse(kDownName, "gate", gate.Describe(), "float32 [" + std::to_string(ranks) + "] or [0]");
    }
    std::vector<int64_t> dims = x.dims;
    dims.back() = ranks;
    void* h = MakeOutput(api_, context, dims);
    cuda::DownArguments in{};
    in.x = x.data;
    in.gate = gates == 0 ? nullptr : static_cast<const float*>(gate.data);
    in.h = h;
    in.m = x.elements() / k;
    in.k = k;
    in.stride = ranks;
    if (in.m == 0) return;
    for (size_t at = 0; at < adapters.size();) {
      at += Take(adapters, at, &in);
      in.ranks = 0;
      for (int i = 0; i < in.count; ++i) in.ranks += in.adapters[i].rank;
      CheckReason(kDownName, library_.adapter_down(&in, XTypeOf(x), StreamOf(api_, context)));
    }
  }

 private:
  const OrtApi& api_;
  const CudaLibrary& library_;
};

class UpKernel {
 public:
  UpKernel(const OrtApi& api, const OrtKernelInfo* info)
      : api_(api), library_(*FindCudaLibrary()), offset_(IntAttribute(api, info, "offset", 0)) {
    if (offset_ < 0) Refuse(kUpName, "offset", std::to_string(offset_), "0 or more");
    CheckReason(kUpName, library_.prepare());
  }

  void Compute(OrtKernelContext* context) const {
    const Tensor y0 = ReadInput(api_, context, 0), h = ReadInput(api_, context, 1);
    if (!IsActivation(y0)) Refuse(kUpName, "Y0", y0.Describe(), "float32 or float16 [..., N]");
    if (h.type != y0.type || h.dims.size() != y0.dims.size() ||
        !std::equal(h.dims.begin(), h.dims.end() - 1, y0.dims.begin())) {
      Refuse(kUpName, "H", h.Describe(), "the type and leading dimensions of " + y0.Describe());
    }
    const int64_t n = y0.dims.back();
    const std::vector<cuda::Adapter> adapters =
        ReadAdapters(kUpName, api_, context, ReadInput(api_, context, 2), 1, n, offset_);
    const int64_t ranks = RankSum(adapters);
    if (ranks > h.dims.back() || offset_ > h.dims.back() - ranks) {
      Refuse(kUpName, "H", h.Describe(),
             "a last dimension of at least " + std::to_string(offset_) + " + " +
                 std::to_string(ranks));
    }
    cuda::UpArguments in{};
    in.y = MakeOutput(api_, context, y0.dims);
    in.y0 = y0.data;
    in.h = h.data;
    in.n = n;
    in.stride = h.dims.back();
    if (y0.elements() == 0) return;
    in.m = y0.elements() / n;
    size_t at = 0;
    do {  // once even without adapters, which copies Y0
      at += Take(adapters, at, &in);
      CheckReason(kUpName, library_.adapter_up(&in, XTypeOf(y0), StreamOf(api_, context)));
      in.y0 = in.y;
    } while (at < adapters.size());
  }

 private:
  const OrtApi& api_;
  const CudaLibrary& library_;
  int64_t offset_;
};

}  // namespace

std::vector<CustomOp> CudaOps() {
  std::vector<CustomOp> ops;
  if (FindCudaLibrary() == nullptr) return ops;
  for (const OrtElementType type : {kOrtFloat, kOrtFloat16}) {
    const InputSpec x = {type, kOrtRequired}, packed = {kOrtUint8, kOrtRequired};
    const InputSpec optional = {kOrtFloat, kOrtOptional};
    const InputSpec adapters = {kOrtUndefined, kOrtVariadic};
    ops.push_back(MakeCustomOp<GemmKernel>(kGemmName, type, {x, packed, optional}, kCudaProvider));
    ops.push_back(MakeCustomOp<DownKernel>(kDownName, type, {x, optional, optional, adapters},
                                           kCudaProvider));
    ops.push_back(MakeCustomOp<UpKernel>(kUpName, type, {x, x, optional, adapters}, kCudaProvider));
  }
  return ops;
}

}  // namespace slc
