#include "runtime.h"

#include <dlfcn.h>

namespace {

// Has every call of this program, and onnxruntime 1.17 and newer answer to it.
constexpr uint32_t kApiVersion = 17;

// Never closed: onnxruntime has threads and static objects that live until the process ends.
void* OpenLibrary(const std::string& path) {
  if (!path.empty()) return dlopen(path.c_str(), RTLD_NOW);
  void* library = dlopen("libonnxruntime.so.1", RTLD_NOW);
  return library != nullptr ? library : dlopen("libonnxruntime.so", RTLD_NOW);
}

}  // namespace

Runtime::Runtime(const std::string& path) {
  void* library = OpenLibrary(path);
  if (library == nullptr) {
    throw Error("onnxruntime can't be opened (" + std::string(dlerror()) +
                "); name its libonnxruntime.so with --ort or ORT_LIBRARY");
  }
  using GetBase = const OrtApiBase* (*)();
  const auto get_base = reinterpret_cast<GetBase>(dlsym(library, "OrtGetApiBase"));
  if (get_base == nullptr) throw Error(path + " is not onnxruntime: it has no OrtGetApiBase");
  version_ = get_base()->GetVersionString();
  api_ = get_base()->GetApi(kApiVersion);
  if (api_ == nullptr) {
    throw Error("this program needs onnxruntime 1.17 or newer: got " + version_);
  }
}

void Runtime::Check(OrtStatus* status) const {
  if (status == nullptr) return;
  const Owned<OrtStatus> owned(status, api_->ReleaseStatus);
  throw Error(api_->GetErrorMessage(status));
}
