// How kernels cut their work and lay out shared memory: what the host must know to launch them.
#pragma once

#include "tile_map.h"

namespace slc::cuda {

// What a warp keeps of a block in shared memory, in this order; each part is copied as it lies in
// the blob. f16 has no scales, but its values begin at the same place.
constexpr int kStageMasks = 0;
constexpr int kStageScales = kMaskUnits * kUnitBytes;
constexpr int kStageValues = kStageScales + kScaleUnits * kUnitBytes;
SLC_HOST_DEVICE constexpr int StageBytes(int value_type) {
  return kStageValues + MaxUnits(value_type) * kUnitBytes;
}

constexpr int kTableBytes = 32;  // the codebook of i4 as halves

// Sums in shared memory, [rows of X, rows of S + 4] floats: with a row 4 words longer than a
// multiple of 16, the lanes of an mma's result (rows 2t, columns g) meet every bank once.
SLC_HOST_DEVICE constexpr int SumsStride(int across) { return across + 4; }
SLC_HOST_DEVICE constexpr int SumsElems(int rows, int across) { return rows * SumsStride(across); }

SLC_HOST_DEVICE constexpr int MaxOf(int a, int b) { return a > b ? a : b; }

// stream_gemm.h: kernels for 8, 16, 32 and 64 rows of X.

// Row tiles of S that a thread block takes: with more rows X is read again for every tile, so that
// two share it.
SLC_HOST_DEVICE constexpr int StreamTiles(int rows) { return rows == 8 ? 1 : 2; }
SLC_HOST_DEVICE constexpr int StreamStages(int rows) { return rows == 8 ? 3 : 2; }
// Most warps: 16 may have 128 registers each, 8 all that there are.
SLC_HOST_DEVICE constexpr int StreamWarpsMax(int rows) { return rows == 8 ? 16 : 8; }

SLC_HOST_DEVICE constexpr int StreamStage(int value_type, int rows) {
  return StreamTiles(rows) * StageBytes(value_type);
}

// A ring of stages for every warp; the warps' sums lie there afterwards.
SLC_HOST_DEVICE constexpr int StreamShared(int value_type, int rows, int warps) {
  return MaxOf(kTableBytes + warps * StreamStages(rows) * StreamStage(value_type, rows),
               warps * 4 * SumsElems(rows, StreamTiles(rows) * kBlockRows));
}

// tiled_gemm.h

constexpr int kTiledWarps = 4;
constexpr int kWarpTiles = 2;  // row tiles of S of a warp: each element of X that it reads, twice
constexpr int kTiledAcross = kTiledWarps * kWarpTiles * kBlockRows;  // rows of S
constexpr int kTiledRows = 128;                                      // rows of X
constexpr int kTiledStages = 2;

// X's rows in shared memory are this many halves apart: 160 bytes, so that the 16 lanes that read
// 8 bytes each at a time meet every bank once (rows g = 0 … 3 begin at banks 0, 8, 16, 24).
constexpr int kXStride = 80;
constexpr int kXBytes = kTiledRows * kXStride * 2;

SLC_HOST_DEVICE constexpr int TiledXAt(int value_type) {
  return kTableBytes + kTiledWarps * kTiledStages * kWarpTiles * StageBytes(value_type);
}
SLC_HOST_DEVICE constexpr int TiledShared(int value_type) {
  return MaxOf(TiledXAt(value_type) + kTiledStages * kXBytes,
               4 * SumsElems(kTiledRows, kTiledAcross));
}

// wide_gemm.h

constexpr int kWideWarps = 8;  // two warpgroups; each warp has one row tile of S
constexpr int kWideAcross = kWideWarps * kBlockRows;  // rows of S
constexpr int kWideStages = 2;                        // of S
constexpr int kWideSlots = 3;  // of X: one is filled, one is ready, one may still be read
constexpr int kWideXRow = kBlockColumns * 2;  // bytes; 128 is what the swizzle below wants
constexpr int kWideXAlign = 1024;             // eight rows, its period

// Rows of X of a thread block: the sums of f16 stay on the tensor cores, those of integers are
// added up block by block in a second set of registers.
SLC_HOST_DEVICE constexpr int WideRows(int value_type) { return value_type == kF16 ? 256 : 128; }
SLC_HOST_DEVICE constexpr int WideSlot(int value_type) { return WideRows(value_type) * kWideXRow; }
SLC_HOST_DEVICE constexpr int WideXAt(int value_type) {
  return kTableBytes + kWideWarps * kWideStages * StageBytes(value_type);
}
SLC_HOST_DEVICE constexpr int WideShared(int value_type) {
  return MaxOf(WideXAt(value_type) + kWideXAlign + kWideSlots * WideSlot(value_type),
               4 * SumsElems(WideRows(value_type), kWideAcross));
}

// Where 16 bytes of a row of X lie in a slot: PTX's 128-byte swizzle, by which the units of eight
// rows that are read together lie in different banks.
SLC_HOST_DEVICE constexpr int WideXOffset(int row, int unit) {
  return row * kWideXRow + (unit ^ row % 8) * kUnitBytes;
}

// The matrix descriptor of PTX for 16 columns of a slot, `shared` being its address there: rows of
// X one after another, eight of them 1024 bytes, swizzled by 128 bytes.
SLC_HOST_DEVICE constexpr unsigned long long WgmmaOperand(unsigned shared, int step) {
  const unsigned long long at = shared + static_cast<unsigned>(step * kStepColumns * 2);
  return (at & 0x3ffffu) >> 4 | 1ull << 16 |
         static_cast<unsigned long long>(kWideXAlign >> 4) << 32 | 1ull << 62;
}

// adapters.h, adapter_gemm.h and check_blob.h

constexpr int kAdapterRows = 8;  // rows of X or H that a warp has at a time
constexpr int kAdapterWarps = 8;
constexpr int kUpLanes = 8;           // of a warp, for one row of B
constexpr int kAdapterGemmRows = 32;  // adapter_gemm.h: rows of X of a thread block
constexpr int kDownGemmShared = kAdapterWarps * 4 * SumsElems(kAdapterGemmRows, kBlockRows);
constexpr int kUpGemmShared = 4 * SumsElems(kAdapterGemmRows, kAdapterWarps* kBlockRows);
constexpr int kCheckThreads = 256;

}  // namespace slc::cuda
