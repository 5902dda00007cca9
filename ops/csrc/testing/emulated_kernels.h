// The kernels of csrc/cuda by name, as the emulator runs them.
#ifndef SLC_TESTING_EMULATED_KERNELS_H_
#define SLC_TESTING_EMULATED_KERNELS_H_

#include <string>

namespace slc::cuda {

struct EmulatedKernel {
  void (*launch)(long long x, long long y, int threads, int shared_bytes, int cluster,
                 unsigned seed, const void* arguments);
  int threads_max;  // of its launch bounds
  int arguments_bytes;
};

// Null when there is none of this name.
const EmulatedKernel* FindEmulated(const std::string& name);

// Bytes that kernels have read of global memory since the last call.
unsigned long long TakeBytesRead();

}  // namespace slc::cuda

#endif  // SLC_TESTING_EMULATED_KERNELS_H_
