#include "ops/cross_entropy.h"

#include <optional>

#include "array.h"

namespace arraynn::python {

namespace {

struct Options {
  int64_t ignore_index;
  Reduction reduction;
  double smoothing = 0;  // cross_entropy's
};

enum class Kind { cross_entropy, nll };

// The arguments of a call, checked and dense.
template <Kind kind>
struct Call {
  Arguments args{kind == Kind::nll ? "nll_loss" : "cross_entropy"};
  size_t x, t, w, dy;
  Layout layout;
  CrossEntropyParams p;
  std::optional<Workspace> scratch;

  Call(py::handle input, py::handle target, py::handle weight, const Options& options,
       py::handle cotangent = py::none()) {
    x = args.floating("input", input);
    t = kind == Kind::nll ? args.integer("target", target) : args.integer_or_floating("target", target);
    w = args.optional_floating("weight", weight);
    dy = args.optional_floating("cotangent", cotangent);
    args.promote();
    layout = is_channels_last(args[x]) ? Layout::channels_last : Layout::contiguous;
    p = kind == Kind::nll
            ? nll_params(args[x], args[t], args.optional(w), options.ignore_index, options.reduction, layout)
            : cross_entropy_params(args[x], args[t], args.optional(w), options.ignore_index, options.reduction,
                                   options.smoothing, layout);
    if (args.given(dy)) check_cross_entropy_cotangent(p, args[dy]);
    args.make_layout(x, layout);
    args.make_layout(t, p.probabilities ? layout : Layout::contiguous);
    args.make_contiguous(w);
    args.make_contiguous(dy);
    scratch.emplace(args.home(), reduction_scratch(p.place));
    args.run([&] { cross_entropy_labels(p, args[t].data, args[w].data, scratch->data()); });
  }

  void run_forward(const Output& y, void* d_input) const {
    auto kernel = kind == Kind::nll ? nll_forward : cross_entropy_forward;
    args.run([&] { kernel(p, args[x].data, args[t].data, args[w].data, y.view().data, d_input, scratch->data()); });
  }
  void run_backward(const Output& dx, bool held) const {
    args.run([&] {
      if (kind == Kind::nll)
        nll_backward(p, args[t].data, args[w].data, args[dy].data, dx.view().data, held, scratch->data());
      else
        cross_entropy_backward(p, args[x].data, args[t].data, args[w].data, args[dy].data, dx.view().data, held,
                               scratch->data());
    });
  }
};

template <Kind kind>
py::object forward(py::handle input, py::handle target, py::handle weight, const Options& options, py::handle out) {
  Call<kind> call(input, target, weight, options);
  Output y(call.args, out, call.p.output_shape, call.p.ndim);
  call.run_forward(y, nullptr);
  return y.finish();
}

// The loss and, for a cotangent of one, the gradient.
template <Kind kind>
py::object forward_gradient(py::handle input, py::handle target, py::handle weight, const Options& options) {
  Call<kind> call(input, target, weight, options);
  const Array& x = call.args[call.x];
  Output y(call.args, py::none(), call.p.output_shape, call.p.ndim);
  Output dx(call.args, py::none(), x.shape, x.ndim, call.layout);
  call.run_forward(y, dx.view().data);
  return py::make_tuple(y.finish(), dx.finish());
}

// `unit`, on a device, is the gradient for a cotangent of one. Only the kernel can see whether it is the
// gradient for this one; it then stays as it is, and is made that if not.
template <Kind kind>
py::object backward(py::handle cotangent, py::handle input, py::handle target, py::handle weight,
                    const Options& options, const py::object& unit) {
  Call<kind> call(input, target, weight, options, cotangent);
  const Array& x = call.args[call.x];
  bool held = !unit.is_none();
  Output dx = held ? Output(call.args, unit) : Output(call.args, py::none(), x.shape, x.ndim, call.layout);
  call.run_backward(dx, held);
  return dx.finish();
}

// An op, its loss with gradient and its backward; `Values` are the options behind the reduction.
template <Kind kind, class... Values>
void bind(py::module_& m, const char* op) {
  std::string gradient_name = std::string(op) + "_gradient", backward_name = std::string(op) + "_backward";
  auto options_of = [](int64_t ignore_index, int reduction, Values... values) {
    return Options{ignore_index, static_cast<Reduction>(reduction), values...};
  };
  m.def(op,
        [=](py::handle x, py::handle t, py::handle w, int64_t ignore_index, int reduction, Values... values,
            py::handle out) { return forward<kind>(x, t, w, options_of(ignore_index, reduction, values...), out); });
  m.def(gradient_name.c_str(),
        [=](py::handle x, py::handle t, py::handle w, int64_t ignore_index, int reduction, Values... values) {
          return forward_gradient<kind>(x, t, w, options_of(ignore_index, reduction, values...));
        });
  m.def(backward_name.c_str(), [=](py::handle dy, py::handle x, py::handle t, py::handle w, int64_t ignore_index,
                                   int reduction, Values... values, const py::object& unit) {
    return backward<kind>(dy, x, t, w, options_of(ignore_index, reduction, values...), unit);
  });
}

// ---- linear_cross_entropy, whose sums of tiles' gradients are in float32 where arrays are of 16 bits ----

struct Logits {
  py::handle input, linear_weight, linear_bias, target, weight;
};
struct Wanted {
  bool input, linear_weight, linear_bias;
  bool any() const { return input || linear_weight || linear_bias; }
};

// The arguments of a call, checked, and the gradients that are wanted of it.
struct LinearCall {
  Arguments args{"linear_cross_entropy"};
  size_t x, lw, lb, t, w, dy;
  LinearCrossEntropyParams p;
  std::optional<Workspace> scratch;
  py::object gradients[3] = {py::none(), py::none(), py::none()};
  LinearCrossEntropyGradients d{};

