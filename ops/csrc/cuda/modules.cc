#include "modules.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <vector>

#include "images.h"

namespace slc::cuda {
namespace {

constexpr long long kGridYMax = 65535;

struct Named {
  std::string name;
  int shared_bytes;  // the most that a launch wants
};

// Every entry point of kernels.cu in an image for such GPUs.
std::vector<Named> EntryPoints(const GpuRow& row) {
  std::vector<Named> names = {{"slc_down_half", 0},
                              {"slc_down_float", 0},
                              {"slc_up_half", 0},
                              {"slc_up_float", 0},
                              {"slc_down_gemm", kDownGemmShared},
                              {"slc_up_gemm", kUpGemmShared},
                              {"slc_check", 0}};
  for (const bool float_x : {false, true}) {
    for (const int type : {kF16, kI8, kI4}) {
      for (const int rows : {8, 16, 32, 64, kTiledRows}) {
        const GemmPlan largest = {rows, rows == kTiledRows ? kTiledWarps : StreamWarpsMax(rows), 1};
        names.push_back({GemmName(type, float_x, largest), PlanShared(type, largest)});
      }
      if (row.wide_rows_min != 0) {
        const GemmPlan wide = {WideRows(type), kWideWarps, 1};
        names.push_back({GemmName(type, float_x, wide), PlanShared(type, wide)});
      }
    }
  }
  return names;
}

int Attribute(const Driver& driver, CuDeviceAttribute attribute, CuDevice device) {
  int value = 0;
  CheckCuda(driver.DeviceGetAttribute(&value, attribute, device), "cuDeviceGetAttribute");
  return value;
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
  CheckCuda(driver.CtxGetDevice(&device), "cuCtxGetDevice");
  sm_ = 10 * Attribute(driver, kMajor, device) + Attribute(driver, kMinor, device);
  const Image* image = ImageFor(sm_);
  if (image == nullptr) {
    throw CudaError("libslc_ops_cuda.so holds kernels for " + ImageNames() +
                    " and none runs on this GPU, sm_" + std::to_string(sm_) +
                    ": export with --provider cpu, or add it to RECIPES in build_images.py");
  }
  gpu_ = {GpuRowFor(image->sm), Attribute(driver, kMultiprocessors, device),
          Attribute(driver, kSharedBytesOptIn, device), 0};
  if (driver.LaunchKernelEx != nullptr && gpu_.row.cluster_max > 1) {
    gpu_.clusters = Attribute(driver, kClusterLaunch, device);
  }
  CuModule module = nullptr;
  CheckCuda(driver.ModuleLoadData(&module, image->data), "cuModuleLoadData");
  for (const Named& entry : EntryPoints(gpu_.row)) {
    CuFunction function = nullptr;
    CheckCuda(driver.ModuleGetFunction(&function, module, entry.name.c_str()), entry.name.c_str());
    // Plans ask for no more than the GPU has; what a kernel may have without asking is less.
    const int shared_bytes = std::min(entry.shared_bytes, gpu_.shared_bytes);
    if (shared_bytes > 48 * 1024) {
      CheckCuda(driver.FuncSetAttribute(function, kMaxDynamicSharedBytes, shared_bytes),
                "cuFuncSetAttribute");
    }
    functions_[entry.name] = function;
  }
}

CuFunction Kernels::Find(const std::string& name) const {
  const auto found = functions_.find(name);
  if (found == functions_.end()) throw CudaError("no kernel is called " + name);
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
  const auto x = static_cast<unsigned>(grid.x), y = static_cast<unsigned>(grid.y);
  const auto threads = static_cast<unsigned>(grid.threads);
  const auto shared_bytes = static_cast<unsigned>(grid.shared_bytes);
  auto* on = static_cast<CuStream>(stream);
  const Driver& driver = TheDriver();
  if (grid.cluster == 1) {
    CheckCuda(
        driver.LaunchKernel(kernel, x, y, 1, threads, 1, 1, shared_bytes, on, pointers, nullptr),
        what);
    return;
  }
  CuLaunchAttribute cluster = {kClusterDimension, {}, {static_cast<unsigned>(grid.cluster), 1, 1}};
  const CuLaunchConfig config = {x, y, 1, threads, 1, 1, shared_bytes, on, &cluster, 1};
  CheckCuda(driver.LaunchKernelEx(&config, kernel, pointers, nullptr), what);
}

}  // namespace slc::cuda
