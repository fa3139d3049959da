// Forward and input gradient in terms of gathers over taps; the choice among the engines.
#include "cpu/conv/taps.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

size_t tap_bytes(const ConvParams& p) { return (static_cast<size_t>(tap_count(p)) * sizeof(Tap) + 63) / 64 * 64; }

// A function of the shape alone. A volume that was flattened is of one tap, so that Winograd does not ask for it.
template <class T>
Engine engine_of(const ConvParams& p, const Gather<T>& g) {
  if (is_depthwise(g) && g.layout == Layout::channels_last) return Engine::depthwise;
  if (takes_depthwise_rows(g)) return Engine::depthwise_rows;
  if (takes_winograd(p, g)) return Engine::winograd;
  if (takes_direct(g)) return Engine::direct;
  return takes_planes(g) ? Engine::planes : Engine::product;
}

template <class T>
int64_t gather_scratch(const Gather<T>& g) {
  switch (g.engine) {
    case Engine::depthwise: return gather_depthwise_scratch(g);
    case Engine::depthwise_rows: return gather_depthwise_rows_scratch(g);
    case Engine::winograd: return gather_winograd_scratch(g);
    case Engine::direct: return gather_direct_scratch(g);
    case Engine::planes: return gather_planes_scratch(g);
    default: return gather_gemm_scratch(g);
  }
}

template <class T>
void run_gather(const Gather<T>& g, T* scratch) {
  switch (g.engine) {
    case Engine::depthwise: return gather_depthwise(g, scratch);
    case Engine::depthwise_rows: return gather_depthwise_rows(g, scratch);
    case Engine::winograd: return gather_winograd(g, scratch);
    case Engine::direct: return gather_direct(g, scratch);
    case Engine::planes: return gather_planes(g, scratch);
    default: return gather_gemm(g, scratch);
  }
}

// The gathers below are made twice: with taps == nullptr they tell sizes alone, for the scratch.

// A kernel of one tap with stride 1 and no padding looks at one pixel only, so the volume is one long row.
template <class T>
void flatten_volume(Gather<T>& g) {
  auto all = [](const Triple& t, int64_t value) { return t.d == value && t.h == value && t.w == value; };
  bool pointwise = g.tap_count == 1 && all(g.low, 0) && all(g.stride, 1);
  bool same_grid = g.grid.d == g.size.d && g.grid.h == g.size.h && g.grid.w == g.size.w;
  Strides& out = g.out_strides;
  if (!pointwise || !same_grid || out.h != g.grid.w * out.w || out.d != g.grid.h * out.h) return;
  g.size = g.grid = {1, 1, product(g.grid)};
  out.d = out.h = g.grid.w * out.w;
}

// tap(q, r, s, weight) for the taps of a kernel in the order of its weights, weight the offset among them.
template <class F>
void for_taps(const ConvParams& p, const F& tap) {
  for (int64_t q = 0; q < p.d.kernel; ++q)
    for (int64_t r = 0; r < p.h.kernel; ++r)
      for (int64_t s = 0; s < p.w.kernel; ++s)
        tap(q, r, s, q * p.w_strides[2] + r * p.w_strides[3] + s * p.w_strides[4]);
}

template <class T>
void add_tap(Gather<T>& g, Tap* taps, const Tap& tap) {
  auto each = [](const Triple& a, const Triple& b, auto f) { return Triple{f(a.d, b.d), f(a.h, b.h), f(a.w, b.w)}; };
  const Triple& o = tap.offset;
  g.low = g.tap_count ? each(g.low, o, [](int64_t a, int64_t b) { return std::min(a, b); }) : o;
  g.high = g.tap_count ? each(g.high, o, [](int64_t a, int64_t b) { return std::max(a, b); }) : o;
  if (taps) taps[g.tap_count] = tap;
  ++g.tap_count;
}

// Whether the taps' weights lie side by side in their order.
bool taps_adjacent(const ConvParams& p) {
  int64_t row = p.w.kernel, slice = row * p.h.kernel;
  return p.w_strides[4] == 1 && (p.h.kernel == 1 || p.w_strides[3] == row) &&
         (p.d.kernel == 1 || p.w_strides[2] == slice);
}

