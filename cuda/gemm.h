// The matrix product under linear, rnn and convolution: C = A B (+ bias) (+ C), A (m, k), B (k, n),
// C (m, n), each element at row * row_step + column * column_step of its matrix.
// float32 products keep float32's accuracy: each operand is split in two TF32 parts (see
// device/tile_product.h), or rounded to TF32 once where the place allows it. 16-bit products are exact and
// summed in float32. The order of every sum is a function of the shape alone.
#pragma once
#include <cstddef>

#include "core/array.h"

namespace arraynn::cuda {

struct Gemm {
  DType dtype;  // of A, B, bias and C
  Place place;
  int64_t m, n, k;
  const void* a;
  int64_t a_row, a_column;
  const void* b;
  int64_t b_row, b_column;
  void* c;
  int64_t c_row, c_column;
  const void* bias = nullptr;  // n elements, one for each column of C
  bool add = false;            // to what C holds
};

// Bytes of scratch: partial sums, where k is split across blocks.
size_t gemm_scratch(const Gemm& g);
void gemm(const Gemm& g, void* scratch);

}  // namespace arraynn::cuda
