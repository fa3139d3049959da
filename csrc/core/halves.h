// 16-bit floats to float32 and back, rounded to the nearest, ties to even. Dense memory in any order of its axes.
#pragma once
#include <cstdint>

#include "core/array.h"

namespace arraynn {

// `half` is float16 or bfloat16, what `from` and `to` hold.
void widen_halves(DType half, int64_t count, const void* from, float* to);
void round_to_halves(DType half, int64_t count, const float* from, void* to);
// Whether the current instruction set and machine multiply bfloat16 numbers as they are.
bool multiplies_bfloat16();

}  // namespace arraynn
