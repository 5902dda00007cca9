// Few rows of X (up to 32): every block of S is decoded once, by one warp, straight into the
// operands of tensor cores. A thread block takes kTiles row tiles; its warps split K and add up at
// the end in a fixed order, so that the result does not depend on timing and no scratch memory is
// needed.
//
// A warp has a ring of kStages blocks of its own in shared memory: while it decodes one, the next
// are on their way (cp.async), and no other warp has to be waited for.
#pragma once

#include "tile_block.h"

namespace slc::cuda {

// Y for row tiles kTiles·BlockX() … and rows 8·kRows8·BlockY() … of X. kWarps warps.
template <int kType, bool kFloatX, int kTiles, int kRows8, int kWarps, int kStages>
SLC_DEVICE void StreamGemm(const GemmArguments& in) {
  using Shape = StreamShape<kType, kTiles, kRows8, kWarps, kStages>;
  const TileMatrix& S = in.S;
  const int lane = Lane(), warp = Warp();
  const i64 tile0 = BlockX() * kTiles, row0 = BlockY() * (8 * kRows8);
  u8* shared = SharedMemory();
  u16* table = reinterpret_cast<u16*>(shared);
  if constexpr (kType == kI4) {
    if (warp == 0) FillTable(table, S.codebook);
    SyncBlock();
  }
  u8* ring = shared + kTableBytes + warp * (kStages * Shape::kStage);

  const i64 mine = BlocksOfSplit(S.blocks, warp, kWarps);
  Extent ahead[kTiles];  // of the block that is copied next, known one block early
  const auto look_up = [&](i64 nth) {
    SLC_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      const bool there = nth < mine && tile0 + t < S.tiles;
      const i64 block = (tile0 + t) * S.blocks + warp + nth * kWarps;
      ahead[t] = there ? ExtentOf(S, block) : Extent{0, 0};
    }
  };
  const auto copy = [&](i64 nth) {  // then looks up the one after
    if (nth < mine) {
      const i64 column_block = warp + nth * kWarps;
      const i64 group = kType == kF16 ? 0 : column_block / S.group_blocks;
      u8* stage = ring + static_cast<int>(nth % kStages) * Shape::kStage;
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
    const u8* stage = ring + static_cast<int>(nth % kStages) * Shape::kStage;
    const i64 column0 = (warp + nth * kWarps) * kBlockColumns;
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
  SyncBlock();                                      // every ring is done with
  float* total = reinterpret_cast<float*>(shared);  // [kRows8·8, kTiles·16]
  constexpr int kAcross = kTiles * kBlockRows;
  for (int w = 0; w < kWarps; ++w) {
    if (warp == w) {
      SLC_UNROLL
      for (int t = 0; t < kTiles; ++t) {
        SLC_UNROLL
        for (int j = 0; j < kRows8; ++j) {
          SLC_UNROLL
          for (int i = 0; i < 4; ++i) {
            const int row = 8 * j + SumRowOfX(lane, i);
            const int column = t * kBlockRows + SumRowOfS(lane, i);
            float& to = total[row * kAcross + column];
            to = w == 0 ? sums[t][j][i] : to + sums[t][j][i];
          }
        }
      }
    }
    SyncBlock();
  }
  for (int i = Thread(); i < kAcross * kRows8 * 8; i += Threads()) {
    const i64 row = row0 + i / kAcross, column = tile0 * kBlockRows + i % kAcross;
    if (row < in.m && column < S.n) StoreY<kFloatX>(in, row, column, total[i]);
  }
}

}  // namespace slc::cuda
