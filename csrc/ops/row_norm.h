// layer_norm and rms_norm over rows, the last dimensions of the input taken as one:
//   layer_norm  y = (x - mean) rstd w + b    mean of the row, rstd = 1 / sqrt(mean (x - mean)^2 + eps)
//   rms_norm    y = x rstd w                 rstd = 1 / sqrt(mean x^2 + eps)
// With g = dy w, z = (x - mean) rstd and means over the row:
//   dx = rstd (g - mean g - z mean(g z)), for rms_norm without mean g;   dw = sum dy z and db = sum dy over the rows.
// Forward saves the mean (0 for rms_norm) and rstd of each row.
// x, y, dy and dx are C-contiguous, weight and bias too or null: ones and zeros.
#pragma once
#include <cstddef>

#include "core/array.h"
#include "ops/statistics.h"

namespace arraynn {

struct RowNormParams {
  DType dtype;
  Place place;
  bool centered;  // layer_norm
  int64_t rows, size;
  double eps;
};

// `normalized` are the input's last dimensions, of which there must be one at least; weight and bias may be null.
// A null eps is the distance from 1 to the next number of the dtype that is computed in.
RowNormParams row_norm_params(const char* op, const Array& input, const int64_t* normalized, int normalized_ndim,
                              const Array* weight, const Array* bias, const double* eps);
// Refuses a cotangent that is not of the input's shape.
void check_row_norm_cotangent(const char* op, const Array& cotangent, const Array& input);

// statistics may be null: not wanted.
void row_norm_forward(const RowNormParams& p, const void* x, const void* weight, const void* bias, void* y,
                      Statistics* statistics);
size_t row_norm_scratch(const RowNormParams& p);  // bytes, for d_weight and d_bias
// Each of the gradients may be null: not wanted.
void row_norm_backward(const RowNormParams& p, const void* dy, const void* x, const void* weight,
                       const Statistics* statistics, void* dx, void* d_weight, void* d_bias, void* scratch);

}  // namespace arraynn
