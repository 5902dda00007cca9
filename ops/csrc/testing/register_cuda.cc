// The CUDA operators offered to the CPU provider: with the fake driver, whose device memory is the
// host's, sessions run the whole glue of cuda_ops.cc on a machine without a GPU. For tests.
#include "../custom_op.h"

namespace slc {
namespace {

OrtCustomOpDomain* MakeDomain(const OrtApi& api) {
  static std::vector<CustomOp> ops = CudaOps();
  if (ops.empty()) throw OpError("no libslc_ops_cuda.so beside this library", kOrtFail);
  OrtCustomOpDomain* domain = nullptr;
  Check(api, api.CreateCustomOpDomain("ai.slc", &domain));
  for (CustomOp& op : ops) {
    op.provider = kCpuProvider;
    Check(api, api.CustomOpDomain_Add(domain, &op));
  }
  return domain;
}

}  // namespace
}  // namespace slc

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(
    OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(kOrtApiVersion);
  return slc::Guard(*api, [&] {
    static OrtCustomOpDomain* const domain = slc::MakeDomain(*api);
    slc::Check(*api, api->AddCustomOpDomain(options, domain));
  });
}
