#include "ops/embedding.h"

#include <algorithm>

#include "core/backend.h"
#include "core/errors.h"
#include "cpu/table.h"

namespace arraynn {

EmbeddingParams embedding_params(const Array& index, const Array& weight, std::optional<int64_t> padding_idx) {
  const char* op = "embedding";
  check_ndim(op, "weight", weight, 2);
  if (index.ndim == max_dims)
    value_error("%s: input has %d dimensions, expected at most %d", op, index.ndim, max_dims - 1);
  EmbeddingParams p{};
  p.dtype = weight.dtype;
  p.place = weight.place;
  p.count = element_count(index);
  p.rows = weight.shape[0];
  p.width = weight.shape[1];
  p.row_step = weight.strides[0];
  p.padding_idx = -1;
  if (padding_idx) {
    if (*padding_idx < -p.rows || *padding_idx >= p.rows)
      value_error("%s: padding_idx is %lld, expected %lld to %lld, as weight has shape %s", op,
                  static_cast<long long>(*padding_idx), static_cast<long long>(-p.rows),
                  static_cast<long long>(p.rows - 1), shape_text(weight).c_str());
    p.padding_idx = *padding_idx < 0 ? *padding_idx + p.rows : *padding_idx;
  }
  p.ndim = index.ndim + 1;
  std::copy(index.shape, index.shape + index.ndim, p.output_shape);
  p.output_shape[index.ndim] = p.width;
  return p;
}

void check_embedding_cotangent(const EmbeddingParams& p, const Array& cotangent) {
  check_shape("embedding", "cotangent", cotangent, p.output_shape, p.ndim);
}

void check_embedding_indices(const EmbeddingParams& p, const void* index, void* scratch) {
  if (p.place.on_device() && !p.place.checks) return;
  BadIndex bad = kernels(p.place).embedding_indices(p, index, scratch);
  if (bad.found)
    value_error("embedding: input holds %lld, expected 0 to %lld", static_cast<long long>(bad.value),
                static_cast<long long>(p.rows - 1));
}

void embedding_forward(const EmbeddingParams& p, const void* index, const void* weight, void* output) {
  kernels(p.place).embedding_forward(p, index, weight, output);
}

size_t embedding_backward_scratch(const EmbeddingParams& p) { return kernels(p.place).embedding_backward_scratch(p); }

void embedding_backward(const EmbeddingParams& p, const void* d_output, const void* index, void* d_weight,
                        void* scratch) {
  kernels(p.place).embedding_backward(p, d_output, index, d_weight, scratch);
}

}  // namespace arraynn
