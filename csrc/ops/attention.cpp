#include "ops/attention.h"

#include <algorithm>
#include <cmath>

#include "core/backend.h"
#include "core/errors.h"
#include "cpu/table.h"

namespace arraynn {

namespace {

constexpr const char* op = "scaled_dot_product_attention";

long long number(int64_t n) { return static_cast<long long>(n); }

// The size of batch axis i, counted from the last one, and 1 where the array has none.
int64_t batch_size(const Array& a, int i) { return i < a.ndim - 2 ? a.shape[a.ndim - 3 - i] : 1; }

void check_sizes(const Array& query, const Array& key, const Array& value) {
  const Array* arrays[] = {&query, &key, &value};
  const char* names[] = {"query", "key", "value"};
  for (int i = 0; i < 3; ++i)
    if (arrays[i]->ndim < 2)
      value_error("%s: %s has shape %s, expected at least 2 dimensions", op, names[i], shape_text(*arrays[i]).c_str());
  int64_t depth = query.shape[query.ndim - 1], keys = key.shape[key.ndim - 2];
  if (key.shape[key.ndim - 1] != depth)
    value_error("%s: key has shape %s, expected %lld in its last axis, as query of shape %s has", op,
                shape_text(key).c_str(), number(depth), shape_text(query).c_str());
  if (value.shape[value.ndim - 2] != keys)
    value_error("%s: value has shape %s, expected %lld rows, as key of shape %s has", op, shape_text(value).c_str(),
                number(keys), shape_text(key).c_str());
}

// How many heads of the query share one of key and value.
int64_t group_of(const Array& query, const Array& key, const Array& value) {
  int64_t heads = batch_size(query, 0), shared = batch_size(key, 0);
  if (key.ndim < 3 || query.ndim < 3 || value.ndim < 3)
    value_error("%s: enable_gqa takes at least 3 dimensions, but query, key, value have shapes %s, %s, %s", op,
                shape_text(query).c_str(), shape_text(key).c_str(), shape_text(value).c_str());
  if (batch_size(value, 0) != shared)
    value_error("%s: value of shape %s has %lld heads, expected %lld, as key has", op, shape_text(value).c_str(),
                number(batch_size(value, 0)), number(shared));
  if (shared == 0 ? heads != 0 : heads % shared != 0)
    value_error("%s: query of shape %s has %lld heads, expected a multiple of key's %lld", op,
                shape_text(query).c_str(), number(heads), number(shared));
  return shared == 0 || heads == 0 ? 1 : heads / shared;
}

// The strides of an array whose batch axes are repeated to p's; its last batch axis may have a group-th of the heads.
AttentionMatrix matrix_of(const AttentionParams& p, const Array& a) {
  AttentionMatrix m{};
  int axes = p.ndim - 2;
  for (int i = 0; i < std::min(axes, a.ndim - 2); ++i)
    m.batch[axes - 1 - i] = batch_size(a, i) == 1 ? 0 : a.strides[a.ndim - 3 - i];
  if (a.ndim > 1) m.row = a.shape[a.ndim - 2] == 1 ? 0 : a.strides[a.ndim - 2];
  if (a.ndim > 0) m.column = a.shape[a.ndim - 1] == 1 ? 0 : a.strides[a.ndim - 1];
  return m;
}

void check_mask(const AttentionParams& p, const Array& mask) {
  int64_t expected[max_dims];
  std::copy(p.shape, p.shape + p.ndim, expected);
  expected[p.ndim - 1] = p.keys;
  bool fits = mask.ndim <= p.ndim;
  for (int i = 1; fits && i <= mask.ndim; ++i)
    fits = mask.shape[mask.ndim - i] == 1 || mask.shape[mask.ndim - i] == expected[p.ndim - i];
  if (!fits)
    value_error("%s: attn_mask has shape %s, expected one that broadcasts to %s", op, shape_text(mask).c_str(),
                shape_text(expected, p.ndim).c_str());
}

}  // namespace

AttentionParams attention_params(const Array& query, const Array& key, const Array& value, const Array* mask,
                                 const AttentionOptions& options) {
  if (!(options.dropout >= 0 && options.dropout <= 1))
    value_error("%s: dropout_p is %g, expected 0 to 1", op, options.dropout);
  check_sizes(query, key, value);
  AttentionParams p{};
  p.dtype = query.dtype;
  p.place = query.place;
  p.queries = query.shape[query.ndim - 2];
  p.keys = key.shape[key.ndim - 2];
  p.depth = query.shape[query.ndim - 1];
  p.value_depth = value.shape[value.ndim - 1];
  p.group = options.grouped ? group_of(query, key, value) : 1;
  p.ndim = std::max({query.ndim, key.ndim, value.ndim});
  p.heads = 1;
  for (int i = 0; i < p.ndim - 2; ++i) {
    int64_t size = batch_size(query, i);
    for (const Array* a : {&key, &value}) {
      int64_t its = batch_size(*a, i) * (i == 0 ? p.group : 1);
      if (size != its && size != 1 && its != 1)
        value_error("%s: %s has shape %s, which does not broadcast with query's %s", op, a == &key ? "key" : "value",
                    shape_text(*a).c_str(), shape_text(query).c_str());
      if (size == 1) size = its;
    }
    p.shape[p.ndim - 3 - i] = size;
    p.heads *= size;
  }
  p.shape[p.ndim - 2] = p.queries;
  p.shape[p.ndim - 1] = p.value_depth;
  p.query = matrix_of(p, query);
  p.key = matrix_of(p, key);
  p.value = matrix_of(p, value);
  if (mask) {
    check_mask(p, *mask);
    p.mask = matrix_of(p, *mask);
    p.mask_kind = mask->dtype == DType::uint8 ? AttentionMask::flags : AttentionMask::bias;
  }
  p.scale = options.has_scale ? options.scale : 1 / std::sqrt(std::max(1.0, static_cast<double>(p.depth)));
  p.causal = options.causal;
  p.dropout = options.dropout;
  p.dropout_key = options.dropout_key;
  return p;
}

AttentionMatrix attention_cotangent(const AttentionParams& p, const Array& d_output) {
  check_shape(op, "cotangent", d_output, p.shape, p.ndim);
  return matrix_of(p, d_output);
}

size_t attention_forward_scratch(const AttentionParams& p) { return kernels(p.place).attention_forward_scratch(p); }

size_t attention_backward_scratch(const AttentionParams& p) { return kernels(p.place).attention_backward_scratch(p); }

void attention_forward(const AttentionParams& p, const AttentionForward& b, void* scratch) {
  kernels(p.place).attention_forward(p, b, scratch);
}

void attention_backward(const AttentionParams& p, const AttentionBackward& b, void* scratch) {
  kernels(p.place).attention_backward(p, b, scratch);
}

}  // namespace arraynn
