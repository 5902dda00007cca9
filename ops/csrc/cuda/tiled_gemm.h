// Many rows of X: a thread block takes 128 rows of S by 128 rows of X. A warp decodes its own two
// row tiles into registers, the A operands of a whole block of 64 columns, and multiplies them with
// all 128 rows of X, which lie in shared memory for every warp: a block of S is decoded once for
// 128 rows, and never written anywhere.
//
// While a warp decodes, others multiply, and cp.async brings the next block and its part of X.
#pragma once

#include "sums.h"

namespace slc::cuda {

// Brings 64 columns of 128 rows of X into a slot.
template <bool kFloatX>
SLC_DEVICE void CopyX(const GemmArguments& in, i64 row0, i64 column0, u8* slot) {
  const bool vectors = ReadsVectors<kFloatX>(in);
  const bool units = in.S.k % 8 == 0 && reinterpret_cast<u64>(in.x) % 16 == 0;
  constexpr int kUnits = kBlockColumns * 2 / kUnitBytes;  // of a row
  SLC_ROLLED
  for (int i = Thread(); i < kTiledRows * kUnits; i += Threads()) {
    const i64 row = row0 + i / kUnits, column = column0 + i % kUnits * 8;
    u8* to = slot + i / kUnits * (kXStride * 2) + i % kUnits * kUnitBytes;
    if (!kFloatX && units && row < in.m && column < in.S.k) {  // K % 8 = 0: all eight are there
      CopyAsync(to, static_cast<const u16*>(in.x) + row * in.S.k + column);
    } else {
      const Pair first = LoadX<kFloatX>(in, row, column, vectors);
      const Pair second = LoadX<kFloatX>(in, row, column + 4, vectors);
      const u32 words[4] = {first.x, first.y, second.x, second.y};
      StoreQuad(to, words);
    }
  }
}

// Y for kTiledAcross rows of S, one after another in x for each cluster, which splits K, and rows
// 128·BlockY() … of X. kTiledWarps warps.
template <int kType, bool kFloatX>
SLC_DEVICE void TiledGemm(const GemmArguments& in) {
  constexpr int kStage = kWarpTiles * StageBytes(kType), kRows8 = kTiledRows / 8;
  const TileMatrix& S = in.S;
  const int lane = Lane(), warp = Warp(), ranks = ClusterSize(), rank = ClusterRank();
  const i64 row0 = BlockY() * kTiledRows, column0 = ClusterX() * kTiledAcross;
  const i64 tile0 = column0 / kBlockRows + warp * kWarpTiles;
  u8* shared = SharedMemory();
  u16* table = reinterpret_cast<u16*>(shared);
  if (kType == kI4 && warp == 0) FillTable(table, S.codebook);
  u8* ring = shared + kTableBytes + warp * (kTiledStages * kStage);
  u8* slots = shared + TiledXAt(kType);

  const int mine = static_cast<int>(BlocksOfSplit(S.blocks, rank, ranks));
  Extent ahead[kWarpTiles];  // of the block that is copied next, known one block early
  const auto look_up = [&](int nth) {
    SLC_UNROLL
    for (int t = 0; t < kWarpTiles; ++t) {
      const bool there = nth < mine && tile0 + t < S.tiles;
      ahead[t] = there ? ExtentOf(S, (tile0 + t) * S.blocks + rank + nth * ranks) : Extent{0, 0};
    }
  };
  const auto copy = [&](int nth) {  // then looks up the one after
    if (nth < mine) {
      const int block = rank + nth * ranks;
      const i64 group = kType == kF16 ? 0 : GroupOf(block, S.group_blocks);
      const int slot = nth % kTiledStages;
      SLC_UNROLL
      for (int t = 0; t < kWarpTiles; ++t) {
        if (tile0 + t < S.tiles) {
          CopyBlock<kType>(S, (tile0 + t) * S.blocks + block, tile0 + t, group, ahead[t],
                           ring + slot * kStage + t * StageBytes(kType));
        }
      }
      CopyX<kFloatX>(in, row0, static_cast<i64>(block) * kBlockColumns, slots + slot * kXBytes);
    }
    CopyCommit();
    look_up(nth + 1);
  };

  float sums[kWarpTiles][kRows8][4] = {};
  // A tile beyond the last counts as 0: its operands meet nothing that is kept.
  const auto decode = [&](const u8* stages, u32(&a)[kWarpTiles][4][4],
                          float (&scale)[kWarpTiles][2]) {
    SLC_UNROLL
    for (int t = 0; t < kWarpTiles; ++t) {
      if (tile0 + t >= S.tiles) continue;
      const u8* stage = stages + t * StageBytes(kType);
      const u32 before = ValuesBeforeWords(stage);
      SLC_UNROLL
      for (int step = 0; step < 4; ++step)
        DecodeStep<kType>(stage, table, before, step, a[t][step]);
      if constexpr (kType != kF16) LaneScales(stage, scale[t]);
    }
  };
  const auto multiply = [&](const u8* x, const u32(&a)[kWarpTiles][4][4],
                            const float (&scale)[kWarpTiles][2]) {
    SLC_UNROLL
    for (int j = 0; j < kRows8; ++j) {
      Pair b[4];
      SLC_UNROLL
      for (int step = 0; step < 4; ++step) {
        const int at = (8 * j + LaneRow(lane)) * kXStride + step * kStepColumns + LaneColumn(lane);
        b[step] = SharedPair(x + at * 2);
      }
      SLC_UNROLL
      for (int t = 0; t < kWarpTiles; ++t) {
        float part[4] = {};
        SLC_UNROLL
        for (int step = 0; step < 4; ++step) {
          Mma(kType == kF16 ? sums[t][j] : part, a[t][step], b[step].x, b[step].y);
        }
        if constexpr (kType != kF16) {
          SLC_UNROLL
          for (int i = 0; i < 4; ++i) sums[t][j][i] += scale[t][i / 2] * part[i];
        }
      }
    }
  };

  look_up(0);
  copy(0);
  for (int nth = 0; nth < mine; ++nth) {
    CopyWait<0>();
    SyncBlock();  // the block and its X are there for everyone; those before it have been used
    copy(nth + 1);
    const int slot = nth % kTiledStages;
    u32 a[kWarpTiles][4][4] = {};
    float scale[kWarpTiles][2] = {};
    decode(ring + slot * kStage, a, scale);
    multiply(slots + slot * kXBytes, a, scale);
  }

  CopyWait<0>();
  SyncBlock();  // sums may lie where the rings and X were
  float* sums_at = reinterpret_cast<float*>(shared);
  SLC_UNROLL
  for (int t = 0; t < kWarpTiles; ++t) {
    SLC_UNROLL
    for (int j = 0; j < kRows8; ++j) {
      KeepSums<kTiledAcross>(sums_at, warp * kWarpTiles + t, j, sums[t][j]);
    }
  }
  StoreSums<kFloatX, kTiledRows, kTiledAcross>(in, sums_at, 1, row0, column0);
}

}  // namespace slc::cuda
