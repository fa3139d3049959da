#include "cpu/table.h"

#include "cpu/kernels.h"

#define ARRAYNN_JOIN_(a, b) a##b
#define ARRAYNN_JOIN(a, b) ARRAYNN_JOIN_(a, b)

namespace arraynn {

extern const CpuTable ARRAYNN_JOIN(table_, ARRAYNN_ISA) = {
    {
#define ARRAYNN_KERNEL(result, name, parameters) cpu::ARRAYNN_ISA::name,
#define ARRAYNN_CPU_KERNEL(result, name, parameters)
#include "cpu/kernels.def"
#undef ARRAYNN_KERNEL
#undef ARRAYNN_CPU_KERNEL
    },
#define ARRAYNN_KERNEL(result, name, parameters)
#define ARRAYNN_CPU_KERNEL(result, name, parameters) cpu::ARRAYNN_ISA::name,
#include "cpu/kernels.def"
#undef ARRAYNN_KERNEL
#undef ARRAYNN_CPU_KERNEL
};

}  // namespace arraynn