template <class T>
Gather<T> forward_gather(const ConvParams& p, const T* input, const T* weight, const T* bias, T* output, Tap* taps) {
  Gather<T> g{};
  g.layout = p.layout;
  g.batch = p.batch;
  g.groups = p.groups;
  g.in_c = p.in_channels / p.groups;
  g.out_c = p.out_channels / p.groups;
  g.size = input_size(p);
  g.grid = output_size(p);
  g.stride = stride_of(p);
  g.in = input;
  g.in_strides = strides_of(p.layout, p.in_channels, g.size);
  g.out = output;
  g.out_strides = strides_of(p.layout, p.out_channels, g.grid);
  g.weight = weight;
  g.w_out = p.w_strides[0];
  g.w_in = p.w_strides[1];
  g.w_group = g.out_c * g.w_out;
  g.bias = bias;
  for_taps(p, [&](int64_t q, int64_t r, int64_t s, int64_t at) { add_tap(g, taps, {offset_of(p, q, r, s), at}); });
  g.taps = taps;
  g.taps_adjacent = taps_adjacent(p);
  flatten_volume(g);
  g.engine = engine_of(p, g);
  return g;
}

// The input pixels whose position is the phase modulo the stride, along each axis. Kernel row r reaches such
// a y from output row (y + before - r dilation) / stride where that is whole.
template <class T>
Gather<T> backward_gather(const ConvParams& p, const Triple& phase, const T* d_output, const T* weight, const T* bias,
                          T* d_input, Tap* taps) {
  auto pixels = [](const ConvAxis& a, int64_t at) { return std::max<int64_t>(0, ceil_div(a.in - at, a.stride)); };
  Gather<T> g{};
  g.layout = p.layout;
  g.batch = p.batch;
  g.groups = p.groups;
  g.in_c = p.out_channels / p.groups;
  g.out_c = p.in_channels / p.groups;
  g.size = output_size(p);
  g.grid = {pixels(p.d, phase.d), pixels(p.h, phase.h), pixels(p.w, phase.w)};
  g.stride = {1, 1, 1};
  g.in = d_output;
  g.in_strides = strides_of(p.layout, p.out_channels, g.size);
  Strides s = strides_of(p.layout, p.in_channels, input_size(p));
  g.out = d_input + phase.d * s.d + phase.h * s.h + phase.w * s.w;
  g.out_strides = {s.n, s.c, s.d * p.d.stride, s.h * p.h.stride, s.w * p.w.stride};
  g.weight = weight;
  g.w_out = p.w_strides[1];  // the roles of the channels change
  g.w_in = p.w_strides[0];
  g.w_group = g.in_c * g.w_in;
  g.bias = bias;
  for_taps(p, [&](int64_t q, int64_t r, int64_t c, int64_t at) {
    Triple o = offset_of(p, q, r, c);
    int64_t z = phase.d - o.d, y = phase.h - o.h, x = phase.w - o.w;
    if (z % p.d.stride || y % p.h.stride || x % p.w.stride) return;
    add_tap(g, taps, {{z / p.d.stride, y / p.h.stride, x / p.w.stride}, at});
  });
  g.taps = taps;
  g.taps_adjacent = g.tap_count == tap_count(p) && taps_adjacent(p);
  flatten_volume(g);
  g.engine = engine_of(p, g);
  return g;
}

// All phases at once, where zeros between the output's gradients cost less than to write pixels one by one.
template <class T>
Gather<T> spread_gather(const ConvParams& p, const T* d_output, const T* weight, const T* bias, T* d_input, Tap* taps) {
  Gather<T> g = backward_gather(p, {0, 0, 0}, d_output, weight, bias, d_input, nullptr);
  auto spread = [](const ConvAxis& a) { return std::max<int64_t>(0, (a.out - 1) * a.stride + 1); };
  g.size = {spread(p.d), spread(p.h), spread(p.w)};
  g.grid = input_size(p);
  g.spread = stride_of(p);
  g.out_strides = strides_of(p.layout, p.in_channels, g.grid);
  g.tap_count = 0;
  for_taps(p, [&](int64_t q, int64_t r, int64_t c, int64_t at) {
    Triple o = offset_of(p, q, r, c);
    add_tap(g, taps, {{-o.d, -o.h, -o.w}, at});
  });
  g.taps = taps;
  g.taps_adjacent = taps_adjacent(p);
  g.engine = takes_planes(g) ? Engine::planes : Engine::product;
  return g;
}

