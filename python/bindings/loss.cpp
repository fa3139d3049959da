#include "ops/loss.h"

#include "array.h"

namespace arraynn::python {

namespace {

// The arguments of a call, checked, of one shape and memory order.
struct Call {
  Arguments args{"mse_loss"};
  size_t x, t, w, dy;
  MseParams p;

  Call(py::handle input, py::handle target, int reduction, py::handle weight, py::handle cotangent = py::none()) {
    x = args.floating("input", input);
    t = args.floating("target", target);
    w = args.optional_floating("weight", weight);
    dy = args.optional_floating("cotangent", cotangent);
    args.promote();
    p = mse_params(args[x], args[t], args.optional(w), static_cast<Reduction>(reduction));
    if (args.given(dy)) check_mse_cotangent(p, args[dy]);
    if (!is_dense(args[x])) args.make_contiguous(x);
    if (args.given(w)) args.make_like(w, args[x]);
    args.run([&] { mse_divisor(p, args[w].data); });
    for (size_t i : {x, t, w}) args.make_broadcast(i, p.shape, p.ndim);
    for (size_t i : {x, t, w, dy})
      if (args.given(i) && args[i].ndim == p.ndim) args.make_like(i, args[x]);
  }
  Workspace scratch() const { return args.workspace(reduction_scratch(p.place)); }
};

py::object forward(py::handle input, py::handle target, int reduction, py::handle weight, py::handle out) {
  Call call(input, target, reduction, weight);
  const Arguments& a = call.args;
  Output y = call.p.output_ndim() == 0 ? Output(a, out, call.p.shape, 0) : Output(a, out, a[call.x]);
  Workspace scratch = call.scratch();
  a.run([&] {
    mse_forward(call.p, a[call.x].data, a[call.t].data, a[call.w].data, y.view().data, nullptr, scratch.data());
  });
  return y.finish();
}

// The loss and, for a cotangent of one, the gradient of the broadcast input.
py::object forward_gradient(py::handle input, py::handle target, int reduction, py::handle weight) {
  Call call(input, target, reduction, weight);
  const Arguments& a = call.args;
  Output y(a, py::none(), call.p.shape, 0), dx(a, py::none(), a[call.x]);
  Workspace scratch = call.scratch();
  a.run([&] {
    mse_forward(call.p, a[call.x].data, a[call.t].data, a[call.w].data, y.view().data, dx.view().data, scratch.data());
  });
  return py::make_tuple(y.finish(), dx.finish());
}

// `unit`, on a device, is the gradient for a cotangent of one, as cross_entropy's backward has it.
py::object backward(py::handle cotangent, py::handle input, py::handle target, int reduction, py::handle weight,
                    const py::object& unit) {
  Call call(input, target, reduction, weight, cotangent);
  const Arguments& a = call.args;
  bool held = !unit.is_none();
  Output dx = held ? Output(a, unit) : Output(a, py::none(), a[call.x]);
  Workspace scratch = call.scratch();
  a.run([&] {
    mse_backward(call.p, a[call.x].data, a[call.t].data, a[call.w].data, a[call.dy].data, dx.view().data, held,
                 scratch.data());
  });
  return dx.finish();
}

}  // namespace

void bind_loss(py::module_& m) {
  m.def("mse_loss", &forward);
  m.def("mse_loss_gradient", &forward_gradient);
  m.def("mse_loss_backward", &backward);
}

}  // namespace arraynn::python
