// The loops of the kernels for delta blobs: one multiply-add for each stored value.
//
// No bit is searched for and no branch depends on the data: the column is a running sum of bytes,
// one addition a value. At a density of 0.05 that is a twentieth of the multiplications of a dense
// product, and GEMM does the same for kColumnRows rows of x at a time.
#ifndef SLC_BITMAP_SPARSE_GEMM_DELTA_H_
#define SLC_BITMAP_SPARSE_GEMM_DELTA_H_

#include "../dense_values.h"
#include "gemv_f32.h"
#include "values.h"

namespace slc {
namespace {

constexpr int kStep = 8;  // values converted at a time
constexpr int kSums = 4;  // independent sums, to hide the latency of multiply-add

struct DeltaRow {
  const uint8_t* deltas;
  const uint8_t* values;
  int64_t count;
  float scale;  // one after the other: their product may be subnormal
  float factor;
};

template <class S, class V>
inline DeltaRow RowOf(const PackedView& w, int64_t row) {
  const auto begin = static_cast<int64_t>(LoadWord(w.starts + 8 * row));
  const auto end = static_cast<int64_t>(LoadWord(w.starts + 8 * (row + 1)));
  const float scale = w.scales == nullptr ? 1.0f : S::HalfAt(w.scales + 2 * row);
  return {w.deltas + begin, w.values + V::kBytes * begin, end - begin, scale, w.factor};
}

// Calls step(j, value, column) for every value of a row, j counting modulo kStep.
template <class S, class V, class Step>
inline void ForEachValue(const DeltaRow& row, const Step& step) {
  alignas(32) float values[kStep];
  int64_t column = 0, i = 0;
  for (; i + kStep <= row.count; i += kStep) {
    __builtin_prefetch(row.values + V::kBytes * i + kPrefetchBytes);
    __builtin_prefetch(row.deltas + i + kPrefetchBytes / 2);
    S::Store(values, V::template Load<S>(row.values + V::kBytes * i));
    const uint64_t deltas = LoadWord(row.deltas + i);
#pragma GCC unroll 8
    for (int j = 0; j < kStep; ++j) {
      column += static_cast<int64_t>(deltas >> (8 * j) & 255u);
      step(j, values[j], column);
    }
  }
  if (i == row.count) return;
  S::Store(values, V::template Load<S>(row.values + V::kBytes * i));
  for (int j = 0; i < row.count; ++i, ++j) {
    column += row.deltas[i];
    step(j, values[j], column);
  }
}

template <class S, class V, int M>
inline void DeltaGemvRows(const SparseArgs& a) {
  for (int64_t n = a.row_begin; n < a.row_end; ++n) {
    const DeltaRow row = RowOf<S, V>(*a.w, n);
    float sums[M][kSums] = {};
    ForEachValue<S, V>(row, [&](int j, float value, int64_t column) {
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) {
        float& sum = sums[m][j % kSums];
        sum = S::MulAddScalar(value, a.x.x[m * a.x.row_stride + column], sum);
      }
    });
    const float bias = a.bias == nullptr ? 0.0f : a.bias[n];
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      const float sum = (sums[m][0] + sums[m][1]) + (sums[m][2] + sums[m][3]);
      a.y[m * a.ldy + n] = sum * row.scale * row.factor + bias;
    }
  }
}

template <class S, class V>
inline void SparseDeltaGemv(const SparseArgs& a) {
  WithRowsOfX(a.m, [&](auto m) { DeltaGemvRows<S, V, decltype(m)::value>(a); });
}

// kColumnRows rows of x times row n of w; out[i] for row i.
template <class S, class V>
inline void DeltaColumnDot(const DeltaRow& row, const float* x, float* out) {
  constexpr int kVecs = kColumnRows / 8;
  typename S::Vec sums[kSums][kVecs];
#pragma GCC unroll 4
  for (auto& sum : sums) {
#pragma GCC unroll 4
    for (auto& v : sum) v = S::Zero();
  }
  ForEachValue<S, V>(row, [&](int j, float value, int64_t column) {
    const auto weight = S::Set(value);
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) {
      auto& sum = sums[j % kSums][v];
      sum = S::MulAdd(weight, S::Load(x + kColumnRows * column + 8 * v), sum);
    }
  });
  const auto scale = S::Set(row.scale), factor = S::Set(row.factor);
#pragma GCC unroll 4
  for (int v = 0; v < kVecs; ++v) {
    const auto sum = S::Add(S::Add(sums[0][v], sums[1][v]), S::Add(sums[2][v], sums[3][v]));
    S::Store(out + 8 * v, S::Mul(S::Mul(sum, scale), factor));
  }
}

template <class S, class V>
inline void SparseDeltaGemm(const SparseArgs& a) {
  constexpr int64_t kRows = 16;  // of w whose results are written together
  alignas(64) float out[kRows][kColumnRows];
  for (int64_t m = 0; m < a.m; m += kColumnRows) {
    const int64_t count = a.m - m < kColumnRows ? a.m - m : kColumnRows;
    const float* x = a.x.x + m * a.x.row_stride;
    for (int64_t begin = a.row_begin; begin < a.row_end; begin += kRows) {
      const int64_t rows = a.row_end - begin < kRows ? a.row_end - begin : kRows;
      for (int64_t r = 0; r < rows; ++r) {
        DeltaColumnDot<S, V>(RowOf<S, V>(*a.w, begin + r), x, out[r]);
      }
      for (int64_t i = 0; i < count; ++i) {
        float* y = a.y + (m + i) * a.ldy + begin;
        for (int64_t r = 0; r < rows; ++r) {
          y[r] = out[r][i] + (a.bias == nullptr ? 0.0f : a.bias[begin + r]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace slc

#endif  // SLC_BITMAP_SPARSE_GEMM_DELTA_H_
