// Reading the stored values, one word (64 columns of a row) at a time.
//
// A Reader has
//   kFull               whether it reads full blobs: there are no masks, and `masks` below is null
//   kInts               whether values are int8 numbers with a scale (i8, i4), or floats (f16)
//   Bytes(masks)        how far the values of a word reach; full: kWordBytes
//   TailBytes(count)    full: how far those of a row's last word reach, count < 64 columns
//   Floats(p, masks, scale, out)  float32 out[64], scale applied when kInts
//   Ints(p, masks)      S::Bytes, 64 int8, when kInts
// where `masks` is where the mask word lies: some ISAs want it in bytes, some in a register; and is
// made from a view once per kernel call. S is one of the Simd types.
//
// The last word of a row of a full blob may be short. Readers of integers read on into what
// follows, the next row or the guard: any int8 times an activation of 0 is 0. Floats might be
// infinite in a damaged blob, so F16 words that are short are copied first, by WholeWord.
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
  static constexpr bool kFull = false, kInts = false;
  explicit F16Reader(const PackedView&) {}
  static int64_t Bytes(const uint8_t* masks) { return 2 * Count(LoadWord(masks)); }
  static void Floats(const uint8_t* p, const uint8_t* masks, float, float* out) {
    S::ExpandF16x64(p, masks, out);
  }
};

template <class S>
struct I8Reader {
  static constexpr bool kFull = false, kInts = true;
  explicit I8Reader(const PackedView&) {}
  static int64_t Bytes(const uint8_t* masks) { return Count(LoadWord(masks)); }
  static typename S::Bytes Ints(const uint8_t* p, const uint8_t* masks) {
    return S::ExpandI8x64(p, masks);
  }
  static void Floats(const uint8_t* p, const uint8_t* masks, float scale, float* out) {
    S::ToFloats(Ints(p, masks), scale, out);
  }
};

template <class S>
struct I4RowsReader {
  static constexpr bool kFull = false, kInts = true;
  explicit I4RowsReader(const PackedView& w) : codebook(S::LoadCodebook(w.codebook)) {}
  static int64_t Bytes(const uint8_t* masks) { return (Count(LoadWord(masks)) + 1) / 2; }
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
  static constexpr bool kFull = false, kInts = true;
  explicit I4PlanesReader(const PackedView& w) : codebook(S::LoadCodebook(w.codebook)) {}
  static int64_t Bytes(const uint8_t* masks) { return (Count(LoadWord(masks)) + 7) / 8 * 4; }
  typename S::Bytes Ints(const uint8_t* p, const uint8_t* masks) const {
    return S::ExpandPlanes(p, masks, codebook);
  }
  void Floats(const uint8_t* p, const uint8_t* masks, float scale, float* out) const {
    S::ToFloats(Ints(p, masks), scale, out);
  }
  typename S::Codebook codebook;
};

// Extents of full blobs.
struct FullF16 {
  static constexpr bool kFull = true, kInts = false;
  static constexpr int64_t kWordBytes = 128;
  static int64_t Bytes(const uint8_t*) { return kWordBytes; }
  static int64_t TailBytes(int64_t count) { return 2 * count; }
};

struct FullI8 {
  static constexpr bool kFull = true, kInts = true;
  static constexpr int64_t kWordBytes = 64;
  static int64_t Bytes(const uint8_t*) { return kWordBytes; }
  static int64_t TailBytes(int64_t count) { return count; }
};

struct FullI4 {
  static constexpr bool kFull = true, kInts = true;
  static constexpr int64_t kWordBytes = 32;
  static int64_t Bytes(const uint8_t*) { return kWordBytes; }
  static int64_t TailBytes(int64_t count) { return (count + 1) / 2; }
};

