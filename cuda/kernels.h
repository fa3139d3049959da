// Declares the CUDA launchers, one for each line of kernels.def. Every .cu file of a family includes it,
// so that a definition that strays from the list does not link.
#pragma once
#include "cpu/table.h"

namespace arraynn::cuda {

#define ARRAYNN_KERNEL(result, name, parameters) result name parameters;
#define ARRAYNN_CPU_KERNEL(result, name, parameters)
#include "cpu/kernels.def"
#undef ARRAYNN_KERNEL
#undef ARRAYNN_CPU_KERNEL

}  // namespace arraynn::cuda
