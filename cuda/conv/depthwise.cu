// Groups of one channel: no product to block, every element read meets a handful of weights. Forward and
// for the input's gradient a thread works on a strip of four results and, channels-last, on a pack of
// channels; contiguous images have neighbouring threads at neighbouring pixels of a row instead, and the
// strip goes down the rows. Slices are one more loop, over those that the kernel's meet. Either way each element is
// read once from memory and a few times more from the cache, 2 taps flops for each element moved. The weights' gradient
// is one sum over all pixels for each weight: threads hold nine taps at a time, blocks part of the pixels, and a second
// kernel adds what the blocks found, in their order.
#include "conv/depthwise.h"

#include "device/reduce.h"
#include "dispatch.h"

namespace arraynn::cuda {

namespace {

constexpr int threads = 256, strip = 4;

// ---- forward and the input's gradient ----

// `line` and `along` are the axes of a slice: strips go along the latter.
struct StripParams {
  Axis deep, line, along;
  int64_t image_n, image_c, image_deep, image_line, image_along;
  int64_t result_n, result_c, result_deep, result_line, result_along;
  int64_t batch, channels, multiple, weight_channels;  // channels: of the result
  int64_t slices, lines, strips, packs, count;         // the most of any phase; packs of channels; all work
  bool backward, channels_fastest;
};

// The last digit of what is left.
__device__ __forceinline__ int64_t next_digit(int64_t& rest, int64_t base) {
  int64_t before = rest;
  rest = before <= 0x7FFFFFFF && base <= 0x7FFFFFFF ? static_cast<uint32_t>(before) / static_cast<uint32_t>(base)
                                                    : before / base;
  return before - rest * base;
}

template <class T, int N>
__global__ void __launch_bounds__(threads, 2)
    strip_kernel(const T* image, const T* weights, const T* bias, T* result, StripParams p) {
  using C = compute_t<T>;
  int64_t rest = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (rest >= p.count) return;
  int64_t pack, line, start;
  if (p.channels_fastest) {
    pack = next_digit(rest, p.packs);
    start = next_digit(rest, p.strips) * strip;
    line = next_digit(rest, p.lines);
  } else {
    line = next_digit(rest, p.lines);
    start = next_digit(rest, p.strips) * strip;
    pack = next_digit(rest, p.packs);
  }
  int64_t slice = next_digit(rest, p.slices), n = next_digit(rest, p.batch);
  AxisPhase b = phase_of(p.along, static_cast<int>(next_digit(rest, p.along.phases)));
  AxisPhase a = phase_of(p.line, static_cast<int>(next_digit(rest, p.line.phases)));
  AxisPhase c = phase_of(p.deep, static_cast<int>(rest));
  if (slice >= c.count || line >= a.count || start >= b.count) return;
  int64_t channel = pack * N;

  C sum[strip][N];
#pragma unroll
  for (int t = 0; t < strip; ++t)
#pragma unroll
    for (int e = 0; e < N; ++e) sum[t][e] = bias ? widen(bias[channel + e]) : C{0};

  int64_t inner = p.backward ? p.multiple : 1;
  int first_deep = static_cast<int>(slice) * p.deep.step + c.origin;
  int first_line = static_cast<int>(line) * p.line.step + a.origin;
  int first_along = static_cast<int>(start) * p.along.step + b.origin;
  for (int64_t m = 0; m < inner; ++m) {
    int64_t from_channel = p.backward ? channel * p.multiple + m : N == 1 ? channel / p.multiple : channel;
    int64_t weight_channel = p.backward ? from_channel : channel;
    const T* from = image + n * p.image_n + from_channel * p.image_c;
    for (int h = 0; h < c.taps; ++h) {
      int at_deep = first_deep + h * p.deep.dilation;
      if (at_deep < 0 || at_deep >= p.deep.size) continue;
      for (int i = 0; i < a.taps; ++i) {
        int at_line = first_line + i * p.line.dilation;
        if (at_line < 0 || at_line >= p.line.size) continue;
        int tap_line = (c.slot + h * p.deep.period) * p.line.taps + a.slot + i * p.line.period;
        int tap = tap_line * p.along.taps + b.slot;
        const T* row = from + at_deep * p.image_deep + at_line * p.image_line;
        for (int j = 0; j < b.taps; ++j) {
          auto w = load_pack<N>(weights + (tap + j * p.along.period) * p.weight_channels + weight_channel);
          int at = first_along + j * p.along.dilation;
#pragma unroll
          for (int t = 0; t < strip; ++t) {
            int x = at + t * p.along.step;
            if (x < 0 || x >= p.along.size) continue;
            auto pixel = load_pack<N>(row + x * p.image_along);
#pragma unroll
            for (int e = 0; e < N; ++e) sum[t][e] = fma(widen(pixel.v[e]), widen(w.v[e]), sum[t][e]);
          }
        }
      }
    }
  }

  T* to = result + n * p.result_n + channel * p.result_c + (c.phase + slice * p.deep.phases) * p.result_deep +
          (a.phase + line * p.line.phases) * p.result_line;
#pragma unroll
  for (int t = 0; t < strip; ++t) {
    if (start + t >= b.count) break;
    Pack<T, N> out;
#pragma unroll
    for (int e = 0; e < N; ++e) out.v[e] = narrow<T>(sum[t][e]);
    store_pack(to + (b.phase + (start + t) * p.along.phases) * p.result_along, out);
  }
}

struct WeightSteps {
  int64_t channel, deep, line, along;
  int deep_taps, line_taps, along_taps;
};

// To (taps, channels).
template <class T>
__global__ void __launch_bounds__(threads) order_weights_kernel(const T* from, T* to, WeightSteps s, int64_t channels) {
  int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  int64_t channel = i % channels, tap = i / channels;
  int64_t tap_line = tap / s.along_taps, tap_deep = tap_line / s.line_taps;
  if (tap_deep >= s.deep_taps) return;
  to[i] =
      from[channel * s.channel + tap_deep * s.deep + tap_line % s.line_taps * s.line + tap % s.along_taps * s.along];
}

bool strips_along_width(const Depthwise& d) { return d.layout == Layout::channels_last; }

StripParams strip_params(const Depthwise& d, bool backward, int pack) {
  bool width = strips_along_width(d);
  const Axis &line = width ? d.axes.h : d.axes.w, &along = width ? d.axes.w : d.axes.h;
  const ImageSteps &x = d.image, &y = d.result;
  StripParams p{};
  p.deep = d.axes.d;
  p.line = line;
  p.along = along;
  p.image_n = x.n;
  p.image_c = x.c;
  p.image_deep = x.d;
  p.image_line = width ? x.h : x.w;
  p.image_along = width ? x.w : x.h;
  p.result_n = y.n;
  p.result_c = y.c;
  p.result_deep = y.d;
  p.result_line = width ? y.h : y.w;
  p.result_along = width ? y.w : y.h;
  p.batch = d.batch;
  p.channels = backward ? d.groups : d.groups * d.multiple;
  p.multiple = d.multiple;
  p.weight_channels = d.groups * d.multiple;
  p.slices = ceil_div(p.deep.count, p.deep.phases);
  p.lines = ceil_div(line.count, line.phases);
  p.strips = ceil_div(ceil_div(along.count, along.phases), strip);
  p.packs = p.channels / pack;
  p.count = p.slices * p.lines * p.strips * p.packs * p.batch * phases_of(d.axes);
  p.backward = backward;
  p.channels_fastest = width;
  return p;
}

void run_strips(const Depthwise& d, bool backward, const void* image, const DepthwiseWeight& weight, const void* bias,
                void* result, void* scratch) {
  dispatch_float(d.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int n = pack_size<T>;
    int64_t channels = d.groups * d.multiple;
    bool packs = d.layout == Layout::channels_last && d.multiple == 1 && channels % n == 0 && aligned16(image, result);
    StripParams p = strip_params(d, backward, packs ? n : 1);
    if (p.count == 0) return;
    bool width = strips_along_width(d);
    WeightSteps s{weight.channel, weight.d,    width ? weight.h : weight.w, width ? weight.w : weight.h, p.deep.taps,
                  p.line.taps,    p.along.taps};
    auto* ordered = static_cast<T*>(scratch);
    launch(order_weights_kernel<T>, grid_for(taps_of(d.axes) * channels, threads), threads, 0, d.place,
           static_cast<const T*>(weight.data), ordered, s, channels);
    launch(packs ? strip_kernel<T, n> : strip_kernel<T, 1>, grid_for(p.count, threads), threads, 0, d.place,
           static_cast<const T*>(image), ordered, static_cast<const T*>(bias), static_cast<T*>(result), p);
  });
}

// ---- the weights' gradient ----

constexpr int chunk = 9;  // taps that a thread sums at a time

struct GradientParams {
  Axes axes;
  ImageSteps image, d_output;
  int64_t channels, multiple, pixels, parts, each;  // pixels of all images; `each` of them in a part
  int lanes, chunks, channel_blocks;                // lanes: threads side by side across channels
};

template <class T, int N, bool Aligned>
__global__ void __launch_bounds__(threads)
    tap_sums_kernel(const T* image, const T* d_output, GradientParams p, compute_t<T>* partials, T* d_weight) {
  using C = compute_t<T>;
  C* room = shared<C>();  // (warps, chunk, lanes, N)
  int thread = static_cast<int>(threadIdx.x), x = thread % p.lanes, y = thread / p.lanes;
  int64_t part = blockIdx.x % p.parts, block = blockIdx.x / p.parts;
  int first_tap = static_cast<int>(block % p.chunks) * chunk;
  int64_t channel = (block / p.chunks * p.lanes + x) * N, end = min((part + 1) * p.each, p.pixels);
  C sum[chunk][N] = {};
  if (channel < p.channels) {
    const Axis &ad = p.axes.d, &ah = p.axes.h, &aw = p.axes.w;
    Base base{ad.count, ah.count, aw.count};
    int64_t pixel = part * p.each + y;
    Digits at = base.digits(pixel), step = base.digits(threads / p.lanes);
    const T* from = image + (N == 1 ? channel / p.multiple : channel) * p.image.c;
    const T* dy = d_output + channel * p.d_output.c;
    for (; pixel < end; pixel += threads / p.lanes) {
      auto cotangent = load_elements<N, Aligned>(dy + at.top * p.d_output.n + at.high * p.d_output.d +
                                                 at.middle * p.d_output.h + at.low * p.d_output.w);
      int d = at.high * ad.step + ad.origin, h = at.middle * ah.step + ah.origin, w = at.low * aw.step + aw.origin;
      const T* here = from + at.top * p.image.n + d * p.image.d + h * p.image.h + w * p.image.w;
      int line = first_tap / aw.taps, q = line / ah.taps, r = line % ah.taps, s = first_tap % aw.taps;
#pragma unroll
      for (int i = 0; i < chunk; ++i) {
        int dd = q * ad.dilation, dh = r * ah.dilation, dw = s * aw.dilation;
        if (q < ad.taps && static_cast<unsigned>(d + dd) < static_cast<unsigned>(ad.size) &&
            static_cast<unsigned>(h + dh) < static_cast<unsigned>(ah.size) &&
            static_cast<unsigned>(w + dw) < static_cast<unsigned>(aw.size)) {
          auto pixels = load_elements<N, Aligned>(here + dd * p.image.d + dh * p.image.h + dw * p.image.w);
#pragma unroll
          for (int e = 0; e < N; ++e) sum[i][e] = fma(widen(cotangent.v[e]), widen(pixels.v[e]), sum[i][e]);
        }
        if (++s == aw.taps) {
          s = 0;
          if (++r == ah.taps) {
            r = 0;
            ++q;
          }
        }
      }
      base.add(at, step);
    }
  }
  int lane = thread % 32, warp = thread / 32;
#pragma unroll
  for (int i = 0; i < chunk; ++i)
#pragma unroll
    for (int e = 0; e < N; ++e) {
      for (int other = p.lanes; other < 32; other *= 2) sum[i][e] += __shfl_xor_sync(full_warp, sum[i][e], other);
      if (lane < p.lanes) room[((warp * chunk + i) * p.lanes + lane) * N + e] = sum[i][e];
    }
  __syncthreads();
  int taps = static_cast<int>(taps_of(p.axes)), row = p.lanes * N;
  for (int i = thread; i < chunk * row; i += threads) {
    int64_t to_channel = block / p.chunks * row + i % row;
    int tap = first_tap + i / row;
    if (to_channel >= p.channels || tap >= taps) continue;
    C total = room[i];
    for (int other = 1; other < threads / 32; ++other) total += room[other * chunk * row + i];
    int64_t to = to_channel * taps + tap;
    if (p.parts > 1)
      partials[part * p.channels * taps + to] = total;
    else
      d_weight[to] = narrow<T>(total);
  }
}

template <class T>
__global__ void __launch_bounds__(threads)
    add_parts_kernel(const compute_t<T>* partials, int64_t parts, int64_t count, T* d_weight) {
  int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i >= count) return;
  compute_t<T> sum = 0;
#pragma unroll 4
  for (int64_t part = 0; part < parts; ++part) sum += partials[part * count + i];
  d_weight[i] = narrow<T>(sum);
}

