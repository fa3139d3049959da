#include "ops/pool.h"

#include <pybind11/stl.h>

#include <optional>

#include "array.h"

namespace arraynn::python {

namespace {

using Pair = std::array<int64_t, 2>;

PoolOptions options_of(Pair kernel, Pair stride, Pair padding, Pair dilation, bool ceil_mode) {
  return {
      {kernel[0], kernel[1]}, {stride[0], stride[1]}, {padding[0], padding[1]}, {dilation[0], dilation[1]}, ceil_mode};
}

// The input's memory decides: dense channels-last runs as it is, all else as contiguous.
Layout layout_of(const Array& input) {
  return input.ndim == 4 && is_channels_last(input) ? Layout::channels_last : Layout::contiguous;
}

// What a pullback knows of the input that it does not hold: its shape and memory order.
struct InputLike {
  Array view{};
  Layout layout;
  InputLike(const Arguments& args, const std::vector<int64_t>& shape, bool channels_last)
      : layout(channels_last ? Layout::channels_last : Layout::contiguous) {
    view.dtype = args.dtype();
    view.place = args.place();
    view.ndim = static_cast<int>(shape.size());
    std::copy(shape.begin(), shape.end(), view.shape);
  }
};

// (output, indices or None, taps for the pullback or None, whether those are channels-last).
py::tuple max_pool(py::handle input, Pair kernel, Pair stride, Pair padding, Pair dilation, bool ceil_mode,
                   bool want_indices, bool for_pullback, py::handle out) {
  Arguments args("max_pool2d");
  size_t x = args.floating("input", input);
  args.promote();
  Layout layout = layout_of(args[x]);
  PoolParams p = pool_params("max_pool2d", args[x], options_of(kernel, stride, padding, dilation, ceil_mode), layout);
  args.make_layout(x, layout);
  Output y(args, out, p.output_shape, p.ndim, layout);
  py::object indices = py::none(), taps = py::none();
  int64_t* places = nullptr;
  if (want_indices) {
    indices = args.empty(DType::int64, p.output_shape, p.ndim, layout);
    places = static_cast<int64_t*>(args.view_of(indices).data);
  }
  size_t bytes = want_indices || for_pullback ? max_pool_taps(p) : 0;
  if (for_pullback) {
    auto size = static_cast<int64_t>(bytes);
    taps = args.empty(DType::uint8, &size, 1);
  }
  Workspace scratch = args.workspace(for_pullback ? 0 : bytes);
  void* saved = for_pullback ? args.view_of(taps).data : scratch.data();
  args.run([&] { max_pool_forward(p, args[x].data, y.view().data, saved, places); });
  return py::make_tuple(y.finish(), indices, taps, layout == Layout::channels_last);
}

py::object max_pool_gradient(py::handle cotangent, py::handle taps, const std::vector<int64_t>& shape,
                             bool channels_last, Pair kernel, Pair stride, Pair padding, Pair dilation,
                             bool ceil_mode) {
  Arguments args("max_pool2d");
  size_t dy = args.floating("cotangent", cotangent);
  args.promote();
  InputLike x(args, shape, channels_last);
  PoolOptions options = options_of(kernel, stride, padding, dilation, ceil_mode);
  PoolParams p = pool_params("max_pool2d", x.view, options, x.layout);
  check_pool_cotangent("max_pool2d", p, args[dy]);
  args.make_layout(dy, x.layout);
  Output dx(args, py::none(), x.view.shape, x.view.ndim, x.layout);
  const void* saved = args.view_of(taps).data;
  args.run([&] { max_pool_backward(p, args[dy].data, saved, dx.view().data); });
  return dx.finish();
}

// params(input, layout) are those of the op.
template <class F>
py::object average(const char* op, py::handle input, py::handle out, const F& params) {
  Arguments args(op);
  size_t x = args.floating("input", input);
  args.promote();
  Layout layout = layout_of(args[x]);
  PoolParams p = params(args[x], layout);
  args.make_layout(x, layout);
  Output y(args, out, p.output_shape, p.ndim, layout);
  args.run([&] { avg_pool_forward(p, args[x].data, y.view().data); });
  return y.finish();
}

template <class F>
py::object average_gradient(const char* op, py::handle cotangent, const std::vector<int64_t>& shape, bool channels_last,
                            const F& params) {
  Arguments args(op);
  size_t dy = args.floating("cotangent", cotangent);
  args.promote();
  InputLike x(args, shape, channels_last);
  PoolParams p = params(x.view, x.layout);
  check_pool_cotangent(op, p, args[dy]);
  args.make_layout(dy, x.layout);
  Output dx(args, py::none(), x.view.shape, x.view.ndim, x.layout);
  args.run([&] { avg_pool_backward(p, args[dy].data, dx.view().data); });
  return dx.finish();
}

auto ordinary(Pair kernel, Pair stride, Pair padding, bool ceil_mode, bool count_include_pad,
              std::optional<int64_t> divisor) {
  PoolOptions options = options_of(kernel, stride, padding, {1, 1}, ceil_mode);
  return [=](const Array& input, Layout layout) {
    return avg_pool_params(input, options, count_include_pad, divisor ? &*divisor : nullptr, layout);
  };
}

// None keeps the input's size.
auto adaptive(std::array<std::optional<int64_t>, 2> size) {
  return [=](const Array& input, Layout layout) {
    auto of = [&](int axis) { return size[axis].value_or(input.ndim >= 2 ? input.shape[input.ndim - 2 + axis] : 0); };
    return adaptive_pool_params("adaptive_avg_pool2d", input, of(0), of(1), layout);
  };
}

}  // namespace

void bind_pool(py::module_& m) {
  m.def("max_pool2d", &max_pool);
  m.def("max_pool2d_backward", &max_pool_gradient);
  m.def("avg_pool2d", [](py::handle input, Pair kernel, Pair stride, Pair padding, bool ceil_mode,
                         bool count_include_pad, std::optional<int64_t> divisor, py::handle out) {
    return average("avg_pool2d", input, out, ordinary(kernel, stride, padding, ceil_mode, count_include_pad, divisor));
  });
  m.def("avg_pool2d_backward",
        [](py::handle cotangent, const std::vector<int64_t>& shape, bool channels_last, Pair kernel, Pair stride,
           Pair padding, bool ceil_mode, bool count_include_pad, std::optional<int64_t> divisor) {
          return average_gradient("avg_pool2d", cotangent, shape, channels_last,
                                  ordinary(kernel, stride, padding, ceil_mode, count_include_pad, divisor));
        });
  m.def("adaptive_avg_pool2d", [](py::handle input, std::array<std::optional<int64_t>, 2> size, py::handle out) {
    return average("adaptive_avg_pool2d", input, out, adaptive(size));
  });
  m.def("adaptive_avg_pool2d_backward", [](py::handle cotangent, const std::vector<int64_t>& shape, bool channels_last,
                                           std::array<std::optional<int64_t>, 2> size) {
    return average_gradient("adaptive_avg_pool2d", cotangent, shape, channels_last, adaptive(size));
  });
}

}  // namespace arraynn::python
