// Mean pooling, ordinary and adaptive, and its gradient. Small windows go the way of the maximum
// (pool/forward.h); large ones, among them the mean of a whole volume, are summed by several threads:
// contiguous volumes by 8, 32 or 256 neighbours that walk along the window's rows and then add up what
// they have, channels-last ones by 8 warps that take every eighth entry of 32 packs of channels.
//
// Bytes moved per element of the input, of E bytes, with O outputs per input: forward E + O E, backward
// E + O E. Sums are made in one fixed order: rows, then their sums; or threads, then theirs.
//
// Divisors: forward divides the sum; backward multiplies by the reciprocal. Where all windows count the
// same number of entries, the host works it out.
#include "device/reduce.h"
#include "pool/backward.h"
#include "pool/forward.h"

namespace arraynn::cuda {

namespace {

// ---- divisors -----------------------------------------------------------------------------------

// How many entries window o counts on its axis: padding counts if it is asked to, but not what hangs
// over beyond it.
template <class I>
__device__ __forceinline__ I count_of(const Axis<I>& a, I o, bool pads) {
  if (pads && !a.adaptive) {
    I start = o * a.stride - a.padding;
    return min(start + a.kernel, a.size + a.padding) - start;
  }
  Taps<I> taps = taps_of(a, o);
  return taps.last - taps.first;
}

template <class C>
struct Divisors {
  bool fixed, pads;
  C divisor, reciprocal;  // of all windows, if fixed

  template <class I, bool Deep>
  __device__ __forceinline__ C at(const Shape<I, Deep>& s, I oh, I ow) const {
    if (fixed) return divisor;
    Position<I> line = output_line(s, oh);
    int64_t count = static_cast<int64_t>(count_of(s.rows, line.row, pads)) * count_of(s.columns, ow, pads);
    if constexpr (Deep) count *= count_of(s.slices, line.slice, pads);
    return static_cast<C>(count);
  }
};

template <class C>
Divisors<C> divisors_of(const PoolParams& p) {
  double all = p.divisor;
  // Windows at the ends are the ones cut off.
  auto uncut = [&](const PoolAxis& a) {
    int64_t counted = p.count_include_pad ? a.padding : 0;
    return !a.adaptive && a.padding == counted && (a.out - 1) * a.stride - a.padding + a.kernel <= a.size + counted;
  };
  auto product = [](int64_t a, int64_t b, int64_t c) {
    return static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
  };
  if (is_whole(p))
    all = all != 0 ? all : product(p.slices.size, p.rows.size, p.columns.size);
  else if (all == 0 && uncut(p.slices) && uncut(p.rows) && uncut(p.columns))
    all = product(p.slices.kernel, p.rows.kernel, p.columns.kernel);
  return {all != 0, p.count_include_pad, static_cast<C>(all), static_cast<C>(1 / all)};
}

// ---- small windows ------------------------------------------------------------------------------

template <class T>
struct Values {
  T* y;  // or its gradient
  Values at(int64_t i) const { return {y + i}; }
  bool aligned() const { return aligned16(y); }
};

template <class T, int N, class I>
struct Mean {
  using C = compute_t<T>;
  struct State {
    C total[N], row[N];
  };
  struct Line {
    C row[N];
  };

  T* y;
  Divisors<C> divisors;
  Mean(const PoolParams& p, const Values<T>& to) : y(to.y), divisors(divisors_of<C>(p)) {}

  static __device__ __forceinline__ Pack<T, N> nothing() { return Pack<T, N>{}; }
  __device__ __forceinline__ State start(I) const { return State{}; }
  __device__ __forceinline__ Line start_line(int) const { return Line{}; }
  template <class Sums>
  static __device__ __forceinline__ void add(Sums& sums, const Pack<T, N>& pack, I) {
#pragma unroll
    for (int i = 0; i < N; ++i) sums.row[i] += widen(pack.v[i]);
  }
  static __device__ __forceinline__ void end_row(State& state) {
#pragma unroll
    for (int i = 0; i < N; ++i) state.total[i] += state.row[i], state.row[i] = 0;
  }
  static __device__ __forceinline__ void join(State& state, const Line& line, int) {
#pragma unroll
    for (int i = 0; i < N; ++i) state.total[i] += line.row[i];
  }
  template <bool Deep>
  __device__ __forceinline__ void store(const Shape<I, Deep>& s, int64_t to, I row, I column, I,
                                        const State& state) const {
    C divisor = divisors.at(s, row, column);
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; ++i) pack.v[i] = narrow<T>(state.total[i] / divisor);
    store_pack(y + to, pack);
  }
};

template <class T, int N, class I>
struct FromMean {
  using C = compute_t<T>;
  struct Window {
    Pack<T, N> dy;
    C reciprocal;
  };

