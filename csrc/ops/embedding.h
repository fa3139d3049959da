// Rows of a table, picked by their numbers: y[i] = weight[index[i]], of a weight of (rows, width).
// Backward: d_weight[r] is the sum of d_y[i] over the i with index[i] = r, in the order of i and in parts of
// equal length, so that it depends on the indices alone; zero for r = padding_idx.
// index, y, d_y and d_weight are dense in C order, d_y and d_weight of one dtype; the rows of weight lie
// row_step elements apart, each dense. Nothing is saved but the indices.
#pragma once
#include <cstddef>
#include <optional>

#include "core/array.h"

namespace arraynn {

struct EmbeddingParams {
  DType dtype;
  Place place;
  int64_t count;             // of indices
  int64_t rows, width;       // of the weight
  int64_t row_step;          // elements from one row of the weight to the next
  int64_t padding_idx = -1;  // -1: none
  int ndim;
  int64_t output_shape[max_dims];
};

EmbeddingParams embedding_params(const Array& index, const Array& weight, std::optional<int64_t> padding_idx);
void check_embedding_cotangent(const EmbeddingParams& p, const Array& cotangent);

// The first index that names no row, if there is one.
struct BadIndex {
  int64_t value;
  bool found;
};
// Refuses an index out of range; on a device only with Place::checks. There, an index that was not refused gives
// a row of NaN, and adds to no gradient. scratch: embedding_index_scratch bytes.
inline constexpr size_t embedding_index_scratch = 256 * sizeof(int64_t);
void check_embedding_indices(const EmbeddingParams& p, const void* index, void* scratch);

void embedding_forward(const EmbeddingParams& p, const void* index, const void* weight, void* output);
size_t embedding_backward_scratch(const EmbeddingParams& p);
void embedding_backward(const EmbeddingParams& p, const void* d_output, const void* index, void* d_weight,
                        void* scratch);

}  // namespace arraynn
