#include "ops/activation.h"

#include <cstring>

#include "core/backend.h"
#include "core/errors.h"
#include "cpu/table.h"

namespace arraynn {

ActivationParams activation_params(const ActivationOptions& options, const Array& input) {
  return {options, input.dtype, input.place, element_count(input)};
}

void activation_forward(const ActivationParams& p, const void* x, void* y) {
  kernels(p.place).activation_forward(p, x, y);
}

void activation_backward(const ActivationParams& p, const void* saved, const void* dy, void* dx) {
  kernels(p.place).activation_backward(p, saved, dy, dx);
}

SoftmaxParams softmax_params(const char* op, const Array& input, int64_t axis) {
  int64_t dims = input.ndim > 0 ? input.ndim : 1;  // a 0-d array is one row of one, as in PyTorch
  if (axis < -dims || axis >= dims)
    value_error("%s: axis is %lld, expected -%lld to %lld for an input of shape %s", op, static_cast<long long>(axis),
                static_cast<long long>(dims), static_cast<long long>(dims - 1), shape_text(input).c_str());
  if (axis < 0) axis += dims;
  SoftmaxParams p{input.dtype, input.place, std::strcmp(op, "log_softmax") == 0, 1, 1, 1};
  for (int i = 0; i < input.ndim; ++i) (i < axis ? p.outer : i == axis ? p.size : p.inner) *= input.shape[i];
  return p;
}

void softmax_forward(const SoftmaxParams& p, const void* x, void* y) { kernels(p.place).softmax_forward(p, x, y); }

void softmax_backward(const SoftmaxParams& p, const void* y, const void* dy, void* dx) {
  kernels(p.place).softmax_backward(p, y, dy, dx);
}

}  // namespace arraynn
