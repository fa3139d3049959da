#include "ops/cross_entropy.h"

#include <algorithm>

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

CrossEntropyParams smoothed_params(const char* op, const Array& input, const Array& target, const Array* weight,
                                   int64_t ignore_index, Reduction reduction, double smoothing, Layout layout) {
  CrossEntropyParams p = params_of(op, input, target, weight, ignore_index, reduction, layout);
  p.smoothing = smoothing;
  if (!(smoothing >= 0 && smoothing <= 1)) value_error("%s: label_smoothing is %g, expected 0 to 1", op, smoothing);
  if (p.probabilities && ignore_index >= 0)
    value_error("%s: ignore_index is %lld, but target holds probabilities, which are never ignored", op,
                static_cast<long long>(ignore_index));
  return p;
}

}  // namespace

CrossEntropyParams cross_entropy_params(const Array& input, const Array& target, const Array* weight,
                                        int64_t ignore_index, Reduction reduction, double smoothing, Layout layout) {
  return smoothed_params("cross_entropy", input, target, weight, ignore_index, reduction, smoothing, layout);
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
  check_shape(p.op, "cotangent", cotangent, p.output_shape, p.ndim);
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

// ---- linear_cross_entropy ----

int64_t LinearCrossEntropyParams::tiles() const { return linear.rows > tile ? (linear.rows + tile - 1) / tile : 1; }

LinearCrossEntropyParams linear_cross_entropy_params(const Array& input, const Array& linear_weight,
                                                     const Array* linear_bias, const Array& target, const Array* weight,
                                                     int64_t ignore_index, Reduction reduction, double smoothing) {
  constexpr const char* op = "linear_cross_entropy";
  constexpr int64_t most_logits = int64_t{8} << 20, most_rows = 1024;  // of a tile
  if (input.ndim != 1 && input.ndim != 2)
    value_error("%s: input has shape %s, expected (N, in_features) or (in_features,)", op, shape_text(input).c_str());
  check_ndim(op, "linear_weight", linear_weight, 2);
  int64_t features = input.shape[input.ndim - 1], classes = linear_weight.shape[0];
  if (features != linear_weight.shape[1])
    value_error("%s: input has %lld features, but linear_weight of shape %s takes %lld", op,
                static_cast<long long>(features), shape_text(linear_weight).c_str(),
                static_cast<long long>(linear_weight.shape[1]));
  if (linear_bias) check_shape(op, "linear_bias", *linear_bias, {classes});
  Array logits = input;
  logits.shape[input.ndim - 1] = classes;
  LinearCrossEntropyParams p{
      linear_params(input, linear_weight, linear_bias),
      smoothed_params(op, logits, target, weight, ignore_index, reduction, smoothing, Layout::contiguous), 1};
  p.tile = std::max<int64_t>(1, std::min(most_rows, most_logits / classes));
  return p;
}

namespace {

// Where things lie in scratch, and a tile after the other.
struct Tiles {
  const LinearCrossEntropyParams& p;
  size_t item = 0, bytes = 0;
  size_t logits, d_logits, losses, bias_parts, linear, loss;

  Tiles(const LinearCrossEntropyParams& params, bool gradients) : p(params) {
    item = static_cast<size_t>(item_size(p.linear.dtype));
    size_t rows = static_cast<size_t>(std::min(p.tile, p.linear.rows)), tiles = static_cast<size_t>(p.tiles());
    size_t classes = static_cast<size_t>(p.linear.out_features);
    logits = take(rows * classes * item);
    d_logits = take(gradients ? rows * classes * item : 0);
    losses = take(tiles * item);
    bias_parts = take(gradients ? tiles * classes * item : 0);
    LinearParams last = part(static_cast<int64_t>(rows));
    linear = take(std::max({linear_scratch(last), linear_scratch(sums(1)), linear_scratch(sums(last.out_features)),
                            linear_scratch(part(p.linear.rows % p.tile))}));
    loss = take(reduction_scratch(p.linear.place));
  }
  size_t take(size_t size) {
    size_t at = bytes;
    bytes += (size + 255) / 256 * 256;
    return at;
  }
  LinearParams part(int64_t rows) const {
    LinearParams l = p.linear;
    l.rows = rows;
    return l;
  }
  // The sum over tiles of what each left, as a bias' gradient.
  LinearParams sums(int64_t columns) const {
    LinearParams l = part(p.tiles());
    l.in_features = 1;
    l.out_features = columns;
    return l;
  }
  CrossEntropyParams loss_of(int64_t rows, const void* target) const {
    CrossEntropyParams c = p.loss;
    c.outer = rows;
    c.mean_count = p.linear.rows;
    c.mean_labels = p.loss.probabilities ? nullptr : static_cast<const int64_t*>(target);
    return c;
  }
};

const void* at(const void* base, int64_t index, size_t size) {
  return base ? static_cast<const char*>(base) + static_cast<size_t>(index) * size : nullptr;
}
void* at(void* base, int64_t index, size_t size) {
  return base ? static_cast<char*>(base) + static_cast<size_t>(index) * size : nullptr;
}

// With a cotangent, backward: losses are left out then, and gradients are for it.
void run_tiles(const LinearCrossEntropyParams& p, const LinearCrossEntropyInputs& in, const void* cotangent,
               void* output, const LinearCrossEntropyGradients& d, void* scratch) {
  bool wanted = d.input || d.linear_weight || d.linear_bias, each = p.loss.reduction == Reduction::none;
  Tiles t(p, wanted);
  auto piece = [&](size_t offset) { return static_cast<char*>(scratch) + offset; };
  int64_t classes = p.linear.out_features, features = p.linear.in_features;
  size_t target_size = p.loss.probabilities ? static_cast<size_t>(classes) * t.item : sizeof(int64_t);
  for (int64_t k = 0; k < p.tiles(); ++k) {
    int64_t begin = k * p.tile, rows = std::min(p.tile, p.linear.rows - begin);
    LinearParams linear = t.part(rows);
    CrossEntropyParams loss = t.loss_of(rows, in.target);
    const void *x = at(in.input, begin * features, t.item), *target = at(in.target, begin, target_size);
    void* d_logits = wanted ? piece(t.d_logits) : nullptr;
    linear_forward(linear, x, in.linear_weight, in.linear_bias, piece(t.logits), piece(t.linear));
    if (cotangent)
      cross_entropy_backward(loss, piece(t.logits), target, in.weight, each ? at(cotangent, begin, t.item) : cotangent,
                             d_logits, false, piece(t.loss));
    else
      cross_entropy_forward(loss, piece(t.logits), target, in.weight,
                            each ? at(output, begin, t.item) : at(piece(t.losses), k, t.item), d_logits, piece(t.loss));
    if (d.input)
      linear_backward_input(linear, d_logits, in.linear_weight, at(d.input, begin * features, t.item), piece(t.linear));
    linear.add_weight = k > 0;
    if (d.linear_weight || d.linear_bias)
      linear_backward_weight(linear, d_logits, x, d.linear_weight,
                             d.linear_bias ? at(piece(t.bias_parts), k * classes, t.item) : nullptr, piece(t.linear));
  }
  if (!cotangent && !each)
    linear_backward_weight(t.sums(1), piece(t.losses), nullptr, nullptr, output, piece(t.linear));
  if (d.linear_bias)
    linear_backward_weight(t.sums(classes), piece(t.bias_parts), nullptr, nullptr, d.linear_bias, piece(t.linear));
}

}  // namespace

size_t linear_cross_entropy_scratch(const LinearCrossEntropyParams& p, bool gradients) {
  return Tiles(p, gradients).bytes;
}

void linear_cross_entropy_forward(const LinearCrossEntropyParams& p, const LinearCrossEntropyInputs& in, void* output,
                                  const LinearCrossEntropyGradients& d, void* scratch) {
  run_tiles(p, in, nullptr, output, d, scratch);
}

void linear_cross_entropy_backward(const LinearCrossEntropyParams& p, const LinearCrossEntropyInputs& in,
                                   const void* cotangent, const LinearCrossEntropyGradients& d, void* scratch) {
  run_tiles(p, in, cotangent, nullptr, d, scratch);
}

void scale_gradient(const Array& gradient, const void* cotangent) {
  kernels(gradient.place)
      .scale_gradient(gradient.place, gradient.dtype, element_count(gradient), cotangent, gradient.data);
}

}  // namespace arraynn
