#include "ops/cross_entropy.h"

#include "core/backend.h"
#include "core/errors.h"
#include "cpu/table.h"

namespace arraynn {

namespace {

void check_target(const char* op, const Array& input, const Array& target, int axis) {
  Array labels{};
  for (int i = 0; i < input.ndim; ++i)
    if (i != axis) labels.shape[labels.ndim++] = input.shape[i];
  bool probabilities = target.dtype != DType::int64;
  const Array& expected = probabilities ? input : labels;
  if (!same_shape(target, expected))
    value_error("%s: target of %s has shape %s, expected %s for an input of shape %s", op,
                probabilities ? "probabilities" : "class indices", shape_text(target).c_str(),
                shape_text(expected).c_str(), shape_text(input).c_str());
}

// All but the options of cross_entropy alone.
CrossEntropyParams params_of(const char* op, const Array& input, const Array& target, const Array* weight,
                             int64_t ignore_index, Reduction reduction, Layout layout) {
  if (input.ndim == 0) value_error("%s: input has shape (), expected (N, C, ...) or (C,)", op);
  int axis = input.ndim == 1 ? 0 : 1;
  CrossEntropyParams p{};
  p.op = op;
  p.dtype = input.dtype;
  p.place = input.place;
  p.reduction = reduction;
  p.probabilities = target.dtype != DType::int64;
  p.outer = axis == 1 ? input.shape[0] : 1;
  p.classes = input.shape[axis];
  p.inner = 1;
  for (int i = 2; i < input.ndim; ++i) p.inner *= input.shape[i];
  p.ignore_index = ignore_index;
  if (p.classes == 0) value_error("%s: input has shape %s, expected at least one class", op, shape_text(input).c_str());
  check_target(op, input, target, axis);
  if (weight) check_shape(op, "weight", *weight, {p.classes});
  p.divisor = static_cast<double>(p.outer * p.inner);
  if (reduction == Reduction::none)
    for (int i = 0; i < input.ndim; ++i)
      if (i != axis) p.output_shape[p.ndim++] = input.shape[i];
  if (layout == Layout::channels_last) {
    p.outer *= p.inner;
    p.inner = 1;
  }
  return p;
}

}  // namespace

CrossEntropyParams cross_entropy_params(const Array& input, const Array& target, const Array* weight,
                                        int64_t ignore_index, Reduction reduction, double smoothing, Layout layout) {
  constexpr const char* op = "cross_entropy";
  CrossEntropyParams p = params_of(op, input, target, weight, ignore_index, reduction, layout);
  p.smoothing = smoothing;
  if (!(smoothing >= 0 && smoothing <= 1)) value_error("%s: label_smoothing is %g, expected 0 to 1", op, smoothing);
  if (p.probabilities && ignore_index >= 0)
    value_error("%s: ignore_index is %lld, but target holds probabilities, which are never ignored", op,
                static_cast<long long>(ignore_index));
  return p;
}

CrossEntropyParams nll_params(const Array& input, const Array& target, const Array* weight, int64_t ignore_index,
                              Reduction reduction, Layout layout) {
  return params_of("nll_loss", input, target, weight, ignore_index, reduction, layout);
}

void cross_entropy_labels(CrossEntropyParams& p, const void* target, const void* weight, void* scratch) {
  if (p.probabilities || (p.place.on_device() && !p.place.checks)) return;
  LabelSummary summary = kernels(p.place).cross_entropy_labels(p, target, weight, scratch);
  if (summary.is_bad)
    value_error("%s: target holds %lld, expected 0 to %lld or ignore_index=%lld", p.op,
                static_cast<long long>(summary.bad), static_cast<long long>(p.classes - 1),
                static_cast<long long>(p.ignore_index));
  p.divisor = summary.weight;
}

void check_cross_entropy_cotangent(const CrossEntropyParams& p, const Array& cotangent) {
  Array expected{};
  expected.ndim = p.ndim;
  for (int i = 0; i < p.ndim; ++i) expected.shape[i] = p.output_shape[i];
  if (!same_shape(cotangent, expected))
    value_error("%s: cotangent has shape %s, expected %s", p.op, shape_text(cotangent).c_str(),
                shape_text(expected).c_str());
}

void cross_entropy_forward(const CrossEntropyParams& p, const void* input, const void* target, const void* weight,
                           void* output, void* d_input, void* scratch) {
  kernels(p.place).cross_entropy_forward(p, input, target, weight, output, d_input, scratch);
}

void cross_entropy_backward(const CrossEntropyParams& p, const void* input, const void* target, const void* weight,
                            const void* cotangent, void* d_input, bool unit, void* scratch) {
  kernels(p.place).cross_entropy_backward(p, input, target, weight, cotangent, d_input, unit, scratch);
}

void nll_forward(const CrossEntropyParams& p, const void* input, const void* target, const void* weight, void* output,
                 void* d_input, void* scratch) {
  kernels(p.place).nll_forward(p, input, target, weight, output, d_input, scratch);
}

void nll_backward(const CrossEntropyParams& p, const void* target, const void* weight, const void* cotangent,
                  void* d_input, bool unit, void* scratch) {
  kernels(p.place).nll_backward(p, target, weight, cotangent, d_input, unit, scratch);
}

}  // namespace arraynn
