// 3-D convolution (cross-correlation, as PyTorch calls it); 2-D is one slice, 1-D one row of it:
//   y[n, o, i] = b[o] + sum_{c, k} w[o, c, k] x[n, g c, i stride + k dilation - before]
// with i and k a triple each, zeros outside x, and c over the in_channels / groups channels of o's group g.
// Backward: dx is the gradient of x, dw of w, db[o] = sum_{n, i} dy. Gradients are overwritten.
//
// The transposed convolution is that map from y to x which the gradient of x is, and a bias: `transposed`
// parameters describe the convolution, so that the op's input has its output's sizes and channels, and
// the other way round. Nothing but the choice of the kernel differs.
//
// x, y, dy and dx are dense, all contiguous or all channels-last (`layout`); w may have any strides;
// dw is C-contiguous. No output may overlap an input.
#pragma once
#include <cstddef>

#include "core/array.h"

namespace arraynn {

// `in` and `out` are sizes of the convolution's input and output; before: the padding in front of the input.
struct ConvAxis {
  int64_t in, out, kernel, stride, before, dilation;
};

struct ConvParams {
  DType dtype;
  Place place;
  Layout layout;
  bool transposed;
  int64_t batch, in_channels, out_channels, groups;
  ConvAxis d, h, w;      // of one element where the op has no such axis
  int64_t w_strides[5];  // out, in, slice, row, column
  int ndim;              // of the op's output
  int64_t output_shape[5];
};

// What the bias' gradient is the sum of.
struct ConvBiasParams {
  DType dtype;
  Place place;
  Layout layout;
  int64_t batch, channels, pixels;
};

enum class Padding : int { numbers, same, valid };

// Of the triples the last `dims` count. output_padding is looked at in a transposed convolution alone.
struct ConvOptions {
  bool transposed;
  int64_t stride[3], padding[3], output_padding[3], dilation[3];
  Padding mode;
  int64_t groups;
};

// `dims` spatial dimensions, 1 to 3. bias may be null.
ConvParams conv_params(const char* op, int dims, const Array& input, const Array& weight, const Array* bias,
                       const ConvOptions& options, Layout layout);
void check_conv_cotangent(const char* op, const ConvParams& p, const Array& d_output);

// Bytes of scratch for a direction.
size_t conv_forward_scratch(const ConvParams& p);
size_t conv_backward_input_scratch(const ConvParams& p);
size_t conv_backward_weight_scratch(const ConvParams& p);
size_t conv_backward_bias_scratch(const ConvParams& p);
void conv_forward(const ConvParams& p, const void* input, const void* weight, const void* bias, void* output,
                  void* scratch);
void conv_backward_input(const ConvParams& p, const void* d_output, const void* weight, void* d_input, void* scratch);
void conv_backward_weight(const ConvParams& p, const void* d_output, const void* input, void* d_weight, void* scratch);
void conv_backward_bias(const ConvParams& p, const void* d_output, void* d_bias, void* scratch);

}  // namespace arraynn
