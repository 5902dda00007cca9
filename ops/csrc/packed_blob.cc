#include "packed_blob.h"

#include <cmath>
#include <cstring>

#include "packed_tiles.h"

namespace slc {
namespace {

constexpr uint64_t kBlockRows = 16, kBlockColumns = 64, kUnitBytes = 16;

std::string GotWanted(const char* what, uint64_t got, const std::string& wanted) {
  return std::string("packed blob: ") + what + ": got " + std::to_string(got) + ", wanted " +
         wanted;
}

std::string GotWanted(const char* what, uint64_t got, uint64_t wanted) {
  return GotWanted(what, got, std::to_string(wanted));
}

uint64_t LoadU64(const uint8_t* p) {
  uint64_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

uint64_t DivideUp(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }

// Running sum of section sizes; false once anything exceeds 63 bits.
class SectionSizes {
 public:
  // Starts a section at the next multiple of 64 and returns its offset.
  uint64_t Section(uint64_t count, uint64_t other, uint64_t element_bytes) {
    uint64_t elements = 0, bytes = 0;
    Align();
    const uint64_t offset = end_;
    ok_ = ok_ && !__builtin_mul_overflow(count, other, &elements) &&
          !__builtin_mul_overflow(elements, element_bytes, &bytes) &&
          !__builtin_add_overflow(end_, bytes, &end_) && end_ < kLimit;
    return offset;
  }
  void Align() {
    if (ok_) end_ = (end_ + 63) / 64 * 64;
  }
  bool ok() const { return ok_; }
  uint64_t end() const { return end_; }

 private:
  static constexpr uint64_t kLimit = uint64_t{1} << 62;
  uint64_t end_ = sizeof(PackedHeader);
  bool ok_ = true;
};

// No section of a delta blob grows with K, but indices do.
bool CountsFit(const PackedHeader& h) {
  uint64_t positions = 0;
  return !__builtin_mul_overflow(h.n, h.k, &positions) && positions < uint64_t{1} << 62;
}

// The fields that stand alone. A blob in `tiles` is for GPUs, and no other is.
bool CheckCodes(const PackedHeader& h, bool tiles, std::string* error) {
  const auto fail = [error](std::string text) { return *error = std::move(text), false; };
  if (std::memcmp(h.magic, "SLCB", 4) != 0) {
    return fail("packed blob: wrong magic: wanted the bytes SLCB");
  }
  const bool delta = h.encoding == 2, f16 = h.value_type == 1;
  const bool planes = h.encoding == 1 && h.value_type == 3;  // may be in them
  if (h.version != 1) return fail(GotWanted("version", h.version, 1));
  if (h.encoding < 1 || h.encoding > 3) {
    return fail(GotWanted("encoding", h.encoding, "1 (bitmap), 2 (delta) or 3 (full)"));
  }
  if (h.value_type < 1 || h.value_type > (delta ? 2 : 3)) {
    return fail(GotWanted("value_type", h.value_type,
                          delta ? "1 (f16) or 2 (i8)" : "1 (f16), 2 (i8) or 3 (i4)"));
  }
  if (tiles && (h.encoding != 1 || h.layout != 2 || h.tile_rows != kBlockRows)) {
    return fail(
        "packed blob: got one for CPUs, wanted a bitmap in layout 2 (tiles): export with "
        "--provider cuda");
  }
  if (!tiles && h.layout == 2) {
    return fail(
        "packed blob: layout: got 2 (tiles, for GPUs), wanted 0 (rows): export with --provider "
        "cpu");
  }
  if (!tiles && h.layout > (planes ? 1 : 0)) {
    return fail(GotWanted("layout", h.layout, planes ? "0 (rows) or 1 (planes)" : "0 (rows)"));
  }
  if (h.reserved != 0) return fail(GotWanted("reserved", h.reserved, uint64_t{0}));
  if (h.n < 1) return fail(GotWanted("N", h.n, "1 or more"));
  if (h.k < 1) return fail(GotWanted("K", h.k, "1 or more"));
  if (h.tile_rows < 1) return fail(GotWanted("tile_rows", h.tile_rows, "1 or more"));
  if (delta && h.tile_rows != 1) return fail(GotWanted("tile_rows", h.tile_rows, "1 for delta"));
  if (f16 && h.group != 0) return fail(GotWanted("group", h.group, "0 for f16"));
  if (!f16 && (h.group == 0 || h.group % 64 != 0)) {
    return fail(GotWanted("group", h.group, "a multiple of 64 for i8 and i4"));
  }
  if (!f16 && delta && h.group < h.k)
    return fail(GotWanted("group", h.group, "K or more for delta"));
  if (h.exponent < -149 || h.exponent > 127) {
    *error = "packed blob: exponent: got " + std::to_string(h.exponent) + ", wanted -149 ... 127";
    return false;
  }
  return true;
}

// Derives every size from the header and the last entry of starts, and compares.
bool CheckSizes(const PackedHeader& h, const uint8_t* base, size_t bytes, PackedView* view,
                std::string* error) {
  SectionSizes layout;
  const bool bitmap = h.encoding == 1, delta = h.encoding == 2, i4 = h.value_type == 3;
  const uint64_t words = DivideUp(h.k, 64);
  const uint64_t groups = h.group == 0 ? 0 : DivideUp(h.k, h.group);
  const uint64_t tiles = DivideUp(h.n, h.tile_rows);
  const uint64_t starts = layout.Section(tiles + 1, 1, 8);
  const uint64_t where =
      delta ? layout.Section(h.nnz, 1, 1) : layout.Section(bitmap ? h.n : 0, words, 8);
  const uint64_t scales = layout.Section(h.n, groups, 2);
  const uint64_t codebook = layout.Section(i4 ? kCodebookBytes : 0, 1, 1);
  const uint64_t values = layout.Section(0, 1, 1);
  if (layout.ok() && h.values_offset != values) {
    return *error = GotWanted("values_offset", h.values_offset, values), false;
  }
  if (layout.ok() && bytes < values + 64) {
    return *error = GotWanted("length", bytes, "at least " + std::to_string(values + 64)), false;
  }
  const uint64_t count = i4 && layout.ok() ? LoadU64(base + starts + 8 * tiles) : h.nnz;
  layout.Section(count, 1, h.value_type == 1 ? 2 : 1);
  layout.Align();
  const uint64_t total = layout.end() + 64;
  if (!layout.ok() || !CountsFit(h)) {
    *error = "packed blob: N " + std::to_string(h.n) + ", K " + std::to_string(h.k) + ", nnz " +
             std::to_string(h.nnz) + " make sizes beyond 62 bits";
    return false;
  }
  if (h.total_bytes != total) {
    return *error = GotWanted("total_bytes", h.total_bytes, total), false;
  }
  if (bytes != total) return *error = GotWanted("length", bytes, total), false;
  *view = {base,
           base + starts,
           bitmap ? base + where : nullptr,
           delta ? base + where : nullptr,
           groups == 0 ? nullptr : base + scales,
           i4 ? base + codebook : nullptr,
           base + values,
           static_cast<int64_t>(h.n),
           static_cast<int64_t>(h.k),
           static_cast<int64_t>(h.nnz),
           static_cast<int64_t>(words),
           static_cast<int64_t>(groups),
           h.tile_rows,
           static_cast<int64_t>(groups == 0 ? words : h.group / 64),
           static_cast<Encoding>(h.encoding),
           static_cast<ValueType>(h.value_type),
           static_cast<Layout>(h.layout),
           std::ldexp(1.0f, h.exponent)};
  return true;
}

// Every entry of starts must be where the masks before its row end, and the bits must be nnz.
bool CheckMasks(const PackedView& view, std::string* error) {
  const uint64_t beyond_k =
      view.k % 64 == 0 ? 0 : ~uint64_t{0} << (static_cast<unsigned>(view.k) % 64);
  const bool i4 = view.value_type == ValueType::kI4;
  uint64_t position = 0, count = 0;
  for (int64_t row = 0; row < view.n; ++row) {
    if (row % view.tile_rows == 0) {
      const uint64_t start = LoadU64(view.starts + 8 * (row / view.tile_rows));
      if (start != position) return *error = GotWanted("starts entry", start, position), false;
    }
    const uint8_t* mask = view.masks + 8 * row * view.words;
    for (int64_t w = 0; w < view.words; ++w) {
      const auto bits = static_cast<uint64_t>(__builtin_popcountll(LoadU64(mask + 8 * w)));
      count += bits;
      position += i4 ? CodeBytes(bits, view.layout) : bits;
    }
    if ((LoadU64(mask + 8 * (view.words - 1)) & beyond_k) != 0) {
      *error = "packed blob: row " + std::to_string(row) + " has a mask bit at or above K";
      return false;
    }
  }
  const int64_t tiles = (view.n + view.tile_rows - 1) / view.tile_rows;
  const uint64_t last = LoadU64(view.starts + 8 * tiles);
  const auto nnz = static_cast<uint64_t>(view.nnz);
  if (last != position) return *error = GotWanted("last starts entry", last, position), false;
  if (count != nnz) return *error = GotWanted("mask bits", count, nnz), false;
  return true;
}

// Row by row: starts ascend to nnz, and the columns stay below K.
bool CheckDeltas(const PackedView& view, std::string* error) {
  const auto nnz = static_cast<uint64_t>(view.nnz);
  uint64_t start = LoadU64(view.starts);
  if (start != 0) return *error = GotWanted("starts entry", start, uint64_t{0}), false;
  for (int64_t row = 0; row < view.n; ++row) {
    const uint64_t end = LoadU64(view.starts + 8 * (row + 1));
    if (end < start || end > nnz) {
      *error =
          GotWanted("starts entry", end, std::to_string(start) + " ... " + std::to_string(nnz));
      return false;
    }
    uint64_t column = 0;
    for (uint64_t i = start; i < end; ++i) column += view.deltas[i];
    if (end > start && column >= static_cast<uint64_t>(view.k)) {
      *error = "packed blob: row " + std::to_string(row) + " has a column at or above K";
      return false;
    }
    start = end;
  }
  if (start != nnz) return *error = GotWanted("last starts entry", start, nnz), false;
  return true;
}

// All rows take the same, so every entry of starts follows from N and K.
bool CheckFull(const PackedView& view, std::string* error) {
  const auto n = static_cast<uint64_t>(view.n), k = static_cast<uint64_t>(view.k);
  const auto nnz = static_cast<uint64_t>(view.nnz);
  if (nnz != n * k)
    return *error = GotWanted("nnz", nnz, "N * K = " + std::to_string(n * k)), false;
  const uint64_t tail = CodeBytes(k % 64, Layout::kRows);
  const uint64_t row = view.value_type == ValueType::kI4 ? k / 64 * 32 + tail : k;
  const uint64_t tile_rows = static_cast<uint64_t>(view.tile_rows);
  for (uint64_t tile = 0; tile <= DivideUp(n, tile_rows); ++tile) {
    const uint64_t start = LoadU64(view.starts + 8 * tile);
    const uint64_t position = row * (tile * tile_rows < n ? tile * tile_rows : n);
    if (start != position) return *error = GotWanted("starts entry", start, position), false;
  }
  return true;
}

bool CheckCodebook(const PackedView& view, std::string* error) {
  if (view.codebook == nullptr) return true;
  for (int64_t i = 0; i < kCodebookBytes; ++i) {
    const int entry = static_cast<int8_t>(view.codebook[i]);
    const bool zero = i == 0 && view.layout == Layout::kPlanes;
    if (entry < -kCodeLimit || entry > kCodeLimit || (zero && entry != 0)) {
      *error = "packed blob: codebook[" + std::to_string(i) + "]: got " + std::to_string(entry) +
               ", wanted " + (zero ? "0" : "-63 ... 63");
      return false;
    }
  }
  return true;
}

}  // namespace

bool ParsePackedBlob(const void* data, size_t bytes, PackedView* view, std::string* error) {
  if (bytes < sizeof(PackedHeader) || data == nullptr) {
    return *error = GotWanted("length", bytes, "at least 64"), false;
  }
  const auto* base = static_cast<const uint8_t*>(data);
  PackedHeader header;
  std::memcpy(&header, base, sizeof header);
  if (!CheckCodes(header, false, error) || !CheckSizes(header, base, bytes, view, error))
    return false;
  uint32_t crc = Crc32(0, base, offsetof(PackedHeader, crc32));
  crc = Crc32(crc, base + sizeof header, header.values_offset - sizeof header);
  if (crc != header.crc32) return *error = GotWanted("crc32", header.crc32, crc), false;
  if (!CheckCodebook(*view, error)) return false;
  if (view->encoding == Encoding::kDelta) return CheckDeltas(*view, error);
  return view->encoding == Encoding::kFull ? CheckFull(*view, error) : CheckMasks(*view, error);
}

bool ParseTilesHeader(const PackedHeader& h, uint64_t bytes, TilesSections* sections,
                      std::string* error) {
  if (!CheckCodes(h, true, error)) return false;
  SectionSizes layout;
  const uint64_t tiles = DivideUp(h.n, kBlockRows), across = DivideUp(h.k, kBlockColumns);
  const uint64_t groups = h.group == 0 ? 0 : DivideUp(h.k, h.group);
  uint64_t blocks = 0;
  const bool counts = CountsFit(h) && !__builtin_mul_overflow(tiles, across, &blocks);
  sections->starts = layout.Section(blocks + 1, 1, 4);
  sections->masks = layout.Section(blocks, kBlockRows * kBlockColumns / 8, 1);
  sections->scales = layout.Section(tiles, groups, 2 * kBlockRows);
  sections->codebook = layout.Section(h.value_type == 3 ? kCodebookBytes : 0, 1, 1);
  sections->values = layout.Section(0, 1, 1);
  if (!counts || !layout.ok()) {
    *error = "packed blob: N " + std::to_string(h.n) + ", K " + std::to_string(h.k) +
             " make sizes beyond 62 bits";
    return false;
  }
  if (h.values_offset != sections->values) {
    return *error = GotWanted("values_offset", h.values_offset, sections->values), false;
  }
  if (bytes < sections->values + 64) {
    const std::string wanted = "at least " + std::to_string(sections->values + 64);
    return *error = GotWanted("length", bytes, wanted), false;
  }
  sections->tiles = static_cast<int64_t>(tiles);
  sections->blocks = static_cast<int64_t>(across);
  sections->groups = static_cast<int64_t>(groups);
  return true;
}

bool CheckTilesLength(const PackedHeader& h, uint64_t bytes, uint64_t units, std::string* error) {
  const uint64_t total = (h.values_offset + units * kUnitBytes + 63) / 64 * 64 + 64;
  if (h.total_bytes != total) {
    return *error = GotWanted("total_bytes", h.total_bytes, total), false;
  }
  if (bytes != total) return *error = GotWanted("length", bytes, total), false;
  return true;
}

}  // namespace slc
