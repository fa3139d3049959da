// The machine's roof, for the benchmark: what the arithmetic and the memory can do at most.
#pragma once
#include <cstddef>

#include "core/array.h"

namespace arraynn {

// GFLOP/s of independent fused multiply-adds on all threads, with the current instruction set.
double measure_fma_peak(DType dtype, double seconds);
// GB/s read plus written by copying `bytes` on all threads.
double measure_copy_bandwidth(size_t bytes, double seconds);

}  // namespace arraynn
