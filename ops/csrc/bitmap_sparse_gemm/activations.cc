#include "activations.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "../f16.h"
#include "kernels.h"

namespace slc {
namespace {

constexpr int64_t kStepsPadding = 8;          // kernels read steps eight at a time
constexpr int64_t kSerialElements = 1 << 15;  // below this a wake-up costs more than the copy

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

QuantizeBlockFn SelectQuantizeBlock(Isa isa) {
#if SLC_HAVE_AVX2
  if (isa == Isa::kAvx2 || isa == Isa::kAvx512) return quantize_block__avx2;
#endif
#if SLC_HAVE_NEON
  if (isa == Isa::kNeon || isa == Isa::kDotprod) return quantize_block__neon;
#endif
  static_cast<void>(isa);
  return quantize_block__generic;
}

// Columns begin ... begin + count - 1 of row i as float32, zero from K on.
void CopyColumns(const Rows& rows, int64_t i, int64_t begin, int64_t count, float* out) {
  const int64_t inside = std::max<int64_t>(0, std::min(count, rows.k - begin));
  const int64_t at = i * rows.k + begin;
  if (rows.is_half) {
    const auto* halves = static_cast<const uint16_t*>(rows.x) + at;
    for (int64_t k = 0; k < inside; ++k) out[k] = HalfToFloat(halves[k]);
  } else {
    std::copy_n(static_cast<const float*>(rows.x) + at, inside, out);
  }
  std::fill(out + inside, out + count, 0.0f);
}

struct Job {
  Rows rows;
  Order order;
  Activations view;
  float* x;
  int8_t* q;
  uint8_t* magnitude;
  float* steps;
  int32_t* corrections;
  QuantizeBlockFn quantize;
  int64_t words;
};

// kRows, kBlocks.
void CopyRow(const Job& job, int64_t i) {
  const Activations& v = job.view;
  const int64_t width = job.order == Order::kBlocks ? v.row_stride : 64 * job.words;
  for (int64_t begin = 0; begin < 64 * job.words; begin += width) {
    float* out = job.x + begin / width * v.block_stride + i * v.row_stride;
    CopyColumns(job.rows, i, begin, std::min(width, 64 * job.words - begin), out);
  }
}

// kSplit.
void SplitRow(const Job& job, int64_t i) {
  // 2^e brings the largest magnitude to [2^126, 2^127); 2^120 at most, so that 2^(112 - e) and the
  // scale are both float32 numbers.
  constexpr int kTop = 126, kExponentMax = 120, kHalfToFloatExponent = 112;
  uint32_t largest_bits = 0;
  float* out = job.x + i * job.view.row_stride;
  CopyColumns(job.rows, i, 0, 64 * job.words, out);
  for (int64_t k = 0; k < 64 * job.words; ++k) {
    largest_bits = std::max(largest_bits, FloatToBits(out[k]) & 0x7fffffffu);
  }
  const int exponent = static_cast<int>(largest_bits >> 23) - 127;
  const int e = std::min(kTop - exponent, kExponentMax);
  const float scale = std::ldexp(1.0f, e);
  job.steps[i] = std::ldexp(1.0f, kHalfToFloatExponent - e);
  for (int64_t k = 0; k < 64 * job.words; k += 32, out += 32) {
    float odd[16];
    for (int j = 0; j < 16; ++j) {
      odd[j] = out[2 * j + 1] * scale;
      out[j] = out[2 * j] * scale;
    }
    std::copy_n(odd, 16, out + 16);
  }
}

// kColumns: the 64 * words columns of kColumnRows rows, transposed.
void CopyTile(const Job& job, int64_t tile) {
  float* out = job.x + tile * kColumnRows * job.view.row_stride;
  const int64_t first = tile * kColumnRows;
  float row[64];
  for (int64_t begin = 0; begin < 64 * job.words; begin += 64) {
    for (int64_t i = 0; i < kColumnRows; ++i) {
      if (first + i < job.rows.m) {
        CopyColumns(job.rows, first + i, begin, 64, row);
      } else {
        std::fill(row, row + 64, 0.0f);
      }
      for (int64_t k = 0; k < 64; ++k) out[(begin + k) * kColumnRows + i] = row[k];
    }
  }
}

void QuantizeRow(const Job& job, int64_t i) {
  const Activations& v = job.view;
  float row[64];
  for (int64_t word = 0; word < job.words; ++word) {
    CopyColumns(job.rows, i, 64 * word, 64, row);
    const int64_t block = job.order == Order::kInt8Blocks ? 64 * word / v.row_stride : 0;
    const int64_t at = block * v.block_stride + i * v.row_stride + 64 * word - block * v.row_stride;
    const int64_t step = i * v.step_stride + word;
    int32_t sums[16];
    job.quantize(row, job.q + at, job.magnitude + at, job.steps + step, sums);
    if (job.order == Order::kInt8Rows) {
      int32_t* corrections = job.corrections + i * v.correction_stride + 16 * word;
      for (int s = 0; s < 16; ++s) corrections[s] = -128 * sums[s];
    } else {
      job.corrections[step] = -128 * std::accumulate(sums, sums + 16, 0);
    }
  }
}

// kInt8Split.
void QuantizeSplit(const Job& job, int64_t i) {
  const Activations& v = job.view;
  float row[64];
  int8_t q[64];
  uint8_t magnitude[64];
  int32_t sums[16];
  for (int64_t word = 0; word < job.words; ++word) {
    CopyColumns(job.rows, i, 64 * word, 64, row);
    job.quantize(row, q, magnitude, job.steps + i * v.step_stride + word, sums);
    int8_t* out = job.q + i * v.row_stride + 64 * word;
    for (int j = 0; j < 32; ++j) {
      out[j] = q[2 * j];
      out[32 + j] = q[2 * j + 1];
    }
    int32_t* corrections = job.corrections + i * v.correction_stride + 8 * word;
    for (int s = 0; s < 8; ++s) corrections[s] = -64 * (sums[2 * s] + sums[2 * s + 1]);
  }
}

// kInt8Planes: blocks of four words, whose words are interleaved column by column modulo 8.
void QuantizePlanes(const Job& job, int64_t i) {
  const Activations& v = job.view;
  float row[64];
  int8_t q[64] = {};
  uint8_t magnitude[64];
  int32_t sums[16];
  for (int64_t word = 0; word < DivideUp(job.words, 4) * 4; ++word) {
    const int64_t step = i * v.step_stride + 2 * word;
    if (word < job.words) {
      CopyColumns(job.rows, i, 64 * word, 64, row);
      job.quantize(row, q, magnitude, job.steps + step, sums);
    } else {
      std::memset(q, 0, sizeof q);
      std::memset(sums, 0, sizeof sums);
      job.steps[step] = 0.0f;
    }
    job.steps[step + 1] = job.steps[step];
    int8_t* out = job.q + i * v.row_stride + word / 4 * 256 + word % 4 * 8;
    for (int b = 0; b < 8; ++b) {
      for (int t = 0; t < 8; ++t) out[32 * t + b] = q[8 * b + t];
    }
    for (int half = 0; half < 2; ++half) {
      job.corrections[step + half] = -64 * std::accumulate(sums + 8 * half, sums + 8 * half + 8, 0);
    }
  }
}

void RunJob(void* data, size_t index) {
  const Job& job = *static_cast<const Job*>(data);
  const auto i = static_cast<int64_t>(index);
  switch (job.order) {
    case Order::kRows:
    case Order::kBlocks:
      return CopyRow(job, i);
    case Order::kSplit:
      return SplitRow(job, i);
    case Order::kColumns:
      return CopyTile(job, i);
    case Order::kInt8Rows:
    case Order::kInt8Blocks:
      return QuantizeRow(job, i);
    case Order::kInt8Split:
      return QuantizeSplit(job, i);
    case Order::kInt8Planes:
      return QuantizePlanes(job, i);
  }
}

}  // namespace

PackedActivations::PackedActivations(const Rows& rows, Order order, Isa isa,
                                     const Parallel& parallel)
    : view_{} {
  const int64_t words = DivideUp(rows.k, 64), columns = 64 * words;
  const bool blocks = order == Order::kBlocks || order == Order::kInt8Blocks;
  const bool planes = order == Order::kInt8Planes, tiles = order == Order::kColumns;
  view_.order = order;
  const int64_t width = std::min(columns, kBlockColumns);
  view_.row_stride = blocks ? width : planes ? DivideUp(words, 4) * 256 : columns;
  view_.block_stride = rows.m * width;
  view_.step_stride = planes ? DivideUp(words, 4) * 8 : order == Order::kSplit ? 1 : words;
  view_.correction_stride = order == Order::kInt8Rows    ? 16 * words
                            : order == Order::kInt8Split ? 8 * words
                                                         : view_.step_stride;
  const int64_t count = tiles ? DivideUp(rows.m, kColumnRows) : rows.m;
  const int64_t elements = blocks  ? DivideUp(columns, width) * view_.block_stride
                           : tiles ? count * kColumnRows * columns
                                   : rows.m * view_.row_stride;
  const bool split = order == Order::kSplit;
  const bool is_float = order == Order::kRows || order == Order::kBlocks || split || tiles;
  if (order == Order::kRows && !rows.is_half && columns == rows.k) {
    view_.x = static_cast<const float*>(rows.x);
    return;
  }
  if (is_float) {
    floats_ = ScratchOf<float>(elements);
    view_.x = floats_.data();
    if (split) steps_ = ScratchOf<float>(rows.m);
    view_.steps = steps_.data();
  } else {
    q_ = ScratchOf<int8_t>(elements);
    magnitude_ = ScratchOf<uint8_t>(planes || order == Order::kInt8Split ? 0 : elements);
    steps_ = ScratchOf<float>(rows.m * view_.step_stride + kStepsPadding);
    corrections_ = ScratchOf<int32_t>(rows.m * view_.correction_stride);
    view_.q = q_.data();
    view_.magnitude = magnitude_.data();
    view_.steps = steps_.data();
    view_.corrections = corrections_.data();
  }
  Job job{rows,
          order,
          view_,
          floats_.data(),
          q_.data(),
          magnitude_.data(),
          steps_.data(),
          corrections_.data(),
          SelectQuantizeBlock(isa),
          words};
  if (count == 1 || rows.m * columns < kSerialElements) {
    for (int64_t i = 0; i < count; ++i) RunJob(&job, static_cast<size_t>(i));
  } else {
    parallel.run(parallel.context, RunJob, static_cast<size_t>(count), &job);
  }
}

}  // namespace slc
