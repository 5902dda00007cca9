// How large the grid of a kernel is: what the host and the kernels must agree on.
#pragma once

#include <string>

#include "arguments.h"
#include "gpu_table.h"

namespace slc::cuda {

struct Grid {
  long long x, y;
  int threads;
  int shared_bytes;
  int cluster;  // thread blocks, neighbours in x
};

SLC_HOST_DEVICE constexpr Grid GemmGrid(int value_type, const GemmPlan& plan, long long n,
                                        long long m) {
  return {PlanGridX(plan, n), PlanGridY(plan, m), 32 * plan.warps, PlanShared(value_type, plan),
          plan.cluster};
}

// The entry point of kernels.cu; x is f32 or f16.
inline std::string GemmName(int value_type, bool float_x, const GemmPlan& plan) {
  const std::string values = value_type == kF16 ? "f16" : value_type == kI8 ? "i8" : "i4";
  const std::string kind = values + (float_x ? "_float" : "_half");
  return IsWide(plan)    ? "slc_wide_" + kind
         : IsTiled(plan) ? "slc_tiled_" + kind
                         : "slc_stream_" + kind + "_" + std::to_string(plan.rows);
}

// Whether adapters run on tensor cores: more rows than a warp of the other kernels has at a time,
// and everything is a half exactly.
template <class Arguments>
bool OnTensorCores(const Arguments& in, bool float_x) {
  bool exact = !float_x && in.m > kAdapterRows;
  for (int i = 0; i < in.count; ++i) exact = exact && in.adapters[i].type != kDenseF32;
  return exact;
}

struct AdapterLaunch {
  const char* name;
  Grid grid;
};

inline AdapterLaunch DownLaunch(const DownArguments& in, bool float_x) {
  constexpr int kThreads = 32 * kAdapterWarps;
  if (OnTensorCores(in, float_x)) {
    return {"slc_down_gemm",
            {DivideUp(in.ranks, kBlockRows), DivideUp(in.m, kAdapterGemmRows), kThreads,
             kDownGemmShared, 1}};
  }
  return {float_x ? "slc_down_float" : "slc_down_half",
          {DivideUp(in.ranks, kAdapterWarps), DivideUp(in.m, kAdapterRows), kThreads, 0, 1}};
}

inline AdapterLaunch UpLaunch(const UpArguments& in, bool float_x) {
  constexpr int kThreads = 32 * kAdapterWarps;
  if (OnTensorCores(in, float_x)) {
    return {"slc_up_gemm",
            {DivideUp(in.n, kAdapterWarps * kBlockRows), DivideUp(in.m, kAdapterGemmRows), kThreads,
             kUpGemmShared, 1}};
  }
  return {float_x ? "slc_up_float" : "slc_up_half",
          {DivideUp(in.n, kAdapterWarps * (32 / kUpLanes)), DivideUp(in.m, kAdapterRows), kThreads,
           0, 1}};
}

inline Grid CheckGrid(long long blocks) {
  return {DivideUp(blocks, kCheckThreads), 1, kCheckThreads, 0, 1};
}

}  // namespace slc::cuda
