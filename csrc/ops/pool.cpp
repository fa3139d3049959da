#include "ops/pool.h"

#include <algorithm>

#include "core/backend.h"
#include "core/errors.h"
#include "cpu/table.h"

namespace arraynn {

namespace {

constexpr int64_t most_taps = 255;  // 255 itself says that there is none

void check_input(const char* op, const Array& input, int dims) {
  static const char* const axes[] = {"L", "H, W", "D, H, W"};
  const char* names = axes[dims - 1];
  if (input.ndim != dims + 1 && input.ndim != dims + 2)
    value_error("%s: input has shape %s, expected (N, C, %s) or (C, %s)", op, shape_text(input).c_str(), names, names);
  for (int i = input.ndim - dims; i < input.ndim; ++i)
    if (input.shape[i] == 0)
      value_error("%s: input has shape %s, expected spatial axes that are not empty", op, shape_text(input).c_str());
}

void check_option(const char* op, const char* name, const int64_t* value, int dims, int64_t least) {
  if (*std::min_element(value, value + dims) < least)
    value_error("%s: %s is %s, expected at least %lld", op, name, shape_text(value, dims).c_str(),
                static_cast<long long>(least));
}

// Sums of options may leave int64.
int64_t output_size(const char* op, const Array& input, const PoolOptions& o, int axis) {
  __int128 size = input.shape[input.ndim - o.dims + axis], padding = o.padding[axis], stride = o.stride[axis];
  __int128 span = static_cast<__int128>(o.dilation[axis]) * (o.kernel[axis] - 1) + 1;
  __int128 room = size + 2 * padding - span + (o.ceil_mode ? stride - 1 : 0);  // for starts of windows
  __int128 count = room < 0 ? 0 : room / stride + 1;
  // The last window may hang over the end, but must start in the input or in the padding before it.
  if (o.ceil_mode && (count - 1) * stride >= size + padding) --count;
  if (count < 1)
    value_error("%s: input of shape %s with padding=%s is smaller than a window of kernel_size=%s and dilation=%s", op,
                shape_text(input).c_str(), shape_text(o.padding, o.dims).c_str(), shape_text(o.kernel, o.dims).c_str(),
                shape_text(o.dilation, o.dims).c_str());
  return static_cast<int64_t>(count);
}

// Of an axis that the input does not have.
constexpr PoolAxis no_axis{1, 1, 1, 1, 0, 1, false};

// The axes that `dims` dimensions have are the last ones.
struct Axes {
  PoolAxis* axis[3];
  Axes(PoolParams& p) : axis{&p.slices, &p.rows, &p.columns} {}
  PoolAxis& of(int dims, int i) const { return *axis[3 - dims + i]; }
};

PoolParams params_of(const Array& input, int dims, Layout layout) {
  PoolParams p{};
  p.dtype = input.dtype;
  p.place = input.place;
  p.layout = layout;
  p.ndim = input.ndim;
  p.dims = dims;
  p.batch = input.ndim == dims + 2 ? input.shape[0] : 1;
  p.channels = input.shape[input.ndim - dims - 1];
  p.slices = p.rows = no_axis;
  std::copy(input.shape, input.shape + input.ndim - dims, p.output_shape);
  return p;
}

bool is_compact(const PoolParams& p) {
  __int128 taps = 1;
  for (const PoolAxis* axis : {&p.slices, &p.rows, &p.columns})
    taps = std::min<__int128>(taps * axis->kernel, most_taps + 1);
  return taps <= most_taps;
}

// Windows of one size next to each other are ordinary ones, which are faster. Others hold at most the
// quotient of the sizes, rounded down, and an entry cut at either end.
PoolAxis adaptive_axis(int64_t size, int64_t out) {
  if (out == 0) return {size, 0, 1, 1, 0, 1, true};
  if (size % out == 0) return {size, out, size / out, size / out, 0, 1, false};
  return {size, out, std::min(size / out + 2, size), 1, 0, 1, true};
}

}  // namespace

PoolParams pool_params(const char* op, const Array& input, const PoolOptions& o, Layout layout) {
  int dims = o.dims;
  check_input(op, input, dims);
  check_option(op, "kernel_size", o.kernel, dims, 1);
  check_option(op, "stride", o.stride, dims, 1);
  check_option(op, "padding", o.padding, dims, 0);
  check_option(op, "dilation", o.dilation, dims, 1);
  PoolParams p = params_of(input, dims, layout);
  for (int i = 0; i < dims; ++i) {
    if (o.padding[i] > o.kernel[i] / 2)
      value_error("%s: padding is %s, expected at most half of kernel_size=%s", op, shape_text(o.padding, dims).c_str(),
                  shape_text(o.kernel, dims).c_str());
    int64_t out = output_size(op, input, o, i);
    p.output_shape[p.ndim - dims + i] = out;
    Axes(p).of(dims, i) = {
        input.shape[p.ndim - dims + i], out, o.kernel[i], o.stride[i], o.padding[i], o.dilation[i], false};
  }
  p.compact = is_compact(p);
  return p;
}

PoolParams avg_pool_params(const char* op, const Array& input, const PoolOptions& o, bool count_include_pad,
                           const int64_t* divisor_override, Layout layout) {
  PoolParams p = pool_params(op, input, o, layout);
  p.count_include_pad = count_include_pad;
  if (divisor_override) {
    if (*divisor_override == 0) value_error("%s: divisor_override is 0, expected another number", op);
    p.divisor = static_cast<double>(*divisor_override);
  }
  return p;
}

PoolParams adaptive_pool_params(const char* op, const Array& input, int dims, const int64_t* sizes, Layout layout) {
  check_input(op, input, dims);
  check_option(op, "output_size", sizes, dims, 0);
  PoolParams p = params_of(input, dims, layout);
  for (int i = 0; i < dims; ++i) {
    p.output_shape[p.ndim - dims + i] = sizes[i];
    Axes(p).of(dims, i) = adaptive_axis(input.shape[p.ndim - dims + i], sizes[i]);
  }
  p.compact = is_compact(p);
  return p;
}

void check_pool_cotangent(const char* op, const PoolParams& p, const Array& cotangent) {
  check_shape(op, "cotangent", cotangent, p.output_shape, p.ndim);
}

size_t max_pool_taps(const PoolParams& p) {
  auto count = static_cast<size_t>(p.batch * p.channels * p.slices.out * p.rows.out * p.columns.out);
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
