#include "ops/conv.h"

#include <pybind11/stl.h>

#include "array.h"

namespace arraynn::python {

namespace {

using Pair = std::array<int64_t, 2>;

// Spatial options as Python spells them: (rows, columns), with rows unused in 1-D.
ConvOptions options_of(Pair stride, Pair padding, int mode, Pair dilation, int64_t groups) {
  return {
      {stride[0], stride[1]}, {padding[0], padding[1]}, {dilation[0], dilation[1]}, static_cast<Padding>(mode), groups};
}

// The input's memory decides: dense channels-last runs as it is, all else as contiguous.
Layout layout_of(const Array& input, int dims) {
  return input.ndim == dims + 2 && is_channels_last(input) ? Layout::channels_last : Layout::contiguous;
}

template <int dims>
py::object forward(const char* op, py::handle input, py::handle weight, py::handle bias, const ConvOptions& options,
                   py::handle out) {
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
  args.run([&] { conv_forward(p, args[x].data, args[w].data, args[b].data, y.view().data, scratch.data()); });
  return y.finish();
}

// (d_input, d_weight, d_bias), None for what is not wanted.
template <int dims>
py::object backward(const char* op, py::handle cotangent, py::handle input, py::handle weight,
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
  if (want_bias) db = args.empty(dtype, &p.out_channels, 1);
  Array dx_view = want_input ? args.view_of(dx) : Array{}, dw_view = want_weight ? args.view_of(dw) : Array{},
        db_view = want_bias ? args.view_of(db) : Array{};
  size_t for_input = want_input ? conv_backward_input_scratch(p) : 0;
  size_t for_weight = want_weight || want_bias ? conv_backward_weight_scratch(p) : 0;
  Workspace scratch = args.workspace(std::max(for_input, for_weight));
  args.run([&] {
    if (want_input) conv_backward_input(p, args[dy].data, args[w].data, dx_view.data, scratch.data());
    if (want_weight || want_bias)
      conv_backward_weight(p, args[dy].data, args[x].data, dw_view.data, db_view.data, scratch.data());
  });
  return py::make_tuple(dx, dw, db);
}

template <int dims>
void bind(py::module_& m, const char* op) {
  std::string backward_name = std::string(op) + "_backward";
  m.def(op, [op](py::handle input, py::handle weight, py::handle bias, Pair stride, Pair padding, int mode,
                 Pair dilation, int64_t groups, py::handle out) {
    return forward<dims>(op, input, weight, bias, options_of(stride, padding, mode, dilation, groups), out);
  });
  m.def(backward_name.c_str(),
        [op](py::handle cotangent, py::handle input, py::handle weight, Pair stride, Pair padding, int mode,
             Pair dilation, int64_t groups, bool want_input, bool want_weight, bool want_bias) {
          return backward<dims>(op, cotangent, input, weight, options_of(stride, padding, mode, dilation, groups),
                                want_input, want_weight, want_bias);
        });
}

}  // namespace

void bind_conv(py::module_& m) {
  bind<1>(m, "conv1d");
  bind<2>(m, "conv2d");
}

}  // namespace arraynn::python