// Packs of channels where the shape allows them: how sums are cut must not depend on where arrays lie.
int gradient_pack(const Depthwise& d) {
  int pack = d.dtype == DType::float64 ? 2 : 4;
  return d.layout == Layout::channels_last && d.multiple == 1 && d.groups % pack == 0 ? pack : 1;
}

GradientParams gradient_params(const Depthwise& d) {
  int64_t channels = d.groups * d.multiple, pack = gradient_pack(d);
  const Axes& a = d.axes;
  int64_t pixels = d.batch * a.d.count * a.h.count * a.w.count;
  GradientParams p{a, d.image, d.result, channels, d.multiple, pixels, 1, 1, 1, 1, 1};
  if (d.layout == Layout::channels_last)
    while (p.lanes < 32 && p.lanes * pack < channels) p.lanes *= 2;
  p.chunks = static_cast<int>(ceil_div(taps_of(a), chunk));
  p.channel_blocks = static_cast<int>(ceil_div(channels, p.lanes * pack));
  constexpr int64_t most_blocks = 2048, least_rounds = 16;  // pixels for a thread
  int64_t blocks = std::max<int64_t>(1, static_cast<int64_t>(p.channel_blocks) * p.chunks);
  int64_t parts = std::max<int64_t>(1, std::min(most_blocks / blocks, p.pixels * p.lanes / (threads * least_rounds)));
  p.each = std::max<int64_t>(1, ceil_div(p.pixels, parts));
  p.parts = std::max<int64_t>(1, ceil_div(p.pixels, p.each));
  return p;
}

}  // namespace

