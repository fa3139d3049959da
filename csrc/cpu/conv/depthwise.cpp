// Convolution where each group has one input channel: no product to block, every input element
// meets a handful of weights. Contiguous images go by vectors along the output rows, channels-last
// ones by vectors along the channels.
#include "cpu/conv/taps.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

// A column of one vector of outputs: which of its lanes each tap finds inside the image depends on
// the column alone, so it is worked out once for all rows, and which slice it meets once for those of a slice.
template <class T, int Step>
void column(const Gather<T>& g, const T* in, const T* weight, T bias, T* out, int64_t col) {
  constexpr int V = lanes<T>;
  constexpr int most = 32;  // taps at a time; larger kernels add to what is there
  int count = static_cast<int>(std::min<int64_t>(V, g.grid.w - col));
  int64_t step = Step ? Step : g.stride.w;
  int64_t first = 0;
  do {
    int taps = static_cast<int>(std::min<int64_t>(most, g.tap_count - first));
    Window windows[most];
    vec<T> weights[most];
    bool inside = true;
    for (int t = 0; t < taps; ++t) {
      const Tap& tap = g.taps[first + t];
      windows[t] = row_window(count, col * step + tap.offset.w, step, g.size.w);
      weights[t] = broadcast<T>(weight[tap.weight]);
      inside = inside && Step == 1 && windows[t].lo == 0 && windows[t].hi == V;
    }
    for (int64_t slice = 0; slice < g.grid.d; ++slice) {
      int64_t offsets[most], rows[most];  // of a tap's slice and lanes; row of the input that row 0 meets
      for (int t = 0; t < taps; ++t) {
        const Triple& o = g.taps[first + t].offset;
        int64_t z = slice * g.stride.d + o.d;
        offsets[t] = z * g.in_strides.d + windows[t].offset;
        rows[t] = z < 0 || z >= g.size.d ? g.size.h : o.h;  // outside is outside for all rows
      }
      for (int64_t row = 0; row < g.grid.h; ++row) {
        T* to = out + slice * g.out_strides.d + row * g.out_strides.h + col * g.out_strides.w;
        vec<T> total = broadcast<T>(bias);
        if (first > 0) {
          if (g.out_strides.w == 1)
            total = load_first(to, count);
          else
            for (int i = 0; i < count; ++i) total[i] = to[i * g.out_strides.w];
        }
        for (int t = 0; t < taps; ++t) {
          int64_t y = row * g.stride.h + rows[t];
          if (y < 0 || y >= g.size.h) continue;
          const T* from = in + y * g.in_strides.h + offsets[t];
          vec<T> value = inside ? load(from) : load_stepped(from, step, windows[t].lo, windows[t].hi);
          total = fma(value, weights[t], total);
        }
        if (g.out_strides.w == 1)
          store_first(to, total, count);
        else
          for (int i = 0; i < count; ++i) to[i * g.out_strides.w] = total[i];
      }
    }
    first += taps;
  } while (first < g.tap_count);
}

// One channel of an image: out = bias + sum_t w[t] in[window t].
template <class T>
void one_channel(const Gather<T>& g, const T* in, const T* weight, T bias, T* out) {
  for (int64_t col = 0; col < g.grid.w; col += lanes<T>) {
    if (g.stride.w == 1)
      column<T, 1>(g, in, weight, bias, out, col);
    else if (g.stride.w == 2)
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
    one_channel(g, g.in + image * g.in_strides.n + group * g.in_strides.c,
                g.weight + group * g.w_group + channel % g.out_c * g.w_out, g.bias ? g.bias[channel] : T(0),
                g.out + image * g.out_strides.n + channel * g.out_strides.c);
  });
}

// A tap whose row lies inside the image, for one row of outputs.
template <class T>
struct RowTap {
  const T *row, *weights;
  int64_t dx;
};

constexpr int most_taps = 64;  // at a time; larger kernels add to what is there

