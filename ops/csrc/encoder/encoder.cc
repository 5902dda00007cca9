#include "encoder.h"

#include <cmath>
#include <cstring>

#include "../f16.h"

namespace {

using slc::FloatToBits;
using slc::FloatToHalf;
using slc::HalfToFloat;

constexpr int kWord = 64;  // columns that share a mask word
constexpr int kF16 = 1, kI8 = 2, kI4 = 3;
constexpr int kPlanes = 1;
constexpr int32_t kInfinity = 0x7f800000;
constexpr uint64_t kLowBits = 0x0101010101010101u;

// What is looked up ahead while values are spread over a matrix that no cache holds.
constexpr int64_t kAhead = 32;

// The lowest bit of each byte, as a byte: bit j is that of byte j.
inline uint8_t LowBits(uint64_t bytes) {
  return static_cast<uint8_t>(((bytes & kLowBits) * 0x0102040810204080u) >> 56);
}

// 2^power as factors, where 2^power itself may be no float: the steps of times_power_of_two.
class PowerOfTwo {
 public:
  explicit PowerOfTwo(int power) {
    for (float& factor : factors_) {
      const int step = power > 126 ? 126 : power < -126 ? -126 : power;
      factor = std::ldexp(1.0f, step);
      power -= step;
    }
  }

  float Times(float value) const { return value * factors_[0] * factors_[1]; }

