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

// stream_gemm.h

constexpr int kStreamWarps = 8;

// Row tiles of S that a thread block of the kernel for `rows` rows of X takes: with more rows X is
// read again for every tile, so that two share it.
SLC_HOST_DEVICE constexpr int StreamTiles(int rows) { return rows == 8 ? 1 : 2; }
SLC_HOST_DEVICE constexpr int StreamStages(int rows) { return rows == 8 ? 3 : 2; }

template <int kType, int kTiles, int kRows8, int kWarps, int kStages>
struct StreamShape {
  static constexpr int kStage = kTiles * StageBytes(kType);
  static constexpr int kSumsBytes = kTiles * kBlockRows * kRows8 * 8 * 4;
  static constexpr int kRings = kTableBytes + kWarps * kStages * kStage;
  // The sums lie where the rings were.
  static constexpr int kSharedBytes = kRings > kSumsBytes ? kRings : kSumsBytes;
};

// tiled_gemm.h

constexpr int kTiledTiles = 4;   // row tiles of S
constexpr int kTiledRows = 128;  // rows of X
constexpr int kTiledWarps = 8;   // 2 along S's rows, 4 along X's
constexpr int kWarpTiles = 2;    // row tiles of a warp
constexpr int kWarpRows8 = 4;    // its rows of X, eight each

// X's rows in shared memory are this many halves apart: 160 bytes, so that the 16 lanes that read
// 8 bytes each at a time meet every bank once (rows g = 0 … 3 begin at banks 0, 8, 16, 24).
constexpr int kXStride = 80;
constexpr int kXBytes = kTiledRows * kXStride * 2;
constexpr int kXSlots = 3;

// A operands of a block: [step][lane] of 16 bytes.
constexpr int kDecodedTile = 4 * 32 * 16;
constexpr int kDecodedBytes = kTiledTiles * kDecodedTile;

template <int kType>
struct TiledShape {
  static constexpr int kStage = kTiledTiles * StageBytes(kType);
  static constexpr int kDecodedAt = kTableBytes;
  static constexpr int kXAt = kDecodedAt + 2 * kDecodedBytes;
  static constexpr int kStagesAt = kXAt + kXSlots * kXBytes;
  // Scales stay until the block after them has been decoded: they are read with the sums.
  static constexpr int kScalesAt = kStagesAt + 2 * kStage;
  static constexpr int kScalesBytes = kTiledTiles * kBlockRows * 2;
  static constexpr int kSharedBytes = kScalesAt + 2 * kScalesBytes;
};

// adapters.h and check_blob.h

constexpr int kAdapterRows = 8;  // rows of X or H that a warp has at a time
constexpr int kAdapterWarps = 8;
constexpr int kUpLanes = 8;  // of a warp, for one row of B
constexpr int kCheckThreads = 256;

}  // namespace slc::cuda