template <class T, class F>
void for_phases(const ConvParams& p, const T* d_output, const T* weight, const T* bias, T* d_input, Tap* taps,
                const F& f) {
  if (p.layout == Layout::contiguous && p.d.stride * p.h.stride * p.w.stride > 1) {
    Gather<T> g = spread_gather(p, d_output, weight, bias, d_input, taps);
    if (is_thin(g) && g.engine == Engine::planes) return f(g);
  }
  for (int64_t z = 0; z < std::min(p.d.stride, p.d.in); ++z)
    for (int64_t y = 0; y < std::min(p.h.stride, p.h.in); ++y)
      for (int64_t x = 0; x < std::min(p.w.stride, p.w.in); ++x)
        f(backward_gather(p, {z, y, x}, d_output, weight, bias, d_input, taps));
}

template <class T>
T* after_taps(const ConvParams& p, void* scratch) {
  return reinterpret_cast<T*>(static_cast<char*>(scratch) + tap_bytes(p));
}

template <class T>
void forward(const ConvParams& p, const T* x, const T* w, const T* bias, T* y, void* scratch) {
  run_gather(forward_gather(p, x, w, bias, y, static_cast<Tap*>(scratch)), after_taps<T>(p, scratch));
}

template <class T>
void backward_input(const ConvParams& p, const T* dy, const T* w, const T* bias, T* dx, void* scratch) {
  for_phases(p, dy, w, bias, dx, static_cast<Tap*>(scratch),
             [&](const Gather<T>& g) { run_gather(g, after_taps<T>(p, scratch)); });
}

// The gather whose weights' gradient is asked for.
template <class T>
Gather<T> weight_gather(const ConvParams& p, const T* x, void* scratch) {
  return forward_gather<T>(p, x, nullptr, nullptr, nullptr, static_cast<Tap*>(scratch));
}

template <class T>
Engine weight_engine_of(const ConvParams& p) {
  if (takes_depthwise_gradient(weight_gather<T>(p, nullptr, nullptr))) return Engine::depthwise;
  if (takes_winograd_gradient<T>(p)) return Engine::winograd;
  return takes_direct_gradient<T>(p) ? Engine::direct : Engine::product;
}

template <class T>
void backward_weight(const ConvParams& p, const T* dy, const T* x, T* dw, void* scratch) {
  T* elements = after_taps<T>(p, scratch);
  switch (weight_engine_of<T>(p)) {
    case Engine::depthwise: return weight_gradient_depthwise(weight_gather(p, x, scratch), dy, dw, elements);
    case Engine::winograd: return weight_gradient_winograd(p, dy, x, dw, elements);
    case Engine::direct: return weight_gradient_direct(p, dy, x, dw, elements);
    default: return weight_gradient(p, dy, x, dw, elements);
  }
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
  for_phases<T>(p, nullptr, nullptr, nullptr, nullptr, nullptr,
                [&](const Gather<T>& g) { most = std::max(most, gather_scratch(g)); });
  return tap_bytes(p) + static_cast<size_t>(most) * sizeof(T);
}

template <class T>
int64_t backward_weight_elements(const ConvParams& p) {
  switch (weight_engine_of<T>(p)) {
    case Engine::depthwise: return weight_gradient_depthwise_scratch(weight_gather<T>(p, nullptr, nullptr));
    case Engine::winograd: return weight_gradient_winograd_scratch<T>(p);
    case Engine::direct: return weight_gradient_direct_scratch<T>(p);
    default: return weight_gradient_scratch<T>(p);
  }
}

template <class T>
size_t backward_weight_bytes(const ConvParams& p) {
  return tap_bytes(p) + static_cast<size_t>(backward_weight_elements<T>(p)) * sizeof(T);
}

// Channels-last images with a few channels per group have no vector of channels to work on: these
// are brought to contiguous order and back, which costs a pass over memory and saves much more.
bool goes_via_contiguous(const ConvParams& p) {
  bool depthwise = p.groups > 1 && p.in_channels == p.groups && p.out_channels == p.groups;
  return p.layout == Layout::channels_last && !depthwise && std::min(p.in_channels, p.out_channels) / p.groups < 8;
}

