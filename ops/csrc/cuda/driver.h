// The few calls of the CUDA driver that we need, found when they are first wanted: no toolkit to
// build with, no CUDA runtime to run with. Types are as in cuda.h, whose handles are pointers.
#ifndef SLC_CUDA_DRIVER_H_
#define SLC_CUDA_DRIVER_H_

#include <cstddef>
#include <stdexcept>
#include <string>

namespace slc::cuda {

class CudaError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

using CuResult = int;  // 0 is success
using CuDevice = int;
using CuPointer = unsigned long long;
struct CuContextTag;
struct CuModuleTag;
struct CuFunctionTag;
struct CuStreamTag;
using CuContext = CuContextTag*;
using CuModule = CuModuleTag*;
using CuFunction = CuFunctionTag*;
using CuStream = CuStreamTag*;

enum CuDeviceAttribute {
  kMultiprocessors = 16,
  kMajor = 75,
  kMinor = 76,
  kSharedBytesOptIn = 97,
  kClusterLaunch = 120
};
enum CuFunctionAttribute { kMaxDynamicSharedBytes = 8 };

// CUlaunchConfig with its attributes, of which only the cluster's size is used.
struct CuLaunchAttribute {
  int id;
  char padding[4];
  unsigned value[16];
};
constexpr int kClusterDimension = 4;
struct CuLaunchConfig {
  unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
  CuStream stream;
  CuLaunchAttribute* attributes;
  unsigned attribute_count;
};
static_assert(sizeof(CuLaunchAttribute) == 72 && sizeof(CuLaunchConfig) == 56, "as in cuda.h");

struct Driver {
  CuResult (*Init)(unsigned flags);
  CuResult (*GetErrorName)(CuResult error, const char** name);
  CuResult (*GetErrorString)(CuResult error, const char** text);
  CuResult (*DeviceGet)(CuDevice* device, int ordinal);
  CuResult (*DeviceGetAttribute)(int* value, int attribute, CuDevice device);
  CuResult (*DevicePrimaryCtxRetain)(CuContext* context, CuDevice device);
  CuResult (*CtxGetCurrent)(CuContext* context);
  CuResult (*CtxSetCurrent)(CuContext context);
  CuResult (*CtxGetDevice)(CuDevice* device);
  CuResult (*ModuleLoadData)(CuModule* module, const void* image);
  CuResult (*ModuleGetFunction)(CuFunction* function, CuModule module, const char* name);
  CuResult (*FuncSetAttribute)(CuFunction function, int attribute, int value);
  CuResult (*LaunchKernel)(CuFunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                           unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                           CuStream stream, void** arguments, void** extra);
  // Null in drivers before CUDA 11.8, which know no clusters.
  CuResult (*LaunchKernelEx)(const CuLaunchConfig* config, CuFunction function, void** arguments,
                             void** extra);
  CuResult (*MemAlloc)(CuPointer* pointer, size_t bytes);
  CuResult (*MemFree)(CuPointer pointer);
  CuResult (*MemsetD8)(CuPointer pointer, unsigned char value, size_t bytes);
  CuResult (*MemcpyDtoH)(void* to, CuPointer from, size_t bytes);
};

// Opens libcuda.so.1 and initialises it, once.
//
// Throws CudaError: there is no driver, it is too old, or there is no GPU.
const Driver& TheDriver();

// Throws CudaError "<what>: <the driver's words>" when `result` is an error.
void CheckCuda(CuResult result, const char* what);

}  // namespace slc::cuda

#endif  // SLC_CUDA_DRIVER_H_