  LinearCall(const Logits& given, const Options& options, const Wanted& wanted, py::handle cotangent = py::none()) {
    x = args.floating("input", given.input);
    lw = args.floating("linear_weight", given.linear_weight);
    lb = args.optional_floating("linear_bias", given.linear_bias);
    t = args.integer_or_floating("target", given.target);
    w = args.optional_floating("weight", given.weight);
    dy = args.optional_floating("cotangent", cotangent);
    DType dtype = args.promote(Halves::as_float32);
    p = linear_cross_entropy_params(args[x], args[lw], args.optional(lb), args[t], args.optional(w),
                                    options.ignore_index, options.reduction, options.smoothing);
    if (args.given(dy)) check_cross_entropy_cotangent(p.loss, args[dy]);
    for (size_t i : {x, lb, t, w, dy}) args.make_contiguous(i);
    scratch.emplace(args.home(), linear_cross_entropy_scratch(p, wanted.any()));
    args.run([&] { cross_entropy_labels(p.loss, args[t].data, args[w].data, scratch->data()); });
    d.input = gradient(wanted.input, 0, dtype, x);
    d.linear_weight = gradient(wanted.linear_weight, 1, dtype, lw);
    d.linear_bias = gradient(wanted.linear_bias, 2, dtype, lb);
  }
  void* gradient(bool wanted, int which, DType dtype, size_t argument) {
    if (!wanted) return nullptr;
    gradients[which] = args.empty(dtype, args[argument].shape, args[argument].ndim);
    return args.view_of(gradients[which]).data;
  }
  LinearCrossEntropyInputs inputs() const {
    return {args[x].data, args[lw].data, args[lb].data, args[t].data, args[w].data};
  }
};

// The loss, and the gradients for a cotangent of one, None for those not wanted.
py::tuple linear_forward(const Logits& given, const Options& options, const Wanted& wanted, py::handle out) {
  LinearCall call(given, options, wanted);
  Output y(call.args, out, call.p.loss.output_shape, call.p.loss.ndim);
  call.args.run_flushed(
      [&] { linear_cross_entropy_forward(call.p, call.inputs(), y.view().data, call.d, call.scratch->data()); });
  return py::make_tuple(y.finish(), call.gradients[0], call.gradients[1], call.gradients[2]);
}

py::tuple linear_backward(py::handle cotangent, const Logits& given, const Options& options, const Wanted& wanted) {
  LinearCall call(given, options, wanted, cotangent);
  call.args.run_flushed([&] {
    linear_cross_entropy_backward(call.p, call.inputs(), call.args[call.dy].data, call.d, call.scratch->data());
  });
  return py::make_tuple(call.gradients[0], call.gradients[1], call.gradients[2]);
}

// In place; the cotangent has the gradient's dtype.
void scale(py::handle gradient, py::handle cotangent) {
  Arguments args("linear_cross_entropy");
  size_t g = args.floating("gradient", gradient), dy = args.floating("cotangent", cotangent);
  args.promote();
  args.run([&] { scale_gradient(args[g], args[dy].data); });
}

void bind_linear_cross_entropy(py::module_& m) {
  using H = py::handle;
  m.def("linear_cross_entropy", [](H x, H lw, H t, H lb, H w, int64_t ignore_index, int reduction, double smoothing,
                                   bool dx, bool dlw, bool dlb, H out) {
    return linear_forward({x, lw, lb, t, w}, {ignore_index, static_cast<Reduction>(reduction), smoothing},
                          {dx, dlw, dlb}, out);
  });
  m.def("linear_cross_entropy_backward", [](H dy, H x, H lw, H t, H lb, H w, int64_t ignore_index, int reduction,
                                            double smoothing, bool dx, bool dlw, bool dlb) {
    return linear_backward(dy, {x, lw, lb, t, w}, {ignore_index, static_cast<Reduction>(reduction), smoothing},
                           {dx, dlw, dlb});
  });
  m.def("scale_gradient", &scale);
}

}  // namespace

void bind_cross_entropy(py::module_& m) {
  bind<Kind::cross_entropy, double>(m, "cross_entropy");
  bind<Kind::nll>(m, "nll_loss");
  bind_linear_cross_entropy(m);
}

}  // namespace arraynn::python
