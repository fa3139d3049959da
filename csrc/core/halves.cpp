#include "core/halves.h"

#include "core/isa.h"
#include "cpu/table.h"

namespace arraynn {

void widen_halves(DType half, int64_t count, const void* from, float* to) { cpu().widen_halves(half, count, from, to); }

void round_to_halves(DType half, int64_t count, const float* from, void* to) {
  cpu().round_to_halves(half, count, from, to);
}

bool multiplies_bfloat16() { return cpu().multiplies_bfloat16(); }

}  // namespace arraynn
