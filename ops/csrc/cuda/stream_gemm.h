// Few rows of X (up to 64): every block of S is decoded by one warp, straight into the operands of
// tensor cores. A thread block takes kTiles row tiles; its warps, and those of its cluster, split K
// and add up at the end in a fixed order (sums.h). How many of each is the launch's choice
// (gpu_table.h).
//
// A warp has a ring of kStages blocks of its own in shared memory: while it decodes one, the next
// are on their way (cp.async), and no other warp has to be waited for.
#pragma once

#include "sums.h"

namespace slc::cuda {

// Y for kTiles row tiles, one after another in x for each cluster, and kRows rows of X from
// kRows·BlockY() on.
template <int kType, bool kFloatX, int kRows>
SLC_DEVICE void StreamGemm(const GemmArguments& in) {
  constexpr int kTiles = StreamTiles(kRows), kStages = StreamStages(kRows), kRows8 = kRows / 8;
  constexpr int kStage = StreamStage(kType, kRows);
  const TileMatrix& S = in.S;
  const int lane = Lane(), warp = Warp(), warps = Threads() / 32;
  const int split = ClusterRank() * warps + warp, splits = ClusterSize() * warps;
  const i64 tile0 = ClusterX() * kTiles, row0 = BlockY() * kRows;
  u8* shared = SharedMemory();
  u16* table = reinterpret_cast<u16*>(shared);
  if constexpr (kType == kI4) {
    if (warp == 0) FillTable(table, S.codebook);
    SyncBlock();
  }
  u8* ring = shared + kTableBytes + warp * (kStages * kStage);

  const i64 mine = BlocksOfSplit(S.blocks, split, splits);
  Extent ahead[kTiles];  // of the block that is copied next, known one block early
  const auto look_up = [&](i64 nth) {
    SLC_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      const bool there = nth < mine && tile0 + t < S.tiles;
      const i64 block = (tile0 + t) * S.blocks + split + nth * splits;
      ahead[t] = there ? ExtentOf(S, block) : Extent{0, 0};
    }
  };
  const auto copy = [&](i64 nth) {  // then looks up the one after
    if (nth < mine) {
      const i64 column_block = split + nth * splits;
      const i64 group = kType == kF16 ? 0 : GroupOf(column_block, S.group_blocks);
      u8* stage = ring + static_cast<int>(nth % kStages) * kStage;
      SLC_UNROLL
      for (int t = 0; t < kTiles; ++t) {
        if (tile0 + t < S.tiles) {
          CopyBlock<kType>(S, (tile0 + t) * S.blocks + column_block, tile0 + t, group, ahead[t],
                           stage + t * StageBytes(kType));
        }
      }
    }
    CopyCommit();  // an empty group too: the count of groups is that of blocks
    look_up(nth + 1);
  };

  look_up(0);
  for (int nth = 0; nth < kStages - 1; ++nth) copy(nth);

  float sums[kTiles][kRows8][4] = {};
  const bool vectors = ReadsVectors<kFloatX>(in);
  for (i64 nth = 0; nth < mine; ++nth) {
    CopyWait<kStages - 2>();
    SyncWarp();  // what other lanes copied is there, and what is overwritten next has been read
    copy(nth + kStages - 1);
    const u8* stage = ring + static_cast<int>(nth % kStages) * kStage;
    const i64 column0 = (split + nth * splits) * kBlockColumns;
    u32 before[kTiles] = {};
    SLC_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      if (tile0 + t < S.tiles) before[t] = ValuesBeforeWords(stage + t * StageBytes(kType));
    }
    float part[kTiles][kRows8][4] = {};
    SLC_UNROLL
    for (int step = 0; step < 4; ++step) {
      Pair x[kRows8];
      SLC_UNROLL
      for (int j = 0; j < kRows8; ++j) {
        x[j] = LoadX<kFloatX>(in, row0 + 8 * j + LaneRow(lane),
                              column0 + step * kStepColumns + LaneColumn(lane), vectors);
      }
      SLC_UNROLL
      for (int t = 0; t < kTiles; ++t) {
        if (tile0 + t >= S.tiles) continue;
        u32 a[4];
        DecodeStep<kType>(stage + t * StageBytes(kType), table, before[t], step, a);
        SLC_UNROLL
        for (int j = 0; j < kRows8; ++j) {
          Mma(kType == kF16 ? sums[t][j] : part[t][j], a, x[j].x, x[j].y);
        }
      }
    }
    if constexpr (kType != kF16) {
      SLC_UNROLL
      for (int t = 0; t < kTiles; ++t) {
        if (tile0 + t >= S.tiles) continue;
        float scale[2];
        LaneScales(stage + t * StageBytes(kType), scale);
        SLC_UNROLL
        for (int j = 0; j < kRows8; ++j) {
          SLC_UNROLL
          for (int i = 0; i < 4; ++i) sums[t][j][i] += scale[i / 2] * part[t][j][i];
        }
      }
    }
  }

  CopyWait<0>();
  SyncBlock();  // every ring is done with: sums may lie there
  constexpr int kAcross = kTiles * kBlockRows;
  float* sums_at = reinterpret_cast<float*>(shared);
  SLC_UNROLL
  for (int t = 0; t < kTiles; ++t) {
    SLC_UNROLL
    for (int j = 0; j < kRows8; ++j) {
      KeepSums<kAcross>(sums_at + warp * SumsElems(kRows, kAcross), t, j, sums[t][j]);
    }
  }
  StoreSums<kFloatX, kRows, kAcross>(in, sums_at, warps, row0, tile0 * kBlockRows);
}

}  // namespace slc::cuda
