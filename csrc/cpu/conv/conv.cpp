// Forward and input gradient in terms of gathers over taps; the choice among the engines.
#include "cpu/conv/taps.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr size_t tap_bytes(const ConvParams& p) {
  return (static_cast<size_t>(p.kernel_h * p.kernel_w) * sizeof(Tap) + 63) / 64 * 64;
}

template <class T>
bool is_depthwise(const Gather<T>& g) {
  return g.in_c == 1 && g.groups > 1 && g.out_c <= 4;
}

template <class T>
int64_t gather_scratch(const Gather<T>& g) {
  return is_depthwise(g) ? gather_depthwise_scratch(g) : gather_gemm_scratch(g);
}

template <class T>
void run_gather(const Gather<T>& g, T* scratch) {
  if (is_depthwise(g))
    gather_depthwise(g, scratch);
  else
    gather_gemm(g, scratch);
}

// The gathers below are made twice: with taps == nullptr they tell sizes alone, for the scratch.

// A 1x1 kernel with stride 1 and no padding looks at one pixel only, so the plane is one long row.
template <class T>
void flatten_plane(Gather<T>& g) {
  bool pointwise = g.taps && g.tap_count == 1 && g.taps[0].dy == 0 && g.taps[0].dx == 0;
  bool same_plane = g.rows == g.in_h && g.cols == g.in_w && g.out_strides.h == g.cols * g.out_strides.w;
  if (!pointwise || g.stride_h != 1 || g.stride_w != 1 || !same_plane) return;
  g.in_w = g.cols = g.in_h * g.in_w;
  g.in_h = g.rows = 1;
  g.in_strides.h = g.in_strides.n;
  g.out_strides.h = g.cols * g.out_strides.w;
}

template <class T>
Gather<T> forward_gather(const ConvParams& p, const T* input, const T* weight, const T* bias, T* output, Tap* taps) {
  Gather<T> g{};
  g.layout = p.layout;
  g.batch = p.batch;
  g.groups = p.groups;
  g.in_c = p.in_channels / p.groups;
  g.out_c = p.out_channels / p.groups;
  g.in_h = p.in_h;
  g.in_w = p.in_w;
  g.rows = p.out_h;
  g.cols = p.out_w;
  g.stride_h = p.stride_h;
  g.stride_w = p.stride_w;
  g.in = input;
  g.in_strides = plane_strides(p.layout, p.in_channels, p.in_h, p.in_w);
  g.out = output;
  g.out_strides = plane_strides(p.layout, p.out_channels, p.out_h, p.out_w);
  g.weight = weight;
  g.w_out = p.w_strides[0];
  g.w_in = p.w_strides[1];
  g.w_group = g.out_c * g.w_out;
  g.bias = bias;
  for (int64_t r = 0; r < p.kernel_h; ++r)
    for (int64_t s = 0; s < p.kernel_w; ++s) {
      Tap tap{r * p.dilation_h - p.pad_top, s * p.dilation_w - p.pad_left, r * p.w_strides[2] + s * p.w_strides[3]};
      if (taps) taps[g.tap_count] = tap;
      ++g.tap_count;
    }
  g.taps = taps;
  g.taps_adjacent = p.w_strides[3] == 1 && (p.kernel_h == 1 || p.w_strides[2] == p.kernel_w);
  flatten_plane(g);
  return g;
}

// The input pixels (y, x) with y = phase_y mod stride_h and x = phase_x mod stride_w. Kernel row r
// reaches such a y from output row (y + pad - r dilation) / stride where that is whole.
template <class T>
Gather<T> backward_gather(const ConvParams& p, int64_t phase_y, int64_t phase_x, const T* d_output, const T* weight,
                          T* d_input, Tap* taps) {
  Gather<T> g{};
  g.layout = p.layout;
  g.batch = p.batch;
  g.groups = p.groups;
  g.in_c = p.out_channels / p.groups;
  g.out_c = p.in_channels / p.groups;
  g.in_h = p.out_h;
  g.in_w = p.out_w;
  g.rows = std::max<int64_t>(0, ceil_div(p.in_h - phase_y, p.stride_h));
  g.cols = std::max<int64_t>(0, ceil_div(p.in_w - phase_x, p.stride_w));
  g.stride_h = g.stride_w = 1;
  g.in = d_output;
  g.in_strides = plane_strides(p.layout, p.out_channels, p.out_h, p.out_w);
  Plane plane = plane_strides(p.layout, p.in_channels, p.in_h, p.in_w);
  g.out = d_input + phase_y * plane.h + phase_x * plane.w;
  g.out_strides = {plane.n, plane.c, plane.h * p.stride_h, plane.w * p.stride_w};
  g.weight = weight;
  g.w_out = p.w_strides[1];  // the roles of the channels change
  g.w_in = p.w_strides[0];
  g.w_group = g.in_c * g.w_in;
  for (int64_t r = 0; r < p.kernel_h; ++r)
    for (int64_t s = 0; s < p.kernel_w; ++s) {
      int64_t y = phase_y + p.pad_top - r * p.dilation_h, x = phase_x + p.pad_left - s * p.dilation_w;
      if (y % p.stride_h || x % p.stride_w) continue;
      if (taps) taps[g.tap_count] = {y / p.stride_h, x / p.stride_w, r * p.w_strides[2] + s * p.w_strides[3]};
      ++g.tap_count;
    }
  g.taps = taps;
  g.taps_adjacent = g.tap_count == p.kernel_h * p.kernel_w && p.w_strides[3] == 1 &&
                    (p.kernel_h == 1 || p.w_strides[2] == p.kernel_w);
  flatten_plane(g);
  return g;
}

