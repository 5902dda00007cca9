// libcuda.so.1 without a GPU: the calls of the driver that libslc_ops_cuda.so and gpu_check.py
// make, over host memory, kernels run by the emulator. Stricter than a driver: an allocation ends
// where a page that nobody may touch begins, so that a read beyond it is a fault here, and what a
// CUDA graph can't capture is an error. For tests.
//
// SLC_FAKE_WRONG names a kernel that is not run: what it should write stays as it was.
// SLC_FAKE_GPU="sm,SMs,shared KiB,clusters" says what GPU it is; "90,132,227,1" without it.
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <vector>

#include "../cuda/driver.h"
#include "../f16.h"
#include "emulated_kernels.h"

#define SLC_FAKE extern "C" __attribute__((visibility("default")))

using namespace slc::cuda;  // NOLINT: a file of entry points

namespace {

enum Result { kSuccess = 0, kInvalidValue = 1, kOutOfMemory = 2, kNotFound = 500, kCaptured = 900 };
constexpr size_t kPage = 4096;
constexpr size_t kAllocationMax = size_t{1} << 31;

struct GpuIs {
  int sm = 90, sms = 132, shared_kib = 227, clusters = 1;
};
const GpuIs& TheGpu() {
  static const GpuIs gpu = [] {
    GpuIs read;
    if (const char* text = std::getenv("SLC_FAKE_GPU")) {
      std::sscanf(text, "%d,%d,%d,%d", &read.sm, &read.sms, &read.shared_kib, &read.clusters);
    }
    return read;
  }();
  return gpu;
}

struct Function {
  std::string name;
  const EmulatedKernel* kernel;
  int shared_max = 48 * 1024;
};
struct Graph {
  std::vector<std::function<void()>> steps;
};

struct State {
  std::map<std::string, Function> functions;
  std::map<CuPointer, std::pair<void*, size_t>> allocations;  // mapping and its length
  Graph* capturing = nullptr;
  unsigned seed = 0;
  unsigned long long launches = 0;
};
State& Is() {
  static State state;
  return state;
}

void Do(std::function<void()> step) {
  if (Is().capturing != nullptr) {
    Is().capturing->steps.push_back(std::move(step));
  } else {
    step();
  }
}

int LaunchAs(const Function* function, unsigned x, unsigned y, unsigned threads, unsigned shared,
             unsigned cluster, void** arguments) {
  const bool fits = x >= 1 && y >= 1 && y <= 65535 && cluster >= 1 && x % cluster == 0 &&
                    threads % 32 == 0 && threads >= 32 &&
                    static_cast<int>(threads) <= function->kernel->threads_max &&
                    static_cast<int>(shared) <= function->shared_max &&
                    (cluster == 1 || (TheGpu().clusters != 0 && cluster <= 8));
  if (!fits) return kInvalidValue;
  // Arguments are taken when a launch is made, as the driver does.
  const auto* bytes = static_cast<const char*>(arguments[0]);
  std::vector<char> taken(bytes, bytes + function->kernel->arguments_bytes);
  Do([=] {
    ++Is().launches;
    const char* wrong = std::getenv("SLC_FAKE_WRONG");
    if (wrong != nullptr && function->name == wrong) return;
    function->kernel->launch(x, y, static_cast<int>(threads), static_cast<int>(shared),
                             static_cast<int>(cluster), Is().seed++, taken.data());
  });
  return kSuccess;
}

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

// Launches since the last call, and what they read of global memory.
SLC_FAKE unsigned long long slc_fake_take_launches() {
  const unsigned long long launches = Is().launches;
  Is().launches = 0;
  return launches;
}
SLC_FAKE unsigned long long slc_fake_take_bytes_read() { return TakeBytesRead(); }

SLC_FAKE int cuInit(unsigned) { return kSuccess; }
SLC_FAKE int cuDriverGetVersion(int* version) { return *version = 12060, kSuccess; }
SLC_FAKE int cuGetErrorName(int error, const char** name) {
  *name = error == kInvalidValue  ? "CUDA_ERROR_INVALID_VALUE"
          : error == kOutOfMemory ? "CUDA_ERROR_OUT_OF_MEMORY"
          : error == kNotFound    ? "CUDA_ERROR_NOT_FOUND"
          : error == kCaptured    ? "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
                                  : "CUDA_ERROR_UNKNOWN";
  return kSuccess;
}
SLC_FAKE int cuGetErrorString(int, const char** text) {
  return *text = "the fake driver", kSuccess;
}
SLC_FAKE int cuDeviceGet(CuDevice* device, int ordinal) {
  return *device = 0, ordinal == 0 ? kSuccess : kInvalidValue;
}
SLC_FAKE int cuDeviceGetName(char* name, int size, CuDevice) {
  return std::snprintf(name, static_cast<size_t>(size), "fake sm_%d", TheGpu().sm), kSuccess;
}
SLC_FAKE int cuDeviceGetAttribute(int* value, int attribute, CuDevice) {
  const GpuIs& gpu = TheGpu();
  *value = attribute == kMultiprocessors    ? gpu.sms
           : attribute == kMajor            ? gpu.sm / 10
           : attribute == kMinor            ? gpu.sm % 10
           : attribute == kSharedBytesOptIn ? gpu.shared_kib * 1024
           : attribute == kClusterLaunch    ? gpu.clusters
                                            : 0;
  return kSuccess;
}
SLC_FAKE int cuDevicePrimaryCtxRetain(CuContext* context, CuDevice) {
  return *context = reinterpret_cast<CuContext>(&Is()), kSuccess;
}
SLC_FAKE int cuCtxGetCurrent(CuContext* context) {
  return *context = reinterpret_cast<CuContext>(&Is()), kSuccess;
}
SLC_FAKE int cuCtxSetCurrent(CuContext) { return kSuccess; }
SLC_FAKE int cuCtxGetDevice(CuDevice* device) { return *device = 0, kSuccess; }
SLC_FAKE int cuCtxSynchronize() { return Is().capturing != nullptr ? kCaptured : kSuccess; }

SLC_FAKE int cuModuleLoadData(CuModule* module, const void*) {
  return *module = reinterpret_cast<CuModule>(&Is()), kSuccess;
}
SLC_FAKE int cuModuleGetFunction(CuFunction* function, CuModule, const char* name) {
  const EmulatedKernel* kernel = FindEmulated(name);
  if (kernel == nullptr) return kNotFound;
  Function& made = Is().functions.try_emplace(name, Function{name, kernel}).first->second;
  return *function = reinterpret_cast<CuFunction>(&made), kSuccess;
}
SLC_FAKE int cuFuncSetAttribute(CuFunction function, int attribute, int value) {
  if (attribute != kMaxDynamicSharedBytes || value > TheGpu().shared_kib * 1024) {
    return kInvalidValue;
  }
  return reinterpret_cast<Function*>(function)->shared_max = value, kSuccess;
}
SLC_FAKE int cuLaunchKernel(CuFunction function, unsigned x, unsigned y, unsigned, unsigned threads,
                            unsigned, unsigned, unsigned shared, CuStream, void** arguments,
                            void**) {
  return LaunchAs(reinterpret_cast<Function*>(function), x, y, threads, shared, 1, arguments);
}
SLC_FAKE int cuLaunchKernelEx(const CuLaunchConfig* config, CuFunction function, void** arguments,
                              void**) {
  unsigned cluster = 1;
  for (unsigned i = 0; i < config->attribute_count; ++i) {
    if (config->attributes[i].id == kClusterDimension) cluster = config->attributes[i].value[0];
  }
  return LaunchAs(reinterpret_cast<Function*>(function), config->grid_x, config->grid_y,
                  config->block_x, config->shared_bytes, cluster, arguments);
}

SLC_FAKE int cuMemAlloc_v2(CuPointer* pointer, size_t bytes) {
  if (Is().capturing != nullptr) return kCaptured;
  if (bytes == 0) return kInvalidValue;
  if (bytes > kAllocationMax) return kOutOfMemory;
  const size_t room = (bytes + 15) / 16 * 16, pages = (room + kPage - 1) / kPage * kPage;
  void* mapping =
      mmap(nullptr, pages + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return kOutOfMemory;
  mprotect(static_cast<char*>(mapping) + pages, kPage, PROT_NONE);
  *pointer = reinterpret_cast<CuPointer>(mapping) + pages - room;
  Is().allocations[*pointer] = {mapping, pages + kPage};
  return kSuccess;
}
SLC_FAKE int cuMemFree_v2(CuPointer pointer) {
  const auto found = Is().allocations.find(pointer);
  if (found == Is().allocations.end()) return kInvalidValue;
  munmap(found->second.first, found->second.second);
  return Is().allocations.erase(found), kSuccess;
}
SLC_FAKE int cuMemsetD8_v2(CuPointer pointer, unsigned char value, size_t bytes) {
  if (Is().capturing != nullptr) return kCaptured;
  return std::memset(reinterpret_cast<void*>(pointer), value, bytes), kSuccess;
}
SLC_FAKE int cuMemcpyDtoH_v2(void* to, CuPointer from, size_t bytes) {
  if (Is().capturing != nullptr) return kCaptured;
  return std::memcpy(to, reinterpret_cast<const void*>(from), bytes), kSuccess;
}
SLC_FAKE int cuMemcpyHtoD_v2(CuPointer to, const void* from, size_t bytes) {
  if (Is().capturing != nullptr) return kCaptured;
  return std::memcpy(reinterpret_cast<void*>(to), from, bytes), kSuccess;
}
SLC_FAKE int cuMemcpyDtoDAsync_v2(CuPointer to, CuPointer from, size_t bytes, CuStream) {
  Do([=] { std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes); });
  return kSuccess;
}

SLC_FAKE int cuStreamCreate(CuStream* stream, unsigned) {
  return *stream = reinterpret_cast<CuStream>(&Is()), kSuccess;
}
SLC_FAKE int cuStreamSynchronize(CuStream) { return cuCtxSynchronize(); }
SLC_FAKE int cuStreamBeginCapture_v2(CuStream, int) { return Is().capturing = new Graph, kSuccess; }
SLC_FAKE int cuStreamEndCapture(CuStream, void** graph) {
  *graph = Is().capturing;
  return Is().capturing = nullptr, *graph == nullptr ? kInvalidValue : kSuccess;
}
SLC_FAKE int cuGraphInstantiateWithFlags(void** made, void* graph, unsigned long long) {
  return *made = new Graph(*static_cast<Graph*>(graph)), kSuccess;
}
SLC_FAKE int cuGraphLaunch(void* graph, CuStream) {
  for (const auto& step : static_cast<Graph*>(graph)->steps) step();
  return kSuccess;
}
SLC_FAKE int cuGraphDestroy(void* graph) { return delete static_cast<Graph*>(graph), kSuccess; }
SLC_FAKE int cuGraphExecDestroy(void* graph) { return cuGraphDestroy(graph); }

SLC_FAKE int cuEventCreate(double** event, unsigned) { return *event = new double(0), kSuccess; }
SLC_FAKE int cuEventRecord(double* event, CuStream) { return *event = Now(), kSuccess; }
SLC_FAKE int cuEventSynchronize(double*) { return kSuccess; }
SLC_FAKE int cuEventElapsedTime(float* ms, const double* begin, const double* end) {
  return *ms = static_cast<float>(1e3 * (*end - *begin)), kSuccess;
}
SLC_FAKE int cuEventDestroy_v2(double* event) { return delete event, kSuccess; }

// cuBLAS, as far as gpu_check.py calls it: f16 with sums in f32, the first matrix transposed.
SLC_FAKE int cublasCreate_v2(void** handle) { return *handle = &Is(), kSuccess; }
SLC_FAKE int cublasSetStream_v2(void*, CuStream) { return kSuccess; }
SLC_FAKE int cublasSetWorkspace_v2(void*, void*, size_t) { return kSuccess; }
SLC_FAKE int cublasGetVersion_v2(void*, int* version) { return *version = 0, kSuccess; }
SLC_FAKE int cublasGemmEx(void*, int transpose_a, int transpose_b, int m, int n, int k,
                          const float* alpha, const uint16_t* A, int a_type, int lda,
                          const uint16_t* B, int b_type, int ldb, const float* beta, uint16_t* C,
                          int c_type, int ldc, int compute_type, int) {
  constexpr int kHalf = 2, kComputeFloat = 68;
  if (transpose_a != 1 || transpose_b != 0 || a_type != kHalf || b_type != kHalf ||
      c_type != kHalf || compute_type != kComputeFloat || lda < k || ldb < k || ldc < m ||
      *alpha != 1.0f || *beta != 0.0f) {
    return kInvalidValue;
  }
  Do([=] {
    for (int j = 0; j < n; ++j) {
      for (int i = 0; i < m; ++i) {
        float sum = 0;
        for (int at = 0; at < k; ++at) {
          sum += slc::HalfToFloat(A[i * lda + at]) * slc::HalfToFloat(B[j * ldb + at]);
        }
        C[j * ldc + i] = slc::FloatToHalf(sum);
      }
    }
  });
  return kSuccess;
}
