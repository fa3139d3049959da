#include "ops/row_norm.h"

#include <pybind11/stl.h>

#include <optional>

#include "array.h"

namespace arraynn::python {

namespace {

using Shape = std::vector<int64_t>;
using Eps = std::optional<double>;

RowNormParams params_of(const Arguments& args, const Array& input, const Shape& shape, const Array* weight,
                        const Array* bias, const Eps& eps) {
  return row_norm_params(args.op(), input, shape.data(), static_cast<int>(shape.size()), weight, bias,
                         eps ? &*eps : nullptr);
}

// (output, what the pullback needs of it or None).
py::tuple forward(const char* op, py::handle input, const Shape& shape, py::handle weight, py::handle bias,
                  const Eps& eps, bool saving, py::handle out) {
  Arguments args(op);
  size_t x = args.floating("input", input), w = args.optional_floating("weight", weight);
  size_t b = args.optional_floating("bias", bias);
  args.promote();
  RowNormParams p = params_of(args, args[x], shape, args.optional(w), args.optional(b), eps);
  for (size_t i : {x, w, b}) args.make_contiguous(i);
  Output y(args, out, args[x].shape, args[x].ndim);
  py::object saved = py::none();
  if (saving) {
    int64_t bytes = p.rows * static_cast<int64_t>(sizeof(Statistics));
    saved = args.empty(DType::uint8, &bytes, 1);
  }
  auto* statistics = saving ? static_cast<Statistics*>(args.view_of(saved).data) : nullptr;
  args.run_flushed([&] { row_norm_forward(p, args[x].data, args[w].data, args[b].data, y.view().data, statistics); });
  return py::make_tuple(y.finish(), saved);
}

// (d_input, d_weight, d_bias), None for what is not wanted.
py::tuple backward(const char* op, py::handle cotangent, py::handle input, const Shape& shape, py::handle weight,
                   py::handle saved, bool want_input, bool want_weight, bool want_bias) {
  Arguments args(op);
  size_t dy = args.floating("cotangent", cotangent), x = args.floating("input", input);
  size_t w = args.optional_floating("weight", weight);
  args.promote();
  RowNormParams p = params_of(args, args[x], shape, args.optional(w), nullptr, {});
  check_row_norm_cotangent(op, args[dy], args[x]);
  for (size_t i : {dy, x, w}) args.make_contiguous(i);
  auto gradient = [&](bool wanted, const int64_t* sizes, int ndim) {
    return wanted ? args.empty(args.dtype(), sizes, ndim) : py::object(py::none());
  };
  py::object dx = gradient(want_input, args[x].shape, args[x].ndim);
  py::object dw = gradient(want_weight, shape.data(), static_cast<int>(shape.size()));
  py::object db = gradient(want_bias, shape.data(), static_cast<int>(shape.size()));
  void *to_x = args.data_of(dx), *to_w = args.data_of(dw), *to_b = args.data_of(db);
  auto* statistics = static_cast<const Statistics*>(args.view_of(saved).data);
  Workspace scratch = args.workspace(want_weight || want_bias ? row_norm_scratch(p) : 0);
  args.run_flushed([&] {
    row_norm_backward(p, args[dy].data, args[x].data, args[w].data, statistics, to_x, to_w, to_b, scratch.data());
  });
  return py::make_tuple(dx, dw, db);
}

}  // namespace

void bind_row_norm(py::module_& m) {
  for (const char* op : {"layer_norm", "rms_norm"}) {
    std::string backward_name = std::string(op) + "_backward";
    m.def(op, [op](py::handle x, const Shape& shape, py::handle w, py::handle b, const Eps& eps, bool saving,
                   py::handle out) { return forward(op, x, shape, w, b, eps, saving, out); });
    m.def(backward_name.c_str(), [op](py::handle dy, py::handle x, const Shape& shape, py::handle w, py::handle saved,
                                      bool want_input, bool want_weight, bool want_bias) {
      return backward(op, dy, x, shape, w, saved, want_input, want_weight, want_bias);
    });
  }
}

}  // namespace arraynn::python
