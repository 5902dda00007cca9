// Eight floats at a time in what every C++ compiler offers: GCC/Clang vector types, which become
// SSE2 on x86-64 and NEON on aarch64.
//
// A `Simd` type gives the loop nests their primitives; its twin is simd_avx2.h. Everything lives in
// an unnamed namespace so that no two ISAs ever share a symbol.
#ifndef SLC_SIMD_GENERIC_H_
#define SLC_SIMD_GENERIC_H_

#include <cstdint>
#include <cstring>

#include "f16.h"

namespace slc {
namespace {

struct GenericSimd {
  typedef float Vec __attribute__((vector_size(32)));

  static Vec Zero() { return Vec{}; }
  static Vec Set(float x) { return Vec{x, x, x, x, x, x, x, x}; }
  static Vec Load(const float* p) {
    Vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static void Store(float* p, const Vec& v) { std::memcpy(p, &v, sizeof v); }
  static Vec Mul(const Vec& a, const Vec& b) { return a * b; }
  static Vec Add(const Vec& a, const Vec& b) { return a + b; }
  static Vec MulAdd(const Vec& a, const Vec& b, const Vec& c) { return a * b + c; }
  static float Sum(const Vec& v) {
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
  }
  // out[i] = Sum(v[i])
  static void Sum4(const Vec* v, float* out) {
    for (int i = 0; i < 4; ++i) out[i] = Sum(v[i]);
  }

  static float Half(uint16_t half) { return HalfToFloat(half); }
  static Vec LoadF16(const uint8_t* p) {
    Vec v;
    for (int i = 0; i < 8; ++i) v[i] = HalfAt(p, i);
    return v;
  }
  static Vec LoadI8(const uint8_t* p) {
    Vec v;
    for (int i = 0; i < 8; ++i) v[i] = static_cast<float>(static_cast<int8_t>(p[i]));
    return v;
  }
  // What ExpandI8 makes of 1 times this is 1.
  static constexpr float kI8Unit = 1.0f;
  // Lane i takes the next value of p when bit i of mask is set, else 0.
  static Vec ExpandF16(const uint8_t* p, unsigned mask) {
    Vec v{};
    for (int i = 0, next = 0; i < 8; ++i) {
      if ((mask >> i & 1u) != 0) v[i] = HalfAt(p, next++);
    }
    return v;
  }
  static Vec ExpandI8(const uint8_t* p, unsigned mask) {
    Vec v{};
    for (int i = 0, next = 0; i < 8; ++i) {
      if ((mask >> i & 1u) != 0) v[i] = static_cast<float>(static_cast<int8_t>(p[next++]));
    }
    return v;
  }

 private:
  static float HalfAt(const uint8_t* p, int index) {
    uint16_t half;
    std::memcpy(&half, p + 2 * index, sizeof half);
    return HalfToFloat(half);
  }
};

}  // namespace
}  // namespace slc

#endif  // SLC_SIMD_GENERIC_H_
