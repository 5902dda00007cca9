// GEMV on int8 activations for i4 in planes, AVX2 + BMI2.
//
// The integer side deposits the four bit planes of a mask word into the mask (pdep), so that bit j
// of plane p is bit p of the code at column j, and stores them. The vector side, kAhead blocks
// later, takes the planes of 256 columns, exchanges bits until every nibble is a code, and goes on
// as a dense 4-bit kernel: codebook by shuffle, dot product with int8 activations. Both sides run
// in one loop since they want different ports; the distance gives the 8-byte stores time to reach
// the cache, because a 32-byte load cannot take its bytes from four stores in flight.
//
// Only files built for AVX2 and BMI2 may include this.
#ifndef SLC_BITMAP_SPARSE_GEMM_GEMV_PLANES_H_
#define SLC_BITMAP_SPARSE_GEMM_GEMV_PLANES_H_

#include "../simd_avx2.h"
#include "gemv_f32.h"
#include "values.h"

namespace slc {
namespace {

constexpr int kBlockWords = 4;  // mask words whose planes fill one 256-bit register each
constexpr int kAhead = 3;       // blocks that the deposits run ahead of the dot products
constexpr int kRing = 4;        // blocks kept; a power of two above kAhead

struct PlaneBlock {
  alignas(32) uint64_t plane[4][kBlockWords];
};

// Reads mask words and planes of whole rows in order.
class PlaneStream {
 public:
  PlaneStream(const PackedView& w, int64_t row)
      : words_(w.words), word_(0), mask_(w.masks + 8 * row * w.words), values_(RowValues(w, row)) {}

  // The next block of a row; the last one of a row may be short and is filled up with zeros.
  [[gnu::always_inline]] void Deposit(PlaneBlock* block) {
    __builtin_prefetch(values_ + kPrefetchBytes);
    if (words_ - word_ >= kBlockWords) {
      DepositWords(mask_, block);
      mask_ += 8 * kBlockWords;
      word_ += kBlockWords;
    } else {
      const int64_t left = words_ - word_;
      uint8_t masks[8 * kBlockWords] = {};
      std::memcpy(masks, mask_, static_cast<size_t>(8 * left));
      DepositWords(masks, block);
      mask_ += 8 * left;
      word_ += left;
    }
    if (word_ == words_) word_ = 0;
  }

 private:
  [[gnu::always_inline]] void DepositWords(const uint8_t* masks, PlaneBlock* block) {
#pragma GCC unroll 4
    for (int i = 0; i < kBlockWords; ++i) {
      const uint64_t mask = LoadWord(masks + 8 * i);
      const int64_t plane_bytes = (Count(mask) + 7) >> 3;
#pragma GCC unroll 4
      for (int plane = 0; plane < 4; ++plane) {
        block->plane[plane][i] = _pdep_u64(LoadWord(values_ + plane * plane_bytes), mask);
      }
      values_ += 4 * plane_bytes;
    }
  }

