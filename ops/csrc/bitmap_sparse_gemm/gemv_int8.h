// The loops of the GEMV kernels on int8 activations, one word at a time.
#ifndef SLC_BITMAP_SPARSE_GEMM_GEMV_INT8_H_
#define SLC_BITMAP_SPARSE_GEMM_GEMV_INT8_H_

#include "gemv_f32.h"
#include "values.h"

namespace slc {
namespace {

constexpr int64_t kScaleWords = 64;  // words whose scales are read ahead

// out[i] = scale of word begin + i of a row, of which each has one, times its step,
// i < count <= kScaleWords. Whole vectors: what lies behind the row's scales is still the blob, and
// what lands beyond count is not used.
template <class S>
inline void WordFactors(const PackedView& w, int64_t row, int64_t begin, int64_t count,
                        const float* steps, float* out) {
  const uint8_t* scales = w.scales + 2 * (row * w.groups + begin);
  for (int64_t i = 0; i < count; i += 8) {
    S::Store(out + i, S::Mul(S::LoadF16(scales + 2 * i), S::Load(steps + i)));
  }
}

// Rows of w at a time, for M rows of x. Those of full blobs lie where they lie, so several can
// share what is loaded of x and add up their lanes together. That helps i4, which instructions
// bound; i8 is bound by the memory, which likes one stream best.
template <class Reader, int M>
constexpr int RowsAtATime() {
  if constexpr (Reader::kFull) return Reader::kWordBytes > 32 ? 1 : M == 1 ? 4 : 2;
  return 1;
}

// R rows of w, from `row` on, times M rows of x: integer sums are exact, and each word's
// sum is scaled into float lanes.
template <class S, class Reader, int M>
class RowsInt8 {  // all of it inline, so that the sums stay in registers
 public:
  static constexpr int R = RowsAtATime<Reader, M>();

  // ahead: how far from a value to that which is asked for of the memory when it is read.
  // values[r]: where those of row r begin. Rows from `count` on are row count - 1 again, and not
  // written.
  RowsInt8(const SparseArgs& a, const Reader& reader, int64_t row, int64_t count, int64_t ahead,
           const uint8_t* (&values)[R])
      : a_(a), w_(*a.w), reader_(reader), row_(row), count_(count), ahead_(ahead), values_(values) {
    Clear(sums_);
  }

  [[gnu::always_inline]] void Run() {
    if (w_.group_words == 1) {
      RunWords();
    } else {
      RunGroups();
    }
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      float totals[R];
      if constexpr (R == 4) {
        S::Total4(sums_[m], totals);
      } else {
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) totals[r] = S::Total(sums_[m][r]);
      }
      for (int64_t r = 0; r < count_; ++r) {
        const float bias = a_.bias == nullptr ? 0.0f : a_.bias[row_ + r];
        a_.y[m * a_.ldy + row_ + r] = totals[r] * w_.factor + bias;
      }
    }
  }

 private:
  using Sums = typename S::Sums[M][R];

  [[gnu::always_inline]] static void Clear(Sums& sums) {
#pragma GCC unroll 4
    for (auto& of_x : sums) {
#pragma GCC unroll 4
      for (auto& sum : of_x) sum = S::ZeroSums();
    }
  }
  int64_t Row(int r) const { return row_ + (r < count_ ? r : count_ - 1); }

