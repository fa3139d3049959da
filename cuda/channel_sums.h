// Sums of an array (outer, channels, inner) over all but its channels: the gradients of biases.
#pragma once
#include <cstddef>

#include "core/array.h"

namespace arraynn::cuda {

struct ChannelSums {
  DType dtype;
  Place place;
  int64_t outer, channels, inner;
};

size_t channel_sums_scratch(const ChannelSums& s);  // bytes
void channel_sums(const ChannelSums& s, const void* data, void* sums, void* scratch);

}  // namespace arraynn::cuda
