// Every kernel by the name under which the host finds it. Compiled by NVRTC for each SM
// (build_images.py), and by the host's compiler against the emulator in tests.
#include "adapter_gemm.h"
#include "adapters.h"
#include "check_blob.h"
#include "stream_gemm.h"
#include "tiled_gemm.h"
#ifdef SLC_HAVE_WGMMA
#include "wide_gemm.h"
#endif

using namespace slc::cuda;  // NOLINT: a file of entry points

// slc_stream_<values>_<x>_<rows of X>
#define SLC_STREAM(name, type, float_x, rows)                                                      \
  SLC_KERNEL SLC_THREADS(32 *                                                                      \
                         StreamWarpsMax(rows)) void slc_stream_##name##_##rows(GemmArguments in) { \
    StreamGemm<type, float_x, rows>(in);                                                           \
  }
#define SLC_TILED(name, type, float_x)                                               \
  SLC_KERNEL SLC_THREADS(32 * kTiledWarps) void slc_tiled_##name(GemmArguments in) { \
    TiledGemm<type, float_x>(in);                                                    \
  }
#define SLC_GEMM(name, type, float_x) \
  SLC_STREAM(name, type, float_x, 8)  \
  SLC_STREAM(name, type, float_x, 16) \
  SLC_STREAM(name, type, float_x, 32) \
  SLC_STREAM(name, type, float_x, 64) \
  SLC_TILED(name, type, float_x)

#ifdef SLC_HAVE_WGMMA
#define SLC_WIDE(name, type, float_x)                                              \
  SLC_KERNEL SLC_THREADS(32 * kWideWarps) void slc_wide_##name(GemmArguments in) { \
    WideGemm<type, float_x>(in);                                                   \
  }
SLC_WIDE(f16_half, kF16, false)
SLC_WIDE(f16_float, kF16, true)
SLC_WIDE(i8_half, kI8, false)
SLC_WIDE(i8_float, kI8, true)
SLC_WIDE(i4_half, kI4, false)
SLC_WIDE(i4_float, kI4, true)
#endif

SLC_GEMM(f16_half, kF16, false)
SLC_GEMM(f16_float, kF16, true)
SLC_GEMM(i8_half, kI8, false)
SLC_GEMM(i8_float, kI8, true)
SLC_GEMM(i4_half, kI4, false)
SLC_GEMM(i4_float, kI4, true)

SLC_KERNEL SLC_THREADS(32 * kAdapterWarps) void slc_down_half(DownArguments in) {
  AdapterDown<false>(in);
}
SLC_KERNEL SLC_THREADS(32 * kAdapterWarps) void slc_down_float(DownArguments in) {
  AdapterDown<true>(in);
}
SLC_KERNEL SLC_THREADS(32 * kAdapterWarps) void slc_up_half(UpArguments in) {
  AdapterUp<false>(in);
}
SLC_KERNEL SLC_THREADS(32 * kAdapterWarps) void slc_up_float(UpArguments in) {
  AdapterUp<true>(in);
}
SLC_KERNEL SLC_THREADS(32 * kAdapterWarps) void slc_down_gemm(DownArguments in) {
  AdapterDownGemm(in);
}
SLC_KERNEL SLC_THREADS(32 * kAdapterWarps) void slc_up_gemm(UpArguments in) { AdapterUpGemm(in); }
SLC_KERNEL SLC_THREADS(kCheckThreads) void slc_check(CheckArguments in) { CheckBlob(in); }
