// batch_norm and group_norm of an input (N, C, spatial...):
//   y = (x - mean) rstd w + b,  rstd = 1 / sqrt(variance + eps), w and b being the channel's.
// batch_norm in training takes mean and variance of a channel over images and space, and moves the running ones,
//   running += momentum (new - running), the new variance being the unbiased one; in evaluation it takes the running
//   ones. group_norm takes those of a group of channels of an image.
// With z = (x - mean) rstd, g = dy w, and means over the numbers that the statistics are of:
//   dx = rstd (g - mean g - z mean(g z)), in evaluation rstd g;   dw = sum dy z and db = sum dy over the channel.
// x, y, dy and dx are dense in the order of p.layout, weight and bias contiguous or null: ones and zeros.
#pragma once
#include <cstddef>

#include "core/array.h"
#include "ops/statistics.h"

namespace arraynn {

struct ChannelNormParams {
  DType dtype;
  Place place;
  Layout layout;
  int64_t images, channels, inner;
  int64_t groups;  // of the channels of an image; 0: statistics are a channel's, of all images
  bool fixed;      // statistics are the running ones
  double eps;
  double momentum;
  DType running_dtype;

  int64_t statistics() const { return groups ? images * groups : channels; }
  // Units are channels, or channels of an image: what has one mean, one weight and one sum of gradients.
  int64_t units() const { return groups ? images * channels : channels; }
  int64_t units_per_statistic() const { return groups ? channels / groups : 1; }
  int64_t elements_per_unit() const { return groups ? inner : images * inner; }
};

struct ChannelNormForward {
  const void *x, *weight, *bias;
  void* y;
  Statistics* statistics;            // written
  void *running_mean, *running_var;  // contiguous; in training each may be null, else both are only read
};

struct ChannelNormBackward {
  const void *dy, *x, *weight;  // with fixed statistics x may be null unless d_weight is wanted
  const Statistics* statistics;
  void *dx, *d_weight, *d_bias;  // null: not wanted
};

// weight, bias and, in training, the running statistics may be null.
ChannelNormParams batch_norm_params(const Array& input, const Array* running_mean, const Array* running_var,
                                    const Array* weight, const Array* bias, bool training, double momentum, double eps,
                                    Layout layout);
ChannelNormParams batch_norm_gradient_params(const Array& cotangent, const Array* weight, bool training, Layout layout);
ChannelNormParams group_norm_params(const Array& input, int64_t groups, const Array* weight, const Array* bias,
                                    double eps, Layout layout);
size_t channel_norm_scratch(const ChannelNormParams& p, bool backward);  // bytes
void channel_norm_forward(const ChannelNormParams& p, const ChannelNormForward& a, void* scratch);
void channel_norm_backward(const ChannelNormParams& p, const ChannelNormBackward& a, void* scratch);

}  // namespace arraynn
