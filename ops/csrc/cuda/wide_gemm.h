// Many rows of X on sm_90a: a thread block takes 128 rows of S by 128 or 256 rows of X. Each of two
// warpgroups multiplies its 64 rows of S by wgmma: A is decoded into registers as everywhere, X
// lies in shared memory, swizzled, and the tensor cores read it there while the warps decode what
// comes next.
//
// A lane decodes four columns that follow each other (tile_map.h) and an A operand wants them two
// and two, eight columns apart. So X's columns are put in that order when they are written: the
// first pairs of four columns, then the second.
#pragma once

#include "sums.h"

namespace slc::cuda {

// The next 64 columns of X on their way through registers: a thread has 16 columns of some rows.
template <int kRows, bool kFloatX>
class XAhead {
 public:
  SLC_DEVICE void Load(const GemmArguments& in, i64 row0, i64 column0) {
    const bool vectors = ReadsVectors<kFloatX>(in);
    SLC_UNROLL
    for (int i = 0; i < kEach; ++i) {
      const int at = i * kThreads + Thread();
      SLC_UNROLL
      for (int four = 0; four < 4; ++four) {
        words_[i][four] =
            LoadX<kFloatX>(in, row0 + at / 4, column0 + at % 4 * kStepColumns + four * 4, vectors);
      }
    }
  }

  SLC_DEVICE void Store(u8* slot) const {
    SLC_UNROLL
    for (int i = 0; i < kEach; ++i) {
      const int at = i * kThreads + Thread(), row = at / 4, unit = at % 4 * 2;
      const Pair(&w)[4] = words_[i];
      const u32 first[4] = {w[0].x, w[1].x, w[2].x, w[3].x};
      const u32 second[4] = {w[0].y, w[1].y, w[2].y, w[3].y};
      StoreQuad(slot + WideXOffset(row, unit), first);
      StoreQuad(slot + WideXOffset(row, unit + 1), second);
    }
  }

 private:
  static constexpr int kThreads = 32 * kWideWarps, kEach = kRows * 4 / kThreads;
  Pair words_[kEach][4];
};

// Y for kWideAcross rows of S, one after another in x for each cluster, which splits K, and rows
// WideRows·BlockY() … of X. kWideWarps warps.
template <int kType, bool kFloatX>
SLC_DEVICE void WideGemm(const GemmArguments& in) {
  constexpr int kRows = WideRows(kType), kStage = StageBytes(kType);
  const TileMatrix& S = in.S;
  const int warp = Warp(), ranks = ClusterSize(), rank = ClusterRank();
  const i64 row0 = BlockY() * kRows, column0 = ClusterX() * kWideAcross;
  const i64 tile = column0 / kBlockRows + warp;
  const bool there = tile < S.tiles;  // else its operands are 0 and its sums meet nothing
  u8* shared = SharedMemory();
  u16* table = reinterpret_cast<u16*>(shared);
  if (kType == kI4 && warp == 0) FillTable(table, S.codebook);
  u8* ring = shared + kTableBytes + warp * (kWideStages * kStage);
  u8* slots = shared + WideXAt(kType);
  slots += (kWideXAlign - SharedAddress(slots) % kWideXAlign) % kWideXAlign;

  const int mine = static_cast<int>(BlocksOfSplit(S.blocks, rank, ranks));
  const auto slot = [&](int nth) { return slots + nth % kWideSlots * WideSlot(kType); };
  Extent ahead = {0, 0};  // of the block that is copied next, known one block early
  const auto look_up = [&](int nth) {
    if (nth < mine && there) ahead = ExtentOf(S, tile * S.blocks + rank + nth * ranks);
  };
  const auto copy = [&](int nth) {  // then looks up the one after
    if (nth < mine && there) {
      const int block = rank + nth * ranks;
      const i64 group = kType == kF16 ? 0 : GroupOf(block, S.group_blocks);
      CopyBlock<kType>(S, tile * S.blocks + block, tile, group, ahead,
                       ring + nth % kWideStages * kStage);
    }
    CopyCommit();
    look_up(nth + 1);
  };
  XAhead<kRows, kFloatX> x;
  const auto load_x = [&](int nth) {
    if (nth < mine) x.Load(in, row0, static_cast<i64>(rank + nth * ranks) * kBlockColumns);
  };
  const auto store_x = [&](int nth) {  // then loads the one after
    if (nth < mine) x.Store(slot(nth));
    FenceAsync();
    load_x(nth + 1);
  };

  float sums[kRows / 8][4] = {}, part[kRows / 8][4] = {};
  const auto finish = [&](const float (&scale)[2]) {  // what was multiplied last; at first nothing
    WgmmaWait();
    if constexpr (kType == kF16) {
      InFlight(sums);
    } else {
      InFlight(part);
      SLC_UNROLL
      for (int j = 0; j < kRows / 8; ++j) {
        SLC_UNROLL
        for (int i = 0; i < 4; ++i) sums[j][i] += scale[i / 2] * part[j][i];
      }
    }
  };
  // Decodes block `nth` while the one before, whose scales are `last`, is multiplied.
  const auto multiply = [&](int nth, u32(&a)[4][4], float (&scale)[2], const float (&last)[2]) {
    CopyWait<0>();
    SyncBlock();  // the block and its X are there for everyone; X before the last has been used
    copy(nth + 1);
    store_x(nth + 1);
    SLC_UNROLL
    for (int i = 0; i < 16; ++i) a[i / 4][i % 4] = 0;
    if (there) {
      const u8* stage = ring + nth % kWideStages * kStage;
      const u32 before = ValuesBeforeWords(stage);
      SLC_UNROLL
      for (int step = 0; step < 4; ++step) DecodeStep<kType>(stage, table, before, step, a[step]);
      if constexpr (kType != kF16) LaneScales(stage, scale);
    }
    finish(last);
    const u32 at = SharedAddress(slot(nth));
    WgmmaFence();
    SLC_UNROLL
    for (int step = 0; step < 4; ++step) {
      if constexpr (kType == kF16) {
        Wgmma(sums, a[step], WgmmaOperand(at, step), true);
      } else {
        Wgmma(part, a[step], WgmmaOperand(at, step), step > 0);
      }
    }
    WgmmaCommit();
  };

  look_up(0);
  copy(0);
  load_x(0);
  store_x(0);
  // Two sets of A: PTX allows no write to one that is being multiplied.
  u32 even[4][4], odd[4][4];
  float even_scale[2] = {}, odd_scale[2] = {};
  for (int nth = 0; nth < mine; nth += 2) {
    multiply(nth, even, even_scale, odd_scale);
    if (nth + 1 < mine) multiply(nth + 1, odd, odd_scale, even_scale);
  }
  if (mine % 2 != 0) {
    finish(even_scale);
  } else {
    finish(odd_scale);
  }

  CopyWait<0>();
  SyncBlock();  // sums may lie where the rings and X were
  float* sums_at = reinterpret_cast<float*>(shared);
  SLC_UNROLL
  for (int j = 0; j < kRows / 8; ++j) KeepSums<kWideAcross>(sums_at, warp, j, sums[j]);
  StoreSums<kFloatX, kRows, kWideAcross>(in, sums_at, 1, row0, column0);
}

}  // namespace slc::cuda
