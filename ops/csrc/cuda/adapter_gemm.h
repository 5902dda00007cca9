// ConcatAdapterDown and ConcatAdapterUp for more than a few rows of X, on tensor cores: matrices in
// f16 and i8 are halves exactly, and with 32 rows of X for every read of a matrix, and 16 ranks for
// every read of X, neither is read often. f32 goes by adapters.h.
#pragma once

#include "adapters.h"
#include "sums.h"

namespace slc::cuda {

// Four elements of f16 or i8 as halves, `left` of them there. kAligned: all four or none, and they
// can be read at once.
template <bool kAligned>
SLC_DEVICE Pair LoadHalves(const void* data, int type, i64 at, i64 left) {
  if (left <= 0) return {0, 0};
  float v[4];
  if constexpr (kAligned) {
    if (type == kDenseF16) return Load64(static_cast<const u16*>(data) + at);
    const u32 bytes = Load32(reinterpret_cast<const u32*>(static_cast<const u8*>(data) + at));
    SLC_UNROLL
    for (int i = 0; i < 4; ++i) {
      v[i] = static_cast<float>(static_cast<signed char>(bytes >> 8 * i));
    }
  } else {
    LoadFour(data, type, at, left, v);
  }
  return {HalvesOf(v[0], v[1]), HalvesOf(v[2], v[3])};
}

SLC_DEVICE bool IsAligned(const void* data, int type) {
  return reinterpret_cast<u64>(data) % (type == kDenseF16 ? 8 : 4) == 0;
}

// One rank of all adapters together: whose it is, and which of its.
struct RankOf {
  int adapter;
  i64 rank;
};

SLC_DEVICE RankOf FindRank(const DownArguments& in, i64 rank) {
  int nth = 0;
  while (nth < in.count && rank >= in.adapters[nth].rank) rank -= in.adapters[nth++].rank;
  return {nth, rank};
}

// The sums of ranks `mine` of this lane and rows row0 … of X over the warp's share of K: 64 columns
// at a time, whose loads are all on their way before the first is used.
template <bool kAligned>
SLC_DEVICE void DownSums(const DownArguments& in, const RankOf (&mine)[2], i64 row0,
                         float (&sums)[kAdapterGemmRows / 8][4]) {
  const int lane = Lane();
  for (i64 column0 = Warp() * kBlockColumns; column0 < in.k;
       column0 += kAdapterWarps * kBlockColumns) {
    SLC_UNROLL
    for (int step = 0; step < 4; ++step) {
      const i64 at = column0 + step * kStepColumns + LaneColumn(lane);
      u32 a[4] = {};
      SLC_UNROLL
      for (int half = 0; half < 2; ++half) {
        if (mine[half].adapter >= in.count) continue;
        const Adapter& A = in.adapters[mine[half].adapter];
        const Pair four =
            LoadHalves<kAligned>(A.data, A.type, mine[half].rank * in.k + at, in.k - at);
        a[half] = four.x, a[half + 2] = four.y;
      }
      SLC_UNROLL
      for (int j = 0; j < kAdapterGemmRows / 8; ++j) {
        const i64 row = row0 + 8 * j + LaneRow(lane);
        Pair x = {0, 0};
        if (row < in.m) x = LoadHalves<kAligned>(in.x, kDenseF16, row * in.k + at, in.k - at);
        Mma(sums[j], a, x.x, x.y);
      }
    }
  }
}

// Ranks 16·BlockX() … of rows 32·BlockY() … of X; the warps split K.
SLC_DEVICE void AdapterDownGemm(const DownArguments& in) {
  constexpr int kRows8 = kAdapterGemmRows / 8, kElems = SumsElems(kAdapterGemmRows, kBlockRows);
  const int lane = Lane(), warp = Warp();
  const i64 rank0 = BlockX() * kBlockRows, row0 = BlockY() * kAdapterGemmRows;
  RankOf mine[2];
  SLC_UNROLL
  for (int half = 0; half < 2; ++half) mine[half] = FindRank(in, rank0 + LaneRow(lane) + 8 * half);
  bool aligned = in.k % 4 == 0 && IsAligned(in.x, kDenseF16);
  for (int i = 0; i < in.count; ++i) {
    aligned = aligned && IsAligned(in.adapters[i].data, in.adapters[i].type);
  }
  float sums[kRows8][4] = {};
  if (aligned) {
    DownSums<true>(in, mine, row0, sums);
  } else {
    DownSums<false>(in, mine, row0, sums);
  }
  float* kept = reinterpret_cast<float*>(SharedMemory());
  SLC_UNROLL
  for (int j = 0; j < kRows8; ++j) KeepSums<kBlockRows>(kept + warp * kElems, 0, j, sums[j]);
  SyncBlock();
  SLC_ROLLED
  for (int i = Thread(); i < kAdapterGemmRows * kBlockRows; i += Threads()) {
    const i64 row = row0 + i / kBlockRows;
    const RankOf to = FindRank(in, rank0 + i % kBlockRows);
    if (row >= in.m || to.adapter >= in.count) continue;
    const float* part = kept + i / kBlockRows * SumsStride(kBlockRows) + i % kBlockRows;
    float sum = 0;
    SLC_ROLLED
    for (int w = 0; w < kAdapterWarps; ++w) sum += part[w * kElems];
    const Adapter& A = in.adapters[to.adapter];
    const i64 column = A.begin + to.rank;
    const float scale = A.scale == nullptr ? 1.0f : LoadFloat(A.scale + to.rank);
    const float gate = in.gate == nullptr ? 1.0f : LoadFloat(in.gate + column);
    StoreOne<false>(in.h, row * in.stride + column, gate * (scale * sum));
  }
}

// H · Bᵀ of all adapters: rows n and n + 8 of every B, rows row0 … of H; 64 ranks at a time, as in
// DownSums. The scales of an i8 matrix are those of n and adapter, and multiply sums of 16 ranks.
template <bool kAligned>
SLC_DEVICE void UpSums(const UpArguments& in, i64 n, i64 row0,
                       float (&sums)[kAdapterGemmRows / 8][4]) {
  constexpr int kRows8 = kAdapterGemmRows / 8;
  const int lane = Lane();
  RankWalk walk;
  for (i64 rank0 = 0; WalkTo(in, rank0, kStepColumns, walk); rank0 += kBlockColumns) {
    RankWalk of[4];
    bool there[4];
    SLC_UNROLL
    for (int step = 0; step < 4; ++step) {
      there[step] = WalkTo(in, rank0 + step * kStepColumns, kStepColumns, walk);
      of[step] = walk;
    }
    u32 a[4][4] = {};
    Pair h[4][kRows8] = {};
    float scale[4][2];
    SLC_UNROLL
    for (int step = 0; step < 4; ++step) {
      if (!there[step]) continue;
      const Adapter& B = in.adapters[of[step].adapter];
      const i64 at = rank0 + step * kStepColumns - of[step].begin + LaneColumn(lane);
      SLC_UNROLL
      for (int half = 0; half < 2; ++half) {
        const i64 row = n + 8 * half;
        scale[step][half] = B.scale != nullptr && row < in.n ? LoadFloat(B.scale + row) : 1.0f;
        if (row >= in.n) continue;
        const Pair four = LoadHalves<kAligned>(B.data, B.type, row * B.rank + at, B.rank - at);
        a[step][half] = four.x, a[step][half + 2] = four.y;
      }
      SLC_UNROLL
      for (int j = 0; j < kRows8; ++j) {
        const i64 row = row0 + 8 * j + LaneRow(lane);
        if (row >= in.m) continue;
        h[step][j] =
            LoadHalves<kAligned>(in.h, kDenseF16, row * in.stride + B.begin + at, B.rank - at);
      }
    }
    SLC_UNROLL
    for (int step = 0; step < 4; ++step) {
      if (!there[step]) continue;
      SLC_UNROLL
      for (int j = 0; j < kRows8; ++j) {
        float part[4] = {};
        Mma(part, a[step], h[step][j].x, h[step][j].y);
        SLC_UNROLL
        for (int i = 0; i < 4; ++i) sums[j][i] += scale[step][i / 2] * part[i];
      }
    }
  }
}

// Rows 128·BlockX() … of every B, 16 a warp, and rows 32·BlockY() … of H and Y.
SLC_DEVICE void AdapterUpGemm(const UpArguments& in) {
  constexpr int kRows8 = kAdapterGemmRows / 8, kAcross = kAdapterWarps * kBlockRows;
  const int lane = Lane(), warp = Warp();
  const i64 row0 = BlockY() * kAdapterGemmRows, n0 = BlockX() * kAcross;
  const i64 n = n0 + warp * kBlockRows + LaneRow(lane);  // and the one 8 below
  bool aligned = in.stride % 4 == 0 && IsAligned(in.h, kDenseF16);
  for (int i = 0; i < in.count; ++i) {
    const Adapter& B = in.adapters[i];
    aligned = aligned && B.rank % 4 == 0 && B.begin % 4 == 0 && IsAligned(B.data, B.type);
  }
  float sums[kRows8][4] = {};
  if (aligned) {
    UpSums<true>(in, n, row0, sums);
  } else {
    UpSums<false>(in, n, row0, sums);
  }
  float* kept = reinterpret_cast<float*>(SharedMemory());
  SLC_UNROLL
  for (int j = 0; j < kRows8; ++j) KeepSums<kAcross>(kept, warp, j, sums[j]);
  SyncBlock();
  SLC_ROLLED
  for (int i = Thread(); i < kAdapterGemmRows * kAcross; i += Threads()) {
    const i64 row = row0 + i / kAcross, column = n0 + i % kAcross;
    if (row >= in.m || column >= in.n) continue;
    const float sum = kept[i / kAcross * SumsStride(kAcross) + i % kAcross];
    const i64 at = row * in.n + column;
    StoreOne<false>(in.y, at, LoadOne<false>(in.y0, at) + sum);
  }
}

}  // namespace slc::cuda
