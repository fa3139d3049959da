// relu, sigmoid, tanh: y = f(x) element by element. softmax and log_softmax along one axis:
//   y_i = exp(x_i - m) / s,  log y_i = x_i - m - log s,  m = max x,  s = sum exp(x - m).
// Backward needs the output alone: relu dx = dy [y > 0], sigmoid dx = dy y (1 - y),
// tanh dx = dy (1 - y^2), softmax dx = y (dy - sum y dy), log_softmax dx = dy - exp(y) sum dy.
// x, y, dy and dx of one call are dense in the same memory order; dx may be dy.
#pragma once
#include "core/array.h"

namespace arraynn {

enum class Activation : int { relu, sigmoid, tanh };

struct ActivationParams {
  DType dtype;
  Place place;
  Activation function;
  int64_t count;
};

// The array as outer x size x inner, `size` being the axis.
struct SoftmaxParams {
  DType dtype;
  Place place;
  bool log;
  int64_t outer, size, inner;
};

ActivationParams activation_params(Activation function, const Array& input);
void activation_forward(const ActivationParams& p, const void* x, void* y);
void activation_backward(const ActivationParams& p, const void* y, const void* dy, void* dx);

SoftmaxParams softmax_params(const char* op, const Array& input, int64_t axis);
void softmax_forward(const SoftmaxParams& p, const void* x, void* y);
void softmax_backward(const SoftmaxParams& p, const void* y, const void* dy, void* dx);

}  // namespace arraynn
