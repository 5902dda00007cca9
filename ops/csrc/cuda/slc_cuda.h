// The C interface of libslc_ops_cuda.so, under onnxruntime's glue: device pointers, sizes, a
// stream.
//
// A function returns null, or in one sentence why it failed, valid until the next call on this
// thread. Calls use the CUDA context that is current on the calling thread. None allocates or
// waits but slc_cuda_prepare and slc_cuda_open_blob, so all others may be captured in a CUDA graph.
#ifndef SLC_CUDA_H_
#define SLC_CUDA_H_

#include "arguments.h"

#if defined(__GNUC__)
#define SLC_CUDA_API extern "C" __attribute__((visibility("default")))
#else
#define SLC_CUDA_API extern "C"
#endif

namespace slc::cuda {

struct GemmPlan;  // gpu_table.h

constexpr int kInterfaceVersion = 1;

enum XType { kXHalf = 0, kXFloat = 1 };

// A blob that was checked.
struct Blob {
  TileMatrix S;
  int value_type;
  int reserved;
};

}  // namespace slc::cuda

// kInterfaceVersion of the library.
SLC_CUDA_API int slc_cuda_interface_version();

// The images it holds, for people: "sm_80, sm_87, sm_90, PTX of sm_80".
SLC_CUDA_API const char* slc_cuda_images();

// Opens the driver and loads the kernels for the current context, which is that of device 0 where
// none is current. Repeated calls cost nothing.
SLC_CUDA_API const char* slc_cuda_prepare();

// Checks a blob of the layout "tiles" that lies in device memory at a multiple of 16 bytes.
SLC_CUDA_API const char* slc_cuda_open_blob(const void* packed, unsigned long long bytes,
                                            slc::cuda::Blob* blob);

// Y[m, N] = X[m, K] · decode(blob)ᵀ + bias; m of 1 or more. x and y of XType, bias f32 [N] or null.
SLC_CUDA_API const char* slc_cuda_bitmap_sparse_gemm(const slc::cuda::Blob* blob, const void* x,
                                                     int x_type, const float* bias, void* y,
                                                     long long m, void* stream);

// The plan that slc_cuda_bitmap_sparse_gemm follows, and the same product by any other that the GPU
// can run: for measuring what gpu_table.h should say.
SLC_CUDA_API const char* slc_cuda_gemm_plan(const slc::cuda::Blob* blob, long long m,
                                            slc::cuda::GemmPlan* plan);
SLC_CUDA_API const char* slc_cuda_gemm_by(const slc::cuda::GemmPlan* plan,
                                          const slc::cuda::Blob* blob, const void* x, int x_type,
                                          const float* bias, void* y, long long m, void* stream);

SLC_CUDA_API const char* slc_cuda_adapter_down(const slc::cuda::DownArguments* arguments,
                                               int x_type, void* stream);
SLC_CUDA_API const char* slc_cuda_adapter_up(const slc::cuda::UpArguments* arguments, int x_type,
                                             void* stream);

#endif  // SLC_CUDA_H_
