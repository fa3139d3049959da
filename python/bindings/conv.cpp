#include "ops/conv.h"

#include <pybind11/stl.h>

#include "array.h"

namespace arraynn::python {

namespace {

template <int dims>
using Numbers = std::array<int64_t, dims>;

// Spatial options as Python spells them, one number for each of the op's dimensions.
template <int dims>
ConvOptions options_of(const Numbers<dims>& stride, const Numbers<dims>& padding, const Numbers<dims>& dilation,
                       int64_t groups) {
  ConvOptions o{};
  o.groups = groups;
  std::copy(stride.begin(), stride.end(), o.stride + 3 - dims);
  std::copy(padding.begin(), padding.end(), o.padding + 3 - dims);
  std::copy(dilation.begin(), dilation.end(), o.dilation + 3 - dims);
  return o;
}

template <int dims>
ConvOptions direct(const Numbers<dims>& stride, const Numbers<dims>& padding, int mode, const Numbers<dims>& dilation,
                   int64_t groups) {
  ConvOptions o = options_of<dims>(stride, padding, dilation, groups);
  o.mode = static_cast<Padding>(mode);
  return o;
}

template <int dims>
ConvOptions transposed(const Numbers<dims>& stride, const Numbers<dims>& padding, const Numbers<dims>& output_padding,
                       int64_t groups, const Numbers<dims>& dilation) {
  ConvOptions o = options_of<dims>(stride, padding, dilation, groups);
  o.transposed = true;
  std::copy(output_padding.begin(), output_padding.end(), o.output_padding + 3 - dims);
  return o;
}

// The input's memory decides: dense channels-last runs as it is, all else as contiguous.
Layout layout_of(const Array& input, int dims) {
  return input.ndim == dims + 2 && is_channels_last(input) ? Layout::channels_last : Layout::contiguous;
}

py::object forward(const char* op, int dims, py::handle input, py::handle weight, py::handle bias,
                   const ConvOptions& options, py::handle out) {
  Arguments args(op);
  size_t x = args.floating("input", input), w = args.floating("weight", weight);
  size_t b = args.optional_floating("bias", bias);
  args.promote();
  Layout layout = layout_of(args[x], dims);
  ConvParams p = conv_params(op, dims, args[x], args[w], args.optional(b), options, layout);
  args.make_layout(x, layout);
  args.make_contiguous(b);
  Output y(args, out, p.output_shape, p.ndim, layout);
  Workspace scratch = args.workspace(conv_forward_scratch(p));
  args.run_flushed([&] { conv_forward(p, args[x].data, args[w].data, args[b].data, y.view().data, scratch.data()); });
  return y.finish();
}

// (d_input, d_weight, d_bias), None for what is not wanted.
py::object backward(const char* op, int dims, py::handle cotangent, py::handle input, py::handle weight,
                    const ConvOptions& options, bool want_input, bool want_weight, bool want_bias) {
  Arguments args(op);
  size_t dy = args.floating("cotangent", cotangent), x = args.floating("input", input);
  size_t w = args.floating("weight", weight);
  DType dtype = args.promote();
  Layout layout = layout_of(args[x], dims);
  ConvParams p = conv_params(op, dims, args[x], args[w], nullptr, options, layout);
  check_conv_cotangent(op, p, args[dy]);
  args.make_layout(dy, layout);
  args.make_layout(x, layout);
  py::object dx = py::none(), dw = py::none(), db = py::none();
  if (want_input) dx = args.empty(dtype, args[x].shape, args[x].ndim, layout);
  if (want_weight) dw = args.empty(dtype, args[w].shape, args[w].ndim);
  int64_t channels = p.transposed ? p.in_channels : p.out_channels;
  if (want_bias) db = args.empty(dtype, &channels, 1);
  Array dx_view = want_input ? args.view_of(dx) : Array{}, dw_view = want_weight ? args.view_of(dw) : Array{},
        db_view = want_bias ? args.view_of(db) : Array{};
  Workspace scratch = args.workspace(
      std::max({want_input ? conv_backward_input_scratch(p) : 0, want_weight ? conv_backward_weight_scratch(p) : 0,
                want_bias ? conv_backward_bias_scratch(p) : 0}));
  args.run_flushed([&] {
    if (want_input) conv_backward_input(p, args[dy].data, args[w].data, dx_view.data, scratch.data());
    if (want_weight) conv_backward_weight(p, args[dy].data, args[x].data, dw_view.data, scratch.data());
    if (want_bias) conv_backward_bias(p, args[dy].data, db_view.data, scratch.data());
  });
  return py::make_tuple(dx, dw, db);
}

// Options... are what `spelled` takes, and come last but for what follows them in `forward` and `backward`.
template <int dims, class... Options>
void bind(py::module_& m, const char* op, ConvOptions (*spelled)(Options...)) {
  m.def(op, [op, spelled](py::handle input, py::handle weight, py::handle bias, Options... options, py::handle out) {
    return forward(op, dims, input, weight, bias, spelled(options...), out);
  });
  m.def((std::string(op) + "_backward").c_str(),
        [op, spelled](py::handle cotangent, py::handle input, py::handle weight, Options... options, bool want_input,
                      bool want_weight, bool want_bias) {
          return backward(op, dims, cotangent, input, weight, spelled(options...), want_input, want_weight, want_bias);
        });
}

}  // namespace

void bind_conv(py::module_& m) {
  bind<1>(m, "conv1d", direct<1>);
  bind<2>(m, "conv2d", direct<2>);
  bind<3>(m, "conv3d", direct<3>);
  bind<1>(m, "conv_transpose1d", transposed<1>);
  bind<2>(m, "conv_transpose2d", transposed<2>);
  bind<3>(m, "conv_transpose3d", transposed<3>);
}

}  // namespace arraynn::python
