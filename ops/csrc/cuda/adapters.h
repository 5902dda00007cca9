// ConcatAdapterDown and ConcatAdapterUp: all adapters of an input in one launch. Ranks are small,
// so what counts is to read A and B once and in order; float FMAs are enough.
#pragma once

#include "arguments.h"
#include "shapes.h"

namespace slc::cuda {

// Four elements of a matrix of any type from `at` on, `left` of them there.
SLC_DEVICE void LoadFour(const void* data, int type, i64 at, i64 left, float (&out)[4]) {
  if (type == kDenseF32) {
    const float* from = static_cast<const float*>(data) + at;
    if (left >= 4 && reinterpret_cast<u64>(from) % 8 == 0) {
      const Pair a = Load64(from), b = Load64(from + 2);
      out[0] = BitsToFloat(a.x), out[1] = BitsToFloat(a.y);
      out[2] = BitsToFloat(b.x), out[3] = BitsToFloat(b.y);
      return;
    }
    SLC_UNROLL
    for (int i = 0; i < 4; ++i) out[i] = i < left ? LoadFloat(from + i) : 0.0f;
  } else if (type == kDenseF16) {
    const u16* from = static_cast<const u16*>(data) + at;
    if (left >= 4 && reinterpret_cast<u64>(from) % 8 == 0) {
      const Pair v = Load64(from);
      out[0] = HalfToFloat(static_cast<u16>(v.x)),
      out[1] = HalfToFloat(static_cast<u16>(v.x >> 16));
      out[2] = HalfToFloat(static_cast<u16>(v.y)),
      out[3] = HalfToFloat(static_cast<u16>(v.y >> 16));
      return;
    }
    SLC_UNROLL
    for (int i = 0; i < 4; ++i) out[i] = i < left ? HalfToFloat(Load16(from + i)) : 0.0f;
  } else {
    const signed char* from = static_cast<const signed char*>(data) + at;
    if (left >= 4 && reinterpret_cast<u64>(from) % 4 == 0) {
      const u32 v = Load32(reinterpret_cast<const u32*>(from));
      SLC_UNROLL
      for (int i = 0; i < 4; ++i) out[i] = static_cast<float>(static_cast<signed char>(v >> 8 * i));
      return;
    }
    SLC_UNROLL
    for (int i = 0; i < 4; ++i) out[i] = i < left ? static_cast<float>(LoadByte(from + i)) : 0.0f;
  }
}

template <bool kFloat>
SLC_DEVICE void StoreOne(void* data, i64 at, float value) {
  if constexpr (kFloat) {
    static_cast<float*>(data)[at] = value;
  } else {
    static_cast<u16*>(data)[at] = FloatToHalf(value);
  }
}

template <bool kFloat>
SLC_DEVICE float LoadOne(const void* data, i64 at) {
  if constexpr (kFloat) return static_cast<const float*>(data)[at];
  return HalfToFloat(static_cast<const u16*>(data)[at]);
}

// A warp: one rank (8·BlockX() + warp, counted over the adapters), rows 8·BlockY() … of X.
template <bool kFloat>
SLC_DEVICE void AdapterDown(const DownArguments& in) {
  i64 rank = BlockX() * kAdapterWarps + Warp();
  if (rank >= in.ranks) return;
  int nth = 0;
  while (rank >= in.adapters[nth].rank) rank -= in.adapters[nth++].rank;
  const Adapter& A = in.adapters[nth];
  const i64 row0 = BlockY() * kAdapterRows;
  float sums[kAdapterRows] = {};
  for (i64 column = 4 * Lane(); column < in.k; column += 4 * 32) {
    float a[4], x[4];
    LoadFour(A.data, A.type, rank * in.k + column, in.k - column, a);
    SLC_UNROLL
    for (int j = 0; j < kAdapterRows; ++j) {
      if (row0 + j >= in.m) continue;
      LoadFour(in.x, kFloat ? kDenseF32 : kDenseF16, (row0 + j) * in.k + column, in.k - column, x);
      SLC_UNROLL
      for (int i = 0; i < 4; ++i) sums[j] += a[i] * x[i];
    }
  }
  const i64 column = A.begin + rank;
  const float scale = A.scale == nullptr ? 1.0f : LoadFloat(A.scale + rank);
  const float gate = in.gate == nullptr ? 1.0f : LoadFloat(in.gate + column);
  SLC_UNROLL
  for (int j = 0; j < kAdapterRows; ++j) {
    float sum = sums[j];
    SLC_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) sum += ShuffleXor(sum, mask);
    if (Lane() == j && row0 + j < in.m) {
      StoreOne<kFloat>(in.h, (row0 + j) * in.stride + column, gate * (scale * sum));
    }
  }
}

// Along the ranks of all adapters, one behind the other, each counted up to a multiple of `step`:
// so that many small ones take as many steps as one of their rank.
struct RankWalk {
  int adapter = 0;
  i64 begin = 0;  // of that adapter
};

// Goes on to where `at` is; false behind the last adapter. `at` never goes back.
SLC_DEVICE bool WalkTo(const UpArguments& in, i64 at, int step, RankWalk& walk) {
  while (walk.adapter < in.count) {
    const i64 end = walk.begin + (in.adapters[walk.adapter].rank + step - 1) / step * step;
    if (at < end) return true;
    walk.begin = end;
    ++walk.adapter;
  }
  return false;
}

// Eight lanes: one row of every B (32·BlockX() + …), rows 8·BlockY() … of H and Y.
template <bool kFloat>
SLC_DEVICE void AdapterUp(const UpArguments& in) {
  const i64 n = (BlockX() * kAdapterWarps + Warp()) * (32 / kUpLanes) + Lane() / kUpLanes;
  const int part = Lane() % kUpLanes;
  const i64 row0 = BlockY() * kAdapterRows;
  float sums[kAdapterRows] = {};
  RankWalk walk;
  for (i64 rank = 4 * part; n < in.n && WalkTo(in, rank, 4, walk); rank += 4 * kUpLanes) {
    const Adapter& B = in.adapters[walk.adapter];
    const i64 at = rank - walk.begin;
    const float scale = B.scale == nullptr ? 1.0f : LoadFloat(B.scale + n);
    float b[4], h[4];
    LoadFour(B.data, B.type, n * B.rank + at, B.rank - at, b);
    SLC_UNROLL
    for (int j = 0; j < kAdapterRows; ++j) {
      if (row0 + j >= in.m) continue;
      LoadFour(in.h, kFloat ? kDenseF32 : kDenseF16, (row0 + j) * in.stride + B.begin + at,
               B.rank - at, h);
      SLC_UNROLL
      for (int i = 0; i < 4; ++i) sums[j] += scale * (b[i] * h[i]);
    }
  }
  SLC_UNROLL
  for (int j = 0; j < kAdapterRows; ++j) {
    float sum = sums[j];
    SLC_UNROLL
    for (int mask = kUpLanes / 2; mask > 0; mask /= 2) sum += ShuffleXor(sum, mask);
    if (part == j && n < in.n && row0 + j < in.m) {
      const i64 at = (row0 + j) * in.n + n;
      StoreOne<kFloat>(in.y, at, LoadOne<kFloat>(in.y0, at) + sum);
    }
  }
}

}  // namespace slc::cuda
