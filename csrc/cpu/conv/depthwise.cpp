// Convolution where each group has one input channel: no product to block, every input element
// meets a handful of weights. Contiguous images go by vectors along the output rows, channels-last
// ones by vectors along the channels.
#include "cpu/conv/taps.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

// A column of one vector of outputs: which of its lanes each tap finds inside the image depends on
// the column alone, so it is worked out once for all rows.
template <class T, int Step>
void column(const Gather<T>& g, const T* in, const T* weight, T bias, T* out, int64_t col) {
  constexpr int V = lanes<T>;
  constexpr int most = 32;  // taps at a time; larger kernels add to what is there
  int count = static_cast<int>(std::min<int64_t>(V, g.cols - col));
  int64_t step = Step ? Step : g.stride_w;
  int64_t first = 0;
  do {
    int taps = static_cast<int>(std::min<int64_t>(most, g.tap_count - first));
    Window windows[most];
    vec<T> weights[most];
    bool inside = true;
    for (int t = 0; t < taps; ++t) {
      const Tap& tap = g.taps[first + t];
      windows[t] = window({0, count, 0, 0, col}, 0, tap.dx, 1, step, 1, g.in_w, 0, 1);
      weights[t] = broadcast<T>(weight[tap.weight]);
      inside = inside && Step == 1 && windows[t].lo == 0 && windows[t].hi == V;
    }
    for (int64_t row = 0; row < g.rows; ++row) {
      T* to = out + row * g.out_strides.h + col * g.out_strides.w;
      vec<T> total = broadcast<T>(bias);
      if (first > 0) {
        if (g.out_strides.w == 1)
          total = load_first(to, count);
        else
          for (int i = 0; i < count; ++i) total[i] = to[i * g.out_strides.w];
      }
      for (int t = 0; t < taps; ++t) {
        int64_t y = row * g.stride_h + g.taps[first + t].dy;
        if (y < 0 || y >= g.in_h) continue;
        const T* from = in + y * g.in_strides.h + windows[t].offset;
        vec<T> value = inside ? load(from) : load_stepped(from, step, windows[t].lo, windows[t].hi);
        total = fma(value, weights[t], total);
      }
      if (g.out_strides.w == 1)
        store_first(to, total, count);
      else
        for (int i = 0; i < count; ++i) to[i * g.out_strides.w] = total[i];
    }
    first += taps;
  } while (first < g.tap_count);
}

// One output plane: out = bias + sum_t w[t] in[window t].
template <class T>
void plane(const Gather<T>& g, const T* in, const T* weight, T bias, T* out) {
  for (int64_t col = 0; col < g.cols; col += lanes<T>) {
    if (g.stride_w == 1)
      column<T, 1>(g, in, weight, bias, out, col);
    else if (g.stride_w == 2)
      column<T, 2>(g, in, weight, bias, out, col);
    else
      column<T, 0>(g, in, weight, bias, out, col);
  }
}

template <class T>
void gather_nchw(const Gather<T>& g) {
  int64_t channels = g.groups * g.out_c;
  parallel_for(g.batch * channels, [&](int64_t index, int) {
    int64_t image = index / channels, channel = index % channels, group = channel / g.out_c;
    plane(g, g.in + image * g.in_strides.n + group * g.in_strides.c,
          g.weight + group * g.w_group + channel % g.out_c * g.w_out, g.bias ? g.bias[channel] : T(0),
          g.out + image * g.out_strides.n + channel * g.out_strides.c);
  });
}

// One pixel, all channels; weights lie as (tap, channel) so that they load by vectors.
template <class T>
void pixel(const Gather<T>& g, const T* in, const T* weights, int64_t row, int64_t col, T* out) {
  constexpr int most = 64;
  int64_t channels = g.groups * g.out_c, first = 0;
  do {
    // The taps that fall inside the image, for all channels at once.
    const T *inputs[most], *factors[most];
    int taps = 0;
    int64_t end = std::min<int64_t>(g.tap_count, first + most);
    for (int64_t t = first; t < end; ++t) {
      int64_t y = row * g.stride_h + g.taps[t].dy, x = col * g.stride_w + g.taps[t].dx;
      if (y < 0 || y >= g.in_h || x < 0 || x >= g.in_w) continue;
      inputs[taps] = in + y * g.in_strides.h + x * g.in_strides.w;
      factors[taps++] = weights + t * channels;
    }
    for_vectors<T>(channels, [&](int64_t c, auto count) ARRAYNN_LAMBDA {
      vec<T> total{};
      if (first > 0)
        total = load_count(out + c, count);
      else if (g.bias)
        total = load_count(g.bias + c, count);
      for (int t = 0; t < taps; ++t) {
        vec<T> value{};
        if (g.out_c == 1)
          value = load_count(inputs[t] + c, count);
        else
          for (int l = 0; l < count; ++l) value[l] = inputs[t][(c + l) / g.out_c];
        total = fma(value, load_count(factors[t] + c, count), total);
      }
      store_count(out + c, total, count);
    });
    first = end;
  } while (first < g.tap_count);
}

template <class T>
void gather_nhwc(const Gather<T>& g, T* weights) {
  int64_t channels = g.groups * g.out_c;
  for (int64_t t = 0; t < g.tap_count; ++t)
    for (int64_t c = 0; c < channels; ++c)
      weights[t * channels + c] = g.weight[c / g.out_c * g.w_group + c % g.out_c * g.w_out + g.taps[t].weight];
  parallel_for(g.batch * g.rows, [&](int64_t index, int) {
    int64_t image = index / g.rows, row = index % g.rows;
    T* to = g.out + image * g.out_strides.n + row * g.out_strides.h;
    for (int64_t col = 0; col < g.cols; ++col, to += g.out_strides.w)
      pixel(g, g.in + image * g.in_strides.n, weights, row, col, to);
  });
}

