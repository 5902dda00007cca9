// Many rows of X (more than 32): a thread block takes 64 rows of S by 128 rows of X. Each block of
// S is decoded once into shared memory, in the order in which tensor cores want it, and used by all
// warps: two halves of its rows times four quarters of X's.
//
// Three things overlap (SALR's pipeline has the first two): tensor cores work on block b, the same
// warps decode block b + 1, and cp.async brings block b + 2 and its part of X.
#pragma once

#include "tile_block.h"

namespace slc::cuda {

// Brings 64 columns of 128 rows of X into a slot.
template <bool kFloatX>
SLC_DEVICE void CopyX(const GemmArguments& in, i64 row0, i64 column0, bool units, bool vectors,
                      u8* slot) {
  constexpr int kUnits = kBlockColumns * 2 / kUnitBytes;  // of a row
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

// Y for row tiles 4·BlockX() … and rows 128·BlockY() … of X. 8 warps.
template <int kType, bool kFloatX>
SLC_DEVICE void TiledGemm(const GemmArguments& in) {
  using Shape = TiledShape<kType>;
  const TileMatrix& S = in.S;
  const int lane = Lane(), warp = Warp();
  const i64 tile0 = BlockX() * kTiledTiles, row0 = BlockY() * kTiledRows;
  u8* shared = SharedMemory();
  u16* table = reinterpret_cast<u16*>(shared);
  if (kType == kI4 && warp == 0) FillTable(table, S.codebook);

  const bool vectors = ReadsVectors<kFloatX>(in);
  const bool units = S.k % 8 == 0 && reinterpret_cast<u64>(in.x) % 16 == 0;
  // Warps 0 … 3 bring the four row tiles' blocks; two warps decode each, two steps a warp.
  Extent ahead = {0, 0};
  const auto look_up = [&](i64 block) {
    const bool there = warp < kTiledTiles && block < S.blocks && tile0 + warp < S.tiles;
    ahead = there ? ExtentOf(S, (tile0 + warp) * S.blocks + block) : Extent{0, 0};
  };
  const auto copy = [&](i64 block) {
    if (block < S.blocks) {
      u8* stages = shared + Shape::kStagesAt + static_cast<int>(block % 2) * Shape::kStage;
      if (warp < kTiledTiles && tile0 + warp < S.tiles) {
        const i64 group = kType == kF16 ? 0 : block / S.group_blocks;
        CopyBlock<kType>(S, (tile0 + warp) * S.blocks + block, tile0 + warp, group, ahead,
                         stages + warp * StageBytes(kType));
      }
      CopyX<kFloatX>(in, row0, block * kBlockColumns, units, vectors,
                     shared + Shape::kXAt + static_cast<int>(block % kXSlots) * kXBytes);
    }
    CopyCommit();
    look_up(block + 1);
  };
  const auto decode = [&](i64 block) {
    const int slot = static_cast<int>(block % 2);
    const int tile = warp / 2;
    if (tile0 + tile >= S.tiles) return;  // its operands are never stored from
    const u8* stage = shared + Shape::kStagesAt + slot * Shape::kStage + tile * StageBytes(kType);
    const u32 before = ValuesBeforeWords(stage);
    u8* decoded = shared + Shape::kDecodedAt + slot * kDecodedBytes + tile * kDecodedTile;
    SLC_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int step = warp % 2 * 2 + i;
      u32 a[4];
      DecodeStep<kType>(stage, table, before, step, a);
      StoreQuad(decoded + (step * 32 + lane) * 16, a);
    }
    if (kType != kF16 && warp % 2 == 0 && lane < kBlockRows) {
      u16* to = reinterpret_cast<u16*>(shared + Shape::kScalesAt + slot * Shape::kScalesBytes);
      to[tile * kBlockRows + lane] = reinterpret_cast<const u16*>(stage + kStageScales)[lane];
    }
  };

  const int tile_half = warp / 4 * kWarpTiles, row_quarter = warp % 4 * (8 * kWarpRows8);
  float sums[kWarpTiles][kWarpRows8][4] = {};
  const auto multiply = [&](i64 block) {
    const int slot = static_cast<int>(block % 2);
    const u8* decoded = shared + Shape::kDecodedAt + slot * kDecodedBytes;
    const u8* x = shared + Shape::kXAt + static_cast<int>(block % kXSlots) * kXBytes;
    float part[kWarpTiles][kWarpRows8][4] = {};
    SLC_UNROLL
    for (int step = 0; step < 4; ++step) {
      Pair b[kWarpRows8];
      SLC_UNROLL
      for (int j = 0; j < kWarpRows8; ++j) {
        const int row = row_quarter + 8 * j + LaneRow(lane);
        b[j] = SharedPair(x + (row * kXStride + step * kStepColumns + LaneColumn(lane)) * 2);
      }
      SLC_UNROLL
      for (int t = 0; t < kWarpTiles; ++t) {
        const Quad a =
            SharedQuad(decoded + (tile_half + t) * kDecodedTile + (step * 32 + lane) * 16);
        SLC_UNROLL
        for (int j = 0; j < kWarpRows8; ++j) {
          Mma(kType == kF16 ? sums[t][j] : part[t][j], a.x, b[j].x, b[j].y);
        }
      }
    }
    if constexpr (kType != kF16) {
      const u16* scales =
          reinterpret_cast<const u16*>(shared + Shape::kScalesAt + slot * Shape::kScalesBytes);
      SLC_UNROLL
      for (int t = 0; t < kWarpTiles; ++t) {
        const int row = (tile_half + t) * kBlockRows + LaneRow(lane);
        const float scale[2] = {HalfToFloat(scales[row]), HalfToFloat(scales[row + 8])};
        SLC_UNROLL
        for (int j = 0; j < kWarpRows8; ++j) {
          SLC_UNROLL
          for (int i = 0; i < 4; ++i) sums[t][j][i] += scale[i / 2] * part[t][j][i];
        }
      }
    }
  };

  look_up(0);
  copy(0);
  copy(1);
  CopyWait<1>();
  SyncBlock();
  decode(0);
  for (i64 block = 0; block < S.blocks; ++block) {
    CopyWait<0>();  // block + 1 has arrived
    SyncBlock();    // for everyone; and block is decoded, block - 1 has been used
    copy(block + 2);
    multiply(block);
    if (block + 1 < S.blocks) decode(block + 1);
  }

  SLC_UNROLL
  for (int t = 0; t < kWarpTiles; ++t) {
    SLC_UNROLL
    for (int j = 0; j < kWarpRows8; ++j) {
      SLC_UNROLL
      for (int i = 0; i < 4; ++i) {
        const i64 row = row0 + row_quarter + 8 * j + SumRowOfX(lane, i);
        const i64 column = (tile0 + tile_half + t) * kBlockRows + SumRowOfS(lane, i);
        if (row < in.m && column < S.n) StoreY<kFloatX>(in, row, column, sums[t][j][i]);
      }
    }
  }
}

}  // namespace slc::cuda