 private:
  float factors_[2];  // an exponent of up to 252, a header's being -149 ... 127
};

// The columns of one mask word of one row.
struct Span {
  const float* values;
  const uint8_t* stored;  // null: all that are not 0
  int width;              // up to kWord
};

// The largest magnitude that is stored, as bits: those of magnitudes compare as the numbers do.
template <int kWidth>
inline int32_t Largest(const Span& span) {
  const int width = kWidth != 0 ? kWidth : span.width;
  int32_t largest = 0;
  for (int j = 0; j < width; ++j) {
    int32_t bits = static_cast<int32_t>(FloatToBits(span.values[j]) & 0x7fffffffu);
    if (span.stored != nullptr) bits &= -static_cast<int32_t>(span.stored[j]);
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

inline int32_t Largest(const Span& span) {
  return span.width == kWord ? Largest<kWord>(span) : Largest<0>(span);
}

inline uint64_t MaskWord(const Span& span) {
  alignas(8) uint8_t bytes[kWord] = {};
  if (span.stored != nullptr) {
    std::memcpy(bytes, span.stored, static_cast<size_t>(span.width));
  } else {
    for (int j = 0; j < span.width; ++j) bytes[j] = span.values[j] != 0.0f;
  }
  uint64_t word = 0;
  for (int part = 0; part < 8; ++part) {
    uint64_t eight;
    std::memcpy(&eight, bytes + 8 * part, 8);
    word |= static_cast<uint64_t>(LowBits(eight)) << (8 * part);
  }
  return word;
}

constexpr int kStep = 8;  // values are rounded that many at a time

constexpr int WholeSteps(int count) { return (count + kStep - 1) / kStep * kStep; }

// The values that the mask has, one after another, and zeros to the end of a step; returns how
// many.
inline int Gather(const float* values, uint64_t mask, float* out) {
  int count = 0;
  if (mask == ~uint64_t{0}) {
    std::memcpy(out, values, kWord * sizeof *out);
    return kWord;
  }
  for (; mask != 0; mask &= mask - 1) out[count++] = values[__builtin_ctzll(mask)];
  for (int j = count; j < WholeSteps(count); ++j) out[j] = 0;
  return count;
}

// One row on its way through its groups. i8 and i4 only.
class Quantizer {
 public:
  explicit Quantizer(const SlcRows& rows)
      : rows_(rows),
        // Else 1 / scale would overflow.
        lift_(rows.exponent < -60 ? -rows.exponent : 0),
        lifted_(lift_),
        scaled_(rows.given_scales != nullptr ? -rows.exponent : -rows.exponent - lift_),
        levels_(rows.value_type == kI8 ? 127.0f : 63.0f) {}

  // The scale of a group as the blob keeps it.
  uint16_t Scale(int64_t row, int64_t group, int64_t groups) const {
    if (rows_.given_scales != nullptr) {
      const float given = rows_.given_scales[row * groups + group];
      return FloatToHalf(scaled_.Times(given));
    }
    int32_t largest = 0;
    const int64_t begin = group * rows_.group;
    const int64_t end = begin + rows_.group < rows_.k ? begin + rows_.group : rows_.k;
    for (int64_t at = begin; at < end; at += kWord) {
      const int32_t bits = Largest(At(row, at, end));
      largest = bits > largest ? bits : largest;
    }
    if (largest == 0) return 0x8000u;  // -0, as in blobs since version 1
    float peak;
    std::memcpy(&peak, &largest, sizeof peak);
    return FloatToHalf(scaled_.Times(lifted_.Times(peak) / levels_));
  }

  // What a lifted value is multiplied by for it to be in 1 / steps of that scale; 0 stands for a
  // group whose values all round to 0.
  float Inverse(uint16_t half, double steps) const {
    const double scale = std::ldexp(static_cast<double>(HalfToFloat(half)), rows_.exponent + lift_);
    return scale == 0.0 ? 0.0f : static_cast<float>(steps / scale);
  }

  // The stored values of a word in units of 1 / inverse; returns how many.
  int InSteps(const Span& span, uint64_t mask, float inverse, float* steps) const {
    const int count = Gather(span.values, mask, steps);
    if (lift_ != 0) {
      for (int j = 0; j < count; ++j) steps[j] = lifted_.Times(steps[j]);
    }
    for (int at = 0; at < count; at += kStep) {
      // Lifted to infinity, values times 0 would be no numbers.
      for (int j = 0; j < kStep; ++j) steps[at + j] = inverse == 0 ? 0 : steps[at + j] * inverse;
    }
    return count;
  }

  Span At(int64_t row, int64_t column, int64_t end) const {
    const int64_t flat = row * rows_.k + column;
    const int64_t left = end - column;
    return {rows_.values + flat, rows_.stored == nullptr ? nullptr : rows_.stored + flat,
            static_cast<int>(left < kWord ? left : kWord)};
  }

 private:
  const SlcRows& rows_;
  int lift_;
  PowerOfTwo lifted_, scaled_;
  float levels_;
};

// The run of codes of one mask word. Codes are zero from `count` on to the end of a step.
inline uint8_t* PackRun(const uint8_t* codes, int count, int layout, uint8_t* out) {
  if (layout == kPlanes) {
    for (int bit = 0; bit < 4; ++bit) {
      for (int at = 0; at < count; at += 8) {
        uint64_t eight;
        std::memcpy(&eight, codes + at, 8);
        *out++ = LowBits(eight >> bit);
      }
    }
    return out;
  }
  for (int at = 0; at < count; at += 2) {
    *out++ = static_cast<uint8_t>(codes[at] | codes[at + 1] << 4);
  }
  return out;
}

inline uint8_t* PackI4(const SlcRows& rows, const float* steps, int count, uint8_t* out) {
  int32_t cells[kWord];
  for (int at = 0; at < count; at += kStep) {
    for (int j = at; j < at + kStep; ++j) {
      float cell = steps[j] + 128.0f;
      cell = cell < 255.0f ? cell : 255.0f;
      cell = cell > 0.0f ? cell : 0.0f;
      cells[j] = static_cast<int32_t>(cell);
    }
  }
  alignas(8) uint8_t codes[kWord];
  for (int j = 0; j < count; ++j) codes[j] = rows.codes[cells[j]];
  for (int j = count; j < WholeSteps(count); ++j) codes[j] = 0;
  return PackRun(codes, count, rows.layout, out);
}

inline uint8_t* PackI8(const float* steps, int count, uint8_t* out) {
  int32_t levels[kWord];
  for (int at = 0; at < count; at += kStep) {
    for (int j = at; j < at + kStep; ++j) {
      float level = steps[j] < 127.0f ? steps[j] : 127.0f;
      level = level > -127.0f ? level : -127.0f;
      // To the nearest even: what lies below the last bit of 1.5 * 2^23 is rounded away.
      levels[j] = static_cast<int32_t>((level + 12582912.0f) - 12582912.0f);
    }
  }
  for (int j = 0; j < count; ++j) *out++ = static_cast<uint8_t>(levels[j]);
  return out;
}

uint8_t* PackF16(const SlcRows& rows, int64_t row, PowerOfTwo scaled, uint8_t* out) {
  const int64_t words = (rows.k + kWord - 1) / kWord;
  const float* const values = rows.values + row * rows.k;
  for (int64_t word = 0; word < words; ++word) {
    uint64_t mask = rows.masks[row * words + word];
    for (const float* from = values + word * kWord; mask != 0; mask &= mask - 1) {
      const uint16_t half = FloatToHalf(scaled.Times(from[__builtin_ctzll(mask)]));
      std::memcpy(out, &half, 2);
      out += 2;
    }
  }
  return out;
}

}  // namespace

int64_t slc_encoder_survey(const float* S, const uint8_t* stored, int64_t n, int64_t k,
                           uint64_t* masks, float* largest) {
  int32_t top = 0;
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t column = 0; column < k; column += kWord) {
      const int64_t flat = row * k + column, left = k - column;
      const Span span{S + flat, stored == nullptr ? nullptr : stored + flat,
                      static_cast<int>(left < kWord ? left : kWord)};
      const int32_t own = Largest(span);
      const int32_t any = stored == nullptr ? own : Largest({span.values, nullptr, span.width});
      if (any >= kInfinity) {
        int64_t at = flat;
        while (std::isfinite(S[at])) ++at;
        return at;
      }
      top = own > top ? own : top;
      *masks++ = MaskWord(span);
    }
  }
  std::memcpy(largest, &top, sizeof top);
  return -1;
}

