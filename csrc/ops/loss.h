// Losses of one element of input and target each, l(x, t), times its weight if there are weights:
//   mse      (x - t)^2
//   l1       |x - t|, whose derivative at 0 is 0
//   huber    (x - t)^2 / 2 where |x - t| <= delta, else delta (|x - t| - delta / 2)
//   kl_div   t (log t - x) with 0 log 0 = 0, or exp(t) (t - x) where the target holds logarithms
//   binary cross-entropy with logits   (1 - t) x + (1 + (p - 1) t) log(1 + exp(-x)), p the weight of t = 1
// as they are, summed, or averaged. The mean divides by the number of elements, or of rows (batch_mean); mse's and
// l1's with weights divides by the sum of these as given. Backward: dx = w dl/dx times the cotangent, over the same.
//
// All arrays of a call are dense in the same memory order and of one shape, to which all are broadcast. Nothing is
// saved but, if the caller wants it, the gradient for a cotangent of one.
#pragma once
#include "core/array.h"
#include "ops/reduction.h"

namespace arraynn {

enum class PointwiseLoss : int { mse, l1, huber, kl_div, bce_with_logits };

struct LossOptions {
  PointwiseLoss function;
  Reduction reduction;
  double delta = 1;         // huber
  bool log_target = false;  // kl_div
  bool batch_mean = false;  // of a mean
};

struct LossParams : LossOptions {
  DType dtype;
  Place place;
  int64_t count;
  int64_t weights;  // how many the mean is divided by, before they are broadcast; 0: it is not
  double divisor;   // of the mean
  int ndim;         // of input and target broadcast
  int64_t shape[max_dims];
  int output_ndim() const { return reduction == Reduction::none ? ndim : 0; }
};

// weight and pos_weight may be null.
struct LossInputs {
  const void *input, *target, *weight, *pos_weight;
};

// Optional arrays may be null. pos_weight is bce_with_logits' alone.
LossParams loss_params(const char* op, const LossOptions& options, const Array& input, const Array& target,
                       const Array* weight, const Array* pos_weight);
// Sets the divisor of a mean over weights, from the dense weights before they are broadcast. A device's
// kernels compute it themselves, from the weights as broadcast.
void loss_divisor(LossParams& p, const void* weight);
void check_loss_cotangent(const char* op, const LossParams& p, const Array& cotangent);

// d_input may be null: not wanted. scratch: reduction_scratch(p.place) bytes.
void loss_forward(const LossParams& p, const LossInputs& in, void* output, void* d_input, void* scratch);
// unit: d_input holds the gradient for a cotangent of one, as forward left it.
void loss_backward(const LossParams& p, const LossInputs& in, const void* cotangent, void* d_input, bool unit,
                   void* scratch);

}  // namespace arraynn
