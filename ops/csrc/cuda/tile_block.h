// One warp decodes one block of the layout "tiles" into A operands of mma.m16n8k16.
#pragma once

#include "arguments.h"
#include "shapes.h"

namespace slc::cuda {

// A byte's value plus 1152 is exact in f16, whose step is 1 from 1024 on: 0x6400 is 1024, so that
// 0x6400 | (q ^ 0x80) is q + 1152 for q in -128 … 127, and 0x6480 is 1152.
constexpr u32 kByteMagic = 0x64006400u;
constexpr u32 kByteZero = 0x64806480u;

// The codebook as halves, from one warp for its block.
SLC_DEVICE void FillTable(u16* table, const signed char* codebook) {
  if (Lane() < 16) table[Lane()] = FloatToHalf(static_cast<float>(codebook[Lane()]));
}

// Where a block's values lie, in units: [begin, end).
struct Extent {
  u32 begin, end;
};

SLC_DEVICE Extent ExtentOf(const TileMatrix& S, i64 block) {
  return {Load32(S.starts + block), Load32(S.starts + block + 1)};
}

// Begins to copy a block (numbered over the whole matrix) to a stage; lane 0 … 31 of one warp.
// The scales are those of `tile` and `group`.
template <int kType>
SLC_DEVICE void CopyBlock(const TileMatrix& S, i64 block, i64 tile, i64 group, Extent extent,
                          u8* stage) {
  const int lane = Lane();
  if (lane < kMaskUnits) {
    const u8* masks = reinterpret_cast<const u8*>(S.masks + block * kWords);
    CopyAsync(stage + kStageMasks + lane * kUnitBytes, masks + lane * kUnitBytes);
  } else if (kType != kF16 && lane < kMaskUnits + kScaleUnits) {
    const int unit = lane - kMaskUnits;
    const u8* scales = reinterpret_cast<const u8*>(S.scales + (tile * S.groups + group) * 16);
    CopyAsync(stage + kStageScales + unit * kUnitBytes, scales + unit * kUnitBytes);
  }
  const u8* values = S.values + static_cast<u64>(extent.begin) * kUnitBytes;
  const int units = static_cast<int>(extent.end - extent.begin);
  SLC_UNROLL
  for (int i = 0; i < MaxUnits(kType); i += 32) {
    const int unit = i + lane;
    if (unit < units) {
      CopyAsync(stage + kStageValues + unit * kUnitBytes, values + unit * kUnitBytes);
    }
  }
}

// How many of a block's values lie before each word: lane i gives that of word i.
SLC_DEVICE u32 ValuesBeforeWords(const u8* stage) {
  const u32 own = reinterpret_cast<const u32*>(stage + kStageMasks)[Lane()];
  const u32 count = static_cast<u32>(PopCount(own));
  u32 sum = count;
  SLC_UNROLL
  for (int by = 1; by < 32; by *= 2) {
    const u32 below = ShuffleUp(sum, by);
    if (Lane() >= by) sum += below;
  }
  return sum - count;
}

// Value `index` of a stage as halves' bits; of i8 in the form that `PairOfBytes` takes.
template <int kType>
SLC_DEVICE u32 ValueAt(const u8* values, const u16* table, u32 index) {
  if constexpr (kType == kF16) return reinterpret_cast<const u16*>(values)[index];
  if constexpr (kType == kI8) return values[index] ^ 0x80u;
  return table[(values[index / 2] >> (index % 2 * 4)) & 15];
}

template <int kType>
SLC_DEVICE u32 PairOf(u32 first, u32 second) {
  const u32 pair = first | second << 16;
  return kType == kI8 ? SubtractHalves(pair | kByteMagic, kByteZero) : pair;
}

// The lane's four columns of part `part`: halves' bits, two and two. `before`: of
// ValuesBeforeWords.
template <int kType>
SLC_DEVICE void DecodePart(const u8* stage, const u16* table, u32 before, int part, u32& low,
                           u32& high) {
  constexpr u32 kNothing = kType == kI8 ? 0x80u : 0u;
  const int lane = Lane(), at = LaneWord(part, lane);
  const u32 word = reinterpret_cast<const u32*>(stage + kStageMasks)[at];
  u32 index = Shuffle(before, at) + static_cast<u32>(ValuesBefore(word, lane));
  const u32 bits = word >> LaneBit(lane);
  const u8* values = stage + kStageValues;
  u32 found[4];
  SLC_UNROLL
  for (int i = 0; i < 4; ++i) {
    const bool stored = (bits >> i & 1u) != 0;
    found[i] = stored ? ValueAt<kType>(values, table, index) : kNothing;
    index += stored ? 1u : 0u;
  }
  low = PairOf<kType>(found[0], found[1]);
  high = PairOf<kType>(found[2], found[3]);
}

// The A operand of 16 columns.
template <int kType>
SLC_DEVICE void DecodeStep(const u8* stage, const u16* table, u32 before, int step, u32 (&a)[4]) {
  DecodePart<kType>(stage, table, before, 2 * step, a[0], a[2]);
  DecodePart<kType>(stage, table, before, 2 * step + 1, a[1], a[3]);
}

// The scales of the lane's two rows.
SLC_DEVICE void LaneScales(const u8* stage, float (&scale)[2]) {
  const u16* scales = reinterpret_cast<const u16*>(stage + kStageScales);
  scale[0] = HalfToFloat(scales[LaneRow(Lane())]);
  scale[1] = HalfToFloat(scales[LaneRow(Lane()) + 8]);
}

// Two halves' bits of two elements of X, which may be f32.
SLC_DEVICE u32 HalvesOf(float first, float second) {
  return FloatToHalf(first) | static_cast<u32>(FloatToHalf(second)) << 16;
}

// Four columns of a row of X from `column` on, as halves; 0 beyond M and K.
template <bool kFloatX>
SLC_DEVICE Pair LoadX(const GemmArguments& in, i64 row, i64 column, bool vectors) {
  const i64 k = in.S.k;
  if (row >= in.m || column >= k) return {0, 0};
  const i64 at = row * k + column;
  if constexpr (kFloatX) {
    const float* x = static_cast<const float*>(in.x) + at;
    float v[4];
    if (vectors) {
      const Pair a = Load64(x), b = Load64(x + 2);
      v[0] = BitsToFloat(a.x), v[1] = BitsToFloat(a.y);
      v[2] = BitsToFloat(b.x), v[3] = BitsToFloat(b.y);
    } else {
      SLC_UNROLL
      for (int i = 0; i < 4; ++i) v[i] = column + i < k ? LoadFloat(x + i) : 0.0f;
    }
    return {HalvesOf(v[0], v[1]), HalvesOf(v[2], v[3])};
  } else {
    const u16* x = static_cast<const u16*>(in.x) + at;
    if (vectors) return Load64(x);
    u32 v[4];
    SLC_UNROLL
    for (int i = 0; i < 4; ++i) v[i] = column + i < k ? Load16(x + i) : 0u;
    return {v[0] | v[1] << 16, v[2] | v[3] << 16};
  }
}

// Whether four columns of X can be read at once: rows and X itself begin at a multiple of 8 bytes.
template <bool kFloatX>
SLC_DEVICE bool ReadsVectors(const GemmArguments& in) {
  return in.S.k % 4 == 0 && reinterpret_cast<u64>(in.x) % 8 == 0;
}

template <bool kFloatX>
SLC_DEVICE void StoreY(const GemmArguments& out, i64 row, i64 column, float sum) {
  float value = sum * out.S.scale_first * out.S.scale_second;
  if (out.bias != nullptr) value += LoadFloat(out.bias + column);
  const i64 at = row * out.S.n + column;
  if constexpr (kFloatX) {
    static_cast<float*>(out.y)[at] = value;
  } else {
    static_cast<u16*>(out.y)[at] = FloatToHalf(value);
  }
}

}  // namespace slc::cuda