  const T* dy;
  Divisors<C> divisors;
  FromMean(const PoolParams& p, const Values<const T>& from) : dy(from.y), divisors(divisors_of<C>(p)) {}

  static __device__ __forceinline__ Window nothing() { return Window{}; }
  __device__ __forceinline__ Window window(int64_t at) const { return {load_pack<N>(dy + at), divisors.reciprocal}; }
  template <bool Deep>
  __device__ __forceinline__ void settle(Window& window, const Shape<I, Deep>& s, I oh, I ow) const {
    if (!divisors.fixed) window.reciprocal = C(1) / divisors.at(s, oh, ow);
  }
  static __device__ __forceinline__ void add(C (&sums)[N], const Window& window, int) {
#pragma unroll
    for (int i = 0; i < N; ++i) sums[i] += widen(window.dy.v[i]) * window.reciprocal;
  }
  template <bool Deep>
  __device__ __forceinline__ void gather(C (&sums)[N], const Shape<I, Deep>& s, I oh, I ow, int64_t at, I, I) const {
    Window found = window(at);
    settle(found, s, oh, ow);
    add(sums, found, 0);
  }
};

// ---- large windows, forward ---------------------------------------------------------------------

// A window's entries, counted by columns, then rows, then slices, at a stride of many: the next one's place.
template <class I, bool Deep>
struct Entries {
  const Shape<I, Deep>& s;
  I slice, row, column;  // of the first entry, in the input
  I width, height, count;
  I d = 0, r, c, r_step, c_step;  // of the entry at hand

  // N columns count as one.
  __device__ __forceinline__ Entries(const Shape<I, Deep>& s_, const Spot<I>& at, int N, I first, I stride) : s(s_) {
    Position<I> line = output_line(s, at.row);
    Taps<I> slices = slice_taps(s, line.slice), rows = taps_of(s.rows, line.row);
    Taps<I> columns = taps_of(s.columns, at.column);
    slice = slices.start + slices.first, row = rows.start + rows.first, column = columns.start + columns.first;
    width = (columns.last - columns.first) / N, height = rows.last - rows.first;
    count = width * height * (slices.last - slices.first);
    if (count == 0) width = height = 1;
    r = first / width, c = first % width, r_step = stride / width, c_step = stride % width;
    settle();
  }
  __device__ __forceinline__ void settle() {
    if constexpr (Deep)
      for (; r >= height; r -= height) ++d;
  }
  __device__ __forceinline__ void advance() {
    r += r_step;
    c += c_step;
    if (c >= width) c -= width, ++r;
    settle();
  }
  // The column of the entry at hand, counted from the first one of the window's image.
  __device__ __forceinline__ I corner() const { return (slice * s.rows.size + row) * s.columns.size + column; }
  __device__ __forceinline__ I place(int N) const { return (d * s.rows.size + r) * s.columns.size + c * N; }
};

// Contiguous: Width neighbouring threads sum a window, N entries of a row at a time (more than one only
// where windows are whole planes). The walk's columns and rows are the output's.
template <class T, int N, int Width, class I, bool Deep>
__global__ void __launch_bounds__(threads, 1)
    group_kernel(Shape<I, Deep> s, Walk<I> walk, const T* __restrict__ x, Divisors<compute_t<T>> divisors, T* y) {
  using C = compute_t<T>;
  I number = static_cast<I>(blockIdx.x) * (threads / Width) + static_cast<I>(threadIdx.x / Width);
  I thread = static_cast<I>(threadIdx.x % Width);
  bool there = number < walk.count;
  Spot<I> at = walk.spot(there ? number : 0);
  Entries<I, Deep> entries(s, at, N, thread, Width);
  C total = 0;
  if (there && thread < entries.count) {
    const T* corner = x + at.image * s.in + entries.corner();
#pragma unroll 4
    for (I left = entries.count - thread; left > 0; left -= Width) {
      Pack<T, N> pack = load_pack<N>(corner + entries.place(N));
      C sum = widen(pack.v[0]);
#pragma unroll
      for (int i = 1; i < N; ++i) sum += widen(pack.v[i]);
      total += sum;
      entries.advance();
    }
  }
  if constexpr (Width > 32)
    total = block_reduce(total, Add{}, shared<C>());
  else
    total = warp_reduce<Width>(total, Add{});
  if (there && thread == 0) y[number] = narrow<T>(total / divisors.at(s, at.row, at.column));
}

// Channels-last: warp k of a block sums the entries k, k + 8, ... of 32 windows or packs of channels, whose
// numbers are the walk's. Shared memory: N numbers of each thread.
constexpr int parts = 8;

template <class T, int N, class I, bool Deep>
__global__ void __launch_bounds__(32 * parts)
    parts_kernel(Shape<I, Deep> s, Walk<I> walk, const T* __restrict__ x, Divisors<compute_t<T>> divisors, T* y) {
  using C = compute_t<T>;
  auto* room = shared<Pack<C, N>>();
  int lane = static_cast<int>(threadIdx.x % 32), part = static_cast<int>(threadIdx.x / 32);
  I number = static_cast<I>(blockIdx.x) * 32 + lane;
  bool there = number < walk.count;
  Spot<I> at = walk.spot(there ? number : 0);
  Entries<I, Deep> entries(s, at, 1, part, parts);
  Pack<C, N> total{};
  if (there && part < entries.count) {
    const T* corner = x + at.image * s.in + at.lane * N + entries.corner() * s.channels;
#pragma unroll 4
    for (I left = entries.count - part; left > 0; left -= parts) {
      Pack<T, N> pack = load_pack<N>(corner + entries.place(1) * s.channels);
#pragma unroll
      for (int i = 0; i < N; ++i) total.v[i] += widen(pack.v[i]);
      entries.advance();
    }
  }
  room[threadIdx.x] = total;
  __syncthreads();
  if (part != 0 || !there) return;
  for (int k = 1; k < parts; ++k) {
    Pack<C, N> other = room[32 * k + lane];
#pragma unroll
    for (int i = 0; i < N; ++i) total.v[i] += other.v[i];
  }
  C divisor = divisors.at(s, at.row, at.column);
  Pack<T, N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) result.v[i] = narrow<T>(total.v[i] / divisor);
  store_pack(y + static_cast<int64_t>(number) * N, result);
}

