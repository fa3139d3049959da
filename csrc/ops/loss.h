// mse_loss: l = w (x - t)^2, element by element, summed, or averaged: the mean divides by the sum of
// w as given, which without weights is the number of elements. Backward: dx = 2 w (x - t) dl, over the same.
// All arrays of a call are dense in the same memory order and of one shape, to which input and target
// are broadcast. Nothing is saved but, if the caller wants it, the gradient for a cotangent of one.
#pragma once
#include "core/array.h"
#include "ops/reduction.h"

namespace arraynn {

struct MseParams {
  DType dtype;
  Place place;
  Reduction reduction;
  int64_t count;
  int64_t weights;  // how many, before they are broadcast
  double divisor;   // of the mean
  int ndim;         // of input and target broadcast
  int64_t shape[max_dims];
  int output_ndim() const { return reduction == Reduction::none ? ndim : 0; }
};

// weight may be null; it has the shape of the input.
MseParams mse_params(const Array& input, const Array& target, const Array* weight, Reduction reduction);
// Sets the divisor of a weighted mean, from the dense weights before they are broadcast. A device's
// kernels compute it themselves, from the weights as broadcast.
void mse_divisor(MseParams& p, const void* weight);
void check_mse_cotangent(const MseParams& p, const Array& cotangent);

// d_input may be null: not wanted. scratch: reduction_scratch(p.place) bytes.
void mse_forward(const MseParams& p, const void* input, const void* target, const void* weight, void* output,
                 void* d_input, void* scratch);
// unit: d_input holds the gradient for a cotangent of one, as forward left it.
void mse_backward(const MseParams& p, const void* input, const void* target, const void* weight, const void* cotangent,
                  void* d_input, bool unit, void* scratch);

}  // namespace arraynn
