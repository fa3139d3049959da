#include "ops/loss.h"

#include "array.h"

namespace arraynn::python {

namespace {

// The arrays of a call, as they came; those that an op does not have are None.
struct Given {
  py::handle input, target, weight, pos_weight;
};

// The arguments of a call, checked, of one shape and memory order.
struct Call {
  Arguments args;
  size_t x, t, w, positive, dy;
  LossParams p;

  Call(const char* op, const LossOptions& options, const Given& given, py::handle cotangent = py::none()) : args(op) {
    x = args.floating("input", given.input);
    t = args.floating("target", given.target);
    w = args.optional_floating("weight", given.weight);
    positive = args.optional_floating("pos_weight", given.pos_weight);
    dy = args.optional_floating("cotangent", cotangent);
    args.promote();
    p = loss_params(op, options, args[x], args[t], args.optional(w), args.optional(positive));
    if (args.given(dy)) check_loss_cotangent(op, p, args[dy]);
    if (!is_dense(args[x])) args.make_contiguous(x);
    if (args.given(w) && p.weights > 0) args.make_like(w, args[x]);
    args.run([&] { loss_divisor(p, args[w].data); });
    for (size_t i : {x, t, w, positive}) args.make_broadcast(i, p.shape, p.ndim);
    for (size_t i : {x, t, w, positive, dy})
      if (args.given(i) && args[i].ndim == p.ndim) args.make_like(i, args[x]);
  }
  LossInputs inputs() const { return {args[x].data, args[t].data, args[w].data, args[positive].data}; }
  Workspace scratch() const { return args.workspace(reduction_scratch(p.place)); }
};

py::object forward(const char* op, const LossOptions& options, const Given& given, py::handle out) {
  Call call(op, options, given);
  const Arguments& a = call.args;
  Output y = call.p.output_ndim() == 0 ? Output(a, out, call.p.shape, 0) : Output(a, out, a[call.x]);
  Workspace scratch = call.scratch();
  a.run([&] { loss_forward(call.p, call.inputs(), y.view().data, nullptr, scratch.data()); });
  return y.finish();
}

// The loss and, for a cotangent of one, the gradient of the broadcast input.
py::object forward_gradient(const char* op, const LossOptions& options, const Given& given) {
  Call call(op, options, given);
  const Arguments& a = call.args;
  Output y(a, py::none(), call.p.shape, 0), dx(a, py::none(), a[call.x]);
  Workspace scratch = call.scratch();
  a.run([&] { loss_forward(call.p, call.inputs(), y.view().data, dx.view().data, scratch.data()); });
  return py::make_tuple(y.finish(), dx.finish());
}

// `unit`, on a device, is the gradient for a cotangent of one, as cross_entropy's backward has it.
py::object backward(const char* op, const LossOptions& options, const Given& given, py::handle cotangent,
                    const py::object& unit) {
  Call call(op, options, given, cotangent);
  const Arguments& a = call.args;
  bool held = !unit.is_none();
  Output dx = held ? Output(a, unit) : Output(a, py::none(), a[call.x]);
  Workspace scratch = call.scratch();
  a.run([&] { loss_backward(call.p, call.inputs(), a[call.dy].data, dx.view().data, held, scratch.data()); });
  return dx.finish();
}

// An op, its loss with gradient and its backward. `options_of` takes the reduction and `Values`.
template <class... Values, class OptionsOf>
void bind(py::module_& m, const char* op, OptionsOf options_of) {
  std::string gradient_name = std::string(op) + "_gradient", backward_name = std::string(op) + "_backward";
  m.def(op, [=](py::handle x, py::handle t, py::handle w, py::handle positive, int reduction, Values... values,
                py::handle out) { return forward(op, options_of(reduction, values...), {x, t, w, positive}, out); });
  m.def(gradient_name.c_str(),
        [=](py::handle x, py::handle t, py::handle w, py::handle positive, int reduction, Values... values) {
          return forward_gradient(op, options_of(reduction, values...), {x, t, w, positive});
        });
  m.def(backward_name.c_str(), [=](py::handle dy, py::handle x, py::handle t, py::handle w, py::handle positive,
                                   int reduction, Values... values, const py::object& unit) {
    return backward(op, options_of(reduction, values...), {x, t, w, positive}, dy, unit);
  });
}

}  // namespace

void bind_loss(py::module_& m) {
  auto plain = [](PointwiseLoss function) {
    return [function](int reduction) { return LossOptions{function, static_cast<Reduction>(reduction)}; };
  };
  bind(m, "mse_loss", plain(PointwiseLoss::mse));
  bind(m, "l1_loss", plain(PointwiseLoss::l1));
  bind(m, "binary_cross_entropy_with_logits", plain(PointwiseLoss::bce_with_logits));
  bind<double>(m, "huber_loss", [](int reduction, double delta) {
    LossOptions options{PointwiseLoss::huber, static_cast<Reduction>(reduction)};
    options.delta = delta;
    return options;
  });
  bind<bool, bool>(m, "kl_div", [](int reduction, bool batch_mean, bool log_target) {
    LossOptions options{PointwiseLoss::kl_div, static_cast<Reduction>(reduction)};
    options.batch_mean = batch_mean;
    options.log_target = log_target;
    return options;
  });
}

}  // namespace arraynn::python
