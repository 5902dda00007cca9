// The packed blob of FORMAT.md as the kernels see it: the header's bytes, and a checked view.
#ifndef SLC_PACKED_BLOB_H_
#define SLC_PACKED_BLOB_H_

#include <cstddef>
#include <cstdint>
#include <string>

namespace slc {

enum class Encoding : uint8_t { kBitmap = 1, kDelta = 2, kFull = 3 };
enum class ValueType : uint8_t { kF16 = 1, kI8 = 2, kI4 = 3 };
enum class Layout : uint8_t { kRows = 0, kPlanes = 1 };

inline constexpr int64_t kCodebookBytes = 16;
// Codebook entries are -kCodeLimit ... kCodeLimit.
inline constexpr int kCodeLimit = 63;

struct PackedHeader {
  char magic[4];
  uint16_t version;
  uint8_t encoding;
  uint8_t value_type;
  uint64_t n;
  uint64_t k;
  uint64_t nnz;
  uint32_t group;
  uint16_t tile_rows;
  uint8_t layout;
  uint8_t reserved;
  uint64_t values_offset;
  uint64_t total_bytes;
  int32_t exponent;
  uint32_t crc32;
};
static_assert(sizeof(PackedHeader) == 64, "FORMAT.md: the header has 64 bytes");
static_assert(offsetof(PackedHeader, n) == 8 && offsetof(PackedHeader, group) == 32 &&
                  offsetof(PackedHeader, tile_rows) == 36 &&
                  offsetof(PackedHeader, values_offset) == 40 &&
                  offsetof(PackedHeader, exponent) == 56 && offsetof(PackedHeader, crc32) == 60,
              "FORMAT.md: header fields");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is little-endian");

// A blob that passed every check. Sections are byte pointers: a constant may lie at any address.
struct PackedView {
  const uint8_t* base;
  const uint8_t* starts;    // u64 [ceil(n / tile_rows) + 1]
  const uint8_t* masks;     // bitmap: u64 [n, words]
  const uint8_t* deltas;    // delta: u8 [nnz]
  const uint8_t* scales;    // f16 [n, groups], null when groups is 0
  const uint8_t* codebook;  // i8 [16] for i4, else null
  const uint8_t* values;    // at least 64 readable bytes after them
  int64_t n, k, nnz;
  int64_t words;        // mask words a row: ceil(k / 64)
  int64_t groups;       // scales a row, 0 for f16
  int64_t tile_rows;    // rows between two entries of starts
  int64_t group_words;  // mask words that share a scale; words for f16
  Encoding encoding;
  ValueType value_type;
  Layout layout;
  float factor;  // 2^exponent
};

// Checks everything FORMAT.md lists. On failure returns false and says in `error` what was got
// and what was wanted; `view` is then unspecified. Reads `bytes` bytes at `data` and no more.
bool ParsePackedBlob(const void* data, size_t bytes, PackedView* view, std::string* error);

// Bytes that an i4 mask word with `count` bits takes in the values section.
inline uint64_t CodeBytes(uint64_t count, Layout layout) {
  return layout == Layout::kRows ? (count + 1) / 2 : (count + 7) / 8 * 4;
}

// CRC-32 (ISO-HDLC) of `bytes` more bytes, continued from `crc`; starts from 0.
uint32_t Crc32(uint32_t crc, const void* data, size_t bytes);

}  // namespace slc

#endif  // SLC_PACKED_BLOB_H_
