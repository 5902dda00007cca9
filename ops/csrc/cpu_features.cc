#include "cpu_features.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>

namespace {

// The operating system must save the upper halves of the registers too: XCR0 bits 1 and 2.
bool OsSavesYmm() {
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & 6u) == 6u;
}

bool HasAvx2FmaF16cBmi2() {
  unsigned a, b, c, d;
  constexpr unsigned kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
  constexpr unsigned kLeaf1 = kFma | kOsxsave | kAvx | kF16c;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & kLeaf1) != kLeaf1 || !OsSavesYmm()) return false;
  constexpr unsigned kAvx2 = 1u << 5, kBmi2 = 1u << 8;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (kAvx2 | kBmi2)) == (kAvx2 | kBmi2);
}

}  // namespace

slc::Isa slc::DetectIsa() { return HasAvx2FmaF16cBmi2() ? Isa::kAvx2 : Isa::kGeneric; }

#else

slc::Isa slc::DetectIsa() { return Isa::kGeneric; }

#endif

slc::Isa slc::UsableIsa() {
  const Isa detected = DetectIsa();
  const char* wanted = std::getenv("SLC_ISA");
  if (wanted == nullptr) return detected;
  if (std::strcmp(wanted, "generic") == 0) return Isa::kGeneric;
  if (std::strcmp(wanted, "avx2") == 0) return std::min(detected, Isa::kAvx2);
  return detected;
}
