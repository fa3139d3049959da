// Declares this instruction set's kernels. Every file of cpu/ includes it, so that a definition
// that strays from kernels.def does not link.
#pragma once
#include "cpu/table.h"

namespace arraynn::cpu::ARRAYNN_ISA {

#define ARRAYNN_KERNEL(result, name, parameters) result name parameters;
#define ARRAYNN_CPU_KERNEL ARRAYNN_KERNEL
#include "cpu/kernels.def"
#undef ARRAYNN_KERNEL
#undef ARRAYNN_CPU_KERNEL

}  // namespace arraynn::cpu::ARRAYNN_ISA
