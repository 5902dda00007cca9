// The kernels of this library, loaded once for each CUDA context.
#ifndef SLC_CUDA_MODULES_H_
#define SLC_CUDA_MODULES_H_

#include <string>
#include <unordered_map>

#include "driver.h"
#include "launch.h"

namespace slc::cuda {

class Kernels {
 public:
  explicit Kernels(const Driver& driver);

  // The kernel of this name, ready for what shared memory its launches ask for.
  CuFunction Find(const std::string& name) const;

  // What plans are chosen by.
  const Gpu& gpu() const { return gpu_; }

 private:
  std::unordered_map<std::string, CuFunction> functions_;
  Gpu gpu_{};
  int sm_ = 0;
};

// Those of the context that is current, or of device 0's primary one, which then becomes current.
//
// Throws CudaError: no driver, no GPU, no image for it, or the driver refuses the image.
const Kernels& CurrentKernels();

// The images that the library holds, for people.
std::string ImageNames();

// Launches; `arguments` is one struct by value. Throws CudaError.
void Launch(CuFunction kernel, const Grid& grid, void* arguments, void* stream, const char* what);

}  // namespace slc::cuda

#endif  // SLC_CUDA_MODULES_H_
