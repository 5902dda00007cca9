#include "driver.h"

#include <dlfcn.h>

namespace slc::cuda {
namespace {

constexpr char kLibrary[] = "libcuda.so.1";

template <class Function>
void Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  if (*function == nullptr) {
    throw CudaError(std::string("the CUDA driver (") + kLibrary + ") lacks " + name +
                    ": install NVIDIA's driver for CUDA 12 or newer");
  }
}

Driver Open() {
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    throw CudaError(std::string("no CUDA driver here (") + (reason ? reason : kLibrary) +
                    "): install NVIDIA's driver, or export with --provider cpu");
  }
  Driver d{};
  Find(library, "cuInit", &d.Init);
  Find(library, "cuGetErrorName", &d.GetErrorName);
  Find(library, "cuGetErrorString", &d.GetErrorString);
  Find(library, "cuDeviceGet", &d.DeviceGet);
  Find(library, "cuDeviceGetAttribute", &d.DeviceGetAttribute);
  Find(library, "cuDevicePrimaryCtxRetain", &d.DevicePrimaryCtxRetain);
  Find(library, "cuCtxGetCurrent", &d.CtxGetCurrent);
  Find(library, "cuCtxSetCurrent", &d.CtxSetCurrent);
  Find(library, "cuCtxGetDevice", &d.CtxGetDevice);
  Find(library, "cuModuleLoadData", &d.ModuleLoadData);
  Find(library, "cuModuleGetFunction", &d.ModuleGetFunction);
  Find(library, "cuFuncSetAttribute", &d.FuncSetAttribute);
  Find(library, "cuLaunchKernel", &d.LaunchKernel);
  d.LaunchKernelEx =
      reinterpret_cast<decltype(d.LaunchKernelEx)>(dlsym(library, "cuLaunchKernelEx"));
  Find(library, "cuMemAlloc_v2", &d.MemAlloc);
  Find(library, "cuMemFree_v2", &d.MemFree);
  Find(library, "cuMemsetD8_v2", &d.MemsetD8);
  Find(library, "cuMemcpyDtoH_v2", &d.MemcpyDtoH);
  return d;
}

std::string Words(const Driver& driver, CuResult result) {
  const char *name = nullptr, *text = nullptr;
  driver.GetErrorName(result, &name);
  driver.GetErrorString(result, &text);
  return std::string(name ? name : "unknown error") + " (" + std::to_string(result) + ")" +
         (text ? std::string(": ") + text : std::string());
}

}  // namespace

const Driver& TheDriver() {
  static const Driver driver = [] {
    const Driver opened = Open();
    const CuResult result = opened.Init(0);
    if (result != 0) {
      throw CudaError("the CUDA driver finds no GPU that it can use: cuInit: " +
                      Words(opened, result));
    }
    return opened;
  }();
  return driver;
}

void CheckCuda(CuResult result, const char* what) {
  if (result != 0) throw CudaError(std::string(what) + ": " + Words(TheDriver(), result));
}

}  // namespace slc::cuda