template <class T, class F>
void for_phases(const ConvParams& p, const T* d_output, const T* weight, T* d_input, Tap* taps, const F& f) {
  for (int64_t y = 0; y < std::min(p.stride_h, p.in_h); ++y)
    for (int64_t x = 0; x < std::min(p.stride_w, p.in_w); ++x)
      f(backward_gather(p, y, x, d_output, weight, d_input, taps));
}

// db[o] = sum of dy over images and pixels, in memory order; a task owns a channel, or a vector of them.
template <class T>
void bias_gradient(const ConvParams& p, const T* dy, T* db) {
  int64_t plane = p.out_h * p.out_w, channels = p.out_channels;
  if (p.layout == Layout::channels_last) return column_sums(p.batch * plane, channels, dy, db);
  parallel_for(channels, [&](int64_t channel, int) {
    vec<T> total{};
    for (int64_t n = 0; n < p.batch; ++n) {
      const T* from = dy + (n * channels + channel) * plane;
      for_vectors<T>(plane, [&](int64_t i, auto count) ARRAYNN_LAMBDA { total += load_count(from + i, count); });
    }
    db[channel] = sum<T>(total);
  });
}

template <class T>
T* after_taps(const ConvParams& p, void* scratch) {
  return reinterpret_cast<T*>(static_cast<char*>(scratch) + tap_bytes(p));
}

bool is_depthwise(const ConvParams& p) { return p.in_channels == p.groups && p.groups > 1; }

template <class T>
void forward(const ConvParams& p, const T* x, const T* w, const T* bias, T* y, void* scratch) {
  run_gather(forward_gather(p, x, w, bias, y, static_cast<Tap*>(scratch)), after_taps<T>(p, scratch));
}

template <class T>
void backward_input(const ConvParams& p, const T* dy, const T* w, T* dx, void* scratch) {
  for_phases(p, dy, w, dx, static_cast<Tap*>(scratch),
             [&](const Gather<T>& g) { run_gather(g, after_taps<T>(p, scratch)); });
}

template <class T>
void backward_weight(const ConvParams& p, const T* dy, const T* x, T* dw, T* db, void* scratch) {
  if (dw && is_depthwise(p))
    weight_gradient_depthwise(p, dy, x, dw);
  else if (dw)
    weight_gradient(p, dy, x, dw, static_cast<T*>(scratch));
  if (db) bias_gradient(p, dy, db);
}

template <class T>
size_t forward_bytes(const ConvParams& p) {
  return tap_bytes(p) +
         static_cast<size_t>(gather_scratch(forward_gather<T>(p, nullptr, nullptr, nullptr, nullptr, nullptr))) *
             sizeof(T);
}

template <class T>
size_t backward_input_bytes(const ConvParams& p) {
  int64_t most = 0;
  for_phases<T>(p, nullptr, nullptr, nullptr, nullptr,
                [&](const Gather<T>& g) { most = std::max(most, gather_scratch(g)); });
  return tap_bytes(p) + static_cast<size_t>(most) * sizeof(T);
}

template <class T>
size_t backward_weight_bytes(const ConvParams& p) {
  return is_depthwise(p) ? 0 : static_cast<size_t>(weight_gradient_scratch<T>(p)) * sizeof(T);
}

// Channels-last images with a few channels per group have no vector of channels to work on: these
// are brought to contiguous order and back, which costs a pass over memory and saves much more.
bool goes_via_contiguous(const ConvParams& p) {
  return p.layout == Layout::channels_last && !is_depthwise(p) &&
         std::min(p.in_channels, p.out_channels) / p.groups < 8;
}

ConvParams as_contiguous(const ConvParams& p) {
  ConvParams q = p;
  q.layout = Layout::contiguous;
  return q;
}

