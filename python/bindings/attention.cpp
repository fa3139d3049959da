#include "ops/attention.h"

#include <pybind11/stl.h>

#include <optional>

#include "array.h"

namespace arraynn::python {

namespace {

constexpr const char* op = "scaled_dot_product_attention";

struct Options {
  bool flags;  // the mask says yes or no
  double dropout;
  bool causal;
  std::optional<double> scale;
  bool grouped;
  uint64_t key;
};

struct Inputs {
  size_t query, key, value, mask;
};

Inputs inputs_of(Arguments& args, py::handle query, py::handle key, py::handle value, py::handle mask, bool flags) {
  Inputs in{};
  in.query = args.floating("query", query);
  in.key = args.floating("key", key);
  in.value = args.floating("value", value);
  in.mask = flags ? args.flags("attn_mask", mask) : args.optional_floating("attn_mask", mask);
  return in;
}

AttentionParams params_of(const Arguments& args, const Inputs& in, const Options& o) {
  return attention_params(args[in.query], args[in.key], args[in.value], args.optional(in.mask),
                          {o.scale.has_value(), o.scale.value_or(0), o.causal, o.grouped, o.dropout, o.key});
}

// (output, wide output, saved rows); the latter two are None unless a gradient is going to be wanted, and the second is
// the first where that is not of 16 bits.
py::object forward(py::handle query, py::handle key, py::handle value, py::handle mask, bool flags, double dropout,
                   bool causal, std::optional<double> scale, bool grouped, uint64_t dropout_key, bool saving,
                   py::handle out) {
  Arguments args(op);
  Inputs in = inputs_of(args, query, key, value, mask, flags);
  DType dtype = args.promote(), wide = dtype == DType::float64 ? dtype : DType::float32;
  AttentionParams p = params_of(args, in, {flags, dropout, causal, scale, grouped, dropout_key});
  Output output(args, out, p.shape, p.ndim);
  py::object rows = py::none(), kept = py::none();
  if (saving) {
    int64_t count = 2 * p.heads * p.queries;
    rows = args.empty(wide, &count, 1);
    if (dtype != wide) kept = args.empty(wide, p.shape, p.ndim);
  }
  AttentionForward b{args[in.query].data,
                     args[in.key].data,
                     args[in.value].data,
                     args[in.mask].data,
                     output.view().data,
                     nullptr,
                     nullptr};
  if (saving) b.saved = args.view_of(rows).data;
  if (!kept.is_none()) b.wide_output = args.view_of(kept).data;
  Workspace scratch = args.workspace(attention_forward_scratch(p));
  args.run_flushed([&] { attention_forward(p, b, scratch.data()); });
  if (saving && kept.is_none()) kept = output.memory();
  return py::make_tuple(output.finish(), kept, rows);
}

// Gradients of float16 need float32's range on the way, and those that are going to be summed its digits.
Halves backward_halves(const Array& query, const Array& key, const Array& value, bool grouped) {
  bool repeated = query.ndim != key.ndim || query.ndim != value.ndim;
  for (int i = 0; !repeated && i < query.ndim - (grouped ? 3 : 2); ++i)
    repeated = query.shape[i] != key.shape[i] || query.shape[i] != value.shape[i];
  return repeated || query.dtype == DType::float16 ? Halves::as_float32 : Halves::native;
}

// (d_query, d_key, d_value) over all batch axes, in the computing dtype; None for what is not wanted.
py::object backward(py::handle cotangent, py::handle query, py::handle key, py::handle value, py::handle mask,
                    py::handle output, py::handle rows, bool flags, double dropout, bool causal,
                    std::optional<double> scale, bool grouped, uint64_t dropout_key, bool want_query, bool want_key,
                    bool want_value) {
  Arguments args(op);
  size_t dy = args.floating("cotangent", cotangent);
  Inputs in = inputs_of(args, query, key, value, mask, flags);
  DType dtype = args.promote(backward_halves(args[in.query], args[in.key], args[in.value], grouped));
  AttentionParams p = params_of(args, in, {flags, dropout, causal, scale, grouped, dropout_key});
  AttentionBackward b{args[in.query].data,
                      args[in.key].data,
                      args[in.value].data,
                      args[in.mask].data,
                      args.view_of(output).data,
                      args.view_of(rows).data,
                      args[dy].data,
                      attention_cotangent(p, args[dy]),
                      nullptr,
                      nullptr,
                      nullptr};
  int64_t shape[max_dims];
  std::copy(p.shape, p.shape + p.ndim, shape);
  auto gradient = [&](bool wanted, int64_t rows, int64_t columns, void** data) -> py::object {
    if (!wanted) return py::none();
    shape[p.ndim - 2] = rows;
    shape[p.ndim - 1] = columns;
    py::object made = args.empty(dtype, shape, p.ndim);
    *data = args.view_of(made).data;
    return made;
  };
  py::object dq = gradient(want_query, p.queries, p.depth, &b.d_query);
  if (p.ndim > 2) shape[p.ndim - 3] /= p.group;
  py::object dk = gradient(want_key, p.keys, p.depth, &b.d_key);
  py::object dv = gradient(want_value, p.keys, p.value_depth, &b.d_value);
  Workspace scratch = args.workspace(attention_backward_scratch(p));
  args.run_flushed([&] { attention_backward(p, b, scratch.data()); });
  return py::make_tuple(dq, dk, dv);
}

}  // namespace

void bind_attention(py::module_& m) {
  m.def("scaled_dot_product_attention", &forward);
  m.def("scaled_dot_product_attention_backward", &backward);
}

}  // namespace arraynn::python
