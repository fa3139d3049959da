// Convolutions whose groups have one input channel each.
#pragma once
#include <cstddef>

#include "conv/axis.h"
#include "core/array.h"

namespace arraynn::cuda {

struct Depthwise {
  DType dtype;
  Place place;
  Layout layout;
  Axes axes;
  int64_t batch, groups, multiple;  // multiple: output channels of a group
  ImageSteps image, result;         // of what is gathered from, and of what each pixel belongs to
};

// And its strides.
struct DepthwiseWeight {
  const void* data;
  int64_t channel, d, h, w;
};

// The gathered image is the input and the result the output; for the input's gradient, the other way round.
size_t depthwise_scratch(const Depthwise& d);
void depthwise_forward(const Depthwise& d, const void* input, const DepthwiseWeight& weight, const void* bias,
                       void* output, void* scratch);
void depthwise_backward_input(const Depthwise& d, const void* d_output, const DepthwiseWeight& weight, const void* bias,
                              void* d_input, void* scratch);
// The gathered image is the input, the result the output's gradient. dw is (groups * multiple, taps).
size_t depthwise_gradient_scratch(const Depthwise& d);
void depthwise_backward_weight(const Depthwise& d, const void* d_output, const void* input, void* d_weight,
                               void* scratch);

}  // namespace arraynn::cuda
