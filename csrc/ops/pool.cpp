#include "ops/pool.h"

#include <algorithm>

#include "core/backend.h"
#include "core/errors.h"
#include "cpu/table.h"

namespace arraynn {

namespace {

constexpr int64_t most_taps = 255;  // 255 itself says that there is none

void check_input(const char* op, const Array& input) {
  if (input.ndim != 3 && input.ndim != 4)
    value_error("%s: input has shape %s, expected (N, C, H, W) or (C, H, W)", op, shape_text(input).c_str());
  if (input.shape[input.ndim - 1] == 0 || input.shape[input.ndim - 2] == 0)
    value_error("%s: input has shape %s, expected a plane that is not empty", op, shape_text(input).c_str());
}

void check_option(const char* op, const char* name, const int64_t* value, int64_t least) {
  if (value[0] < least || value[1] < least)
    value_error("%s: %s is (%lld, %lld), expected at least %lld", op, name, static_cast<long long>(value[0]),
                static_cast<long long>(value[1]), static_cast<long long>(least));
}

// Sums of options may leave int64.
int64_t output_size(const char* op, const Array& input, const PoolOptions& o, int axis) {
  __int128 size = input.shape[input.ndim - 2 + axis], padding = o.padding[axis], stride = o.stride[axis];
  __int128 span = static_cast<__int128>(o.dilation[axis]) * (o.kernel[axis] - 1) + 1;
  __int128 room = size + 2 * padding - span + (o.ceil_mode ? stride - 1 : 0);  // for starts of windows
  __int128 count = room < 0 ? 0 : room / stride + 1;
  // The last window may hang over the end, but must start in the input or in the padding before it.
  if (o.ceil_mode && (count - 1) * stride >= size + padding) --count;
  if (count < 1)
    value_error(
        "%s: input of shape %s with padding=(%lld, %lld) is smaller than a window of kernel_size=(%lld, %lld)"
        " and dilation=(%lld, %lld)",
        op, shape_text(input).c_str(), static_cast<long long>(o.padding[0]), static_cast<long long>(o.padding[1]),
        static_cast<long long>(o.kernel[0]), static_cast<long long>(o.kernel[1]), static_cast<long long>(o.dilation[0]),
        static_cast<long long>(o.dilation[1]));
  return static_cast<int64_t>(count);
}

PoolParams params_of(const Array& input, Layout layout) {
  PoolParams p{};
  p.dtype = input.dtype;
  p.place = input.place;
  p.layout = layout;
  p.ndim = input.ndim;
  p.batch = input.ndim == 4 ? input.shape[0] : 1;
  p.channels = input.shape[input.ndim - 3];
  p.rows.size = input.shape[input.ndim - 2];
  p.columns.size = input.shape[input.ndim - 1];
  for (int i = 0; i < input.ndim - 2; ++i) p.output_shape[i] = input.shape[i];
  return p;
}

void set_output(PoolParams& p, int64_t rows, int64_t columns) {
  p.output_shape[p.ndim - 2] = p.rows.out = rows;
  p.output_shape[p.ndim - 1] = p.columns.out = columns;
}

}  // namespace

PoolParams pool_params(const char* op, const Array& input, const PoolOptions& o, Layout layout) {
  check_input(op, input);
  check_option(op, "kernel_size", o.kernel, 1);
  check_option(op, "stride", o.stride, 1);
  check_option(op, "padding", o.padding, 0);
  check_option(op, "dilation", o.dilation, 1);
  if (o.padding[0] > o.kernel[0] / 2 || o.padding[1] > o.kernel[1] / 2)
    value_error("%s: padding is (%lld, %lld), expected at most half of kernel_size=(%lld, %lld)", op,
                static_cast<long long>(o.padding[0]), static_cast<long long>(o.padding[1]),
                static_cast<long long>(o.kernel[0]), static_cast<long long>(o.kernel[1]));
  PoolParams p = params_of(input, layout);
  set_output(p, output_size(op, input, o, 0), output_size(op, input, o, 1));
  PoolAxis* axes[] = {&p.rows, &p.columns};
  for (int i = 0; i < 2; ++i) {
    axes[i]->kernel = o.kernel[i];
    axes[i]->stride = o.stride[i];
    axes[i]->padding = o.padding[i];
    axes[i]->dilation = o.dilation[i];
  }
  p.compact = o.kernel[0] <= most_taps && o.kernel[1] <= most_taps && o.kernel[0] * o.kernel[1] <= most_taps;
  return p;
}

PoolParams avg_pool_params(const Array& input, const PoolOptions& o, bool count_include_pad,
                           const int64_t* divisor_override, Layout layout) {
  PoolParams p = pool_params("avg_pool2d", input, o, layout);
  p.count_include_pad = count_include_pad;
  if (divisor_override) {
    if (*divisor_override == 0) value_error("avg_pool2d: divisor_override is 0, expected another number");
    p.divisor = static_cast<double>(*divisor_override);
  }
  return p;
}

PoolParams adaptive_pool_params(const char* op, const Array& input, int64_t out_rows, int64_t out_columns,
                                Layout layout) {
  check_input(op, input);
  int64_t sizes[] = {out_rows, out_columns};
  check_option(op, "output_size", sizes, 0);
  PoolParams p = params_of(input, layout);
  set_output(p, out_rows, out_columns);
  for (PoolAxis* axis : {&p.rows, &p.columns}) {
    axis->adaptive = true;
    // Windows of one size next to each other are ordinary ones, which are faster.
    if (axis->out > 0 && axis->size % axis->out == 0)
      *axis = {axis->size, axis->out, axis->size / axis->out, axis->size / axis->out, 0, 1, false};
  }
  return p;
}

void check_pool_cotangent(const char* op, const PoolParams& p, const Array& cotangent) {
  Array expected{};
  expected.ndim = p.ndim;
  std::copy(p.output_shape, p.output_shape + p.ndim, expected.shape);
  if (!same_shape(cotangent, expected))
    value_error("%s: cotangent has shape %s, expected %s", op, shape_text(cotangent).c_str(),
                shape_text(expected).c_str());
}

size_t max_pool_taps(const PoolParams& p) {
  auto count = static_cast<size_t>(p.batch * p.channels * p.rows.out * p.columns.out);
  return p.compact ? count + 2 * taps_margin : count * sizeof(int64_t);
}

void max_pool_forward(const PoolParams& p, const void* input, void* output, void* taps, int64_t* indices) {
  kernels(p.place).max_pool_forward(p, input, output, taps, indices);
}

void max_pool_backward(const PoolParams& p, const void* d_output, const void* taps, void* d_input) {
  kernels(p.place).max_pool_backward(p, d_output, taps, d_input);
}

void avg_pool_forward(const PoolParams& p, const void* input, void* output) {
  kernels(p.place).avg_pool_forward(p, input, output);
}

void avg_pool_backward(const PoolParams& p, const void* d_output, void* d_input) {
  kernels(p.place).avg_pool_backward(p, d_output, d_input);
}

}  // namespace arraynn