// Few input channels alone are no reason to, forward, where output channels are the lanes.
template <class T>
bool forward_goes_via_contiguous(const ConvParams& p) {
  return goes_via_contiguous(p) &&
         forward_gather<T>(p, nullptr, nullptr, nullptr, nullptr, nullptr).engine != Engine::direct;
}

ConvParams as_contiguous(const ConvParams& p) {
  ConvParams q = p;
  q.layout = Layout::contiguous;
  return q;
}

int64_t input_elements(const ConvParams& p) { return round_up(p.batch * p.in_channels * product(input_size(p)), 64); }
int64_t output_elements(const ConvParams& p) {
  return round_up(p.batch * p.out_channels * product(output_size(p)), 64);
}

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
  swap_axes(p.batch, product(input_size(p)), p.in_channels, from, to);
}
template <class T>
void output_to_contiguous(const ConvParams& p, const T* from, T* to) {
  swap_axes(p.batch, product(output_size(p)), p.out_channels, from, to);
}

}  // namespace

size_t conv_forward_scratch(const ConvParams& p) {
  size_t bytes = 0;
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    bytes = forward_goes_via_contiguous<T>(p) ? Contiguous<T>::bytes(p) + forward_bytes<T>(as_contiguous(p))
                                              : forward_bytes<T>(p);
  });
  return bytes;
}

void conv_forward(const ConvParams& p, const void* input, const void* weight, const void* bias, void* output,
                  void* scratch) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *x = static_cast<const T*>(input), *w = static_cast<const T*>(weight), *b = static_cast<const T*>(bias);
    T* y = static_cast<T*>(output);
    if (!forward_goes_via_contiguous<T>(p)) return forward(p, x, w, b, y, scratch);
    Contiguous<T> via(p, scratch);
    input_to_contiguous(p, x, via.x);
    forward(as_contiguous(p), via.x, w, b, via.y, via.rest);
    swap_axes(p.batch, p.out_channels, product(output_size(p)), via.y, y);
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

void conv_backward_input(const ConvParams& p, const void* d_output, const void* weight, const void* bias, void* d_input,
                         void* scratch) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *dy = static_cast<const T*>(d_output), *w = static_cast<const T*>(weight), *b = static_cast<const T*>(bias);
    T* dx = static_cast<T*>(d_input);
    if (!goes_via_contiguous(p)) return backward_input(p, dy, w, b, dx, scratch);
    Contiguous<T> via(p, scratch);
    output_to_contiguous(p, dy, via.y);
    backward_input(as_contiguous(p), via.y, w, b, via.x, via.rest);
    swap_axes(p.batch, p.in_channels, product(input_size(p)), via.x, dx);
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

void conv_backward_weight(const ConvParams& p, const void* d_output, const void* input, void* d_weight, void* scratch) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *dy = static_cast<const T*>(d_output), *x = static_cast<const T*>(input);
    T* dw = static_cast<T*>(d_weight);
    if (!goes_via_contiguous(p)) return backward_weight(p, dy, x, dw, scratch);
    Contiguous<T> via(p, scratch);
    input_to_contiguous(p, x, via.x);
    output_to_contiguous(p, dy, via.y);
    backward_weight(as_contiguous(p), via.y, via.x, dw, via.rest);
  });
}

size_t conv_backward_bias_scratch(const ConvBiasParams&) { return 0; }

// The sum over images and pixels, in memory order; a task owns a channel, or a vector of them.
void conv_backward_bias(const ConvBiasParams& p, const void* d_output, void* d_bias, void*) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* dy = static_cast<const T*>(d_output);
    T* db = static_cast<T*>(d_bias);
    if (p.layout == Layout::channels_last) return column_sums(p.batch * p.pixels, p.channels, dy, db);
    parallel_for(p.channels, [&](int64_t channel, int) {
      vec<T> total{};
      for (int64_t n = 0; n < p.batch; ++n) {
        const T* from = dy + (n * p.channels + channel) * p.pixels;
        for_vectors<T>(p.pixels, [&](int64_t i, auto count) ARRAYNN_LAMBDA { total += load_count(from + i, count); });
      }
      db[channel] = sum<T>(total);
    });
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
