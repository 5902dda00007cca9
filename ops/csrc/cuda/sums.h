// The end of a split-K product: sums of warps, then of the thread blocks of a cluster, always in
// the same order, so that equal inputs give equal bits; no memory outside the kernel is needed.
#pragma once

#include "tile_block.h"

namespace slc::cuda {

// Puts a warp's C operands of row tile `t` and of rows 8·j … of X to `sums` [rows, kAcross].
template <int kAcross>
SLC_DEVICE void KeepSums(float* sums, int t, int j, const float (&c)[4]) {
  const int lane = Lane();
  SLC_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int row = 8 * j + SumRowOfX(lane, i), column = t * kBlockRows + SumRowOfS(lane, i);
    sums[row * SumsStride(kAcross) + column] = c[i];
  }
}

// Adds the sums of `parts` warps, which lie behind each other in shared memory, and those of the
// cluster, and writes Y from (row0, column0) on. Begins and ends with every thread of the block.
template <bool kFloatX, int kRows, int kAcross>
SLC_DEVICE void StoreSums(const GemmArguments& in, float* sums, int parts, i64 row0, i64 column0) {
  constexpr int kElems = SumsElems(kRows, kAcross);
  const int ranks = ClusterSize(), rank = ClusterRank();
  SyncBlock();
  if (parts > 1) {
    SLC_ROLLED
    for (int i = Thread(); i < kRows * kAcross; i += Threads()) {
      float* sum = sums + i / kAcross * SumsStride(kAcross) + i % kAcross;
      SLC_ROLLED
      for (int part = 1; part < parts; ++part) *sum += sum[part * kElems];
    }
  }
  if (ranks > 1) {
    SyncCluster();
  } else {
    SyncBlock();
  }
  // Each block of the cluster writes its share.
  SLC_ROLLED
  for (int i = rank * Threads() + Thread(); i < kRows * kAcross; i += ranks * Threads()) {
    const i64 row = row0 + i / kAcross, column = column0 + i % kAcross;
    if (row >= in.m || column >= in.S.n) continue;
    const float* sum = sums + i / kAcross * SumsStride(kAcross) + i % kAcross;
    float total = ranks > 1 ? LoadOfRank(sum, 0) : *sum;
    for (int other = 1; other < ranks; ++other) total += LoadOfRank(sum, other);
    StoreY<kFloatX>(in, row, column, total);
  }
  if (ranks > 1) SyncCluster();  // nobody's memory goes before all have read it
}

}  // namespace slc::cuda
