// libslc_ops_cuda.so, where it lies beside this library.
#ifndef SLC_CUDA_LIBRARY_H_
#define SLC_CUDA_LIBRARY_H_

#include "cuda/slc_cuda.h"

namespace slc {

struct CudaLibrary {
  decltype(&slc_cuda_prepare) prepare;
  decltype(&slc_cuda_open_blob) open_blob;
  decltype(&slc_cuda_bitmap_sparse_gemm) bitmap_sparse_gemm;
  decltype(&slc_cuda_adapter_down) adapter_down;
  decltype(&slc_cuda_adapter_up) adapter_up;
};

// Null when there is none, or it can't be loaded, or it is of another version of this library.
const CudaLibrary* FindCudaLibrary();

}  // namespace slc

#endif  // SLC_CUDA_LIBRARY_H_
