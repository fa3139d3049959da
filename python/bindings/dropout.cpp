#include "ops/dropout.h"

#include <pybind11/stl.h>

#include "array.h"

namespace arraynn::python {

namespace {

py::object forward(py::handle input, double p, uint64_t key, py::handle out) {
  Arguments args("dropout");
  size_t x = args.floating("input", input);
  args.promote();
  if (!is_dense(args[x])) args.make_contiguous(x);
  DropoutParams params = dropout_params(args[x], p, key);
  Output y(args, out, args[x]);
  args.run([&] { dropout_forward(params, args[x].data, y.view().data); });
  return y.finish();
}

// The cotangent masked, in the memory order that `strides` has.
py::object backward(py::handle cotangent, const std::vector<int64_t>& strides, double p, uint64_t key) {
  Arguments args("dropout");
  size_t dy = args.floating("cotangent", cotangent);
  args.promote();
  Array like = args[dy];
  if (strides.size() != static_cast<size_t>(like.ndim))
    value_error("dropout: cotangent has %d dimensions, expected %zu", like.ndim, strides.size());
  std::copy(strides.begin(), strides.end(), like.strides);
  args.make_like(dy, like);
  DropoutParams params = dropout_params(args[dy], p, key);
  Output dx(args, py::none(), args[dy]);
  args.run([&] { dropout_forward(params, args[dy].data, dx.view().data); });
  return dx.finish();
}

}  // namespace

void bind_dropout(py::module_& m) {
  m.def("dropout", &forward);
  m.def("dropout_backward", &backward);
}

}  // namespace arraynn::python
