// float16 <-> float32 in plain integer and float arithmetic, for every machine.
//
// Everything is `static`: files built for different ISAs include this, and a shared inline function
// would be taken from whichever of them the linker meets first.
#ifndef SLC_F16_H_
#define SLC_F16_H_

#include <cstdint>
#include <cstring>

namespace slc {

[[maybe_unused]] static inline float BitsToFloat(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

[[maybe_unused]] static inline uint32_t FloatToBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Exact. Subnormals go through a subtraction instead of a multiplication, so they survive a runtime
// that flushes subnormals to zero.
[[maybe_unused]] static inline float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fffu) << 13;
  const uint32_t exponent = magnitude & 0x0f800000u;
  uint32_t bits = magnitude + 0x38000000u;
  if (exponent == 0x0f800000u) bits += 0x38000000u;  // infinity and NaN
  if (exponent == 0) bits = FloatToBits(BitsToFloat(magnitude + 0x38800000u) - 0x1p-14f);
  return BitsToFloat(bits | sign);
}

// Rounds to nearest even; overflow gives infinity.
[[maybe_unused]] static inline uint16_t FloatToHalf(float value) {
  const uint32_t bits = FloatToBits(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x47800000u) {  // beyond f16, infinity, NaN
    return static_cast<uint16_t>(sign | (magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u));
  }
  if (magnitude < 0x38800000u) {  // below 2^-14: let the float adder round at 2^-24
    magnitude = FloatToBits(BitsToFloat(magnitude) + 0.5f) - 0x3f000000u;
    return static_cast<uint16_t>(sign | magnitude);
  }
  magnitude += 0xc8000fffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | (magnitude >> 13));
}

}  // namespace slc

#endif  // SLC_F16_H_