// dw of one channel, contiguous images: vectors along the output rows, images and rows in order; up
// to `Taps` kernel columns share the loads of dy.
template <class T, int Taps>
void weight_nchw(const ConvParams& p, const T* dy, const T* x, int64_t y_image, int64_t x_image, int64_t r, int64_t s0,
                 T* dw) {
  constexpr int V = lanes<T>;
  int taps = static_cast<int>(std::min<int64_t>(Taps, p.kernel_w - s0));
  vec<T> total[Taps] = {};
  int64_t oy = r * p.dilation_h - p.pad_top;
  for (int64_t col = 0; col < p.out_w; col += V) {
    int count = static_cast<int>(std::min<int64_t>(V, p.out_w - col));
    Window windows[Taps];
    for (int s = 0; s < taps; ++s)
      windows[s] =
          window({0, count, 0, 0, col}, 0, (s0 + s) * p.dilation_w - p.pad_left, 1, p.stride_w, 1, p.in_w, 0, 1);
    for (int64_t n = 0; n < p.batch; ++n)
      for (int64_t row = 0; row < p.out_h; ++row) {
        int64_t y = row * p.stride_h + oy;
        if (y < 0 || y >= p.in_h) continue;
        vec<T> d = load_first(dy + n * y_image + row * p.out_w + col, count);
        const T* from = x + n * x_image + y * p.in_w;
        static_for<Taps>([&](auto s) ARRAYNN_LAMBDA {
          if (s >= taps) return;
          total[s] = fma(d, load_stepped(from + windows[s].offset, p.stride_w, windows[s].lo, windows[s].hi), total[s]);
        });
      }
  }
  static_for<Taps>([&](auto s) ARRAYNN_LAMBDA {
    if (s < taps) dw[s] = sum<T>(total[s]);
  });
}

template <class T>
void weight_nhwc(const ConvParams& p, const T* dy, const T* x, T* dw) {
  constexpr int V = lanes<T>;
  int64_t taps = p.kernel_h * p.kernel_w, multiplier = p.out_channels / p.groups;
  Plane in = plane_strides(p.layout, p.in_channels, p.in_h, p.in_w);
  Plane out = plane_strides(p.layout, p.out_channels, p.out_h, p.out_w);
  parallel_for(ceil_div(p.out_channels, V) * taps, [&](int64_t index, int) {
    int64_t c = index / taps * V, t = index % taps;
    int count = static_cast<int>(std::min<int64_t>(V, p.out_channels - c));
    int64_t oy = t / p.kernel_w * p.dilation_h - p.pad_top, ox = t % p.kernel_w * p.dilation_w - p.pad_left;
    vec<T> total{};
    for (int64_t n = 0; n < p.batch; ++n)
      for (int64_t row = 0; row < p.out_h; ++row)
        for (int64_t col = 0; col < p.out_w; ++col) {
          Window w = window({0, 1, n, row, col}, oy, ox, p.stride_h, p.stride_w, p.in_h, p.in_w, in.h, in.w);
          if (w.hi == w.lo) continue;
          const T* from = x + n * in.n + w.offset;
          vec<T> value{};
          if (multiplier == 1)
            value = load_first(from + c, count);
          else
            for (int l = 0; l < count; ++l) value[l] = from[(c + l) / multiplier];
          total = fma(load_first(dy + n * out.n + row * out.h + col * out.w + c, count), value, total);
        }
    for (int l = 0; l < count; ++l) dw[(c + l) * taps + t] = total[l];
  });
}

}  // namespace

template <class T>
int64_t gather_depthwise_scratch(const Gather<T>& g) {
  return g.layout == Layout::channels_last ? g.groups * g.out_c * g.tap_count : 0;
}
template int64_t gather_depthwise_scratch(const Gather<float>&);
template int64_t gather_depthwise_scratch(const Gather<double>&);

template <class T>
void gather_depthwise(const Gather<T>& g, T* scratch) {
  if (g.layout == Layout::channels_last)
    gather_nhwc(g, scratch);
  else
    gather_nchw(g);
}
template void gather_depthwise(const Gather<float>&, float*);
template void gather_depthwise(const Gather<double>&, double*);

template <class T>
void weight_gradient_depthwise(const ConvParams& p, const T* dy, const T* x, T* dw) {
  if (p.layout == Layout::channels_last) return weight_nhwc(p, dy, x, dw);
  int64_t taps = p.kernel_h * p.kernel_w, multiplier = p.out_channels / p.groups;
  int64_t y_plane = p.out_h * p.out_w, x_plane = p.in_h * p.in_w;
  parallel_for(p.out_channels, [&](int64_t channel, int) {
    constexpr int group = 4;
    for (int64_t r = 0; r < p.kernel_h; ++r)
      for (int64_t s = 0; s < p.kernel_w; s += group)
        weight_nchw<T, group>(p, dy + channel * y_plane, x + channel / multiplier * x_plane, p.out_channels * y_plane,
                              p.in_channels * x_plane, r, s, dw + channel * taps + r * p.kernel_w + s);
  });
}
template void weight_gradient_depthwise(const ConvParams&, const float*, const float*, float*);
template void weight_gradient_depthwise(const ConvParams&, const double*, const double*, double*);

}  // namespace arraynn::cpu::ARRAYNN_ISA
