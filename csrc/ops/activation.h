// Pointwise: y = f(x) element by element.
//   relu        max(x, 0)                                    leaky_relu  x, for x <= 0 negative_slope x
//   elu         x, for x <= 0 alpha (exp(x) - 1)             sigmoid     s(x) = 1 / (1 + exp(-x))
//   tanh        tanh x                                       silu        x s(x)
//   gelu        x Phi(x), the normal distribution function   gelu_tanh   x s(2 sqrt(2 / pi) (x + 0.044715 x^3))
//   softplus    log(1 + exp(beta x)) / beta, and x where beta x > threshold
// Backward takes what forward saves. That is the output of those whose gradient it tells, relu (dx = dy [y > 0]),
// sigmoid (dx = dy y (1 - y)) and tanh (dx = dy (1 - y^2)), and of the others the input; at 0 their gradient is that
// of x < 0, and softplus' is dy s(beta x).
//
// softmax and log_softmax along one axis:
//   y_i = exp(x_i - m) / s,  log y_i = x_i - m - log s,  m = max x,  s = sum exp(x - m).
// Backward needs the output alone: softmax dx = y (dy - sum y dy), log_softmax dx = dy - exp(y) sum dy.
//
// x or y, dy and dx of one call are dense in the same memory order; dx may be dy.
#pragma once
#include "core/array.h"

namespace arraynn {

enum class Activation : int { relu, leaky_relu, elu, sigmoid, tanh, gelu, gelu_tanh, silu, softplus };

// The function, and the options of those that have any.
struct ActivationOptions {
  Activation function;
  double negative_slope = 0;
  double alpha = 0;
  double beta = 0, threshold = 0;
};

struct ActivationParams : ActivationOptions {
  DType dtype;
  Place place;
  int64_t count;
};

// The array as outer x size x inner, `size` being the axis.
struct SoftmaxParams {
  DType dtype;
  Place place;
  bool log;
  int64_t outer, size, inner;
};

ActivationParams activation_params(const ActivationOptions& options, const Array& input);
void activation_forward(const ActivationParams& p, const void* x, void* y);
void activation_backward(const ActivationParams& p, const void* saved, const void* dy, void* dx);

SoftmaxParams softmax_params(const char* op, const Array& input, int64_t axis);
void softmax_forward(const SoftmaxParams& p, const void* x, void* y);
void softmax_backward(const SoftmaxParams& p, const void* y, const void* dy, void* dx);

}  // namespace arraynn
