// 2-D convolution (cross-correlation, as PyTorch calls it), 1-D as one row:
//   y[n, o, p, q] = b[o] + sum_{i, r, s} w[o, i, r, s] x[n, g i, p sh + r dh - top, q sw + s dw - left]
// with zeros outside x, and i over the in_channels / groups channels of o's group g.
// Backward: dx is the gradient of x, dw of w, db[o] = sum_{n, p, q} dy. Gradients are overwritten.
// x, y, dy and dx are dense, all contiguous or all channels-last (`layout`); w may have any strides;
// dw is C-contiguous. No output may overlap an input.
#pragma once
#include <cstddef>

#include "core/array.h"

namespace arraynn {

struct ConvParams {
  DType dtype;
  Place place;
  Layout layout;
  int64_t batch, in_channels, out_channels, groups;
  int64_t in_h, in_w, out_h, out_w;
  int64_t kernel_h, kernel_w;
  int64_t stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
  int64_t w_strides[4];  // out, in, row, column
  int ndim;              // of the output
  int64_t output_shape[4];
};

enum class Padding : int { numbers, same, valid };

struct ConvOptions {
  int64_t stride[2], padding[2], dilation[2];
  Padding mode;
  int64_t groups;
};

// `dims` spatial dimensions, 1 or 2; of the options' pairs the last `dims` count. bias may be null.
ConvParams conv_params(const char* op, int dims, const Array& input, const Array& weight, const Array* bias,
                       const ConvOptions& options, Layout layout);
void check_conv_cotangent(const char* op, const ConvParams& p, const Array& d_output);

// Bytes of scratch for a direction.
size_t conv_forward_scratch(const ConvParams& p);
size_t conv_backward_input_scratch(const ConvParams& p);
size_t conv_backward_weight_scratch(const ConvParams& p);
void conv_forward(const ConvParams& p, const void* input, const void* weight, const void* bias, void* output,
                  void* scratch);
void conv_backward_input(const ConvParams& p, const void* d_output, const void* weight, void* d_input, void* scratch);
// d_weight or d_bias may be null: not wanted.
void conv_backward_weight(const ConvParams& p, const void* d_output, const void* input, void* d_weight, void* d_bias,
                          void* scratch);

}  // namespace arraynn
