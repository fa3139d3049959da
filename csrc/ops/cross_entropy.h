// cross_entropy, softmax included: l = -sum_c q_c log softmax(x)_c for every label, with
//   q_c = w_c ((1 - s) t_c + s / C), t_c = [c == label] or the target's probability.
// none: the labels' losses; sum: their sum; mean: that divided by the sum of w_label (class indices)
// or by the number of labels (probabilities). A label equal to ignore_index takes no part: its loss
// and its gradient are zero. The mean over no label is NaN.
// Backward: dx_c = (softmax(x)_c sum_j q_j - q_c) dl.
//
// nll_loss, of logarithms of probabilities and class indices: l = -w_label x_label, reduced in the same way.
// Backward: dx_label = -w_label dl, zero elsewhere.
//
// Input (N, C, ...) or (C,) is seen as outer x classes x inner and the labels as outer x inner, all
// dense. Nothing is saved but, if the caller wants it, the gradient itself: forward writes it for a
// cotangent of one while a row of logits is still in the cache.
#pragma once
#include "core/array.h"
#include "ops/linear.h"
#include "ops/reduction.h"

namespace arraynn {

struct CrossEntropyParams {
  const char* op;  // whose call it is, for errors
  DType dtype;
  Place place;
  Reduction reduction;
  bool probabilities;  // what the target holds
  int64_t outer, classes, inner;
  int64_t ignore_index;
  double smoothing;
  double divisor;  // of the mean
  int ndim;        // of the output
  int64_t output_shape[max_dims];
  // What a mean is over where this call is a part of it; null and 0: the call itself. On a device, whose kernels
  // compute the divisor.
  const int64_t* mean_labels;
  int64_t mean_count;
};

// A target of dtype int64 holds class indices. Channels-last input has its classes innermost.
CrossEntropyParams cross_entropy_params(const Array& input, const Array& target, const Array* weight,
                                        int64_t ignore_index, Reduction reduction, double smoothing, Layout layout);
CrossEntropyParams nll_params(const Array& input, const Array& target, const Array* weight, int64_t ignore_index,
                              Reduction reduction, Layout layout);
// Refuses labels out of range and computes the divisor. To be called before anything is computed.
// On a device, whose values the host cannot see without waiting, it does so only where the place asks
// for checks; the kernels compute the divisor themselves, and a bad label makes loss and gradient NaN.
// scratch: reduction_scratch(p.place) bytes, on a device.
void cross_entropy_labels(CrossEntropyParams& p, const void* target, const void* weight, void* scratch);
// Refuses a cotangent that is not of the output's shape.
void check_cross_entropy_cotangent(const CrossEntropyParams& p, const Array& cotangent);

// weight may be null; d_input may be null: not wanted. scratch: reduction_scratch(p.place) bytes.
void cross_entropy_forward(const CrossEntropyParams& p, const void* input, const void* target, const void* weight,
                           void* output, void* d_input, void* scratch);
// unit: d_input holds the gradient for a cotangent of one, as forward left it.
void cross_entropy_backward(const CrossEntropyParams& p, const void* input, const void* target, const void* weight,
                            const void* cotangent, void* d_input, bool unit, void* scratch);

void nll_forward(const CrossEntropyParams& p, const void* input, const void* target, const void* weight, void* output,
                 void* d_input, void* scratch);
void nll_backward(const CrossEntropyParams& p, const void* target, const void* weight, const void* cotangent,
                  void* d_input, bool unit, void* scratch);

// linear_cross_entropy: cross_entropy of the logits x W^T + b, in tiles of rows that pass through scratch, so that
// there are never more than a tile's. Gradients of the tiles are left, or added up, as they pass.
struct LinearCrossEntropyParams {
  LinearParams linear;      // of all rows
  CrossEntropyParams loss;  // of all rows
  int64_t tile;             // rows
  int64_t tiles() const;    // at least one
};
LinearCrossEntropyParams linear_cross_entropy_params(const Array& input, const Array& linear_weight,
                                                     const Array* linear_bias, const Array& target, const Array* weight,
                                                     int64_t ignore_index, Reduction reduction, double smoothing);
struct LinearCrossEntropyInputs {
  const void *input, *linear_weight, *linear_bias, *target, *weight;
};
// Null: not wanted.
struct LinearCrossEntropyGradients {
  void *input, *linear_weight, *linear_bias;
};
// Bytes, with what the gradients need or without.
size_t linear_cross_entropy_scratch(const LinearCrossEntropyParams& p, bool gradients);
// The losses and, if any is wanted, gradients for a cotangent of one. The latter not with Reduction::none.
void linear_cross_entropy_forward(const LinearCrossEntropyParams& p, const LinearCrossEntropyInputs& in, void* output,
                                  const LinearCrossEntropyGradients& d, void* scratch);
void linear_cross_entropy_backward(const LinearCrossEntropyParams& p, const LinearCrossEntropyInputs& in,
                                   const void* cotangent, const LinearCrossEntropyGradients& d, void* scratch);
// gradient *= cotangent, which is one number; where that is 1, nothing is written.
void scale_gradient(const Array& gradient, const void* cotangent);

// The labels of one call: the first one out of range, if there is one, and what they count.
struct LabelSummary {
  int64_t bad;
  bool is_bad;
  double weight;
};

}  // namespace arraynn
