// Which kernel a call takes and how large its grid is: what the host and the kernels must agree on.
#pragma once

#include "shapes.h"

namespace slc::cuda {

constexpr long long kStreamRowsMax = 32;

// The rows of the smallest stream kernel that takes m at once.
SLC_HOST_DEVICE constexpr int StreamRows(long long m) { return m <= 8 ? 8 : m <= 16 ? 16 : 32; }

struct Grid {
  long long x, y;
  int threads;
  int shared_bytes;
};

template <int kType>
SLC_HOST_DEVICE constexpr int StreamShared(int rows) {
  return rows == 8
             ? StreamShape<kType, StreamTiles(8), 1, kStreamWarps, StreamStages(8)>::kSharedBytes
         : rows == 16
             ? StreamShape<kType, StreamTiles(16), 2, kStreamWarps, StreamStages(16)>::kSharedBytes
             : StreamShape<kType, StreamTiles(32), 4, kStreamWarps, StreamStages(32)>::kSharedBytes;
}

template <int kType>
SLC_HOST_DEVICE constexpr Grid GemmGrid(long long n, long long m, bool tiled) {
  const long long tiles = (n + kBlockRows - 1) / kBlockRows;
  if (tiled) {
    return {(tiles + kTiledTiles - 1) / kTiledTiles, (m + kTiledRows - 1) / kTiledRows,
            32 * kTiledWarps, TiledShape<kType>::kSharedBytes};
  }
  const int rows = StreamRows(m), each = StreamTiles(rows);
  return {(tiles + each - 1) / each, (m + rows - 1) / rows, 32 * kStreamWarps,
          StreamShared<kType>(rows)};
}

inline Grid GemmGridOf(int value_type, long long n, long long m, bool tiled) {
  return value_type == kF16  ? GemmGrid<kF16>(n, m, tiled)
         : value_type == kI8 ? GemmGrid<kI8>(n, m, tiled)
                             : GemmGrid<kI4>(n, m, tiled);
}

inline Grid DownGrid(long long ranks, long long m) {
  return {(ranks + kAdapterWarps - 1) / kAdapterWarps, (m + kAdapterRows - 1) / kAdapterRows,
          32 * kAdapterWarps, 0};
}

inline Grid UpGrid(long long n, long long m) {
  constexpr long long kRows = kAdapterWarps * (32 / kUpLanes);
  return {(n + kRows - 1) / kRows, (m + kAdapterRows - 1) / kAdapterRows, 32 * kAdapterWarps, 0};
}

inline Grid CheckGrid(long long blocks) {
  return {(blocks + kCheckThreads - 1) / kCheckThreads, 1, kCheckThreads, 0};
}

}  // namespace slc::cuda