  // A scale for each word: scales times steps, kScaleWords at a time.
  [[gnu::always_inline]] void RunWords() {
    alignas(64) float factors[M][R][kScaleWords];
    for (int64_t begin = 0; begin < w_.words; begin += kScaleWords) {
      const int64_t count = w_.words - begin < kScaleWords ? w_.words - begin : kScaleWords;
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) {
        const float* steps = a_.x.steps + m * a_.x.step_stride + begin;
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) WordFactors<S>(w_, Row(r), begin, count, steps, factors[m][r]);
      }
      for (int64_t i = 0; i < count; ++i) {
        AddWord(begin + i, &factors[0][0][i], R * kScaleWords, kScaleWords, sums_);
      }
    }
  }

  // Words that share a scale are added up with their steps alone.
  [[gnu::always_inline]] void RunGroups() {
    for (int64_t group = 0, word = 0; group < w_.groups; ++group) {
      const int64_t left = w_.words - word;
      const int64_t end = word + (left < w_.group_words ? left : w_.group_words);
      Sums sums;
      Clear(sums);
      for (; word < end; ++word) AddWord(word, a_.x.steps + word, a_.x.step_stride, 0, sums);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const float scale = S::HalfAt(w_.scales + 2 * (Row(r) * w_.groups + group));
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) sums_[m][r] = S::MulAddSums(sums[m][r], scale, sums_[m][r]);
      }
    }
  }

  // sums[m][r] += factors[m * x_stride + r * row_stride] * (the word of row r times that of row m
  // of x).
  [[gnu::always_inline]] void AddWord(int64_t word, const float* factors, int64_t x_stride,
                                      int64_t row_stride, Sums& sums) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const uint8_t* masks = MasksAt<Reader>(w_, row_ + r, word);
      __builtin_prefetch(values_[r] + ahead_);
      const typename S::Bytes weights = reader_.Ints(values_[r], masks);
      values_[r] += Reader::Bytes(masks);
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) {
        const int64_t at = m * a_.x.row_stride + 64 * word;
        const int32_t* correction =
            a_.x.corrections + m * a_.x.correction_stride + S::kCorrections * word;
        const auto dot = S::Dot64(weights, a_.x.q + at, a_.x.magnitude + at, correction);
        sums[m][r] = S::AddScaled(dot, factors[m * x_stride + r * row_stride], sums[m][r]);
      }
    }
  }

  const SparseArgs& a_;
  const PackedView& w_;
  const Reader& reader_;
  const int64_t row_, count_;
  const int64_t ahead_;
  const uint8_t* (&values_)[R];
  Sums sums_;
};

// Where R rows are read side by side, what comes next is the same place R rows on, and the streams
// are too short for the processor to find out. As many rows ahead as the memory's latency takes;
// what that leaves out is asked for here.
template <class Reader, int R>
inline int64_t PrefetchRows(const PackedView& w, const uint8_t* values) {
  if constexpr (R == 1) return kPrefetchBytes;
  const int64_t rows_bytes = R * RowBytes<Reader>(w, 0);
  const int64_t ahead = (2 * kPrefetchBytes + rows_bytes - 1) / rows_bytes * rows_bytes;
  const int64_t first = ahead < 4 * kPrefetchBytes ? ahead : 4 * kPrefetchBytes;
  for (int64_t at = 0; at < first; at += 64) __builtin_prefetch(values + at);
  return ahead;
}

template <class S, class Reader, int M>
inline void GemvInt8(const SparseArgs& a, const Reader& reader) {
  constexpr int R = RowsAtATime<Reader, M>();
  const uint8_t* next = RowValues(*a.w, a.row_begin);
  const int64_t ahead = PrefetchRows<Reader, R>(*a.w, next);
  for (int64_t row = a.row_begin; row < a.row_end; row += R) {
    const int64_t count = a.row_end - row < R ? a.row_end - row : R;
    const uint8_t* values[R];
    for (int64_t r = 0; r < R; ++r) {
      values[r] = next;
      if (r + 1 < count) next += RowBytes<Reader>(*a.w, row);
    }
    RowsInt8<S, Reader, M>(a, reader, row, count, ahead, values).Run();
    if constexpr (Reader::kFull) {
      next += RowBytes<Reader>(*a.w, row);
    } else {
      next = values[0];
    }
  }
}

template <class S, class Reader>
inline void SparseGemvInt8(const SparseArgs& a) {
  const Reader reader(*a.w);
  WithRowsOfX(a.m, [&](auto m) { GemvInt8<S, Reader, decltype(m)::value>(a, reader); });
}

}  // namespace
}  // namespace slc

#endif  // SLC_BITMAP_SPARSE_GEMM_GEMV_INT8_H_
