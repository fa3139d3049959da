#include "ops/activation.h"

#include "array.h"

namespace arraynn::python {

namespace {

template <Activation function>
py::object forward(const char* op, py::handle input, py::handle out) {
  Arguments args(op);
  size_t x = args.floating("input", input);
  args.promote();
  if (!is_dense(args[x])) args.make_contiguous(x);
  ActivationParams p = activation_params(function, args[x]);
  Output y(args, out, args[x]);
  args.run([&] { activation_forward(p, args[x].data, y.view().data); });
  return y.finish();
}

// The gradient from the op's output and the cotangent, brought to one memory order.
template <Activation function>
py::object backward(const char* op, py::handle output, py::handle cotangent) {
  Arguments args(op);
  size_t y = args.floating("output", output), dy = args.floating("cotangent", cotangent);
  args.promote();
  args.make_like(y, args[y]);
  args.make_like(dy, args[y]);
  ActivationParams p = activation_params(function, args[y]);
  Output dx(args, py::none(), args[y]);
  args.run([&] { activation_backward(p, args[y].data, args[dy].data, dx.view().data); });
  return dx.finish();
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
  m.def("relu", [](py::handle x, py::handle out) { return forward<Activation::relu>("relu", x, out); });
  m.def("sigmoid", [](py::handle x, py::handle out) { return forward<Activation::sigmoid>("sigmoid", x, out); });
  m.def("tanh", [](py::handle x, py::handle out) { return forward<Activation::tanh>("tanh", x, out); });
  m.def("relu_backward", [](py::handle y, py::handle dy) { return backward<Activation::relu>("relu", y, dy); });
  m.def("sigmoid_backward",
        [](py::handle y, py::handle dy) { return backward<Activation::sigmoid>("sigmoid", y, dy); });
  m.def("tanh_backward", [](py::handle y, py::handle dy) { return backward<Activation::tanh>("tanh", y, dy); });
  m.def("softmax", [](py::handle x, int64_t axis, py::handle out) { return softmax("softmax", x, axis, out); });
  m.def("log_softmax", [](py::handle x, int64_t axis, py::handle out) { return softmax("log_softmax", x, axis, out); });
  m.def("softmax_backward",
        [](py::handle y, py::handle dy, int64_t axis) { return softmax_gradient("softmax", y, dy, axis); });
  m.def("log_softmax_backward",
        [](py::handle y, py::handle dy, int64_t axis) { return softmax_gradient("log_softmax", y, dy, axis); });
}

}  // namespace arraynn::python
