#include "ops/loss.h"

#include <algorithm>

#include "core/backend.h"
#include "core/errors.h"
#include "core/isa.h"
#include "cpu/table.h"

namespace arraynn {

MseParams mse_params(const Array& input, const Array& target, const Array* weight, Reduction reduction) {
  MseParams p{};
  p.dtype = input.dtype;
  p.place = input.place;
  p.reduction = reduction;
  p.ndim = std::max(input.ndim, target.ndim);
  p.count = 1;
  for (int i = 1; i <= p.ndim; ++i) {  // from the last axis on
    int64_t a = i <= input.ndim ? input.shape[input.ndim - i] : 1;
    int64_t b = i <= target.ndim ? target.shape[target.ndim - i] : 1;
    if (a != b && a != 1 && b != 1)
      value_error("mse_loss: target has shape %s, expected one that broadcasts with input of shape %s",
                  shape_text(target).c_str(), shape_text(input).c_str());
    p.count *= p.shape[p.ndim - i] = a == 1 ? b : a;
  }
  if (weight && !same_shape(*weight, input))
    value_error("mse_loss: weight has shape %s, expected %s as input has", shape_text(*weight).c_str(),
                shape_text(input).c_str());
  p.weights = weight ? element_count(*weight) : 0;
  p.divisor = static_cast<double>(p.count);
  return p;
}

void mse_divisor(MseParams& p, const void* weight) {
  if (weight && p.reduction == Reduction::mean && !p.place.on_device()) p.divisor = cpu().mse_divisor(p, weight);
}

void check_mse_cotangent(const MseParams& p, const Array& cotangent) {
  Array expected{};
  expected.ndim = p.output_ndim();
  std::copy(p.shape, p.shape + expected.ndim, expected.shape);
  if (!same_shape(cotangent, expected))
    value_error("mse_loss: cotangent has shape %s, expected %s", shape_text(cotangent).c_str(),
                shape_text(expected).c_str());
}

void mse_forward(const MseParams& p, const void* input, const void* target, const void* weight, void* output,
                 void* d_input, void* scratch) {
  kernels(p.place).mse_forward(p, input, target, weight, output, d_input, scratch);
}

void mse_backward(const MseParams& p, const void* input, const void* target, const void* weight, const void* cotangent,
                  void* d_input, bool unit, void* scratch) {
  kernels(p.place).mse_backward(p, input, target, weight, cotangent, d_input, unit, scratch);
}

}  // namespace arraynn
