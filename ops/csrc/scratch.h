// Memory for one call of an operator, 64-byte aligned, not initialised.
#ifndef SLC_SCRATCH_H_
#define SLC_SCRATCH_H_

#include <cstddef>
#include <cstdint>
#include <utility>

namespace slc {

// An aligned block and its true size, which may be more than was asked for.
struct ScratchBlock {
  void* data = nullptr;
  size_t bytes = 0;
  void* allocation = nullptr;  // what holds it
};

// `bytes` > 0. Large blocks come from a few that earlier calls gave back: a fresh block of
// megabytes costs a page fault for each 4 KiB, which on a virtual machine was seen to take as long
// as the product that it was for, and the C library's own reuse left one session in three with more
// blocks than it needed.
ScratchBlock TakeScratch(size_t bytes);
void GiveScratch(ScratchBlock block) noexcept;

template <class T>
class ScratchOf {
 public:
  ScratchOf() = default;
  explicit ScratchOf(int64_t elements) {
    if (elements > 0) block_ = TakeScratch(static_cast<size_t>(elements) * sizeof(T));
  }
  ~ScratchOf() {
    if (block_.data != nullptr) GiveScratch(block_);
  }
  ScratchOf(const ScratchOf&) = delete;
  ScratchOf& operator=(const ScratchOf&) = delete;
  ScratchOf& operator=(ScratchOf&& other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  T* data() const { return static_cast<T*>(block_.data); }

 private:
  ScratchBlock block_;
};

using Scratch = ScratchOf<float>;

}  // namespace slc

#endif  // SLC_SCRATCH_H_
