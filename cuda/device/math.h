// Functions that C names by the type.
#pragma once
#include <cmath>

#include "intrinsics.h"

namespace arraynn::cuda {

template <class C>
__device__ __forceinline__ C square_root(C x) {
  if constexpr (sizeof(C) == 8)
    return sqrt(x);
  else
    return sqrtf(x);
}

}  // namespace arraynn::cuda
