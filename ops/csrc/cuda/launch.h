// How large the grid of a kernel is: what the host and the kernels must agree on.
#pragma once

#include <string>

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
  return IsTiled(plan) ? "slc_tiled_" + kind : "slc_stream_" + kind + "_" + std::to_string(plan.rows);
}

inline Grid DownGrid(long long ranks, long long m) {
  return {DivideUp(ranks, kAdapterWarps), DivideUp(m, kAdapterRows), 32 * kAdapterWarps, 0, 1};
}

inline Grid UpGrid(long long n, long long m) {
  constexpr long long kRows = kAdapterWarps * (32 / kUpLanes);
  return {DivideUp(n, kRows), DivideUp(m, kAdapterRows), 32 * kAdapterWarps, 0, 1};
}

inline Grid CheckGrid(long long blocks) {
  return {DivideUp(blocks, kCheckThreads), 1, kCheckThreads, 0, 1};
}

}  // namespace slc::cuda
