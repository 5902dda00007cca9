// Memory for one call of an operator, 64-byte aligned, not initialised.
#ifndef SLC_SCRATCH_H_
#define SLC_SCRATCH_H_

#include <cstddef>
#include <cstdint>

namespace slc {

// `bytes` > 0. Large blocks come from a few that earlier calls gave back: a fresh block of
// megabytes costs a page fault for each 4 KiB, which on a virtual machine was seen to take as long
// as the product that it was for.
void* TakeScratch(size_t bytes);
void GiveScratch(void* block, size_t bytes) noexcept;

template <class T>
class ScratchOf {
 public:
  ScratchOf() = default;
  explicit ScratchOf(int64_t elements)
      : bytes_(elements <= 0 ? 0 : static_cast<size_t>(elements) * sizeof(T)),
        data_(bytes_ == 0 ? nullptr : static_cast<T*>(TakeScratch(bytes_))) {}
  ~ScratchOf() {
    if (data_ != nullptr) GiveScratch(data_, bytes_);
  }
  ScratchOf(const ScratchOf&) = delete;
  ScratchOf& operator=(const ScratchOf&) = delete;
  ScratchOf& operator=(ScratchOf&& other) noexcept {
    const size_t bytes = bytes_;
    T* const data = data_;
    bytes_ = other.bytes_;
    data_ = other.data_;
    other.bytes_ = bytes;
    other.data_ = data;
    return *this;
  }
  T* data() const { return data_; }

 private:
  size_t bytes_ = 0;
  T* data_ = nullptr;
};

using Scratch = ScratchOf<float>;

}  // namespace slc

#endif  // SLC_SCRATCH_H_
