// The one exported symbol: onnxruntime calls it when an application registers this library.

#include "custom_op.h"

namespace slc {
namespace {

// The domain and its operators. Sessions keep pointers into it, so it lives as long as the library.
class Domain {
 public:
  explicit Domain(const OrtApi& api) : api_(api) {
    for (auto& list : {BitmapSparseGemmOps(), ConcatAdapterOps(), CudaOps()}) {
      ops_.insert(ops_.end(), list.begin(), list.end());
    }
    Check(api, api.CreateCustomOpDomain("ai.slc", &domain_));
    for (const CustomOp& op : ops_) Check(api, api.CustomOpDomain_Add(domain_, &op));
  }
  ~Domain() {
    if (domain_ != nullptr) api_.ReleaseCustomOpDomain(domain_);
  }
  Domain(const Domain&) = delete;
  Domain& operator=(const Domain&) = delete;

  OrtCustomOpDomain* get() const { return domain_; }

 private:
  const OrtApi& api_;
  std::vector<CustomOp> ops_;
  OrtCustomOpDomain* domain_ = nullptr;
};

// Never freed: an app may hold a session in a static object that outlives ours.
OrtCustomOpDomain* SharedDomain(const OrtApi& api) {
  static Domain* const domain = new Domain(api);
  return domain->get();
}

// A runtime too old for kOrtApiVersion still has some older table, and CreateStatus is the first
// entry of every one: enough to say what is wrong.
OrtStatus* TooOld(const OrtApiBase& base) noexcept {
  for (uint32_t version = kOrtApiVersion - 1; version > 0; --version) {
    const OrtApi* api = base.GetApi(version);
    if (api == nullptr) continue;
    return Guard(*api, [&base] {
      throw OpError(std::string("ai.slc: got onnxruntime ") + base.GetVersionString() +
                        ", wanted 1.17 or newer",
                    kOrtNotImplemented);
    });
  }
  return nullptr;
}

}  // namespace
}  // namespace slc

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(
    OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(kOrtApiVersion);
  if (api == nullptr) return slc::TooOld(*base);
  return slc::Guard(
      *api, [&] { slc::Check(*api, api->AddCustomOpDomain(options, slc::SharedDomain(*api))); });
}
