#include "ops/cross_entropy.h"

#include <optional>

#include "array.h"

namespace arraynn::python {

namespace {

constexpr const char* op = "cross_entropy";

struct Options {
  int64_t ignore_index;
  Reduction reduction;
  double smoothing;
};

// The arguments of a call, checked and dense.
struct Call {
  Arguments args{op};
  size_t x, t, w, dy;
  Layout layout;
  CrossEntropyParams p;
  std::optional<Workspace> scratch;

  Call(py::handle input, py::handle target, py::handle weight, const Options& options,
       py::handle cotangent = py::none()) {
    x = args.floating("input", input);
    t = args.integer_or_floating("target", target);
    w = args.optional_floating("weight", weight);
    dy = args.optional_floating("cotangent", cotangent);
    args.promote();
    layout = is_channels_last(args[x]) ? Layout::channels_last : Layout::contiguous;
    p = cross_entropy_params(args[x], args[t], args.optional(w), options.ignore_index, options.reduction,
                             options.smoothing, layout);
    if (args.given(dy)) check_cross_entropy_cotangent(p, args[dy]);
    args.make_layout(x, layout);
    args.make_layout(t, p.probabilities ? layout : Layout::contiguous);
    args.make_contiguous(w);
    args.make_contiguous(dy);
    scratch.emplace(args.home(), reduction_scratch(p.place));
    args.run([&] { cross_entropy_labels(p, args[t].data, args[w].data, scratch->data()); });
  }
};

py::object forward(py::handle input, py::handle target, py::handle weight, int64_t ignore_index, int reduction,
                   double smoothing, py::handle out) {
  Call call(input, target, weight, {ignore_index, static_cast<Reduction>(reduction), smoothing});
  const Arguments& a = call.args;
  Output y(a, out, call.p.output_shape, call.p.ndim);
  a.run([&] {
    cross_entropy_forward(call.p, a[call.x].data, a[call.t].data, a[call.w].data, y.view().data, nullptr,
                          call.scratch->data());
  });
  return y.finish();
}

// The loss and, for a cotangent of one, the gradient.
py::object forward_gradient(py::handle input, py::handle target, py::handle weight, int64_t ignore_index, int reduction,
                            double smoothing) {
  Call call(input, target, weight, {ignore_index, static_cast<Reduction>(reduction), smoothing});
  const Arguments& a = call.args;
  Output y(a, py::none(), call.p.output_shape, call.p.ndim);
  Output dx(a, py::none(), a[call.x].shape, a[call.x].ndim, call.layout);
  a.run([&] {
    cross_entropy_forward(call.p, a[call.x].data, a[call.t].data, a[call.w].data, y.view().data, dx.view().data,
                          call.scratch->data());
  });
  return py::make_tuple(y.finish(), dx.finish());
}

// `unit`, on a device, is the gradient for a cotangent of one. Only the kernel can see whether it is the
// gradient for this one; it then stays as it is, and is made that if not.
py::object backward(py::handle cotangent, py::handle input, py::handle target, py::handle weight, int64_t ignore_index,
                    int reduction, double smoothing, const py::object& unit) {
  Call call(input, target, weight, {ignore_index, static_cast<Reduction>(reduction), smoothing}, cotangent);
  const Arguments& a = call.args;
  bool held = !unit.is_none();
  Output dx = held ? Output(a, unit) : Output(a, py::none(), a[call.x].shape, a[call.x].ndim, call.layout);
  a.run([&] {
    cross_entropy_backward(call.p, a[call.x].data, a[call.t].data, a[call.w].data, a[call.dy].data, dx.view().data,
                           held, call.scratch->data());
  });
  return dx.finish();
}

}  // namespace

void bind_cross_entropy(py::module_& m) {
  m.def("cross_entropy", &forward);
  m.def("cross_entropy_gradient", &forward_gradient);
  m.def("cross_entropy_backward", &backward);
}

}  // namespace arraynn::python
