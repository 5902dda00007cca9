#include "scratch.h"

#include <mutex>
#include <new>

namespace slc {
namespace {

constexpr std::align_val_t kAlignment{64};
constexpr size_t kLarge = 128 << 10;  // below this the C library keeps blocks itself
constexpr size_t kKept = 4;           // what one call of an operator holds at most

struct Block {
  void* data;
  size_t bytes;
};

struct Kept {
  std::mutex mutex;
  Block blocks[kKept] = {};
};

// Never freed: a session in a static object may outlive our static objects.
Kept& KeptBlocks() {
  static Kept* const kept = new Kept;
  return *kept;
}

// Sizes are rounded up, so that a block serves the next length of input as well.
size_t Rounded(size_t bytes) { return (bytes + kLarge - 1) / kLarge * kLarge; }

}  // namespace

void* TakeScratch(size_t bytes) {
  if (bytes < kLarge) return ::operator new(bytes, kAlignment);
  bytes = Rounded(bytes);
  Kept& kept = KeptBlocks();
  {
    const std::lock_guard<std::mutex> lock(kept.mutex);
    for (Block& block : kept.blocks) {
      if (block.data != nullptr && block.bytes == bytes) {
        void* const data = block.data;
        block = {};
        return data;
      }
    }
  }
  return ::operator new(bytes, kAlignment);
}

void GiveScratch(void* data, size_t bytes) noexcept {
  if (bytes < kLarge) return ::operator delete(data, kAlignment);
  Block given = {data, Rounded(bytes)};
  Kept& kept = KeptBlocks();
  {
    // The new block takes the place of an empty one, else of the smallest.
    const std::lock_guard<std::mutex> lock(kept.mutex);
    Block* place = &kept.blocks[0];
    for (Block& block : kept.blocks) {
      if (block.bytes < place->bytes) place = &block;
    }
    if (place->bytes < given.bytes) {
      const Block smaller = *place;
      *place = given;
      given = smaller;
    }
  }
  ::operator delete(given.data, kAlignment);
}

}  // namespace slc
