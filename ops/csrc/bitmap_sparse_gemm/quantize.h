// int8 activations: 64 columns of a row of x as step * q. In plain C++ that a compiler turns into
// vector code, so that each ISA's file makes its own copy.
#ifndef SLC_BITMAP_SPARSE_GEMM_QUANTIZE_H_
#define SLC_BITMAP_SPARSE_GEMM_QUANTIZE_H_

#include <cstdint>

#include "../f16.h"

namespace slc {
namespace {

// 1 / step for a block whose largest magnitude is known; both 0 for a block too small to divide by.
inline float InverseStep(float largest, float* step) {
  const float inverse = 127.0f / largest;
  const bool usable = largest > 0.0f && inverse < BitsToFloat(0x7f800000u);
  *step = usable ? largest / 127.0f : 0.0f;
  return usable ? inverse : 0.0f;
}

// The rule of accuracy_level 4 in ops/bitmap_sparse_gemm.py. x, q, magnitude: 64 elements each;
// sums: of each four q, 16 elements.
inline void QuantizeBlock(const float* x, int8_t* q, uint8_t* magnitude, float* step,
                          int32_t* sums) {
  // Compared as integers: floats without their sign are in the same order, and the compiler may
  // reorder it.
  int32_t largest_bits = 0;
  for (int i = 0; i < 64; ++i) {
    const auto bits = static_cast<int32_t>(FloatToBits(x[i]) & 0x7fffffffu);
    largest_bits = bits > largest_bits ? bits : largest_bits;
  }
  const float largest = BitsToFloat(static_cast<uint32_t>(largest_bits));
  const float inverse = InverseStep(largest, step);
  for (int i = 0; i < 64; ++i) {
    // Clamped first: a NaN (which the contract leaves open) must not reach the conversion.
    float v = x[i] * inverse;
    v = v < 127.0f ? v : 127.0f;
    v = v > -127.0f ? v : -127.0f;
    // Adding 1.5 * 2^23 rounds to the nearest integer, halves to even.
    const auto rounded = static_cast<int32_t>((v + 12582912.0f) - 12582912.0f);
    q[i] = static_cast<int8_t>(rounded);
    magnitude[i] = static_cast<uint8_t>(rounded < 0 ? -rounded : rounded);
  }
  for (int i = 0; i < 16; ++i) {
    sums[i] = 0;
    for (int j = 0; j < 4; ++j) sums[i] += q[4 * i + j];
  }
}

}  // namespace
}  // namespace slc

#endif  // SLC_BITMAP_SPARSE_GEMM_QUANTIZE_H_
