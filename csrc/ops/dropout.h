// y_i = x_i / (1 - p) where element i is kept, else 0. Element i, counted in C order of the logical
// array, is kept if its 32 random bits are >= floor(p 2^32); the bits are word i % 4 of
// Philox4x32-10 (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011) with counter
// (i / 4, 0, 0) in 128 bits and the 64-bit `key`. The gradient is the same function of dy, so only
// the key is kept. y may be x.
#pragma once
#include "core/array.h"

namespace arraynn {

struct DropoutParams {
  DType dtype;
  int64_t count;   // of C-contiguous elements
  uint64_t key;
  double p;        // in [0, 1]
};

void dropout_forward(const DropoutParams& p, const void* x, void* y);

}  // namespace arraynn