int64_t input_elements(const ConvParams& p) { return round_up(p.batch * p.in_channels * p.in_h * p.in_w, 64); }
int64_t output_elements(const ConvParams& p) { return round_up(p.batch * p.out_channels * p.out_h * p.out_w, 64); }

// to[n][j][i] = from[n][i][j] for i < rows, j < cols.
template <class T>
void swap_axes(int64_t batch, int64_t rows, int64_t cols, const T* from, T* to) {
  int64_t blocks = ceil_div(rows, NR<T>);
  parallel_for(batch * blocks, [&](int64_t index, int) {
    int64_t n = index / blocks, i = index % blocks * NR<T>;
    int size = static_cast<int>(std::min<int64_t>(NR<T>, rows - i));
    pack_panel(from + (n * rows + i) * cols, cols, 1, size, cols, to + n * rows * cols + i, size, rows);
  });
}

// The scratch of a call that goes via contiguous order: input, output, and what the kernel needs.
template <class T>
struct Contiguous {
  Contiguous(const ConvParams& p, void* scratch)
      : x(static_cast<T*>(scratch)), y(x + input_elements(p)), rest(y + output_elements(p)) {}
  static size_t bytes(const ConvParams& p) {
    return static_cast<size_t>(input_elements(p) + output_elements(p)) * sizeof(T);
  }
  T *x, *y;
  void* rest;
};

template <class T>
void input_to_contiguous(const ConvParams& p, const T* from, T* to) {
  swap_axes(p.batch, p.in_h * p.in_w, p.in_channels, from, to);
}
template <class T>
void output_to_contiguous(const ConvParams& p, const T* from, T* to) {
  swap_axes(p.batch, p.out_h * p.out_w, p.out_channels, from, to);
}

}  // namespace

size_t conv_forward_scratch(const ConvParams& p) {
  size_t bytes = 0;
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    bytes = goes_via_contiguous(p) ? Contiguous<T>::bytes(p) + forward_bytes<T>(as_contiguous(p)) : forward_bytes<T>(p);
  });
  return bytes;
}

void conv_forward(const ConvParams& p, const void* input, const void* weight, const void* bias, void* output,
                  void* scratch) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *x = static_cast<const T*>(input), *w = static_cast<const T*>(weight), *b = static_cast<const T*>(bias);
    T* y = static_cast<T*>(output);
    if (!goes_via_contiguous(p)) return forward(p, x, w, b, y, scratch);
    Contiguous<T> via(p, scratch);
    input_to_contiguous(p, x, via.x);
    forward(as_contiguous(p), via.x, w, b, via.y, via.rest);
    swap_axes(p.batch, p.out_channels, p.out_h * p.out_w, via.y, y);
  });
}

size_t conv_backward_input_scratch(const ConvParams& p) {
  size_t bytes = 0;
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    bytes = goes_via_contiguous(p) ? Contiguous<T>::bytes(p) + backward_input_bytes<T>(as_contiguous(p))
                                   : backward_input_bytes<T>(p);
  });
  return bytes;
}

void conv_backward_input(const ConvParams& p, const void* d_output, const void* weight, void* d_input, void* scratch) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *dy = static_cast<const T*>(d_output), *w = static_cast<const T*>(weight);
    T* dx = static_cast<T*>(d_input);
    if (!goes_via_contiguous(p)) return backward_input(p, dy, w, dx, scratch);
    Contiguous<T> via(p, scratch);
    output_to_contiguous(p, dy, via.y);
    backward_input(as_contiguous(p), via.y, w, via.x, via.rest);
    swap_axes(p.batch, p.in_channels, p.in_h * p.in_w, via.x, dx);
  });
}

size_t conv_backward_weight_scratch(const ConvParams& p) {
  size_t bytes = 0;
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    bytes = goes_via_contiguous(p) ? Contiguous<T>::bytes(p) + backward_weight_bytes<T>(as_contiguous(p))
                                   : backward_weight_bytes<T>(p);
  });
  return bytes;
}

void conv_backward_weight(const ConvParams& p, const void* d_output, const void* input, void* d_weight, void* d_bias,
                          void* scratch) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *dy = static_cast<const T*>(d_output), *x = static_cast<const T*>(input);
    T *dw = static_cast<T*>(d_weight), *db = static_cast<T*>(d_bias);
    if (!dw || !goes_via_contiguous(p)) return backward_weight(p, dy, x, dw, db, scratch);
    Contiguous<T> via(p, scratch);
    input_to_contiguous(p, x, via.x);
    output_to_contiguous(p, dy, via.y);
    backward_weight(as_contiguous(p), via.y, via.x, dw, db, via.rest);
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