// ---- whole volumes, backward --------------------------------------------------------------------

// Every entry gets its volume's share. Channels are the fastest axis; N entries in memory's order to a thread.
template <class T, int N, class I>
__global__ void __launch_bounds__(threads, 1)
    spread_kernel(I count, Divider<I> image, Divider<I> channels, const T* __restrict__ dy, compute_t<T> reciprocal,
                  T* __restrict__ dx) {
  I first = thread_number<I>() * N;
  if (first >= count) return;
  Pack<T, N> pack;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    I i = min(first + k, count - 1), quotient = i;
    I c = divide_off(quotient, channels);
    pack.v[k] = narrow<T>(widen(dy[image.divide(i) * static_cast<I>(channels.divisor) + c]) * reciprocal);
  }
  if (first + N <= count) {
    store_pack(dx + first, pack);
  } else {
#pragma unroll
    for (int k = 0; k < N; ++k)
      if (first + k < count) dx[first + k] = pack.v[k];
  }
}

// ---- launchers ----------------------------------------------------------------------------------

// The entries of a typical window, and how far apart windows are along the columns.
struct Extent {
  int64_t entries, step;
};
Extent extent_of(const PoolParams& p) {
  auto length = [](const PoolAxis& a) { return a.adaptive ? a.size / a.out : std::min(a.kernel, a.size); };
  bool spaced = p.columns.adaptive || p.columns.out == 1;
  return {length(p.slices) * length(p.rows) * length(p.columns),
          spaced ? p.columns.size / p.columns.out : p.columns.stride};
}

template <class T, int N, int Width, class I, bool Deep>
void launch_group(const PoolParams& p, const T* x, T* y) {
  using C = compute_t<T>;
  Shape<I, Deep> s = shape_of<I, Deep>(p);
  Divisors<C> divisors = divisors_of<C>(p);
  size_t bytes = Width > 32 ? 32 * sizeof(C) : 0;
  for_images<I>(images_of(p), p.slices.out * p.rows.out, p.columns.out, 1, [&](const Walk<I>& walk, int64_t first) {
    launch(group_kernel<T, N, Width, I, Deep>, grid_for(walk.count, threads / Width), threads, bytes, p.place, s, walk,
           x + first * s.in, divisors, y + first * s.out);
  });
}

// Neighbours for a window of so many entries: few where few would be busy.
template <class T, int N, class I, bool Deep>
void launch_group_for(const PoolParams& p, int64_t entries, const T* x, T* y) {
  if (entries < 512)
    launch_group<T, N, 8, I, Deep>(p, x, y);
  else if (entries < 16384)
    launch_group<T, N, 32, I, Deep>(p, x, y);
  else
    launch_group<T, N, threads, I, Deep>(p, x, y);
}

