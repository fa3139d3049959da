// Copies into the order that the products read: images channels-last, with room to make a group's channels
// whole packs, and weights with the summed channels innermost, split by phases.
#pragma once
#include "conv/axis.h"
#include "core/array.h"

namespace arraynn::cuda {

struct ImageCopy {
  DType dtype;
  Place place;
  Layout layout;                                    // of the source
  int64_t batch, pixels, groups, channels, padded;  // channels of a group, and how many it has in the copy
};
void copy_image(const ImageCopy& c, const void* from, void* to);

// Of w, seen as (groups, rows, channels, taps of d, h and w) by its strides in elements.
struct WeightCopy {
  DType dtype;
  Place place;
  int64_t groups, rows, channels, padded;
  int64_t steps[6];
  Axes axes;
  int64_t row_step;  // from row to row of the copy (groups, slots of d, h and w, rows, taps, padded)
};
void copy_weights(const WeightCopy& c, const void* from, void* to);

}  // namespace arraynn::cuda
