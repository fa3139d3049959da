#include "ops/conv.h"

#include <algorithm>

#include "core/backend.h"
#include "core/errors.h"
#include "cpu/table.h"

namespace arraynn {

namespace {

using ll = long long;

void check_at_least(const char* op, const char* name, const int64_t* values, int dims, int64_t least) {
  for (int d = 2 - dims; d < 2; ++d)
    if (values[d] < least)
      value_error("%s: %s is %lld, expected at least %lld", op, name, static_cast<ll>(values[d]),
                  static_cast<ll>(least));
}

// Output size and the padding before the first element, along one dimension.
struct Extent {
  int64_t size, before;
};

Extent extent(const char* op, const ConvOptions& o, int d, int64_t in, int64_t kernel) {
  using wide = __int128;  // options may be as large as their type
  wide span = wide(o.dilation[d]) * (kernel - 1) + 1;
  wide total = o.mode == Padding::same ? span - 1 : o.mode == Padding::numbers ? wide(2) * o.padding[d] : 0;
  wide size = in + total < span ? 0 : (in + total - span) / o.stride[d] + 1;
  constexpr wide most = INT64_MAX / 64;
  if (size < 1)
    value_error(
        "%s: input has %s %lld, with its padding smaller than the extent of the kernel of %lld, dilated by %lld", op,
        d ? "width" : "height", static_cast<ll>(in), static_cast<ll>(kernel), static_cast<ll>(o.dilation[d]));
  if (size > most || total > most) value_error("%s: padding makes an output of more elements than memory has", op);
  return {static_cast<int64_t>(size), static_cast<int64_t>(total / 2)};
}

// Refuses an output whose bytes no int64 can count.
void check_output_size(const char* op, const ConvParams& p) {
  __int128 bytes = 8;
  for (int i = 0; i < p.ndim; ++i) bytes *= std::max<int64_t>(p.output_shape[i], 1);
  if (bytes > INT64_MAX)
    value_error("%s: the output of shape %s has more elements than memory can hold", op,
                shape_text(p.output_shape, p.ndim).c_str());
}

}  // namespace

ConvParams conv_params(const char* op, int dims, const Array& input, const Array& weight, const Array* bias,
                       const ConvOptions& o, Layout layout) {
  check_ndim(op, "weight", weight, dims + 2);
  if (input.ndim != dims + 1 && input.ndim != dims + 2)
    value_error("%s: input has shape %s, expected %d dimensions, or %d without a batch", op, shape_text(input).c_str(),
                dims + 2, dims + 1);
  check_at_least(op, "stride", o.stride, dims, 1);
  check_at_least(op, "dilation", o.dilation, dims, 1);
  check_at_least(op, "padding", o.padding, dims, 0);
  if (o.groups < 1) value_error("%s: groups is %lld, expected at least 1", op, static_cast<ll>(o.groups));
  if (o.mode == Padding::same)
    for (int d = 2 - dims; d < 2; ++d)
      if (o.stride[d] != 1)
        value_error("%s: padding 'same' takes stride 1 only, got stride %lld", op, static_cast<ll>(o.stride[d]));

  bool batched = input.ndim == dims + 2;
  const int64_t* sizes = input.shape + batched;
  ConvParams p{};
  p.dtype = input.dtype;
  p.place = input.place;
  p.layout = layout;
  p.batch = batched ? input.shape[0] : 1;
  p.in_channels = sizes[0];
  p.out_channels = weight.shape[0];
  p.groups = o.groups;
  p.in_h = dims == 2 ? sizes[1] : 1;
  p.in_w = sizes[dims];
  p.kernel_h = dims == 2 ? weight.shape[2] : 1;
  p.kernel_w = weight.shape[dims + 1];
  if (p.out_channels % o.groups)
    value_error("%s: weight has %lld output channels, expected a multiple of groups=%lld", op,
                static_cast<ll>(p.out_channels), static_cast<ll>(o.groups));
  if (p.in_channels != weight.shape[1] * o.groups)
    value_error("%s: input has %lld channels, but weight of shape %s with groups=%lld takes %lld", op,
                static_cast<ll>(p.in_channels), shape_text(weight).c_str(), static_cast<ll>(o.groups),
                static_cast<ll>(weight.shape[1] * o.groups));
  if (p.in_h == 0 || p.in_w == 0)
    value_error("%s: input has shape %s, expected batch and channels alone to be empty", op, shape_text(input).c_str());
  if (p.kernel_h == 0 || p.kernel_w == 0)
    value_error("%s: weight has shape %s, expected a kernel of at least 1", op, shape_text(weight).c_str());
  if (bias) check_shape(op, "bias", *bias, {p.out_channels});

  p.stride_h = dims == 2 ? o.stride[0] : 1;
  p.stride_w = o.stride[1];
  p.dilation_h = dims == 2 ? o.dilation[0] : 1;
  p.dilation_w = o.dilation[1];
  Extent h = dims == 2 ? extent(op, o, 0, p.in_h, p.kernel_h) : Extent{1, 0};
  Extent w = extent(op, o, 1, p.in_w, p.kernel_w);
  p.out_h = h.size;
  p.pad_top = h.before;
  p.out_w = w.size;
  p.pad_left = w.before;
  p.w_strides[0] = weight.strides[0];
  p.w_strides[1] = weight.strides[1];
  p.w_strides[2] = dims == 2 ? weight.strides[2] : 0;
  p.w_strides[3] = weight.strides[dims + 1];

  int64_t* shape = p.output_shape;
  if (batched) shape[p.ndim++] = p.batch;
  shape[p.ndim++] = p.out_channels;
  if (dims == 2) shape[p.ndim++] = p.out_h;
  shape[p.ndim++] = p.out_w;
  check_output_size(op, p);
  return p;
}

void check_conv_cotangent(const char* op, const ConvParams& p, const Array& d_output) {
  bool same = d_output.ndim == p.ndim;
  for (int i = 0; same && i < p.ndim; ++i) same = d_output.shape[i] == p.output_shape[i];
  if (!same)
    value_error("%s: cotangent has shape %s, expected %s", op, shape_text(d_output).c_str(),
                shape_text(p.output_shape, p.ndim).c_str());
}

size_t conv_forward_scratch(const ConvParams& p) { return kernels(p.place).conv_forward_scratch(p); }
size_t conv_backward_input_scratch(const ConvParams& p) { return kernels(p.place).conv_backward_input_scratch(p); }
size_t conv_backward_weight_scratch(const ConvParams& p) { return kernels(p.place).conv_backward_weight_scratch(p); }

void conv_forward(const ConvParams& p, const void* input, const void* weight, const void* bias, void* output,
                  void* scratch) {
  kernels(p.place).conv_forward(p, input, weight, bias, output, scratch);
}

void conv_backward_input(const ConvParams& p, const void* d_output, const void* weight, void* d_input, void* scratch) {
  kernels(p.place).conv_backward_input(p, d_output, weight, d_input, scratch);
}

void conv_backward_weight(const ConvParams& p, const void* d_output, const void* input, void* d_weight, void* d_bias,
                          void* scratch) {
  kernels(p.place).conv_backward_weight(p, d_output, input, d_weight, d_bias, scratch);
}

}  // namespace arraynn
