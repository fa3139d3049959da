#include "ops/channel_norm.h"

#include <pybind11/stl.h>

#include "array.h"

namespace arraynn::python {

namespace {

// The input's memory decides: dense channels-last runs as it is, all else as contiguous.
Layout layout_of(const Array& input) { return is_channels_last(input) ? Layout::channels_last : Layout::contiguous; }

// (output, what the pullback needs of it or None).
py::tuple forward(Arguments& args, const ChannelNormParams& p, size_t x, size_t w, size_t b, void* running_mean,
                  void* running_var, Layout layout, bool saving, py::handle out) {
  args.make_layout(x, layout);
  args.make_contiguous(w);
  args.make_contiguous(b);
  Output y(args, out, args[x].shape, args[x].ndim, layout);
  int64_t bytes = p.statistics() * static_cast<int64_t>(sizeof(Statistics));
  py::object saved = py::none();
  if (saving) saved = args.empty(DType::uint8, &bytes, 1);
  Workspace kept = args.workspace(saving ? 0 : static_cast<size_t>(bytes));
  Workspace scratch = args.workspace(channel_norm_scratch(p, false));
  ChannelNormForward call{args[x].data,
                          args[w].data,
                          args[b].data,
                          y.view().data,
                          static_cast<Statistics*>(saving ? args.data_of(saved) : kept.data()),
                          running_mean,
                          running_var};
  args.run_flushed([&] { channel_norm_forward(p, call, scratch.data()); });
  args.write_back();
  return py::make_tuple(y.finish(), saved);
}

py::tuple batch_norm(py::handle input, py::handle running_mean, py::handle running_var, py::handle weight,
                     py::handle bias, bool training, double momentum, double eps, bool saving, py::handle out) {
  Arguments args("batch_norm");
  size_t x = args.floating("input", input);
  size_t mean = args.optional_state("running_mean", running_mean, training);
  size_t var = args.optional_state("running_var", running_var, training);
  size_t w = args.optional_floating("weight", weight), b = args.optional_floating("bias", bias);
  args.promote();
  Layout layout = layout_of(args[x]);
  ChannelNormParams p = batch_norm_params(args[x], args.optional(mean), args.optional(var), args.optional(w),
                                          args.optional(b), training, momentum, eps, layout);
  return forward(args, p, x, w, b, args[mean].data, args[var].data, layout, saving, out);
}

py::tuple group_norm(py::handle input, int64_t groups, py::handle weight, py::handle bias, double eps, bool saving,
                     py::handle out) {
  Arguments args("group_norm");
  size_t x = args.floating("input", input);
  size_t w = args.optional_floating("weight", weight), b = args.optional_floating("bias", bias);
  args.promote();
  Layout layout = layout_of(args[x]);
  ChannelNormParams p = group_norm_params(args[x], groups, args.optional(w), args.optional(b), eps, layout);
  return forward(args, p, x, w, b, nullptr, nullptr, layout, saving, out);
}

// The arrays of a gradient. Without the input, which evaluation needs for the weight's gradient alone, the result lies
// as the cotangent does.
struct Gradients {
  Arguments args;
  size_t dy, x, w;
  Layout layout;
  ChannelNormParams p;

  Gradients(const char* op, py::handle cotangent, py::handle input, py::handle weight) : args(op) {
    dy = args.floating("cotangent", cotangent), x = args.optional_floating("input", input);
    w = args.optional_floating("weight", weight);
    args.promote();
    layout = layout_of(args[args.given(x) ? x : dy]);
    for (size_t i : {dy, x}) args.make_layout(i, layout);
    args.make_contiguous(w);
  }

  // (d_input, d_weight, d_bias), None for what is not wanted.
  py::tuple run(py::handle saved, bool want_input, bool want_weight, bool want_bias) {
    auto gradient = [&](bool wanted, const int64_t* sizes, int ndim, Layout order) {
      return wanted ? args.empty(args.dtype(), sizes, ndim, order) : py::object(py::none());
    };
    py::object dx = gradient(want_input, args[dy].shape, args[dy].ndim, layout);
    py::object dw = gradient(want_weight, &p.channels, 1, Layout::contiguous);
    py::object db = gradient(want_bias, &p.channels, 1, Layout::contiguous);
    Workspace scratch = args.workspace(channel_norm_scratch(p, true));
    ChannelNormBackward call{
        args[dy].data,    args[x].data,     args[w].data,    static_cast<const Statistics*>(args.view_of(saved).data),
        args.data_of(dx), args.data_of(dw), args.data_of(db)};
    args.run_flushed([&] { channel_norm_backward(p, call, scratch.data()); });
    return py::make_tuple(dx, dw, db);
  }
};

py::tuple batch_norm_gradient(py::handle cotangent, py::handle input, py::handle weight, py::handle saved,
                              bool training, bool want_input, bool want_weight, bool want_bias) {
  Gradients g("batch_norm", cotangent, input, weight);
  g.p = batch_norm_gradient_params(g.args[g.dy], g.args.optional(g.w), training, g.layout);
  return g.run(saved, want_input, want_weight, want_bias);
}

py::tuple group_norm_gradient(py::handle cotangent, py::handle input, int64_t groups, py::handle weight,
                              py::handle saved, bool want_input, bool want_weight, bool want_bias) {
  Gradients g("group_norm", cotangent, input, weight);
  g.p = group_norm_params(g.args[g.dy], groups, g.args.optional(g.w), nullptr, 0, g.layout);
  return g.run(saved, want_input, want_weight, want_bias);
}

}  // namespace

void bind_channel_norm(py::module_& m) {
  m.def("batch_norm", &batch_norm);
  m.def("group_norm", &group_norm);
  m.def("batch_norm_backward", &batch_norm_gradient);
  m.def("group_norm_backward", &group_norm_gradient);
}

}  // namespace arraynn::python
