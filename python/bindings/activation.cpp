#include "ops/activation.h"

#include "array.h"

namespace arraynn::python {

namespace {

py::object forward(const char* op, const ActivationOptions& options, py::handle input, py::handle out) {
  Arguments args(op);
  size_t x = args.floating("input", input);
  args.promote();
  if (!is_dense(args[x])) args.make_contiguous(x);
  ActivationParams p = activation_params(options, args[x]);
  Output y(args, out, args[x]);
  args.run([&] { activation_forward(p, args[x].data, y.view().data); });
  return y.finish();
}

// The gradient from what the op saves and the cotangent, brought to one memory order.
py::object backward(const char* op, const ActivationOptions& options, py::handle saved, py::handle cotangent) {
  Arguments args(op);
  size_t s = args.floating("saved", saved), dy = args.floating("cotangent", cotangent);
  args.promote();
  args.make_like(s, args[s]);
  args.make_like(dy, args[s]);
  ActivationParams p = activation_params(options, args[s]);
  Output dx(args, py::none(), args[s]);
  args.run([&] { activation_backward(p, args[s].data, args[dy].data, dx.view().data); });
  return dx.finish();
}

// An op and its backward, both with the options that `options_of` takes behind the arrays of inputs.
template <class... Values, class OptionsOf>
void bind(py::module_& m, const char* op, OptionsOf options_of) {
  std::string backward_name = std::string(op) + "_backward";
  m.def(op, [=](py::handle x, Values... values, py::handle out) { return forward(op, options_of(values...), x, out); });
  m.def(backward_name.c_str(), [=](py::handle saved, py::handle dy, Values... values) {
    return backward(op, options_of(values...), saved, dy);
  });
}

py::object softmax(const char* op, py::handle input, int64_t axis, py::handle out) {
  Arguments args(op);
  size_t x = args.floating("input", input);
  args.promote();
  SoftmaxParams p = softmax_params(op, args[x], axis);
  args.make_contiguous(x);
  Output y(args, out, args[x].shape, args[x].ndim);
  args.run([&] { softmax_forward(p, args[x].data, y.view().data); });
  return y.finish();
}

py::object softmax_gradient(const char* op, py::handle output, py::handle cotangent, int64_t axis) {
  Arguments args(op);
  size_t y = args.floating("output", output), dy = args.floating("cotangent", cotangent);
  args.promote();
  SoftmaxParams p = softmax_params(op, args[y], axis);
  args.make_contiguous(y);
  args.make_contiguous(dy);
  Output dx(args, py::none(), args[y].shape, args[y].ndim);
  args.run([&] { softmax_backward(p, args[y].data, args[dy].data, dx.view().data); });
  return dx.finish();
}

}  // namespace

void bind_activation(py::module_& m) {
  auto plain = [](Activation function) { return [function] { return ActivationOptions{function}; }; };
  bind(m, "relu", plain(Activation::relu));
  bind(m, "sigmoid", plain(Activation::sigmoid));
  bind(m, "tanh", plain(Activation::tanh));
  bind(m, "silu", plain(Activation::silu));
  bind<double>(m, "leaky_relu", [](double negative_slope) {
    ActivationOptions options{Activation::leaky_relu};
    options.negative_slope = negative_slope;
    return options;
  });
  bind<double>(m, "elu", [](double alpha) {
    ActivationOptions options{Activation::elu};
    options.alpha = alpha;
    return options;
  });
  bind<bool>(m, "gelu", [](bool tanh) { return ActivationOptions{tanh ? Activation::gelu_tanh : Activation::gelu}; });
  bind<double, double>(m, "softplus", [](double beta, double threshold) {
    ActivationOptions options{Activation::softplus};
    options.beta = beta;
    options.threshold = threshold;
    return options;
  });
  m.def("softmax", [](py::handle x, int64_t axis, py::handle out) { return softmax("softmax", x, axis, out); });
  m.def("log_softmax", [](py::handle x, int64_t axis, py::handle out) { return softmax("log_softmax", x, axis, out); });
  m.def("softmax_backward",
        [](py::handle y, py::handle dy, int64_t axis) { return softmax_gradient("softmax", y, dy, axis); });
  m.def("log_softmax_backward",
        [](py::handle y, py::handle dy, int64_t axis) { return softmax_gradient("log_softmax", y, dy, axis); });
}

}  // namespace arraynn::python
