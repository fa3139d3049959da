#include "ops/pool.h"

#include <pybind11/stl.h>

#include <optional>

#include "array.h"

namespace arraynn::python {

namespace {

// One number per spatial dimension, as Python spells options out.
template <int dims>
using Sizes = std::array<int64_t, dims>;
// None keeps the input's size.
template <int dims>
using OutputSizes = std::array<std::optional<int64_t>, dims>;

template <int dims>
PoolOptions options_of(const Sizes<dims>& kernel, const Sizes<dims>& stride, const Sizes<dims>& padding,
                       const Sizes<dims>& dilation, bool ceil_mode) {
  PoolOptions options{dims, {}, {}, {}, {}, ceil_mode};
  std::copy(kernel.begin(), kernel.end(), options.kernel);
  std::copy(stride.begin(), stride.end(), options.stride);
  std::copy(padding.begin(), padding.end(), options.padding);
  std::copy(dilation.begin(), dilation.end(), options.dilation);
  return options;
}

// The input's memory decides: dense channels-last runs as it is, all else as contiguous.
Layout layout_of(const Array& input, int dims) {
  return input.ndim == dims + 2 && is_channels_last(input) ? Layout::channels_last : Layout::contiguous;
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

// What finds an op's parameters: params(input, layout).
template <int dims>
auto largest(const char* op, const Sizes<dims>& kernel, const Sizes<dims>& stride, const Sizes<dims>& padding,
             const Sizes<dims>& dilation, bool ceil_mode) {
  PoolOptions options = options_of<dims>(kernel, stride, padding, dilation, ceil_mode);
  return [=](const Array& input, Layout layout) { return pool_params(op, input, options, layout); };
}

template <int dims>
auto mean(const char* op, const Sizes<dims>& kernel, const Sizes<dims>& stride, const Sizes<dims>& padding,
          bool ceil_mode, bool count_include_pad, std::optional<int64_t> divisor) {
  Sizes<dims> dilation;
  dilation.fill(1);
  PoolOptions options = options_of<dims>(kernel, stride, padding, dilation, ceil_mode);
  return [=](const Array& input, Layout layout) {
    return avg_pool_params(op, input, options, count_include_pad, divisor ? &*divisor : nullptr, layout);
  };
}

template <int dims>
auto adaptive(const char* op, const OutputSizes<dims>& size) {
  return [=](const Array& input, Layout layout) {
    int64_t sizes[dims];
    for (int i = 0; i < dims; ++i) {
      int axis = input.ndim - dims + i;
      sizes[i] = size[static_cast<size_t>(i)].value_or(axis >= 0 ? input.shape[axis] : 0);
    }
    return adaptive_pool_params(op, input, dims, sizes, layout);
  };
}

// (output, indices or None, taps for the pullback or None, whether those are channels-last).
template <int dims, class F>
py::tuple max_pool(const char* op, py::handle input, bool want_indices, bool for_pullback, py::handle out,
                   const F& params) {
  Arguments args(op);
  size_t x = args.floating("input", input);
  args.promote();
  Layout layout = layout_of(args[x], dims);
  PoolParams p = params(args[x], layout);
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

template <class F>
py::object max_pool_gradient(const char* op, py::handle cotangent, py::handle taps, const std::vector<int64_t>& shape,
                             bool channels_last, const F& params) {
  Arguments args(op);
  size_t dy = args.floating("cotangent", cotangent);
  args.promote();
  InputLike x(args, shape, channels_last);
  PoolParams p = params(x.view, x.layout);
  check_pool_cotangent(op, p, args[dy]);
  args.make_layout(dy, x.layout);
  Output dx(args, py::none(), x.view.shape, x.view.ndim, x.layout);
  const void* saved = args.view_of(taps).data;
  args.run([&] { max_pool_backward(p, args[dy].data, saved, dx.view().data); });
  return dx.finish();
}

// (output, whether it is channels-last).
template <int dims, class F>
py::tuple average(const char* op, py::handle input, py::handle out, const F& params) {
  Arguments args(op);
  size_t x = args.floating("input", input);
  args.promote();
  Layout layout = layout_of(args[x], dims);
  PoolParams p = params(args[x], layout);
  args.make_layout(x, layout);
  Output y(args, out, p.output_shape, p.ndim, layout);
  args.run([&] { avg_pool_forward(p, args[x].data, y.view().data); });
  return py::make_tuple(y.finish(), layout == Layout::channels_last);
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

std::string backward_name(const char* op) { return std::string(op) + "_backward"; }

template <int dims>
void bind_max(py::module_& m, const char* op) {
  m.def(op, [op](py::handle input, Sizes<dims> kernel, Sizes<dims> stride, Sizes<dims> padding, Sizes<dims> dilation,
                 bool ceil_mode, bool want_indices, bool for_pullback, py::handle out) {
    return max_pool<dims>(op, input, want_indices, for_pullback, out,
                          largest<dims>(op, kernel, stride, padding, dilation, ceil_mode));
  });
  m.def(backward_name(op).c_str(),
        [op](py::handle cotangent, py::handle taps, const std::vector<int64_t>& shape, bool channels_last,
             Sizes<dims> kernel, Sizes<dims> stride, Sizes<dims> padding, Sizes<dims> dilation, bool ceil_mode) {
          return max_pool_gradient(op, cotangent, taps, shape, channels_last,
                                   largest<dims>(op, kernel, stride, padding, dilation, ceil_mode));
        });
}

template <int dims>
void bind_mean(py::module_& m, const char* op) {
  m.def(op, [op](py::handle input, Sizes<dims> kernel, Sizes<dims> stride, Sizes<dims> padding, bool ceil_mode,
                 bool count_include_pad, std::optional<int64_t> divisor, py::handle out) {
    return average<dims>(op, input, out,
                         mean<dims>(op, kernel, stride, padding, ceil_mode, count_include_pad, divisor));
  });
  m.def(backward_name(op).c_str(), [op](py::handle cotangent, const std::vector<int64_t>& shape, bool channels_last,
                                        Sizes<dims> kernel, Sizes<dims> stride, Sizes<dims> padding, bool ceil_mode,
                                        bool count_include_pad, std::optional<int64_t> divisor) {
    return average_gradient(op, cotangent, shape, channels_last,
                            mean<dims>(op, kernel, stride, padding, ceil_mode, count_include_pad, divisor));
  });
}

template <int dims>
void bind_adaptive_mean(py::module_& m, const char* op) {
  m.def(op, [op](py::handle input, OutputSizes<dims> size, py::handle out) {
    return average<dims>(op, input, out, adaptive<dims>(op, size));
  });
  m.def(backward_name(op).c_str(),
        [op](py::handle cotangent, const std::vector<int64_t>& shape, bool channels_last, OutputSizes<dims> size) {
          return average_gradient(op, cotangent, shape, channels_last, adaptive<dims>(op, size));
        });
}

template <int dims>
void bind_adaptive_max(py::module_& m, const char* op) {
  m.def(op, [op](py::handle input, OutputSizes<dims> size, bool want_indices, bool for_pullback, py::handle out) {
    return max_pool<dims>(op, input, want_indices, for_pullback, out, adaptive<dims>(op, size));
  });
  m.def(backward_name(op).c_str(), [op](py::handle cotangent, py::handle taps, const std::vector<int64_t>& shape,
                                        bool channels_last, OutputSizes<dims> size) {
    return max_pool_gradient(op, cotangent, taps, shape, channels_last, adaptive<dims>(op, size));
  });
}

}  // namespace

void bind_pool(py::module_& m) {
  bind_max<1>(m, "max_pool1d");
  bind_max<2>(m, "max_pool2d");
  bind_max<3>(m, "max_pool3d");
  bind_mean<1>(m, "avg_pool1d");
  bind_mean<2>(m, "avg_pool2d");
  bind_mean<3>(m, "avg_pool3d");
  bind_adaptive_mean<1>(m, "adaptive_avg_pool1d");
  bind_adaptive_mean<2>(m, "adaptive_avg_pool2d");
  bind_adaptive_mean<3>(m, "adaptive_avg_pool3d");
  bind_adaptive_max<1>(m, "adaptive_max_pool1d");
  bind_adaptive_max<2>(m, "adaptive_max_pool2d");
  bind_adaptive_max<3>(m, "adaptive_max_pool3d");
}

}  // namespace arraynn::python
