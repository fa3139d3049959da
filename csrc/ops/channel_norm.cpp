#include "ops/channel_norm.h"

#include "core/backend.h"
#include "core/errors.h"
#include "cpu/table.h"

namespace arraynn {

namespace {

ChannelNormParams params_of(const char* op, const Array& input, const Array* weight, const Array* bias, double eps,
                            Layout layout) {
  if (input.ndim < 2)
    value_error("%s: input has shape %s, expected (N, C, ...), at least 2 dimensions", op, shape_text(input).c_str());
  ChannelNormParams p{};
  p.dtype = p.running_dtype = input.dtype;
  p.place = input.place;
  p.layout = layout;
  p.images = input.shape[0];
  p.channels = input.shape[1];
  p.inner = 1;
  for (int i = 2; i < input.ndim; ++i) p.inner *= input.shape[i];
  if (p.inner == 1) p.layout = Layout::channels_last;  // the same memory, and walked along its rows
  p.eps = eps;
  if (weight) check_shape(op, "weight", *weight, {p.channels});
  if (bias) check_shape(op, "bias", *bias, {p.channels});
  return p;
}

ChannelNormParams batch_params(const Array& input, const Array* weight, const Array* bias, bool training, double eps,
                               Layout layout) {
  ChannelNormParams p = params_of("batch_norm", input, weight, bias, eps, layout);
  p.fixed = !training;
  return p;
}

}  // namespace

ChannelNormParams batch_norm_params(const Array& input, const Array* running_mean, const Array* running_var,
                                    const Array* weight, const Array* bias, bool training, double momentum, double eps,
                                    Layout layout) {
  const char* op = "batch_norm";
  ChannelNormParams p = batch_params(input, weight, bias, training, eps, layout);
  if (!training && !(running_mean && running_var))
    value_error("%s: %s is None, expected an array with training=False", op,
                running_mean ? "running_var" : "running_mean");
  if (running_mean) check_shape(op, "running_mean", *running_mean, {p.channels});
  if (running_var) check_shape(op, "running_var", *running_var, {p.channels});
  if (running_mean && running_var && running_mean->dtype != running_var->dtype)
    type_error("%s: running_var has dtype %s, expected %s as running_mean has", op, dtype_name(running_var->dtype),
               dtype_name(running_mean->dtype));
  if (training && p.images * p.inner < 2)
    value_error("%s: input has shape %s, expected more than one value per channel in training", op,
                shape_text(input).c_str());
  p.momentum = momentum;
  if (running_mean || running_var) p.running_dtype = (running_mean ? running_mean : running_var)->dtype;
  return p;
}

ChannelNormParams batch_norm_gradient_params(const Array& cotangent, const Array* weight, bool training,
                                             Layout layout) {
  return batch_params(cotangent, weight, nullptr, training, 0, layout);
}

ChannelNormParams group_norm_params(const Array& input, int64_t groups, const Array* weight, const Array* bias,
                                    double eps, Layout layout) {
  ChannelNormParams p = params_of("group_norm", input, weight, bias, eps, layout);
  if (groups < 1 || p.channels % groups != 0)
    value_error("group_norm: num_groups is %lld, expected a divisor of the %lld channels of input",
                static_cast<long long>(groups), static_cast<long long>(p.channels));
  p.groups = groups;
  return p;
}

size_t channel_norm_scratch(const ChannelNormParams& p, bool backward) {
  return kernels(p.place).channel_norm_scratch(p, backward);
}

void channel_norm_forward(const ChannelNormParams& p, const ChannelNormForward& a, void* scratch) {
  kernels(p.place).channel_norm_forward(p, a, scratch);
}

void channel_norm_backward(const ChannelNormParams& p, const ChannelNormBackward& a, void* scratch) {
  kernels(p.place).channel_norm_backward(p, a, scratch);
}

}  // namespace arraynn