// One pixel, all channels; weights lie as (tap, channel) so that they load by vectors.
template <class T>
void pixel(const Gather<T>& g, const RowTap<T>* row_taps, int count, int64_t col, bool add, T* out) {
  const T *inputs[most_taps], *factors[most_taps];
  int taps = 0;
  for (int t = 0; t < count; ++t) {
    int64_t x = col * g.stride.w + row_taps[t].dx;
    if (x < 0 || x >= g.size.w) continue;
    inputs[taps] = row_taps[t].row + x * g.in_strides.w;
    factors[taps++] = row_taps[t].weights;
  }
  for_vectors<T>(g.groups * g.out_c, [&](int64_t c, auto n) ARRAYNN_LAMBDA {
    vec<T> total{};
    if (add)
      total = load_count(out + c, n);
    else if (g.bias)
      total = load_count(g.bias + c, n);
    for (int t = 0; t < taps; ++t) {
      vec<T> value{};
      if (g.out_c == 1)
        value = load_count(inputs[t] + c, n);
      else
        for (int l = 0; l < n; ++l) value[l] = inputs[t][(c + l) / g.out_c];
      total = fma(value, load_count(factors[t] + c, n), total);
    }
    store_count(out + c, total, n);
  });
}

template <class T>
void row_of_pixels(const Gather<T>& g, const T* in, const T* weights, int64_t slice, int64_t row, T* out) {
  int64_t channels = g.groups * g.out_c, first = 0;
  do {
    RowTap<T> taps[most_taps];
    int count = 0;
    int64_t end = std::min<int64_t>(g.tap_count, first + most_taps);
    for (int64_t t = first; t < end; ++t) {
      const Triple& o = g.taps[t].offset;
      int64_t z = slice * g.stride.d + o.d, y = row * g.stride.h + o.h;
      if (z < 0 || z >= g.size.d || y < 0 || y >= g.size.h) continue;
      taps[count++] = {in + z * g.in_strides.d + y * g.in_strides.h, weights + t * channels, o.w};
    }
    for (int64_t col = 0; col < g.grid.w; ++col) pixel(g, taps, count, col, first > 0, out + col * g.out_strides.w);
    first = end;
  } while (first < g.tap_count);
}

template <class T>
void gather_nhwc(const Gather<T>& g, T* weights) {
  int64_t channels = g.groups * g.out_c;
  for (int64_t t = 0; t < g.tap_count; ++t)
    for (int64_t c = 0; c < channels; ++c)
      weights[t * channels + c] = g.weight[c / g.out_c * g.w_group + c % g.out_c * g.w_out + g.taps[t].weight];
  int64_t rows = g.grid.d * g.grid.h;
  parallel_for(g.batch * rows, [&](int64_t index, int) {
    int64_t image = index / rows, slice = index % rows / g.grid.h, row = index % g.grid.h;
    row_of_pixels(g, g.in + image * g.in_strides.n, weights, slice, row,
                  g.out + image * g.out_strides.n + slice * g.out_strides.d + row * g.out_strides.h);
  });
}

