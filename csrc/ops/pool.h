// Windows over the one, two or three spatial axes of (N, C, ...) or (C, ...), a maximum or a mean of each.
// max_pool:     y[o] = max_k x[o s - p + k d], padding counting as -inf. The first of equal maxima and
//               the last NaN win.
// avg_pool:     y[o] = sum_k x[o s - p + k] / divisor, padding counting as 0.
// adaptive_...: the maximum or the mean of x from floor(o H / OH) to before ceil((o + 1) H / OH).
// Input and output are dense, both in `layout`; the gradient too.
//
// Kernels know volumes of slices, rows and columns; what has fewer dimensions is a volume of one slice, or
// of one row. A tap's number is (slice * KH + row) * KW + column in its window, KH and KW being the `kernel`
// of the axes; an entry's place is (slice * H + row) * W + column in the volume.
//
// The maximum saves where in its window each maximum lies: the tap's number, or 255 for a window of
// nothing but padding, in one byte where windows have few enough taps (`compact`), else the place
// itself, or -1.
#pragma once
#include <cstddef>

#include "core/array.h"

namespace arraynn {

struct PoolAxis {
  int64_t size, out;
  int64_t kernel, stride, padding, dilation;
  bool adaptive;  // then out alone says where the windows lie; kernel is the most that one may hold
};

struct PoolParams {
  DType dtype;
  Place place;
  Layout layout;
  int64_t batch, channels;
  int dims;  // spatial ones
  PoolAxis slices, rows, columns;
  bool compact;
  bool count_include_pad;
  double divisor;  // 0: the number of entries
  int ndim;
  int64_t output_shape[max_dims];
};

// One entry of each array per spatial dimension.
struct PoolOptions {
  int dims;
  int64_t kernel[3], stride[3], padding[3], dilation[3];
  bool ceil_mode;
};

PoolParams pool_params(const char* op, const Array& input, const PoolOptions& options, Layout layout);
// divisor_override may be null.
PoolParams avg_pool_params(const char* op, const Array& input, const PoolOptions& options, bool count_include_pad,
                           const int64_t* divisor_override, Layout layout);
// `sizes` are the output's, `dims` of them.
PoolParams adaptive_pool_params(const char* op, const Array& input, int dims, const int64_t* sizes, Layout layout);
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
