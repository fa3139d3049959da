// Copies between arrays of one shape and any strides, converting: what bindings do to an array that a
// kernel cannot read as it lies.
#pragma once
#include "core/array.h"

namespace arraynn::cuda {

// Of the same shape, on the same device. Floats are rounded once, to nearest even; integers wrap.
void copy(const Array& from, const Array& to);

}  // namespace arraynn::cuda
