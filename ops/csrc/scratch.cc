#include "scratch.h"

#include <memory>
#include <mutex>
#include <new>

namespace slc {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kLarge = 128 << 10;  // below this the C library keeps blocks itself
constexpr size_t kKept = 4;           // what one call of an operator holds at most

struct Kept {
  std::mutex mutex;
  ScratchBlock blocks[kKept];
};

// Never freed: a session in a static object may outlive our static objects.
Kept& KeptBlocks() {
  static Kept* const kept = new Kept;
  return *kept;
}

// The smallest kept block of `bytes` or more; failing that the largest smaller one, which a new
// block then replaces, so that calls of many sizes do not pile up a block of each.
ScratchBlock TakeKept(size_t bytes) {
  Kept& kept = KeptBlocks();
  const std::lock_guard<std::mutex> lock(kept.mutex);
  ScratchBlock* best = &kept.blocks[0];
  for (ScratchBlock& block : kept.blocks) {
    const bool fits = block.bytes >= bytes, best_fits = best->bytes >= bytes;
    const bool better = fits && best_fits ? block.bytes < best->bytes
                                          : fits || (!best_fits && block.bytes > best->bytes);
    if (better) best = &block;
  }
  return std::exchange(*best, {});
}

// Aligned by hand: glibc 2.36 does not find a freed block again when it is asked for an aligned
// one, and the heap of a session grew by up to 2 MB.
ScratchBlock Allocate(size_t bytes) {
  size_t room = bytes + kAlignment - 1;
  void* const allocation = ::operator new(room);
  void* data = allocation;
  std::align(kAlignment, bytes, data, room);
  return {data, bytes, allocation};
}

}  // namespace

ScratchBlock TakeScratch(size_t bytes) {
  if (bytes < kLarge) return Allocate(bytes);
  const ScratchBlock kept = TakeKept(bytes);
  if (kept.bytes >= bytes) return kept;
  ::operator delete(kept.allocation);
  return Allocate(bytes);
}

void GiveScratch(ScratchBlock block) noexcept {
  if (block.bytes >= kLarge) {
    Kept& kept = KeptBlocks();
    const std::lock_guard<std::mutex> lock(kept.mutex);
    ScratchBlock* smallest = &kept.blocks[0];  // an empty place has no bytes
    for (ScratchBlock& other : kept.blocks) {
      if (other.bytes < smallest->bytes) smallest = &other;
    }
    if (smallest->bytes < block.bytes) std::swap(*smallest, block);
  }
  ::operator delete(block.allocation);
}

}  // namespace slc
