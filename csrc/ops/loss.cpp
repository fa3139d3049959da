#include "ops/loss.h"

#include <algorithm>

#include "core/backend.h"
#include "core/errors.h"
#include "core/isa.h"
#include "cpu/table.h"

namespace arraynn {

namespace {

// The shape of input and target broadcast.
void broadcast_shape(const char* op, const Array& input, const Array& target, LossParams& p) {
  p.ndim = std::max(input.ndim, target.ndim);
  p.count = 1;
  for (int i = 1; i <= p.ndim; ++i) {  // from the last axis on
    int64_t a = i <= input.ndim ? input.shape[input.ndim - i] : 1;
    int64_t b = i <= target.ndim ? target.shape[target.ndim - i] : 1;
    if (a != b && a != 1 && b != 1)
      value_error("%s: target has shape %s, expected one that broadcasts with input of shape %s", op,
                  shape_text(target).c_str(), shape_text(input).c_str());
    p.count *= p.shape[p.ndim - i] = a == 1 ? b : a;
  }
}

void check_broadcasts_to(const char* op, const char* name, const Array* array, const Array& input) {
  if (!array) return;
  bool fits = array->ndim <= input.ndim;
  for (int i = 1; fits && i <= array->ndim; ++i) {
    int64_t n = array->shape[array->ndim - i];
    fits = n == 1 || n == input.shape[input.ndim - i];
  }
  if (!fits)
    value_error("%s: %s has shape %s, expected one that broadcasts to input of shape %s", op, name,
                shape_text(*array).c_str(), shape_text(input).c_str());
}

}  // namespace

LossParams loss_params(const char* op, const LossOptions& options, const Array& input, const Array& target,
                       const Array* weight, const Array* pos_weight) {
  LossParams p{options, input.dtype, input.place, 0, 0, 0, 0, {}};
  if (options.function == PointwiseLoss::bce_with_logits) {
    if (!same_shape(input, target))
      value_error("%s: target has shape %s, expected %s as input has", op, shape_text(target).c_str(),
                  shape_text(input).c_str());
    check_broadcasts_to(op, "weight", weight, input);
    check_broadcasts_to(op, "pos_weight", pos_weight, input);
  }
  broadcast_shape(op, input, target, p);
  if (options.function != PointwiseLoss::bce_with_logits && weight && !same_shape(*weight, input))
    value_error("%s: weight has shape %s, expected %s as input has", op, shape_text(*weight).c_str(),
                shape_text(input).c_str());
  if (!(options.delta > 0)) value_error("%s: delta is %g, expected a number above 0", op, options.delta);
  if (weight && (options.function == PointwiseLoss::mse || options.function == PointwiseLoss::l1))
    p.weights = element_count(*weight);
  p.divisor = static_cast<double>(!options.batch_mean ? p.count : input.ndim > 0 ? input.shape[0] : 1);
  return p;
}

void loss_divisor(LossParams& p, const void* weight) {
  if (weight && p.weights > 0 && p.reduction == Reduction::mean && !p.place.on_device())
    p.divisor = cpu().loss_divisor(p, weight);
}

void check_loss_cotangent(const char* op, const LossParams& p, const Array& cotangent) {
  check_shape(op, "cotangent", cotangent, p.shape, p.output_ndim());
}

void loss_forward(const LossParams& p, const LossInputs& in, void* output, void* d_input, void* scratch) {
  kernels(p.place).loss_forward(p, in, output, d_input, scratch);
}

void loss_backward(const LossParams& p, const LossInputs& in, const void* cotangent, void* d_input, bool unit,
                   void* scratch) {
  kernels(p.place).loss_backward(p, in, cotangent, d_input, unit, scratch);
}

}  // namespace arraynn