int64_t slc_encoder_values(const SlcRows* rows, uint16_t* scales, uint8_t* section) {
  const Quantizer quantizer(*rows);
  const PowerOfTwo scaled(-rows->exponent);
  const uint8_t* const begin = section;
  const int64_t k = rows->k, words = (k + kWord - 1) / kWord;
  const int64_t groups = rows->value_type == kF16 ? 0 : (k + rows->group - 1) / rows->group;
  for (int64_t row = 0; row < rows->rows; ++row) {
    if (rows->value_type == kF16) {
      section = PackF16(*rows, row, scaled, section);
      continue;
    }
    for (int64_t group = 0; group < groups; ++group) {
      const uint16_t scale = quantizer.Scale(row, group, groups);
      *scales++ = scale;
      const float inverse = quantizer.Inverse(scale, rows->value_type == kI4 ? 2.0 : 1.0);
      const int64_t first = group * rows->group;
      const int64_t last = first + rows->group < k ? first + rows->group : k;
      for (int64_t column = first; column < last; column += kWord) {
        const uint64_t mask = rows->masks[row * words + column / kWord];
        if (mask == 0) continue;
        const Span span = quantizer.At(row, column, last);
        float steps[kWord];
        const int count = quantizer.InSteps(span, mask, inverse, steps);
        section = rows->value_type == kI4 ? PackI4(*rows, steps, count, section)
                                          : PackI8(steps, count, section);
      }
    }
  }
  return section - begin;
}

void slc_encoder_histogram(const SlcRows* rows, double* counts) {
  const Quantizer quantizer(*rows);
  const int64_t k = rows->k, words = (k + kWord - 1) / kWord;
  const int64_t groups = (k + rows->group - 1) / rows->group;
  for (int64_t row = 0; row < rows->rows; ++row) {
    for (int64_t group = 0; group < groups; ++group) {
      const uint16_t scale = quantizer.Scale(row, group, groups);
      const float inverse = quantizer.Inverse(scale, 1.0);
      const float weight = HalfToFloat(scale) * HalfToFloat(scale);
      const int64_t first = group * rows->group;
      const int64_t last = first + rows->group < k ? first + rows->group : k;
      for (int64_t column = first; column < last; column += kWord) {
        const Span span = quantizer.At(row, column, last);
        const uint64_t mask = rows->masks[row * words + column / kWord];
        float steps[kWord];
        const int count = quantizer.InSteps(span, mask, inverse, steps);
        for (int j = 0; j < count; ++j) {
          float bin = steps[j] * 32.0f + 2048.0f;
          bin = bin < 4095.0f ? bin : 4095.0f;
          counts[static_cast<int>(bin > 0.0f ? bin : 0.0f)] += static_cast<double>(weight);
        }
      }
    }
  }
}

int32_t slc_encoder_scatter(const uint32_t* index, const float* value, int64_t count, int64_t numel,
                            float* S) {
  for (int64_t i = 0; i < count; ++i) {
    // A prefetch reads nothing, wherever it points.
    if (i + kAhead < count) __builtin_prefetch(S + index[i + kAhead], 1);
    if (index[i] >= numel) return -1;
    if (!std::isfinite(value[i])) return -2;
    S[index[i]] = value[i];
  }
  return 0;
}

int32_t slc_encoder_count(const uint32_t* index, int64_t count, int64_t numel, uint8_t* counts) {
  for (int64_t i = 0; i < count; ++i) {
    if (index[i] >= numel) return -1;
    if (++counts[index[i] / kWord] > kWord) return -2;
  }
  return 0;
}
