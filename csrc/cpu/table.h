// The seam between ops/ and the kernels: one pointer per line of kernels.def.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/array.h"
#include "ops/activation.h"
#include "ops/attention.h"
#include "ops/channel_norm.h"
#include "ops/conv.h"
#include "ops/cross_entropy.h"
#include "ops/dropout.h"
#include "ops/embedding.h"
#include "ops/linear.h"
#include "ops/loss.h"
#include "ops/optimizer.h"
#include "ops/pool.h"
#include "ops/rnn.h"
#include "ops/row_norm.h"

namespace arraynn {

struct KernelTable {
#define ARRAYNN_KERNEL(result, name, parameters) result(*name) parameters;
#define ARRAYNN_CPU_KERNEL(result, name, parameters)
#include "cpu/kernels.def"
#undef ARRAYNN_KERNEL
#undef ARRAYNN_CPU_KERNEL
};

struct CpuTable : KernelTable {
#define ARRAYNN_KERNEL(result, name, parameters)
#define ARRAYNN_CPU_KERNEL(result, name, parameters) result(*name) parameters;
#include "cpu/kernels.def"
#undef ARRAYNN_KERNEL
#undef ARRAYNN_CPU_KERNEL
};

extern const CpuTable table_baseline, table_avx2, table_avx512;

}  // namespace arraynn
