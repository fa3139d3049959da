#include "ops/conv.h"

#include <algorithm>

#include "core/backend.h"
#include "core/errors.h"
#include "cpu/table.h"

namespace arraynn {

namespace {

using ll = long long;
using wide = __int128;  // options may be as large as their type

constexpr const char* axis_names[3] = {"depth", "height", "width"};

void check_at_least(const char* op, const char* name, const int64_t (&values)[3], int dims, int64_t least) {
  for (int i = 3 - dims; i < 3; ++i)
    if (values[i] < least)
      value_error("%s: %s is %lld, expected at least %lld", op, name, static_cast<ll>(values[i]),
                  static_cast<ll>(least));
}

void check_options(const char* op, int dims, const ConvOptions& o) {
  check_at_least(op, "stride", o.stride, dims, 1);
  check_at_least(op, "dilation", o.dilation, dims, 1);
  check_at_least(op, "padding", o.padding, dims, 0);
  if (o.groups < 1) value_error("%s: groups is %lld, expected at least 1", op, static_cast<ll>(o.groups));
  if (o.mode == Padding::same)
    for (int i = 3 - dims; i < 3; ++i)
      if (o.stride[i] != 1)
        value_error("%s: padding 'same' takes stride 1 only, got stride %lld", op, static_cast<ll>(o.stride[i]));
  if (!o.transposed) return;
  check_at_least(op, "output_padding", o.output_padding, dims, 0);
  for (int i = 3 - dims; i < 3; ++i)
    if (o.output_padding[i] >= std::max(o.stride[i], o.dilation[i]))
      value_error("%s: output_padding is %lld, expected less than stride %lld or dilation %lld", op,
                  static_cast<ll>(o.output_padding[i]), static_cast<ll>(o.stride[i]), static_cast<ll>(o.dilation[i]));
}

// The channels of input and weight fit, whichever of the weight's first two axes is the input's.
void check_channels(const char* op, const ConvOptions& o, int64_t channels, const Array& weight) {
  if (weight.shape[0] % o.groups)
    value_error("%s: weight has %lld %s channels, expected a multiple of groups=%lld", op,
                static_cast<ll>(weight.shape[0]), o.transposed ? "input" : "output", static_cast<ll>(o.groups));
  wide taken = o.transposed ? weight.shape[0] : wide(weight.shape[1]) * o.groups;
  if (channels != taken)
    value_error("%s: input has %lld channels, but weight of shape %s with groups=%lld takes %lld", op,
                static_cast<ll>(channels), shape_text(weight).c_str(), static_cast<ll>(o.groups),
                static_cast<ll>(std::min<wide>(taken, INT64_MAX)));
}

void check_extent(const char* op, wide size) {
  constexpr wide most = INT64_MAX / 64;
  if (size > most) value_error("%s: padding makes an output of more elements than memory has", op);
}

// Axis i of a convolution whose input has `in` elements along it.
ConvAxis conv_axis(const char* op, const ConvOptions& o, int i, int64_t in, int64_t kernel) {
  wide span = wide(o.dilation[i]) * (kernel - 1) + 1;
  wide total = o.mode == Padding::same ? span - 1 : o.mode == Padding::numbers ? wide(2) * o.padding[i] : 0;
  wide out = in + total < span ? 0 : (in + total - span) / o.stride[i] + 1;
  if (out < 1)
    value_error(
        "%s: input has %s %lld, with its padding smaller than the extent of the kernel of %lld, dilated by %lld", op,
        axis_names[i], static_cast<ll>(in), static_cast<ll>(kernel), static_cast<ll>(o.dilation[i]));
  check_extent(op, std::max(out, total));
  return {in, static_cast<int64_t>(out), kernel, o.stride[i], static_cast<int64_t>(total / 2), o.dilation[i]};
}

// Axis i of the convolution whose transpose takes `out` elements.
ConvAxis transposed_axis(const char* op, const ConvOptions& o, int i, int64_t out, int64_t kernel) {
  wide in = wide(out - 1) * o.stride[i] + wide(o.dilation[i]) * (kernel - 1) + o.output_padding[i] + 1 -
            wide(2) * o.padding[i];
  if (in < 1)
    value_error("%s: input has %s %lld, of which padding %lld leaves nothing behind a kernel of %lld", op,
                axis_names[i], static_cast<ll>(out), static_cast<ll>(o.padding[i]), static_cast<ll>(kernel));
  check_extent(op, std::max(in, wide(2) * o.padding[i]));
  return {static_cast<int64_t>(in), out, kernel, o.stride[i], o.padding[i], o.dilation[i]};
}

// Refuses an output whose bytes no int64 can count.
void check_output_size(const char* op, const ConvParams& p) {
  wide bytes = 8;
  for (int i = 0; i < p.ndim; ++i) {
    bytes *= std::max<int64_t>(p.output_shape[i], 1);
    if (bytes > INT64_MAX)
      value_error("%s: the output of shape %s has more elements than memory can hold", op,
                  shape_text(p.output_shape, p.ndim).c_str());
  }
}

ConvBiasParams bias_params(const ConvParams& p) {
  if (p.transposed) return {p.dtype, p.place, p.layout, p.batch, p.in_channels, p.d.in * p.h.in * p.w.in};
  return {p.dtype, p.place, p.layout, p.batch, p.out_channels, p.d.out * p.h.out * p.w.out};
}

}  // namespace

ConvParams conv_params(const char* op, int dims, const Array& input, const Array& weight, const Array* bias,
                       const ConvOptions& o, Layout layout) {
  check_ndim(op, "weight", weight, dims + 2);
  if (input.ndim != dims + 1 && input.ndim != dims + 2)
    value_error("%s: input has shape %s, expected %d dimensions, or %d without a batch", op, shape_text(input).c_str(),
                dims + 2, dims + 1);
  check_options(op, dims, o);

  bool batched = input.ndim == dims + 2;
  const int64_t *sizes = input.shape + batched + 1, *kernel = weight.shape + 2;
  check_channels(op, o, sizes[-1], weight);
  if (std::count(sizes, sizes + dims, 0))
    value_error("%s: input has shape %s, expected batch and channels alone to be empty", op, shape_text(input).c_str());
  if (std::count(kernel, kernel + dims, 0))
    value_error("%s: weight has shape %s, expected a kernel of at least 1", op, shape_text(weight).c_str());
  if (wide(weight.shape[1]) * o.groups > INT64_MAX)
    value_error("%s: groups is %lld, which makes more channels than memory can hold", op, static_cast<ll>(o.groups));

  ConvParams p{};
  p.dtype = input.dtype;
  p.place = input.place;
  p.layout = layout;
  p.transposed = o.transposed;
  p.batch = batched ? input.shape[0] : 1;
  p.in_channels = weight.shape[1] * o.groups;
  p.out_channels = weight.shape[0];
  p.groups = o.groups;
  int64_t output_channels = o.transposed ? p.in_channels : p.out_channels;
  if (bias) check_shape(op, "bias", *bias, {output_channels});

  if (batched) p.output_shape[p.ndim++] = p.batch;
  p.output_shape[p.ndim++] = output_channels;
  p.w_strides[0] = weight.strides[0];
  p.w_strides[1] = weight.strides[1];
  ConvAxis* axes[3] = {&p.d, &p.h, &p.w};
  for (int i = 0; i < 3; ++i) {
    int at = i - (3 - dims);
    if (at < 0) {
      *axes[i] = {1, 1, 1, 1, 0, 1};
      continue;
    }
    *axes[i] =
        o.transposed ? transposed_axis(op, o, i, sizes[at], kernel[at]) : conv_axis(op, o, i, sizes[at], kernel[at]);
    // steps that are not taken, which may be so large that no arithmetic holds them
    if (axes[i]->out == 1) axes[i]->stride = 1;
    if (axes[i]->kernel == 1) axes[i]->dilation = 1;
    p.w_strides[2 + i] = weight.strides[2 + at];
    p.output_shape[p.ndim++] = o.transposed ? axes[i]->in : axes[i]->out;
  }
  check_output_size(op, p);
  return p;
}

void check_conv_cotangent(const char* op, const ConvParams& p, const Array& d_output) {
  check_shape(op, "cotangent", d_output, p.output_shape, p.ndim);
}

size_t conv_forward_scratch(const ConvParams& p) {
  const auto& table = kernels(p.place);
  return p.transposed ? table.conv_backward_input_scratch(p) : table.conv_forward_scratch(p);
}
size_t conv_backward_input_scratch(const ConvParams& p) {
  const auto& table = kernels(p.place);
  return p.transposed ? table.conv_forward_scratch(p) : table.conv_backward_input_scratch(p);
}
size_t conv_backward_weight_scratch(const ConvParams& p) { return kernels(p.place).conv_backward_weight_scratch(p); }
size_t conv_backward_bias_scratch(const ConvParams& p) {
  return kernels(p.place).conv_backward_bias_scratch(bias_params(p));
}

void conv_forward(const ConvParams& p, const void* input, const void* weight, const void* bias, void* output,
                  void* scratch) {
  const auto& table = kernels(p.place);
  (p.transposed ? table.conv_backward_input : table.conv_forward)(p, input, weight, bias, output, scratch);
}

void conv_backward_input(const ConvParams& p, const void* d_output, const void* weight, void* d_input, void* scratch) {
  const auto& table = kernels(p.place);
  (p.transposed ? table.conv_forward : table.conv_backward_input)(p, d_output, weight, nullptr, d_input, scratch);
}

void conv_backward_weight(const ConvParams& p, const void* d_output, const void* input, void* d_weight, void* scratch) {
  if (p.transposed) std::swap(d_output, input);
  kernels(p.place).conv_backward_weight(p, d_output, input, d_weight, scratch);
}

void conv_backward_bias(const ConvParams& p, const void* d_output, void* d_bias, void* scratch) {
  kernels(p.place).conv_backward_bias(bias_params(p), d_output, d_bias, scratch);
}

}  // namespace arraynn
