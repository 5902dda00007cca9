// Which instruction set the kernels may use on this machine.
#ifndef SLC_CPU_FEATURES_H_
#define SLC_CPU_FEATURES_H_

namespace slc {

// In ascending order: a machine that runs one runs all before it.
enum class Isa { kGeneric = 0, kAvx2 = 1 };

// What the processor and the operating system both support.
Isa DetectIsa();

// DetectIsa(), lowered by the environment variable SLC_ISA (generic | avx2) if that is set. An
// unknown word or a higher ISA than the machine has changes nothing.
Isa UsableIsa();

}  // namespace slc

#endif  // SLC_CPU_FEATURES_H_
