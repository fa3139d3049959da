// The mean of numbers that may be large beside their deviations, in two parts.
#pragma once
#include <cmath>

#include "device/types.h"

namespace arraynn::cuda {

// x - mean = (x - high) - low, to the last bit of C where the difference is small.
template <class C>
struct Center {
  C high, low;

  __device__ __forceinline__ C operator()(C x) const { return (x - high) - low; }
  __device__ __forceinline__ double mean() const { return static_cast<double>(high) + static_cast<double>(low); }
  static __device__ __forceinline__ Center of(double mean) {
    Center center{static_cast<C>(mean), 0};
    if (center.high - center.high == 0) center.low = static_cast<C>(mean - static_cast<double>(center.high));
    return center;
  }
};

}  // namespace arraynn::cuda