// dw of one channel, contiguous images: vectors along the output rows, images and rows in order; up
// to `Taps` kernel columns from tap (q, r, s0) on share the loads of dy.
template <class T, int Taps>
void weight_nchw(const ConvParams& p, const T* dy, const T* x, int64_t q, int64_t r, int64_t s0, T* dw) {
  constexpr int V = lanes<T>;
  int taps = static_cast<int>(std::min<int64_t>(Taps, p.w.kernel - s0));
  Strides in = strides_of(p.layout, p.in_channels, input_size(p));
  Strides out = strides_of(p.layout, p.out_channels, output_size(p));
  vec<T> total[Taps] = {};
  Triple offset = offset_of(p, q, r, s0);
  for (int64_t col = 0; col < p.w.out; col += V) {
    int count = static_cast<int>(std::min<int64_t>(V, p.w.out - col));
    Window windows[Taps];
    for (int s = 0; s < taps; ++s)
      windows[s] = row_window(count, col * p.w.stride + offset.w + s * p.w.dilation, p.w.stride, p.w.in);
    for (int64_t n = 0; n < p.batch; ++n)
      for (int64_t slice = 0; slice < p.d.out; ++slice) {
        int64_t z = slice * p.d.stride + offset.d;
        if (z < 0 || z >= p.d.in) continue;
        const T *to = dy + n * out.n + slice * out.d + col, *plane = x + n * in.n + z * in.d;
        for (int64_t row = 0; row < p.h.out; ++row) {
          int64_t y = row * p.h.stride + offset.h;
          if (y < 0 || y >= p.h.in) continue;
          vec<T> d = load_first(to + row * out.h, count);
          const T* from = plane + y * in.h;
          static_for<Taps>([&](auto s) ARRAYNN_LAMBDA {
            if (s >= taps) return;
            total[s] =
                fma(d, load_stepped(from + windows[s].offset, p.w.stride, windows[s].lo, windows[s].hi), total[s]);
          });
        }
      }
  }
  static_for<Taps>([&](auto s) ARRAYNN_LAMBDA {
    if (s < taps) dw[s] = sum<T>(total[s]);
  });
}

template <class T>
void weight_nhwc(const ConvParams& p, const T* dy, const T* x, T* dw) {
  constexpr int V = lanes<T>;
  int64_t taps = tap_count(p), multiplier = p.out_channels / p.groups;
  Triple size = input_size(p), grid = output_size(p), stride = stride_of(p);
  Strides in = strides_of(p.layout, p.in_channels, size), out = strides_of(p.layout, p.out_channels, grid);
  parallel_for(ceil_div(p.out_channels, V) * taps, [&](int64_t index, int) {
    int64_t c = index / taps * V, t = index % taps;
    int count = static_cast<int>(std::min<int64_t>(V, p.out_channels - c));
    Triple offset = offset_of(p, t);
    vec<T> total{};
    for (int64_t line = 0; line < p.batch * grid.d * grid.h; ++line) {
      int64_t image = line / (grid.d * grid.h), slice = line / grid.h % grid.d, row = line % grid.h;
      int64_t z = slice * stride.d + offset.d, y = row * stride.h + offset.h;
      if (z < 0 || z >= size.d || y < 0 || y >= size.h) continue;
      const T* from = x + image * in.n + z * in.d + y * in.h;
      const T* to = dy + image * out.n + slice * out.d + row * out.h + c;
      for (int64_t col = 0; col < grid.w; ++col) {
        int64_t at = col * stride.w + offset.w;
        if (at < 0 || at >= size.w) continue;
        const T* pixel = from + at * in.w;
        vec<T> value{};
        if (multiplier == 1)
          value = load_first(pixel + c, count);
        else
          for (int l = 0; l < count; ++l) value[l] = pixel[(c + l) / multiplier];
        total = fma(load_first(to + col * out.w, count), value, total);
      }
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
  int64_t taps = tap_count(p), multiplier = p.out_channels / p.groups;
  int64_t y_step = product(output_size(p)), x_step = product(input_size(p));
  parallel_for(p.out_channels, [&](int64_t channel, int) {
    constexpr int group = 4;
    const T *d_output = dy + channel * y_step, *input = x + channel / multiplier * x_step;
    T* to = dw + channel * taps;
    for (int64_t q = 0; q < p.d.kernel; ++q)
      for (int64_t r = 0; r < p.h.kernel; ++r, to += p.w.kernel)
        for (int64_t s = 0; s < p.w.kernel; s += group) weight_nchw<T, group>(p, d_output, input, q, r, s, to + s);
  });
}
template void weight_gradient_depthwise(const ConvParams&, const float*, const float*, float*);
template void weight_gradient_depthwise(const ConvParams&, const double*, const double*, double*);

}  // namespace arraynn::cpu::ARRAYNN_ISA
