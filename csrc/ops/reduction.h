// What a loss does with its terms, and what summing them takes.
#pragma once
#include <cstddef>

#include "core/array.h"

namespace arraynn {

enum class Reduction : int { none, mean, sum };

// On a device a sum over an array is made of the sums of at most so many blocks, added in their order.
inline constexpr int64_t reduction_blocks = 1024;

// Bytes of scratch for that: up to four numbers of a block.
inline size_t reduction_scratch(const Place& place) {
  return place.on_device() ? 4 * reduction_blocks * sizeof(double) : 0;
}

}  // namespace arraynn
