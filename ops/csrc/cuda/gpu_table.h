// What is chosen by GPU, in one table: which kernel takes how many rows of X, and over how many
// warps and thread blocks a row's K is split. KERNELS.md derives the figures; nothing is measured,
// and tests/bench/gpu_check.py times the alternatives of a row on the GPU that it runs on.
#pragma once

#include "shapes.h"

namespace slc::cuda {

struct GpuRow {
  int sm;               // of the kernels' image
  int stream_rows_max;  // rows of X up to which each warp decodes for itself (stream_gemm.h)
  int busy_warps;       // of an SM, after which more warps make nothing faster
  int split_rounds;     // what a thread block costs beside its blocks of S, in blocks of a warp
  int cluster_max;      // thread blocks of a cluster
  int wide_rows_min;    // rows of X from which wgmma is used (wide_gemm.h); 0: there is none
};

constexpr int kNever = 1 << 30;  // a kernel that no GPU has proved yet: gpu_check.py can ask for it

// PTX counts as the SM it was made for: a GPU newer than sm_90 that runs it has no clusters in it.
constexpr GpuRow kGpuTable[] = {
    {80, 64, 16, 2, 1, 0},
    {87, 64, 16, 2, 1, 0},
    {90, 64, 16, 2, 8, kNever},
    {110, 64, 16, 2, 8, 0},
};

// The row for an image: its own, or that of the next older SM.
SLC_HOST_DEVICE constexpr GpuRow GpuRowFor(int sm) {
  GpuRow found = kGpuTable[0];
  for (const GpuRow& row : kGpuTable) {
    if (row.sm <= sm) found = row;
  }
  return found;
}

// A GPU as the choice sees it; the driver says the last three.
struct Gpu {
  GpuRow row;
  int sms;
  int shared_bytes;  // most of a thread block
  int clusters;      // whether it launches them
};

// How a product is launched.
struct GemmPlan {
  int rows;     // of X for a thread block: 8 … 64 by stream_gemm.h, 128 by tiled_gemm.h; with
                // kWideWarps warps 128 or 256 by wide_gemm.h
  int warps;    // of a thread block
  int cluster;  // thread blocks that split K
};

SLC_HOST_DEVICE constexpr bool IsWide(const GemmPlan& plan) {
  return plan.rows >= kTiledRows && plan.warps == kWideWarps;
}
SLC_HOST_DEVICE constexpr bool IsTiled(const GemmPlan& plan) {
  return plan.rows == kTiledRows && !IsWide(plan);
}

SLC_HOST_DEVICE constexpr long long DivideUp(long long a, long long b) { return (a + b - 1) / b; }

SLC_HOST_DEVICE constexpr int PlanShared(int value_type, const GemmPlan& plan) {
  return IsWide(plan)    ? WideShared(value_type)
         : IsTiled(plan) ? TiledShared(value_type)
                         : StreamShared(value_type, plan.rows, plan.warps);
}

// Rows of S that a cluster takes.
SLC_HOST_DEVICE constexpr int PlanAcross(const GemmPlan& plan) {
  return IsWide(plan)    ? kWideAcross
         : IsTiled(plan) ? kTiledAcross
                         : StreamTiles(plan.rows) * kBlockRows;
}

// Warps of a thread block that split K; those of kernels for many rows have rows of S of their own.
SLC_HOST_DEVICE constexpr int SplitWarps(const GemmPlan& plan) {
  return plan.rows >= kTiledRows ? 1 : plan.warps;
}

// Thread blocks along S and along X.
SLC_HOST_DEVICE constexpr long long PlanGridX(const GemmPlan& plan, long long n) {
  return DivideUp(n, PlanAcross(plan)) * plan.cluster;
}
SLC_HOST_DEVICE constexpr long long PlanGridY(const GemmPlan& plan, long long m) {
  return DivideUp(m, plan.rows);
}

// How long the busiest SM works, in blocks of a warp times busy_warps: it has `here` thread blocks,
// whose warps each take a share of a row tile's blocks of 64 columns and start and end once; fewer
// warps than busy_warps take as long as those would.
SLC_HOST_DEVICE constexpr long long PlanCost(const Gpu& gpu, const GemmPlan& plan, long long n,
                                             long long k, long long m) {
  const long long here = DivideUp(PlanGridX(plan, n) * PlanGridY(plan, m), gpu.sms);
  const long long share = DivideUp(DivideUp(k, kBlockColumns), plan.cluster * SplitWarps(plan));
  const long long warps = here * plan.warps;
  // An SM has registers for one thread block of wide_gemm.h.
  const long long busy = IsWide(plan) ? plan.warps : gpu.row.busy_warps;
  return (share + gpu.row.split_rounds) * (warps > busy ? warps : busy);
}

// The kernel for m rows, with its warps and cluster still to be chosen.
SLC_HOST_DEVICE constexpr int StreamRows(long long m) {
  return m <= 8 ? 8 : m <= 16 ? 16 : m <= 32 ? 32 : 64;
}

// The cheapest split of K for a kernel, the least of equals: with `fixed` 0, of stream_gemm.h,
// the warps are chosen too. A function of its arguments alone: the same GPU adds in the same order.
SLC_HOST_DEVICE constexpr GemmPlan SplitPlan(const Gpu& gpu, int value_type, int rows, int fixed,
                                             long long n, long long k, long long m) {
  GemmPlan best = {rows, fixed != 0 ? fixed : 8, 1};
  const int least = fixed != 0 ? fixed : 4, most = fixed != 0 ? fixed : StreamWarpsMax(rows);
  bool found = false;
  for (int cluster = 1; cluster <= (gpu.clusters != 0 ? gpu.row.cluster_max : 1); cluster *= 2) {
    for (int warps = least; warps <= most; warps *= 2) {
      const GemmPlan plan = {rows, warps, cluster};
      if (PlanShared(value_type, plan) > gpu.shared_bytes) continue;
      if (!found || PlanCost(gpu, plan, n, k, m) < PlanCost(gpu, best, n, k, m)) best = plan;
      found = true;
    }
  }
  return best;
}

SLC_HOST_DEVICE constexpr GemmPlan ChoosePlan(const Gpu& gpu, int value_type, long long n,
                                              long long k, long long m) {
  // Too few of its large thread blocks: each SM decodes more with small ones, but they are many.
  const auto fits = [&](const GemmPlan& plan) {
    return 2 * PlanGridX(plan, n) * PlanGridY(plan, m) >= gpu.sms &&
           PlanShared(value_type, plan) <= gpu.shared_bytes;
  };
  if (gpu.row.wide_rows_min != 0 && m >= gpu.row.wide_rows_min) {
    const GemmPlan wide = SplitPlan(gpu, value_type, WideRows(value_type), kWideWarps, n, k, m);
    if (fits(wide)) return wide;
  }
  if (m > gpu.row.stream_rows_max) {
    const GemmPlan tiled = SplitPlan(gpu, value_type, kTiledRows, kTiledWarps, n, k, m);
    if (fits(tiled)) return tiled;
  }
  return SplitPlan(gpu, value_type, StreamRows(m), 0, n, k, m);
}

}  // namespace slc::cuda
