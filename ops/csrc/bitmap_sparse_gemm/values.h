// Reading the stored values, one mask word (64 columns of a row) at a time.
//
// A Reader has
//   kInts               whether values are int8 numbers with a scale (i8, i4), or floats (f16)
//   Bytes(mask)         how far the values of a word reach
//   Floats(p, masks, scale, out)  float32 out[64], scale applied when kInts
//   Ints(p, masks)      S::Bytes, 64 int8, when kInts
// where `masks` is where the word lies: some ISAs want it in bytes, some in a register.
// and is made from a view once per kernel call. S is one of the Simd types.
#ifndef SLC_BITMAP_SPARSE_GEMM_VALUES_H_
#define SLC_BITMAP_SPARSE_GEMM_VALUES_H_

#include <cstring>
#include <type_traits>

#include "bitmap_sparse_gemm.h"

namespace slc {
namespace {

inline uint64_t LoadWord(const uint8_t* p) {
  uint64_t word;
  std::memcpy(&word, p, sizeof word);
  return word;
}

inline int64_t Count(uint64_t mask) { return __builtin_popcountll(mask); }

// Byte i: the number of set bits in bytes 0 ... i of the word. The eight loads that a word needs
// then start from independent addresses instead of a chain of additions.
inline uint64_t PrefixCounts(uint64_t word) {
  word -= (word >> 1) & 0x5555555555555555u;
  word = (word & 0x3333333333333333u) + ((word >> 2) & 0x3333333333333333u);
  word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0fu;
  return word * 0x0101010101010101u;
}

template <class S>
struct F16Reader {
  static constexpr bool kInts = false;
  explicit F16Reader(const PackedView&) {}
  static int64_t Bytes(uint64_t mask) { return 2 * Count(mask); }
  static void Floats(const uint8_t* p, const uint8_t* masks, float, float* out) {
    S::ExpandF16x64(p, masks, out);
  }
};

template <class S>
struct I8Reader {
  static constexpr bool kInts = true;
  explicit I8Reader(const PackedView&) {}
  static int64_t Bytes(uint64_t mask) { return Count(mask); }
  static typename S::Bytes Ints(const uint8_t* p, const uint8_t* masks) {
    return S::ExpandI8x64(p, masks);
  }
  static void Floats(const uint8_t* p, const uint8_t* masks, float scale, float* out) {
    S::ToFloats(Ints(p, masks), scale, out);
  }
};

template <class S>
struct I4RowsReader {
  static constexpr bool kInts = true;
  explicit I4RowsReader(const PackedView& w) : codebook(S::LoadCodebook(w.codebook)) {}
  static int64_t Bytes(uint64_t mask) { return (Count(mask) + 1) / 2; }
  typename S::Bytes Ints(const uint8_t* p, const uint8_t* masks) const {
    return S::ExpandNibbles(p, masks, codebook);
  }
  void Floats(const uint8_t* p, const uint8_t* masks, float scale, float* out) const {
    S::ToFloats(Ints(p, masks), scale, out);
  }
  typename S::Codebook codebook;
};

template <class S>
struct I4PlanesReader {
  static constexpr bool kInts = true;
  explicit I4PlanesReader(const PackedView& w) : codebook(S::LoadCodebook(w.codebook)) {}
  static int64_t Bytes(uint64_t mask) { return (Count(mask) + 7) / 8 * 4; }
  typename S::Bytes Ints(const uint8_t* p, const uint8_t* masks) const {
    return S::ExpandPlanes(p, masks, codebook);
  }
  void Floats(const uint8_t* p, const uint8_t* masks, float scale, float* out) const {
    S::ToFloats(Ints(p, masks), scale, out);
  }
  typename S::Codebook codebook;
};

// Where the values of `row`, a multiple of tile_rows, begin.
inline const uint8_t* RowValues(const PackedView& w, int64_t row) {
  const uint64_t start = LoadWord(w.starts + 8 * (row / w.tile_rows));
  return w.values + (w.value_type == ValueType::kF16 ? 2 : 1) * start;
}

// Calls row(n, where its values begin) for every row of w; it returns where the next row's begin.
template <class Row>
inline void ForEachRow(const SparseArgs& a, const Row& row) {
  const uint8_t* values = RowValues(*a.w, a.row_begin);
  for (int64_t n = a.row_begin; n < a.row_end; ++n) values = row(n, values);
}

// Calls body with the number of rows of x, 1 ... kGemvRowsMax, as a type: weights and sums of that
// many rows then stay in registers.
template <class Body>
inline void WithRowsOfX(int64_t m, const Body& body) {
  static_assert(kGemvRowsMax == 3, "one line for each");
  if (m == 1) body(std::integral_constant<int, 1>());
  if (m == 2) body(std::integral_constant<int, 2>());
  if (m == 3) body(std::integral_constant<int, 3>());
}

// Bytes that the values of one row take.
template <class Reader>
inline int64_t RowBytes(const PackedView& w, int64_t row) {
  int64_t bytes = 0;
  const uint8_t* mask = w.masks + 8 * row * w.words;
  for (int64_t i = 0; i < w.words; ++i) bytes += Reader::Bytes(LoadWord(mask + 8 * i));
  return bytes;
}

// out[i] = the scale of mask word begin + i of a row, i < count <= 64. Reads only the row's scales.
template <class S>
inline void WordScales(const PackedView& w, int64_t row, int64_t begin, int64_t count, float* out) {
  const uint8_t* scales = w.scales + 2 * row * w.groups;
  if (w.group_words == 1) {
    scales += 2 * begin;
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) S::Store(out + i, S::LoadF16(scales + 2 * i));
    for (; i < count; ++i) out[i] = S::HalfAt(scales + 2 * i);
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    out[i] = S::HalfAt(scales + 2 * ((begin + i) / w.group_words));
  }
}

}  // namespace
}  // namespace slc

#endif  // SLC_BITMAP_SPARSE_GEMM_VALUES_H_
