// What ParsePackedBlob checks on the CPU, of a blob that lies in device memory: afterwards no
// kernel can read outside it. The header was checked by the host, which also knows where sections
// end.
#pragma once

#include "tile_block.h"

namespace slc::cuda {

// A thread: one block of S. `faults` and `stored` are 0 before.
SLC_DEVICE void CheckBlob(const CheckArguments& in) {
  const TileMatrix& S = in.S;
  const i64 block = BlockX() * Threads() + Thread();
  if (block == 0 && Load32(S.starts) != 0) AtomicOr(in.faults, kFirstStartWrong);
  if (block >= S.tiles * S.blocks) return;
  const i64 row0 = block / S.blocks * kBlockRows, column0 = block % S.blocks * kBlockColumns;
  u32 count = 0, outside = 0;
  SLC_ROLLED
  for (int w = 0; w < kWords; ++w) {
    const u32 word = Load32(S.masks + block * kWords + w);
    count += static_cast<u32>(PopCount(word));
    if (row0 + kBlockRows <= S.n && column0 + kBlockColumns <= S.k) continue;
    SLC_ROLLED
    for (int bit = 0; bit < 32; ++bit) {
      const bool beyond = row0 + RowOf(w, bit) >= S.n || column0 + ColumnOf(w, bit) >= S.k;
      outside |= beyond ? word >> bit & 1u : 0u;
    }
  }
  const Extent extent = ExtentOf(S, block);
  const u32 in_unit = static_cast<u32>(ValuesInUnit(in.value_type));
  // Compared without a difference that could wrap: starts may be anything.
  if (extent.end < extent.begin || extent.end - extent.begin != (count + in_unit - 1) / in_unit) {
    AtomicOr(in.faults, kStartsWrong);
  }
  if (outside != 0) AtomicOr(in.faults, kBitOutside);
  if (block == 0 && in.value_type == kI4) {
    SLC_ROLLED
    for (int i = 0; i < 16; ++i) {
      if (S.codebook[i] < -63 || S.codebook[i] > 63) AtomicOr(in.faults, kCodebookWrong);
    }
  }
  AtomicAdd(in.stored, count);
}

}  // namespace slc::cuda
