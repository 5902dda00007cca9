// Values that lie side by side in memory, read eight at a time as floats.
#ifndef SLC_DENSE_VALUES_H_
#define SLC_DENSE_VALUES_H_

#include <cstdint>

namespace slc {
namespace {

struct F32Dense {
  static constexpr int64_t kBytes = 4;
  template <class S>
  static typename S::Vec Load(const uint8_t* p) {
    return S::Load(reinterpret_cast<const float*>(p));
  }
};

struct F16Dense {
  static constexpr int64_t kBytes = 2;
  template <class S>
  static typename S::Vec Load(const uint8_t* p) {
    return S::LoadF16(p);
  }
};

struct I8Dense {
  static constexpr int64_t kBytes = 1;
  template <class S>
  static typename S::Vec Load(const uint8_t* p) {
    return S::LoadI8(p);
  }
};

}  // namespace
}  // namespace slc

#endif  // SLC_DENSE_VALUES_H_
