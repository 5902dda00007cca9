// Eight floats at a time in what every C++ compiler offers: GCC/Clang vector types, which become
// SSE2 on x86-64 and NEON on aarch64.
//
// A `Simd` type gives the loop nests their primitives; simd_avx2.h, simd_avx512.h and simd_neon.h
// are its twins. Everything lives in an unnamed namespace so that no two ISAs ever share a symbol.
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

  static float MulAddScalar(float a, float b, float c) { return a * b + c; }
  // The float16 at p, any alignment.
  static float HalfAt(const uint8_t* p) {
    uint16_t half;
    std::memcpy(&half, p, sizeof half);
    return HalfToFloat(half);
  }
  static Vec LoadF16(const uint8_t* p) {
    Vec v;
    for (int i = 0; i < 8; ++i) v[i] = HalfAt(p + 2 * i);
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
      if ((mask >> i & 1u) != 0) v[i] = HalfAt(p + 2 * next++);
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

  // One mask word of 64 columns: its eight bytes at `masks`, its values from p on.
  static uint64_t LoadMask(const uint8_t* masks) {
    uint64_t mask;
    std::memcpy(&mask, masks, sizeof mask);
    return mask;
  }
  static void ExpandF16x64(const uint8_t* p, const uint8_t* masks, float* out) {
    const uint64_t mask = LoadMask(masks);
    for (int i = 0; i < 64; ++i) {
      const bool set = (mask >> i & 1u) != 0;
      out[i] = set ? HalfAt(p) : 0.0f;
      p += set ? 2 : 0;
    }
  }

  // 64 int8 weights, and what dot products make of them.
  struct Bytes {
    int8_t v[64];
  };
  using Codebook = const int8_t*;
  static Codebook LoadCodebook(const uint8_t* p) { return reinterpret_cast<const int8_t*>(p); }

  static Bytes ExpandI8x64(const uint8_t* p, const uint8_t* masks) {
    uint64_t mask = LoadMask(masks);
    Bytes bytes{};
    for (; mask != 0; mask &= mask - 1) bytes.v[__builtin_ctzll(mask)] = static_cast<int8_t>(*p++);
    return bytes;
  }
  // The same of a word without a mask, all of it stored.
  static Bytes LoadI8x64(const uint8_t* p) {
    Bytes bytes;
    std::memcpy(bytes.v, p, sizeof bytes.v);
    return bytes;
  }
  static Bytes LoadNibbles(const uint8_t* p, Codebook codebook) {
    Bytes bytes;
    for (int i = 0; i < 64; ++i) bytes.v[i] = codebook[p[i / 2] >> (i % 2 * 4) & 15];
    return bytes;
  }
  static Bytes ExpandNibbles(const uint8_t* p, const uint8_t* masks, Codebook codebook) {
    uint64_t mask = LoadMask(masks);
    Bytes bytes{};
    for (int i = 0; mask != 0; mask &= mask - 1, ++i) {
      bytes.v[__builtin_ctzll(mask)] = codebook[p[i / 2] >> (i % 2 * 4) & 15];
    }
    return bytes;
  }
  static Bytes ExpandPlanes(const uint8_t* p, const uint8_t* masks, Codebook codebook) {
    uint64_t mask = LoadMask(masks);
    const int plane_bytes = (__builtin_popcountll(mask) + 7) / 8;
    Bytes bytes{};
    for (int i = 0; mask != 0; mask &= mask - 1, ++i) {
      int code = 0;
      for (int plane = 0; plane < 4; ++plane) {
        code |= (p[plane * plane_bytes + i / 8] >> (i % 8) & 1) << plane;
      }
      bytes.v[__builtin_ctzll(mask)] = codebook[code];
    }
    return bytes;
  }
  static void ToFloats(const Bytes& bytes, float scale, float* out) {
    for (int i = 0; i < 64; ++i) out[i] = static_cast<float>(bytes.v[i]) * scale;
  }

  // Sums of 64 products, exact; `magnitude` is |q| and `correction`, of which a word has
  // kCorrections, -128 times the sum of each four.
  static constexpr int kCorrections = 16;
  static int32_t Dot64(const Bytes& w, const int8_t* q, const uint8_t*, const int32_t*) {
    int32_t sum = 0;
    for (int i = 0; i < 64; ++i) sum += static_cast<int32_t>(w.v[i]) * q[i];
    return sum;
  }
  using Sums = float;
  static Sums ZeroSums() { return 0.0f; }
  static Sums AddScaled(int32_t dot, float factor, Sums sums) {
    return static_cast<float>(dot) * factor + sums;
  }
  static Sums MulAddSums(Sums a, float factor, Sums sums) { return a * factor + sums; }
  static float Total(Sums sums) { return sums; }
  // out[i] = Total(sums[i]), but in another order
  static void Total4(const Sums* sums, float* out) {
    for (int i = 0; i < 4; ++i) out[i] = sums[i];
  }

  // The GEMM's panel: kPanelRows rows of w side by side, and kTileRows rows of x that meet them in
  // registers.
  using Lanes = Vec;
  static constexpr int kLanes = 8, kPanelVecs = 1, kTileRows = 4, kInt8TileRows = 4;
  static Lanes LoadLanes(const float* p) { return Load(p); }
  static void StoreLanes(float* p, const Lanes& v) { Store(p, v); }
  static Lanes Broadcast(const float* p) { return Set(*p); }
  static Lanes MulAddLanes(const Lanes& a, const Lanes& b, const Lanes& c) { return a * b + c; }
  static Lanes MulLanes(const Lanes& a, const Lanes& b) { return a * b; }
  // Eight rows of eight 32-bit values, transposed.
  static void Transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    for (int i = 0; i < 8; ++i) {
      for (int j = 0; j < 8; ++j) {
        std::memcpy(to + j * to_stride + i, from + i * from_stride + j, sizeof(float));
      }
    }
  }

  // int8 in the GEMM: lane i of a dword vector holds four columns of panel row i.
  typedef int32_t Ints __attribute__((vector_size(32)));
  static constexpr bool kShifted = false;  // whether panel bytes are w + 128
  static void StorePanelBytes(const Bytes& bytes, int8_t* out) {
    std::memcpy(out, bytes.v, sizeof bytes.v);
  }
  static Ints ZeroInts() { return Ints{}; }
  static Ints SetInts(int32_t x) { return Ints{x, x, x, x, x, x, x, x}; }
  struct Quad {
    int8_t v[4];
  };
  static Quad LoadQuad(const int8_t* q, const uint8_t*) {
    Quad quad;
    std::memcpy(quad.v, q, sizeof quad.v);
    return quad;
  }
  struct PanelBytes {
    int8_t v[32];
  };
  static PanelBytes LoadPanelBytes(const float* p) {
    PanelBytes bytes;
    std::memcpy(bytes.v, p, sizeof bytes.v);
    return bytes;
  }
  static Ints Dot4(const Ints& sums, const PanelBytes& w, const Quad& q) {
    Ints result = sums;
    for (int i = 0; i < 8; ++i) {
      for (int j = 0; j < 4; ++j) result[i] += static_cast<int32_t>(w.v[4 * i + j]) * q.v[j];
    }
    return result;
  }
  static Lanes IntsToLanes(const Ints& v) {
    Lanes lanes;
    for (int i = 0; i < 8; ++i) lanes[i] = static_cast<float>(v[i]);
    return lanes;
  }
};

}  // namespace
}  // namespace slc

#endif  // SLC_SIMD_GENERIC_H_
