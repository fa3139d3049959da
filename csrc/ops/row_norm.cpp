#include "ops/row_norm.h"

#include <algorithm>
#include <cfloat>
#include <cstring>

#include "core/backend.h"
#include "core/errors.h"
#include "cpu/table.h"

namespace arraynn {

namespace {

void check_affine(const char* op, const char* name, const Array* array, const int64_t* normalized, int ndim) {
  if (!array || (array->ndim == ndim && std::equal(normalized, normalized + ndim, array->shape))) return;
  value_error("%s: %s has shape %s, expected %s as normalized_shape is", op, name, shape_text(*array).c_str(),
              shape_text(normalized, ndim).c_str());
}

}  // namespace

RowNormParams row_norm_params(const char* op, const Array& input, const int64_t* normalized, int normalized_ndim,
                              const Array* weight, const Array* bias, const double* eps) {
  int outer = input.ndim - normalized_ndim;
  if (normalized_ndim < 1) value_error("%s: normalized_shape is (), expected at least 1 dimension", op);
  if (outer < 0 || !std::equal(normalized, normalized + normalized_ndim, input.shape + outer))
    value_error("%s: input has shape %s, expected its last dimensions to be normalized_shape=%s", op,
                shape_text(input).c_str(), shape_text(normalized, normalized_ndim).c_str());
  check_affine(op, "weight", weight, normalized, normalized_ndim);
  check_affine(op, "bias", bias, normalized, normalized_ndim);
  RowNormParams p{input.dtype, input.place, std::strcmp(op, "layer_norm") == 0, 1, 1, 0};
  for (int i = 0; i < input.ndim; ++i) (i < outer ? p.rows : p.size) *= input.shape[i];
  p.eps = eps ? *eps : input.dtype == DType::float64 ? DBL_EPSILON : static_cast<double>(FLT_EPSILON);
  return p;
}

void check_row_norm_cotangent(const char* op, const Array& cotangent, const Array& input) {
  check_shape(op, "cotangent", cotangent, input.shape, input.ndim);
}

size_t row_norm_scratch(const RowNormParams& p) { return kernels(p.place).row_norm_scratch(p); }

void row_norm_forward(const RowNormParams& p, const void* x, const void* weight, const void* bias, void* y,
                      Statistics* statistics) {
  kernels(p.place).row_norm_forward(p, x, weight, bias, y, statistics);
}

void row_norm_backward(const RowNormParams& p, const void* dy, const void* x, const void* weight,
                       const Statistics* statistics, void* dx, void* d_weight, void* d_bias, void* scratch) {
  kernels(p.place).row_norm_backward(p, dy, x, weight, statistics, dx, d_weight, d_bias, scratch);
}

}  // namespace arraynn