// A volume whose window is all of it, as one row.
PoolParams as_one_row(PoolParams p) {
  int64_t size = p.slices.size * p.rows.size * p.columns.size;
  p.dims = 1;
  p.slices = p.rows = {1, 1, 1, 1, 0, 1, false};
  p.columns = {size, 1, size, size, 0, 1, false};
  return p;
}

template <class T>
void groups(const PoolParams& plain, int64_t entries, const T* x, T* y) {
  PoolParams p = is_whole(plain) ? as_one_row(plain) : plain;
  constexpr int N = pack_size<T>;
  if (!fits_32(p))
    is_deep(p) ? launch_group_for<T, 1, int64_t, true>(p, entries, x, y)
               : launch_group_for<T, 1, int64_t, false>(p, entries, x, y);
  else if (is_whole(p) && p.columns.size % N == 0 && aligned16(x))
    launch_group_for<T, N, int32_t, false>(p, entries, x, y);
  else
    is_deep(p) ? launch_group_for<T, 1, int32_t, true>(p, entries, x, y)
               : launch_group_for<T, 1, int32_t, false>(p, entries, x, y);
}

template <class T, int N, class I, bool Deep>
void launch_parts(const PoolParams& p, const T* x, T* y) {
  using C = compute_t<T>;
  Shape<I, Deep> s = shape_of<I, Deep>(p);
  Divisors<C> divisors = divisors_of<C>(p);
  size_t bytes = 32 * parts * N * sizeof(C);
  int64_t rows = p.slices.out * p.rows.out;
  for_images<I>(p.batch, rows, p.columns.out, p.channels / N, [&](const Walk<I>& walk, int64_t first) {
    launch(parts_kernel<T, N, I, Deep>, grid_for(walk.count, 32), 32 * parts, bytes, p.place, s, walk, x + first * s.in,
           divisors, y + first * s.out);
  });
}

template <class T, bool Deep>
void in_parts(const PoolParams& p, const T* x, T* y) {
  constexpr int N = pack_size<T>;
  if (!fits_32(p))
    launch_parts<T, 1, int64_t, Deep>(p, x, y);
  else if (p.channels % N == 0 && aligned16(x, y))
    launch_parts<T, N, int32_t, Deep>(p, x, y);
  else
    launch_parts<T, 1, int32_t, Deep>(p, x, y);
}

template <class T, int N, class I>
void launch_spread(const PoolParams& p, const T* dy, int64_t images, T* dx) {
  int64_t channels = channels_of(p), in = p.slices.size * p.rows.size * p.columns.size * channels;
  launch(spread_kernel<T, N, I>, grid_for(ceil_div(images * in, N), threads), threads, 0, p.place,
         static_cast<I>(images * in), Divider<I>(in), Divider<I>(channels), dy, divisors_of<compute_t<T>>(p).reciprocal,
         dx);
}

template <class T>
void spread(const PoolParams& p, const T* dy, T* dx) {
  int64_t channels = channels_of(p), in = p.slices.size * p.rows.size * p.columns.size * channels,
          images = images_of(p);
  if (in == 0) return;
  int64_t most = std::max<int64_t>(most_32 / in, 1);
  for (int64_t first = 0; first < images; first += most) {
    int64_t count = std::min(most, images - first);
    const T* from = dy + first * channels;
    T* to = dx + first * in;
    if (in > most_32)
      launch_spread<T, 1, int64_t>(p, from, count, to);
    else if (aligned16(to))
      launch_spread<T, pack_size<T>, int32_t>(p, from, count, to);
    else
      launch_spread<T, 1, int32_t>(p, from, count, to);
  }
}

}  // namespace

void avg_pool_forward(const PoolParams& p, const void* input, void* output) {
  if (p.slices.out == 0 || p.rows.out == 0 || p.columns.out == 0) return;
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto* x = static_cast<const T*>(input);
    auto* y = static_cast<T*>(output);
    Extent windows = extent_of(p);
    if (windows.entries >= 32 && p.layout == Layout::channels_last)
      is_deep(p) ? in_parts<T, true>(p, x, y) : in_parts<T, false>(p, x, y);
    else if (windows.entries >= 32 && windows.step >= 4)
      groups(p, windows.entries, x, y);
    else
      forward<Mean, T>(p, x, Values<T>{y});
  });
}

void avg_pool_backward(const PoolParams& p, const void* d_output, void* d_input) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto* dy = static_cast<const T*>(d_output);
    auto* dx = static_cast<T*>(d_input);
    if (is_whole(p))
      spread(p, dy, dx);
    else
      backward<FromMean, T>(p, Values<const T>{dy}, dx);
  });
}

}  // namespace arraynn::cuda
