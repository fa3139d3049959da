// Convolutions whose groups have one input channel each.
#pragma once
#include <cstddef>

#include "conv/axis.h"
#include "core/array.h"

namespace arraynn::cuda {

// An image by its strides, in elements.
struct DepthwiseImage {
  int64_t step_n, step_c, step_h, step_w;
};

struct Depthwise {
  DType dtype;
  Place place;
  Layout layout;
  Axis h, w;
  int64_t batch, groups, multiple;  // multiple: output channels of a group
  DepthwiseImage image, result;     // what is gathered from, and what each pixel belongs to
};

// The gathered image is the input and the result the output; for the input's gradient, the other way round.
// w_steps: out, row, column.
size_t depthwise_scratch(const Depthwise& d);
void depthwise_forward(const Depthwise& d, const void* input, const void* weight, const int64_t (&w_steps)[3],
                       const void* bias, void* output, void* scratch);
void depthwise_backward_input(const Depthwise& d, const void* d_output, const void* weight, const int64_t (&w_steps)[3],
                              void* d_input, void* scratch);
// The gathered image is the input, the result the output's gradient. dw is (groups * multiple, taps).
size_t depthwise_gradient_scratch(const Depthwise& d);
void depthwise_backward_weight(const Depthwise& d, const void* d_output, const void* input, void* d_weight,
                               void* scratch);

}  // namespace arraynn::cuda
