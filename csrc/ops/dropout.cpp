#include "ops/dropout.h"

#include <algorithm>

#include "core/backend.h"
#include "core/errors.h"
#include "cpu/table.h"

namespace arraynn {

DropoutParams dropout_params(const Array& input, double p, uint64_t key) {
  if (!(p >= 0 && p <= 1)) value_error("dropout: p is %g, expected 0 to 1", p);
  DropoutParams params{input.dtype, input.place, element_count(input), key, p};
  int axes[max_dims];
  int64_t step[max_dims], next = 1;
  for (int i = input.ndim - 1; i >= 0; --i) {
    axes[i] = i;
    step[i] = next;
    next *= input.shape[i];
  }
  std::stable_sort(axes, axes + input.ndim, [&](int a, int b) { return input.strides[a] > input.strides[b]; });
  int& n = params.ndim;
  for (int k = 0; k < input.ndim; ++k) {
    int axis = axes[k];
    if (input.shape[axis] == 1) continue;
    if (n > 0 && params.step[n - 1] == step[axis] * input.shape[axis]) {
      params.shape[n - 1] *= input.shape[axis];
      params.step[n - 1] = step[axis];
    } else {
      params.shape[n] = input.shape[axis];
      params.step[n++] = step[axis];
    }
  }
  if (n == 1 && params.step[0] == 1) n = 0;
  return params;
}

void dropout_forward(const DropoutParams& p, const void* x, void* y) { kernels(p.place).dropout_forward(p, x, y); }

}  // namespace arraynn
