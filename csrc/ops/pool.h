// Windows over the planes of (N, C, H, W) or (C, H, W), a maximum or a mean of each.
// max_pool2d:          y[o] = max_k x[o s - p + k d], padding counting as -inf. The first of equal
//                      maxima and the last NaN win.
// avg_pool2d:          y[o] = sum_k x[o s - p + k] / divisor, padding counting as 0.
// adaptive_avg_pool2d: y[o] = the mean of x from floor(o H / OH) to before ceil((o + 1) H / OH).
// Input and output are dense, both in `layout`; the gradient too.
//
// The maximum saves where in its window each maximum lies: the tap's number, or 255 for a window of
// nothing but padding, in one byte where windows have few enough taps (`compact`), else the place
// itself, row * W + column, in the plane (-1).
#pragma once
#include <cstddef>

#include "core/array.h"

namespace arraynn {

struct PoolAxis {
  int64_t size, out;
  int64_t kernel, stride, padding, dilation;
  bool adaptive;  // then out alone says where the windows lie
};

struct PoolParams {
  DType dtype;
  Place place;
  Layout layout;
  int64_t batch, channels;
  PoolAxis rows, columns;
  bool compact;
  bool count_include_pad;
  double divisor;  // 0: the number of entries
  int ndim;
  int64_t output_shape[max_dims];
};

struct PoolOptions {
  int64_t kernel[2], stride[2], padding[2], dilation[2];
  bool ceil_mode;
};

PoolParams pool_params(const char* op, const Array& input, const PoolOptions& options, Layout layout);
// divisor_override may be null.
PoolParams avg_pool_params(const Array& input, const PoolOptions& options, bool count_include_pad,
                           const int64_t* divisor_override, Layout layout);
PoolParams adaptive_pool_params(const char* op, const Array& input, int64_t out_rows, int64_t out_columns,
                                Layout layout);
void check_pool_cotangent(const char* op, const PoolParams& p, const Array& cotangent);

// Kernels load whole vectors of taps, and some before the first: so many bytes more at either end.
inline constexpr size_t taps_margin = 64;
// Bytes of `taps`: what max_pool_forward fills for the backward pass, or for indices.
size_t max_pool_taps(const PoolParams& p);
// taps may be null: not wanted. indices may be null; they are computed by way of the taps.
void max_pool_forward(const PoolParams& p, const void* input, void* output, void* taps, int64_t* indices);
void max_pool_backward(const PoolParams& p, const void* d_output, const void* taps, void* d_input);

void avg_pool_forward(const PoolParams& p, const void* input, void* output);
void avg_pool_backward(const PoolParams& p, const void* d_output, void* d_input);

}  // namespace arraynn