size_t depthwise_scratch(const Depthwise& d) {
  return static_cast<size_t>(d.groups * d.multiple * taps_of(d.axes) * item_size(d.dtype));
}

void depthwise_forward(const Depthwise& d, const void* input, const DepthwiseWeight& weight, const void* bias,
                       void* output, void* scratch) {
  run_strips(d, false, input, weight, bias, output, scratch);
}

void depthwise_backward_input(const Depthwise& d, const void* d_output, const DepthwiseWeight& weight, const void* bias,
                              void* d_input, void* scratch) {
  run_strips(d, true, d_output, weight, bias, d_input, scratch);
}

size_t depthwise_gradient_scratch(const Depthwise& d) {
  GradientParams p = gradient_params(d);
  int64_t count = p.channels * taps_of(d.axes);
  return p.parts > 1 ? static_cast<size_t>(p.parts * count) * (d.dtype == DType::float64 ? 8 : 4) : 0;
}

void depthwise_backward_weight(const Depthwise& d, const void* d_output, const void* input, void* d_weight,
                               void* scratch) {
  dispatch_float(d.dtype, [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    constexpr int n = sizeof(T) == 8 ? 2 : 4;
    GradientParams p = gradient_params(d);
    int pack = gradient_pack(d);
    auto* partials = static_cast<C*>(scratch);
    auto* to = static_cast<T*>(d_weight);
    auto kernel = pack == 1                    ? tap_sums_kernel<T, 1, true>
                  : aligned16(d_output, input) ? tap_sums_kernel<T, n, true>
                                               : tap_sums_kernel<T, n, false>;
    launch(kernel, dim3(static_cast<unsigned>(p.parts * p.channel_blocks * p.chunks)), threads,
           sizeof(C) * static_cast<size_t>(threads / 32 * chunk * p.lanes * pack), d.place,
           static_cast<const T*>(input), static_cast<const T*>(d_output), p, partials, to);
    int64_t count = p.channels * taps_of(d.axes);
    if (p.parts > 1)
      launch(add_parts_kernel<T>, grid_for(count, threads), threads, 0, d.place, partials, p.parts, count, to);
  });
}

}  // namespace arraynn::cuda
