// Convolution where each group has one input channel: no product to block, every input element
// meets a handful of weights. Contiguous images go by vectors along the output rows, channels-last
// ones by vectors along the channels.
#include "cpu/conv/taps.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

// One output plane: out = bias + sum_t w[t] in[window t].
template <class T>
void plane(const Gather<T>& g, const T* in, const T* weight, T bias, T* out) {
  constexpr int V = lanes<T>;
  for (int64_t row = 0; row < g.rows; ++row)
    for (int64_t col = 0; col < g.cols; col += V) {
      Run run{0, static_cast<int>(std::min<int64_t>(V, g.cols - col)), 0, row, col};
      vec<T> total = broadcast<T>(bias);
      for (int64_t t = 0; t < g.tap_count; ++t) {
        Window w = window(run, g.taps[t].dy, g.taps[t].dx, g.stride_h, g.stride_w, g.in_h, g.in_w, g.in_strides.h, 1);
        vec<T> value = load_stepped(in + w.offset, g.stride_w, w.lo, w.hi);
        total = fma(value, broadcast<T>(weight[g.taps[t].weight]), total);
      }
      T* to = out + row * g.out_strides.h + col * g.out_strides.w;
      if (g.out_strides.w == 1)
        store_first(to, total, run.count);
      else
        for (int i = 0; i < run.count; ++i) to[i * g.out_strides.w] = total[i];
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

// Weights as (tap, channel), so that they can be loaded by vectors.
template <class T>
void gather_nhwc(const Gather<T>& g, T* weights) {
  int64_t channels = g.groups * g.out_c;
  for (int64_t t = 0; t < g.tap_count; ++t)
    for (int64_t c = 0; c < channels; ++c)
      weights[t * channels + c] = g.weight[c / g.out_c * g.w_group + c % g.out_c * g.w_out + g.taps[t].weight];
  parallel_for(g.batch * g.rows, [&](int64_t index, int) {
    int64_t image = index / g.rows, row = index % g.rows;
    const T* in = g.in + image * g.in_strides.n;
    for (int64_t col = 0; col < g.cols; ++col) {
      Run pixel{0, 1, image, row, col};
      T* to = g.out + image * g.out_strides.n + row * g.out_strides.h + col * g.out_strides.w;
      for_vectors<T>(channels, [&](int64_t c, auto count) ARRAYNN_LAMBDA {
        vec<T> total = g.bias ? load_count(g.bias + c, count) : vec<T>{};
        for (int64_t t = 0; t < g.tap_count; ++t) {
          Window w = window(pixel, g.taps[t].dy, g.taps[t].dx, g.stride_h, g.stride_w, g.in_h, g.in_w, g.in_strides.h,
                            g.in_strides.w);
          if (w.hi == w.lo) continue;
          vec<T> value;
          if (g.out_c == 1) {
            value = load_count(in + w.offset + c, count);
          } else {
            value = vec<T>{};
            for (int l = 0; l < count; ++l) value[l] = in[w.offset + (c + l) / g.out_c];
          }
          total = fma(value, load_count(weights + t * channels + c, count), total);
        }
        store_count(to + c, total, count);
      });
    }
  });
}

// dw[t] of one channel, contiguous images: vectors along the output rows, images and rows in order.
template <class T>
T weight_nchw(const ConvParams& p, const T* dy, const T* x, int64_t y_image, int64_t x_image, int64_t r, int64_t s) {
  constexpr int V = lanes<T>;
  vec<T> total{};
  int64_t oy = r * p.dilation_h - p.pad_top, ox = s * p.dilation_w - p.pad_left;
  for (int64_t n = 0; n < p.batch; ++n, dy += y_image, x += x_image)
    for (int64_t row = 0; row < p.out_h; ++row)
      for (int64_t col = 0; col < p.out_w; col += V) {
        Run run{0, static_cast<int>(std::min<int64_t>(V, p.out_w - col)), 0, row, col};
        Window w = window(run, oy, ox, p.stride_h, p.stride_w, p.in_h, p.in_w, p.in_w, 1);
        if (w.hi == w.lo) continue;
        total = fma(load_first(dy + row * p.out_w + col, run.count), load_stepped(x + w.offset, p.stride_w, w.lo, w.hi),
                    total);
      }
  return sum<T>(total);
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
    for (int64_t t = 0; t < taps; ++t)
      dw[channel * taps + t] =
          weight_nchw(p, dy + channel * y_plane, x + channel / multiplier * x_plane, p.out_channels * y_plane,
                      p.in_channels * x_plane, t / p.kernel_w, t % p.kernel_w);
  });
}
template void weight_gradient_depthwise(const ConvParams&, const float*, const float*, float*);
template void weight_gradient_depthwise(const ConvParams&, const double*, const double*, double*);

}  // namespace arraynn::cpu::ARRAYNN_ISA