template <class S>
struct FullF16Reader : FullF16 {
  explicit FullF16Reader(const PackedView&) {}
  static void Floats(const uint8_t* p, const uint8_t*, float, float* out) {
#pragma GCC unroll 8
    for (int c = 0; c < 8; ++c) S::Store(out + 8 * c, S::LoadF16(p + 16 * c));
  }
};

template <class S>
struct FullI8Reader : FullI8 {
  explicit FullI8Reader(const PackedView&) {}
  static typename S::Bytes Ints(const uint8_t* p, const uint8_t*) { return S::LoadI8x64(p); }
  static void Floats(const uint8_t* p, const uint8_t* masks, float scale, float* out) {
    S::ToFloats(Ints(p, masks), scale, out);
  }
};

template <class S>
struct FullI4Reader : FullI4 {
  explicit FullI4Reader(const PackedView& w) : codebook(S::LoadCodebook(w.codebook)) {}
  typename S::Bytes Ints(const uint8_t* p, const uint8_t*) const {
    return S::LoadNibbles(p, codebook);
  }
  void Floats(const uint8_t* p, const uint8_t* masks, float scale, float* out) const {
    S::ToFloats(Ints(p, masks), scale, out);
  }
  typename S::Codebook codebook;
};

// A short word of f16 values with zeros behind it.
struct WordBuffer {
  alignas(64) uint8_t bytes[128];
};

// Where to read word `word` of a row, whose values begin at p.
template <class Reader>
inline const uint8_t* WholeWord(const PackedView& w, int64_t word, const uint8_t* p,
                                WordBuffer* buffer) {
  if constexpr (Reader::kFull && !Reader::kInts) {
    const int64_t count = w.k - 64 * word;
    if (count >= 64) return p;
    *buffer = {};
    std::memcpy(buffer->bytes, p, static_cast<size_t>(Reader::TailBytes(count)));
    return buffer->bytes;
  }
  return p;
}

// Where the mask of a word lies; null for full blobs.
template <class Reader>
inline const uint8_t* MasksAt(const PackedView& w, int64_t row, int64_t word) {
  return Reader::kFull ? nullptr : w.masks + 8 * (row * w.words + word);
}

// Where the values of `row`, a multiple of tile_rows, begin.
inline const uint8_t* RowValues(const PackedView& w, int64_t row) {
  const uint64_t start = LoadWord(w.starts + 8 * (row / w.tile_rows));
  return w.values + (w.value_type == ValueType::kF16 ? 2 : 1) * start;
}

// Bytes that the values of one row take.
template <class Reader>
inline int64_t RowBytes(const PackedView& w, int64_t row) {
  if constexpr (Reader::kFull) {
    return w.k / 64 * Reader::kWordBytes + Reader::TailBytes(w.k % 64);
  } else {
    int64_t bytes = 0;
    for (int64_t i = 0; i < w.words; ++i) bytes += Reader::Bytes(MasksAt<Reader>(w, row, i));
    return bytes;
  }
}

// Calls row(n, where its values begin) for every row of w; it returns where its last word ends.
// That is where the next row begins, but in a full blob if the word is short.
template <class Reader, class Row>
inline void ForEachRow(const SparseArgs& a, const Row& row) {
  const uint8_t* values = RowValues(*a.w, a.row_begin);
  for (int64_t n = a.row_begin; n < a.row_end; ++n) {
    const uint8_t* end = row(n, values);
    if constexpr (Reader::kFull) end = values + RowBytes<Reader>(*a.w, n);
    values = end;
  }
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
  scales += 2 * (begin / w.group_words);
  int64_t left = w.group_words - begin % w.group_words;  // words of the group
  for (int64_t i = 0; i < count; ++i) {
    out[i] = S::HalfAt(scales);
    const bool last = --left == 0;  // no branch: nothing here could be foretold
    scales += last ? 2 : 0;
    left = last ? w.group_words : left;
  }
}

}  // namespace
}  // namespace slc

#endif  // SLC_BITMAP_SPARSE_GEMM_VALUES_H_
