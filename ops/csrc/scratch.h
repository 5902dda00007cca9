// Memory for one call of an operator, 64-byte aligned, not initialised.
#ifndef SLC_SCRATCH_H_
#define SLC_SCRATCH_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace slc {

template <class T>
class ScratchOf {
 public:
  ScratchOf() = default;
  explicit ScratchOf(int64_t elements)
      : data_(elements <= 0 ? nullptr
                            : static_cast<T*>(::operator new[](
                                  static_cast<size_t>(elements) * sizeof(T), kAlignment))) {}
  T* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(T* p) const { ::operator delete[](p, kAlignment); }
  };
  std::unique_ptr<T[], Free> data_;
};

using Scratch = ScratchOf<float>;

}  // namespace slc

#endif  // SLC_SCRATCH_H_
