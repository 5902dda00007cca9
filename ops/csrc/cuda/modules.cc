#include "modules.h"

#include <memory>
#include <mutex>
#include <vector>

#include "images.h"

namespace slc::cuda {
namespace {

constexpr long long kGridYMax = 65535;

struct Named {
  std::string name;
  int shared_bytes;
};

// Every entry point of kernels.cu with the shared memory it wants.
std::vector<Named> EntryPoints() {
  std::vector<Named> names = {{"slc_down_half", 0},
                              {"slc_down_float", 0},
                              {"slc_up_half", 0},
                              {"slc_up_float", 0},
                              {"slc_check", 0}};
  for (const char* x : {"half", "float"}) {
    for (const int type : {kF16, kI8, kI4}) {
      const std::string values = type == kF16 ? "f16" : type == kI8 ? "i8" : "i4";
      for (const int rows : {8, 16, 32}) {
        names.push_back({"slc_stream_" + values + "_" + x + "_" + std::to_string(rows),
                         GemmGridOf(type, 1, rows, false).shared_bytes});
      }
      names.push_back(
          {"slc_tiled_" + values + "_" + x, GemmGridOf(type, 1, 128, true).shared_bytes});
    }
  }
  return names;
}

}  // namespace

std::string ImageNames() {
  std::string names;
  for (int i = 0; i < kImageCount; ++i) {
    names += (i == 0 ? "" : ", ") + std::string(kImages[i].is_ptx ? "PTX of sm_" : "sm_") +
             std::to_string(kImages[i].sm);
  }
  return names.empty() ? "none" : names;
}

Kernels::Kernels(const Driver& driver) {
  CuDevice device = 0;
  int major = 0, minor = 0, shared = 0;
  CheckCuda(driver.CtxGetDevice(&device), "cuCtxGetDevice");
  CheckCuda(driver.DeviceGetAttribute(&major, kMajor, device), "cuDeviceGetAttribute");
  CheckCuda(driver.DeviceGetAttribute(&minor, kMinor, device), "cuDeviceGetAttribute");
  CheckCuda(driver.DeviceGetAttribute(&shared, kSharedBytesOptIn, device), "cuDeviceGetAttribute");
  sm_ = 10 * major + minor;
  const Image* image = ImageFor(sm_);
  if (image == nullptr) {
    throw CudaError("libslc_ops_cuda.so holds kernels for " + ImageNames() +
                    " and none runs on this GPU, sm_" + std::to_string(sm_) +
                    ": export with --provider cpu, or build with this SM in SLC_CUDA_SMS");
  }
  CuModule module = nullptr;
  CheckCuda(driver.ModuleLoadData(&module, image->data), "cuModuleLoadData");
  for (const Named& entry : EntryPoints()) {
    CuFunction function = nullptr;
    CheckCuda(driver.ModuleGetFunction(&function, module, entry.name.c_str()), entry.name.c_str());
    if (entry.shared_bytes > 48 * 1024) {         // what a kernel may have without asking
      if (entry.shared_bytes > shared) continue;  // Find says so if it is ever wanted
      CheckCuda(driver.FuncSetAttribute(function, kMaxDynamicSharedBytes, entry.shared_bytes),
                "cuFuncSetAttribute");
    }
    functions_[entry.name] = function;
  }
}

CuFunction Kernels::Find(const std::string& name) const {
  const auto found = functions_.find(name);
  if (found == functions_.end()) {
    throw CudaError(name + " wants more shared memory than this GPU (sm_" + std::to_string(sm_) +
                    ") has for a thread block");
  }
  return found->second;
}

const Kernels& CurrentKernels() {
  static std::mutex mutex;
  static std::unordered_map<CuContext, std::unique_ptr<Kernels>> by_context;  // lives as we do
  const Driver& driver = TheDriver();
  CuContext context = nullptr;
  CheckCuda(driver.CtxGetCurrent(&context), "cuCtxGetCurrent");
  if (context == nullptr) {
    CuDevice device = 0;
    CheckCuda(driver.DeviceGet(&device, 0), "cuDeviceGet");
    CheckCuda(driver.DevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
    CheckCuda(driver.CtxSetCurrent(context), "cuCtxSetCurrent");
  }
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<Kernels>& kernels = by_context[context];
  if (kernels == nullptr) kernels = std::make_unique<Kernels>(driver);
  return *kernels;
}

void Launch(CuFunction kernel, const Grid& grid, void* arguments, void* stream, const char* what) {
  if (grid.x < 1 || grid.x > 0x7fffffff || grid.y < 1 || grid.y > kGridYMax) {
    throw CudaError(std::string(what) + ": a grid of " + std::to_string(grid.x) + " x " +
                    std::to_string(grid.y) + " thread blocks is more than CUDA launches");
  }
  void* pointers[] = {arguments};
  CheckCuda(TheDriver().LaunchKernel(
                kernel, static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), 1,
                static_cast<unsigned>(grid.threads), 1, 1, static_cast<unsigned>(grid.shared_bytes),
                static_cast<CuStream>(stream), pointers, nullptr),
            what);
}

}  // namespace slc::cuda
