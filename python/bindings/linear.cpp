#include "ops/linear.h"

#include "array.h"

namespace arraynn::python {

namespace {

py::object forward(py::handle input, py::handle weight, py::handle bias, py::handle out) {
  Arguments args("linear");
  size_t x = args.floating("input", input), w = args.floating("weight", weight);
  size_t b = args.optional_floating("bias", bias);
  args.promote(Halves::multiplied);
  LinearParams p = linear_params(args[x], args[w], args.optional(b));
  args.make_contiguous(x);
  args.make_contiguous(b);
  Output y(args, out, p.output_shape, p.ndim);
  Workspace scratch = args.workspace(linear_scratch(p));
  args.run_flushed([&] { linear_forward(p, args[x].data, args[w].data, args[b].data, y.view().data, scratch.data()); });
  return y.finish();
}

// (d_input, d_weight, d_bias), None for what is not wanted.
py::object backward(py::handle cotangent, py::handle input, py::handle weight, bool want_input, bool want_weight,
                    bool want_bias) {
  Arguments args("linear");
  size_t dy = args.floating("cotangent", cotangent), x = args.floating("input", input);
  size_t w = args.floating("weight", weight);
  DType dtype = args.promote(Halves::multiplied);
  LinearParams p = linear_params(args[x], args[w], nullptr);
  check_linear_cotangent(p, args[dy]);
  args.make_contiguous(dy);
  args.make_contiguous(x);
  py::object dx = py::none(), dw = py::none(), db = py::none();
  if (want_input) dx = args.empty(dtype, args[x].shape, args[x].ndim);
  if (want_weight) dw = args.empty(dtype, args[w].shape, 2);
  if (want_bias) db = args.empty(dtype, &p.out_features, 1);
  Array dx_view = want_input ? args.view_of(dx) : Array{}, dw_view = want_weight ? args.view_of(dw) : Array{},
        db_view = want_bias ? args.view_of(db) : Array{};
  Workspace scratch = args.workspace(linear_scratch(p));
  args.run_flushed([&] {
    if (want_input) linear_backward_input(p, args[dy].data, args[w].data, dx_view.data, scratch.data());
    linear_backward_weight(p, args[dy].data, args[x].data, dw_view.data, db_view.data, scratch.data());
  });
  return py::make_tuple(dx, dw, db);
}

}  // namespace

void bind_linear(py::module_& m) {
  m.def("linear", &forward);
  m.def("linear_backward", &backward);
}

}  // namespace arraynn::python
