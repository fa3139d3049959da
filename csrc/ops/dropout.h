// y_i = x_i / (1 - p) where element i is kept, else 0. The mask is a function of a key and of the
// element's number i in C order, whatever the memory order: u_i, word i % 4 of Philox4x32-10 (Salmon
// et al., Parallel random numbers: as easy as 1, 2, 3, 2011) with counter i / 4, is at least
// floor(p 2^32). Backward is the same op on the cotangent. x and y are dense in the same memory
// order; y may be x.
#pragma once
#include "core/array.h"

namespace arraynn {

struct DropoutParams {
  DType dtype;
  Place place;
  int64_t count;
  uint64_t key;
  double p;
  // Where memory is not in C order, the axes from the slowest in memory to the fastest, joined where
  // they can be; `step` is by how much the element's number grows along an axis.
  int ndim = 0;
  int64_t shape[max_dims] = {};
  int64_t step[max_dims] = {};
};

// `input` is dense.
DropoutParams dropout_params(const Array& input, double p, uint64_t key);
void dropout_forward(const DropoutParams& p, const void* x, void* y);

}  // namespace arraynn
