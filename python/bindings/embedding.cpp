#include "ops/embedding.h"

#include <pybind11/stl.h>

#include <optional>

#include "array.h"

namespace arraynn::python {

namespace {

void check_indices(const Arguments& args, const EmbeddingParams& p, size_t index) {
  Workspace scratch = args.workspace(embedding_index_scratch);
  args.run([&] { check_embedding_indices(p, args[index].data, scratch.data()); });
}

py::object forward(py::handle input, py::handle weight, std::optional<int64_t> padding_idx, py::handle out) {
  Arguments args("embedding");
  size_t index = args.integer("input", input), w = args.floating("weight", weight);
  args.promote(Halves::moved);
  embedding_params(args[index], args[w], padding_idx);  // checks before a table is copied
  args.make_contiguous(index);
  if (args[w].shape[1] > 1 && args[w].strides[1] != 1) args.make_contiguous(w);
  EmbeddingParams p = embedding_params(args[index], args[w], padding_idx);
  check_indices(args, p, index);
  Output y(args, out, p.output_shape, p.ndim);
  args.run([&] { embedding_forward(p, args[index].data, args[w].data, y.view().data); });
  return y.finish();
}

// The gradient of a weight of so many rows, in the cotangent's dtype.
py::object backward(py::handle cotangent, py::handle input, int64_t rows, std::optional<int64_t> padding_idx) {
  Arguments args("embedding");
  size_t dy = args.floating("cotangent", cotangent), index = args.integer("input", input);
  Array weight{};
  weight.dtype = args.promote();
  weight.place = args.place();
  weight.ndim = 2;
  weight.shape[0] = rows;
  weight.shape[1] = args[dy].ndim > 0 ? args[dy].shape[args[dy].ndim - 1] : 0;
  EmbeddingParams p = embedding_params(args[index], weight, padding_idx);
  check_embedding_cotangent(p, args[dy]);
  args.make_contiguous(dy);
  args.make_contiguous(index);
  check_indices(args, p, index);
  Output dw(args, py::none(), weight.shape, 2);
  Workspace scratch = args.workspace(embedding_backward_scratch(p));
  args.run([&] { embedding_backward(p, args[dy].data, args[index].data, dw.view().data, scratch.data()); });
  return dw.finish();
}

}  // namespace

void bind_embedding(py::module_& m) {
  m.def("embedding", &forward);
  m.def("embedding_backward", &backward);
}

}  // namespace arraynn::python
