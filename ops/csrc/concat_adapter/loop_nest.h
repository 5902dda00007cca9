// The loops of every adapter kernel, over a Simd type (simd_generic.h and its twins) and a value
// type of dense_values.h.
#ifndef SLC_CONCAT_ADAPTER_LOOP_NEST_H_
#define SLC_CONCAT_ADAPTER_LOOP_NEST_H_

#include <cstring>

#include "../dense_values.h"
#include "concat_adapter.h"

namespace slc {
namespace {

constexpr int kTileX = 3;
constexpr int kTileW = 4;

// The last k % 8 columns of M rows of x and four rows of w, zero-filled to 8.
template <class W, int M>
struct Tail {
  alignas(32) float x[M][8] = {};
  alignas(32) uint8_t w[kTileW][8 * W::kBytes] = {};

  Tail(const float* from_x, int64_t ldx, const uint8_t* const* rows, int64_t begin, int64_t count) {
    const auto elements = static_cast<size_t>(count);
    for (int i = 0; i < M; ++i) std::memcpy(x[i], from_x + i * ldx + begin, 4 * elements);
    for (int r = 0; r < kTileW; ++r) {
      std::memcpy(w[r], rows[r] + begin * W::kBytes, elements * W::kBytes);
    }
  }
};

// sums += eight columns of x times eight columns of w.
template <class S, class W, int M>
inline void Step(const float* const* x, const uint8_t* const* w,
                 typename S::Vec (&sums)[M][kTileW]) {
  typename S::Vec xs[M];
  for (int i = 0; i < M; ++i) xs[i] = S::Load(x[i]);
#pragma GCC unroll 4
  for (int r = 0; r < kTileW; ++r) {
    const auto v = W::template Load<S>(w[r]);
#pragma GCC unroll 4
    for (int i = 0; i < M; ++i) sums[i][r] = S::MulAdd(v, xs[i], sums[i][r]);
  }
}

// out[i][r] = x row i · w row r.
template <class S, class W, int M>
inline void TileDot(const float* x, int64_t ldx, const uint8_t* const* rows, int64_t k,
                    float (*out)[kTileW]) {
  typename S::Vec sums[M][kTileW];
  for (auto& row_sums : sums) {
    for (auto& sum : row_sums) sum = S::Zero();
  }
  int64_t c = 0;
  for (; c + 8 <= k; c += 8) {
    // The rows lie one behind the other, so the next tile's begin kTileW rows on: asking for them
    // now is all the time there is, since a tile of a short adapter ends before hardware notices
    // it.
    if (c * W::kBytes % 64 == 0) {
      for (int r = 0; r < kTileW; ++r) {
        __builtin_prefetch(rows[r] + (c + kTileW * k) * W::kBytes);
        __builtin_prefetch(rows[r] + c * W::kBytes + 256);
      }
    }
    const float* xs[M];
    const uint8_t* ws[kTileW];
    for (int i = 0; i < M; ++i) xs[i] = x + i * ldx + c;
    for (int r = 0; r < kTileW; ++r) ws[r] = rows[r] + c * W::kBytes;
    Step<S, W, M>(xs, ws, sums);
  }
  if (c < k) {
    const Tail<W, M> tail(x, ldx, rows, c, k - c);
    const float* xs[M];
    for (int i = 0; i < M; ++i) xs[i] = tail.x[i];
    const uint8_t* ws[kTileW] = {tail.w[0], tail.w[1], tail.w[2], tail.w[3]};
    Step<S, W, M>(xs, ws, sums);
  }
  for (int i = 0; i < M; ++i) S::Sum4(sums[i], out[i]);
}

template <class S, class W>
inline void AdapterDot(const DenseArgs& a) {
  const auto* w = static_cast<const uint8_t*>(a.w);
  for (int64_t row = 0; row < a.rows; row += kTileW) {
    const int64_t rows = a.rows - row < kTileW ? a.rows - row : kTileW;
    const uint8_t* pointers[kTileW];  // a short tile repeats its last row, and drops the result
    for (int64_t r = 0; r < kTileW; ++r) {
      pointers[r] = w + (row + (r < rows ? r : rows - 1)) * a.k * W::kBytes;
    }
    for (int64_t i = 0; i < a.m; i += kTileX) {
      float out[kTileX][kTileW];
      const int64_t count = a.m - i < kTileX ? a.m - i : kTileX;
      const float* x = a.x + i * a.ldx;
      if (count == 3) TileDot<S, W, 3>(x, a.ldx, pointers, a.k, out);
      if (count == 2) TileDot<S, W, 2>(x, a.ldx, pointers, a.k, out);
      if (count == 1) TileDot<S, W, 1>(x, a.ldx, pointers, a.k, out);
      for (int64_t j = 0; j < count; ++j) {
        for (int64_t r = 0; r < rows; ++r) a.y[(i + j) * a.ldy + row + r] = out[j][r];
      }
    }
  }
}

}  // namespace
}  // namespace slc

#endif  // SLC_CONCAT_ADAPTER_LOOP_NEST_H_
