// Each element is read once, in packs of 16 bytes where all rows are aligned. A long sum is cut in parts, a
// block each, whose results a second kernel adds: how many parts depends on the shape alone, and every
// sum has a fixed order. Channels that lie innermost (inner = 1) are summed side by side by the lanes of a
// warp, others by a whole block each.
#include "channel_sums.h"

#include "device/reduce.h"
#include "dispatch.h"

namespace arraynn::cuda {

namespace {

constexpr int threads = 256;

struct SumShape {
  int64_t outer, channels, inner;
  int64_t parts, each;  // `each` packs of a row (or, with inner = 1, rows) in a part
  int lanes;            // threads side by side across channels, where inner = 1
};

// The part's number runs fastest, so that a channel's parts lie next to each other in scratch.
template <class T, int N, bool Aligned>
__global__ void __launch_bounds__(threads) row_sums_kernel(const T* data, SumShape s, compute_t<T>* partials, T* sums) {
  using C = compute_t<T>;
  int64_t channel = blockIdx.x / s.parts, part = blockIdx.x % s.parts;
  int64_t inner = s.inner / N, end = min((part + 1) * s.each, s.outer * inner);
  int64_t at = part * s.each + threadIdx.x, n = at / inner, i = at % inner;
  int64_t step_n = threads / inner, step_i = threads % inner;
  C sum[N] = {};
#pragma unroll 4
  for (; at < end; at += threads) {
    Pack<T, N> pack = load_elements<N, Aligned>(data + (n * s.channels + channel) * s.inner + i * N);
#pragma unroll
    for (int e = 0; e < N; ++e) sum[e] += widen(pack.v[e]);
    i += step_i;
    n += step_n + (i >= inner ? 1 : 0);
    i -= i >= inner ? inner : 0;
  }
  C total = sum[0];
#pragma unroll
  for (int e = 1; e < N; ++e) total += sum[e];
  total = block_reduce(total, Add{}, shared<C>());
  if (threadIdx.x != 0) return;
  if (s.parts > 1)
    partials[channel * s.parts + part] = total;
  else
    sums[channel] = narrow<T>(total);
}

template <class T, int N, bool Aligned>
__global__ void __launch_bounds__(threads)
    column_sums_kernel(const T* data, SumShape s, compute_t<T>* partials, T* sums) {
  using C = compute_t<T>;
  auto* room = shared<Pack<C, N>>();
  int thread = static_cast<int>(threadIdx.x), x = thread % s.lanes, y = thread / s.lanes, tall = threads / s.lanes;
  int64_t part = blockIdx.x % s.parts, channel = (blockIdx.x / s.parts * s.lanes + x) * N;
  int64_t end = min((part + 1) * s.each, s.outer);
  Pack<C, N> sum = {};
  if (channel < s.channels) {
#pragma unroll 4
    for (int64_t row = part * s.each + y; row < end; row += tall) {
      Pack<T, N> pack = load_elements<N, Aligned>(data + row * s.channels + channel);
#pragma unroll
      for (int e = 0; e < N; ++e) sum.v[e] += widen(pack.v[e]);
    }
  }
  room[thread] = sum;
  for (int half = tall / 2; half > 0; half /= 2) {
    __syncthreads();
    if (y < half)
#pragma unroll
      for (int e = 0; e < N; ++e) room[thread].v[e] += room[thread + half * s.lanes].v[e];
  }
  if (y != 0 || channel >= s.channels) return;
#pragma unroll
  for (int e = 0; e < N; ++e) {
    C total = room[thread].v[e];
    if (s.parts > 1)
      partials[(channel + e) * s.parts + part] = total;
    else
      sums[channel + e] = narrow<T>(total);
  }
}

template <class T>
__global__ void __launch_bounds__(threads) add_parts_kernel(const compute_t<T>* partials, SumShape s, T* sums) {
  int64_t channel = static_cast<int64_t>(blockIdx.x) * (threads / 32) + threadIdx.x / 32;
  compute_t<T> sum = 0;
  if (channel < s.channels)
    for (int64_t part = threadIdx.x % 32; part < s.parts; part += 32) sum += partials[channel * s.parts + part];
  sum = warp_reduce(sum, Add{});
  if (channel < s.channels && threadIdx.x % 32 == 0) sums[channel] = narrow<T>(sum);
}

// The blocks of a part are at least `least` elements large, and few enough that their sums are soon added.
SumShape shape_of(const ChannelSums& c, int pack) {
  SumShape s{c.outer, c.channels, c.inner, 1, 1, 1};
  constexpr int64_t least = 8192, most_blocks = 2048;
  int64_t blocks = c.channels, length = c.outer * ceil_div(c.inner, pack), per_step = pack;
  if (c.inner == 1) {
    while (s.lanes < 32 && s.lanes * pack < c.channels) s.lanes *= 2;
    blocks = ceil_div(c.channels, static_cast<int64_t>(s.lanes) * pack);
    length = c.outer;
    per_step = static_cast<int64_t>(s.lanes) * pack;
  }
  int64_t parts = std::min(length * per_step / least, most_blocks / std::max<int64_t>(1, blocks));
  s.each = std::max<int64_t>(1, ceil_div(length, std::max<int64_t>(1, parts)));
  s.parts = std::max<int64_t>(1, ceil_div(length, s.each));
  return s;
}

// Packs where every row begins at 16 bytes.
int pack_of(const ChannelSums& c) {
  int pack = 16 / static_cast<int>(item_size(c.dtype));
  return (c.inner == 1 ? c.channels : c.inner) % pack == 0 ? pack : 1;
}

}  // namespace

size_t channel_sums_scratch(const ChannelSums& c) {
  SumShape s = shape_of(c, pack_of(c));
  return s.parts > 1 ? static_cast<size_t>(s.parts * s.channels) * (c.dtype == DType::float64 ? 8 : 4) : 0;
}

void channel_sums(const ChannelSums& c, const void* data, void* sums, void* scratch) {
  if (c.channels == 0) return;
  dispatch_float(c.dtype, [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    constexpr int n = pack_size<T>;
    int pack = pack_of(c);
    SumShape s = shape_of(c, pack);
    int64_t blocks = c.inner == 1 ? ceil_div(c.channels, static_cast<int64_t>(s.lanes) * pack) : c.channels;
    auto start = [&](auto kernel, size_t shared_bytes) {
      launch(kernel, dim3(static_cast<unsigned>(blocks * s.parts)), threads, shared_bytes, c.place,
             static_cast<const T*>(data), s, static_cast<C*>(scratch), static_cast<T*>(sums));
    };
    bool aligned = aligned16(data);
    if (c.inner == 1)
      start(pack == 1 ? column_sums_kernel<T, 1, true>
            : aligned ? column_sums_kernel<T, n, true>
                      : column_sums_kernel<T, n, false>,
            static_cast<size_t>(threads * pack) * sizeof(C));
    else
      start(pack == 1 ? row_sums_kernel<T, 1, true>
            : aligned ? row_sums_kernel<T, n, true>
                      : row_sums_kernel<T, n, false>,
            32 * sizeof(C));
    if (s.parts > 1)
      launch(add_parts_kernel<T>, grid_for(c.channels, threads / 32), threads, 0, c.place,
             static_cast<const C*>(scratch), s, static_cast<T*>(sums));
  });
}

}  // namespace arraynn::cuda
