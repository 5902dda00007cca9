// Which instruction set the kernels may use on this machine.
#ifndef SLC_CPU_FEATURES_H_
#define SLC_CPU_FEATURES_H_

namespace slc {

// Within a processor family in ascending order: a machine that runs one runs all before it.
// kAvx2: AVX2, FMA, F16C, BMI2. kAvx512: F, BW, DQ, VL, VBMI, VBMI2, VNNI (Ice Lake, Zen 4).
// kNeon: every armv8. kDotprod: armv8.2's sdot.
enum class Isa { kGeneric = 0, kAvx2 = 1, kAvx512 = 2, kNeon = 3, kDotprod = 4 };

// What the processor and the operating system both support.
Isa DetectIsa();

// DetectIsa(), lowered by the environment variable SLC_ISA (generic | avx2 | avx512 | neon |
// dotprod) if that is set. An unknown word or a higher ISA than the machine has changes nothing.
Isa UsableIsa();

}  // namespace slc

#endif  // SLC_CPU_FEATURES_H_
