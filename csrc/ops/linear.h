// y = x W^T + b for x (..., in_features) seen as rows x in_features, W (out_features, in_features).
// Backward: dx = dy W, dW = dy^T x, db = the sum of dy over its rows. Gradients are overwritten, but that dW is added
// to with `add_weight`.
// x, y, dy and dx are C-contiguous; element (o, i) of W lies at w_out * o + w_in * i.
#pragma once
#include <cstddef>

#include "core/array.h"

namespace arraynn {

struct LinearParams {
  DType dtype;
  Place place;
  int64_t rows, in_features, out_features;
  int64_t w_out, w_in;
  bool add_weight;
  int ndim;  // of the output
  int64_t output_shape[max_dims];
};

// bias may be null.
LinearParams linear_params(const Array& input, const Array& weight, const Array* bias);
// Refuses a cotangent that is not of the output's shape.
void check_linear_cotangent(const LinearParams& p, const Array& d_output);
size_t linear_scratch(const LinearParams& p);  // bytes, for either direction
void linear_forward(const LinearParams& p, const void* input, const void* weight, const void* bias, void* output,
                    void* scratch);
void linear_backward_input(const LinearParams& p, const void* d_output, const void* weight, void* d_input,
                           void* scratch);
// d_weight or d_bias may be null: not wanted.
void linear_backward_weight(const LinearParams& p, const void* d_output, const void* input, void* d_weight,
                            void* d_bias, void* scratch);

}  // namespace arraynn
