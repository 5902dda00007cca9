#include "cpu_features.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>

namespace {

constexpr unsigned kYmmState = 0x6u, kZmmState = 0xe6u;

// The registers that the operating system saves.
unsigned SavedState() {
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

bool HasAvx2FmaF16cBmi2() {
  unsigned a, b, c, d;
  constexpr unsigned kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
  constexpr unsigned kLeaf1 = kFma | kOsxsave | kAvx | kF16c;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & kLeaf1) != kLeaf1) return false;
  if ((SavedState() & kYmmState) != kYmmState) return false;
  constexpr unsigned kAvx2 = 1u << 5, kBmi2 = 1u << 8;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (kAvx2 | kBmi2)) == (kAvx2 | kBmi2);
}

// On a machine that has AVX2.
bool HasAvx512Vbmi2Vnni() {
  unsigned a, b, c, d;
  constexpr unsigned kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31;
  constexpr unsigned kVbmi = 1u << 1, kVbmi2 = 1u << 6, kVnni = 1u << 11;
  constexpr unsigned kLeaf7b = kF | kDq | kBw | kVl, kLeaf7c = kVbmi | kVbmi2 | kVnni;
  return (SavedState() & kZmmState) == kZmmState && __get_cpuid_count(7, 0, &a, &b, &c, &d) &&
         (b & kLeaf7b) == kLeaf7b && (c & kLeaf7c) == kLeaf7c;
}

}  // namespace

slc::Isa slc::DetectIsa() {
  if (!HasAvx2FmaF16cBmi2()) return Isa::kGeneric;
  return HasAvx512Vbmi2Vnni() ? Isa::kAvx512 : Isa::kAvx2;
}

#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

// HWCAP_ASIMDDP of <asm/hwcap.h>, which old kernel headers do not have.
slc::Isa slc::DetectIsa() {
  constexpr unsigned long kAsimdDp = 1ul << 20;
  return (getauxval(AT_HWCAP) & kAsimdDp) != 0 ? Isa::kDotprod : Isa::kNeon;
}

#elif defined(__aarch64__)

slc::Isa slc::DetectIsa() { return Isa::kNeon; }

#else

slc::Isa slc::DetectIsa() { return Isa::kGeneric; }

#endif

slc::Isa slc::UsableIsa() {
  const Isa detected = DetectIsa();
  const char* wanted = std::getenv("SLC_ISA");
  if (wanted == nullptr) return detected;
  const struct {
    const char* word;
    Isa isa;
  } words[] = {{"generic", Isa::kGeneric},
#if defined(__x86_64__)
               {"avx2", Isa::kAvx2},
               {"avx512", Isa::kAvx512}};
#else
               {"neon", Isa::kNeon},
               {"dotprod", Isa::kDotprod}};
#endif
  for (const auto& entry : words) {
    if (std::strcmp(wanted, entry.word) == 0) return std::min(detected, entry.isa);
  }
  return detected;
}
