// A blob in the layout "tiles" whose bytes lie elsewhere: what its header says, checked by itself.
#ifndef SLC_PACKED_TILES_H_
#define SLC_PACKED_TILES_H_

#include "packed_blob.h"

namespace slc {

// Byte offsets of the sections, and sizes.
struct TilesSections {
  uint64_t starts;    // u32 [blocks of all tiles + 1], in units of 16 bytes
  uint64_t masks;     // u32 [blocks of all tiles, 32]
  uint64_t scales;    // f16 [tiles, groups, 16]
  uint64_t codebook;  // i8 [16]
  uint64_t values;
  int64_t tiles;   // of 16 rows
  int64_t blocks;  // of 64 columns, in a tile
  int64_t groups;  // scales in a row, 0 for f16
};

// Checks every field but nnz and the checksum, and that all but the values fits into `bytes`. On
// failure returns false and says in `error` what was got and what was wanted.
bool ParseTilesHeader(const PackedHeader& header, uint64_t bytes, TilesSections* sections,
                      std::string* error);

// Whether `bytes` is the length of a blob whose values take `units` of 16 bytes, as the header
// says.
bool CheckTilesLength(const PackedHeader& header, uint64_t bytes, uint64_t units,
                      std::string* error);

}  // namespace slc

#endif  // SLC_PACKED_TILES_H_