  int64_t words_, word_;
  const uint8_t* mask_;
  const uint8_t* values_;
};

// Exchanges the bits of a that `mask` << shift names with those of b that `mask` names.
inline void ExchangeBits(__m256i& a, __m256i& b, __m256i mask, int shift) {
  const __m256i t = _mm256_and_si256(_mm256_xor_si256(_mm256_srli_epi16(a, shift), b), mask);
  b = _mm256_xor_si256(b, t);
  a = _mm256_xor_si256(a, _mm256_slli_epi16(t, shift));
}

// codes[t]: byte b is the codebook entry, plus 64, of column 8 b + t of the block.
inline void LookUpBlock(const PlaneBlock& block, __m256i codebook, __m256i (&codes)[8]) {
  __m256i p[4];
  for (int i = 0; i < 4; ++i) p[i] = Avx2Simd::Load32(block.plane[i]);
  const __m256i single = _mm256_set1_epi8(0x55), pairs = _mm256_set1_epi8(0x33);
  ExchangeBits(p[0], p[1], single, 1);
  ExchangeBits(p[2], p[3], single, 1);
  ExchangeBits(p[0], p[2], pairs, 2);
  ExchangeBits(p[1], p[3], pairs, 2);
  const __m256i low = _mm256_set1_epi8(15);
#pragma GCC unroll 4
  for (int t = 0; t < 4; ++t) {
    codes[t] = _mm256_shuffle_epi8(codebook, _mm256_and_si256(p[t], low));
    codes[t + 4] = _mm256_shuffle_epi8(codebook, _mm256_and_si256(_mm256_srli_epi16(p[t], 4), low));
  }
}

// The scales of up to 64 words from `begin` on; those of a short last block are filled up with
// zeros, since a scale that is no number would spoil even a sum of zero.
inline void BlockScales(const PackedView& w, int64_t row, int64_t begin, float* scales) {
  const int64_t count = w.words - begin < 64 ? w.words - begin : 64;
  if (w.group_words == 1) {
    // Whole vectors: what lies behind the row's scales is still the blob.
    const uint8_t* p = w.scales + 2 * (row * w.groups + begin);
    for (int64_t i = 0; i < count; i += 8) {
      _mm256_store_ps(scales + i, Avx2Simd::LoadF16(p + 2 * i));
    }
  } else {
    WordScales<Avx2Simd>(w, row, begin, count, scales);
  }
  for (int64_t i = count; i % kBlockWords != 0; ++i) scales[i] = 0.0f;
}

template <int M>
inline void GemvPlanesRows(const SparseArgs& a) {
  const PackedView& w = *a.w;
  const int64_t blocks = (w.words + kBlockWords - 1) / kBlockWords;
  const int64_t total = blocks * (a.row_end - a.row_begin);
  // Entries become 1 ... 127, so that one side of vpmaddubsw is unsigned and no pair of products
  // leaves int16; positions without a value become 64, and the activations' corrections take all
  // the 64s off again.
  const __m256i codebook =
      _mm256_add_epi8(Avx2Simd::LoadCodebook(w.codebook), _mm256_set1_epi8(64));
  const __m256i ones = _mm256_set1_epi16(1);
  const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
  PlaneBlock ring[kRing];
  PlaneStream stream(w, a.row_begin);
  for (int64_t i = 0; i < kAhead && i < total; ++i) stream.Deposit(&ring[i]);
  int64_t at = 0;
  alignas(32) float scales[64];
  for (int64_t row = a.row_begin; row < a.row_end; ++row) {
    __m256 sums[M];
#pragma GCC unroll 4
    for (auto& sum : sums) sum = _mm256_setzero_ps();
    for (int64_t block = 0; block < blocks; ++block, ++at) {
      if (block % 16 == 0) {
        BlockScales(w, row, kBlockWords * block, scales);
      }
      if (at + kAhead < total) stream.Deposit(&ring[(at + kAhead) % kRing]);
      __m256i codes[8];
      LookUpBlock(ring[at % kRing], codebook, codes);
      const __m128 four = _mm_load_ps(scales + block % 16 * kBlockWords);
      const __m256 scale = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(four), twice);
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) {
        const int8_t* q = a.x.q + m * a.x.row_stride + 256 * block;
        const int32_t* corrections = a.x.corrections + m * a.x.correction_stride + 8 * block;
        const float* steps = a.x.steps + m * a.x.step_stride + 8 * block;
        __m256i dot[2] = {Avx2Simd::Load32(corrections), _mm256_setzero_si256()};
#pragma GCC unroll 8
        for (int t = 0; t < 8; ++t) {
          const __m256i products = _mm256_maddubs_epi16(codes[t], Avx2Simd::Load32(q + 32 * t));
          dot[t % 2] = _mm256_add_epi32(dot[t % 2], _mm256_madd_epi16(products, ones));
        }
        const __m256 factor = _mm256_mul_ps(scale, _mm256_loadu_ps(steps));
        const __m256i exact = _mm256_add_epi32(dot[0], dot[1]);
        sums[m] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(exact), factor, sums[m]);
      }
    }
    const float bias = a.bias == nullptr ? 0.0f : a.bias[row];
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      a.y[m * a.ldy + row] = Avx2Simd::Sum(sums[m]) * w.factor + bias;
    }
  }
}

inline void SparseGemvPlanes(const SparseArgs& a) {
  WithRowsOfX(a.m, [&](auto m) { GemvPlanesRows<decltype(m)::value>(a); });
}

}  // namespace
}  // namespace slc

#endif  // SLC_BITMAP_SPARSE_GEMM_GEMV_PLANES_H_
