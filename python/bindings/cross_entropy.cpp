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

}  // namespace

void bind_cross_entropy(py::module_& m) {
  bind<Kind::cross_entropy, double>(m, "cross_entropy");
  bind<Kind::nll>(m, "nll_loss");
}

}  // namespace arraynn::python
