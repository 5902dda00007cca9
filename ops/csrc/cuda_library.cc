#include "cuda_library.h"

#include <dlfcn.h>

#include <string>

namespace slc {
namespace {

constexpr char kName[] = "libslc_ops_cuda.so";

template <class Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

// The folder of this library with its slash, empty when the loader does not say.
std::string OwnFolder() {
  static const char here = 0;
  Dl_info info{};
  if (dladdr(&here, &info) == 0 || info.dli_fname == nullptr) return "";
  const std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/') + 1);
}

const CudaLibrary* Load() {
  const std::string folder = OwnFolder();
  if (folder.empty()) return nullptr;  // a bare name would be looked for elsewhere
  void* library = dlopen((folder + kName).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return nullptr;
  decltype(&slc_cuda_interface_version) version = nullptr;
  static CudaLibrary found;
  const bool whole = Find(library, "slc_cuda_interface_version", &version) &&
                     version() == cuda::kInterfaceVersion &&
                     Find(library, "slc_cuda_prepare", &found.prepare) &&
                     Find(library, "slc_cuda_open_blob", &found.open_blob) &&
                     Find(library, "slc_cuda_bitmap_sparse_gemm", &found.bitmap_sparse_gemm) &&
                     Find(library, "slc_cuda_adapter_down", &found.adapter_down) &&
                     Find(library, "slc_cuda_adapter_up", &found.adapter_up);
  return whole ? &found : nullptr;
}

}  // namespace

const CudaLibrary* FindCudaLibrary() {
  static const CudaLibrary* const library = Load();
  return library;
}

}  // namespace slc
