// Backward, in gather form: a thread adds up what the windows over its entries give them, so that every
// element of the gradient is written once, and always with the same sum. max.cu and average.cu define
//   Op::Window, Op::nothing()     what a window gives to its entries; what no window gives
//   op.window(from)                                          from: its first element in the cotangent
//   op.settle(window, shape, oh, ow)                         what can wait until all of them are on their way
//   Op::add(sums, window, tap)                               for its entry of that number
//   op.gather(sums, shape, oh, ow, from, tap, place)         both at once; place: the entry's in the volume
//
// Where windows are small squares, a thread takes a cell of entries one below the other, as wide as the
// stride: the windows over it are the same few for all of them, and each is read once for all the cell.
#pragma once
#include "pool/window.h"

namespace arraynn::cuda {
namespace {

// ---- cells --------------------------------------------------------------------------------------

// An axis cut into cells of `Size` entries, below windows of K entries at the stride S and padding P. The
// last window over cell i is i * Size / S + ahead; it holds the cell's first entry by tap `tap`, which may
// be negative, and the windows before it hold that by S taps more each. `ways` windows touch the cell.
// At a stride of 1 the padding changes nothing but `ahead`.
template <int K, int S, int P, int Size>
struct Cell {
  static_assert(Size % S == 0);
  static constexpr int tap = P - (Size - 1 + P) / S * S;
  static constexpr int ways = (K - 1 - tap) / S + 1;
  static __device__ __forceinline__ int last_window(int i, int padding) { return (i * Size + Size - 1 + padding) / S; }
  // The tap by which the m-th window from the last one holds the cell's entry a, and whether it does.
  static constexpr __device__ int tap_of(int m, int a) { return tap + m * S + a; }
  static constexpr __device__ bool holds(int m, int a) { return tap_of(m, a) >= 0 && tap_of(m, a) < K; }
};

// Sums of a cell of as many rows as the registers hold.
template <int N, int S>
constexpr int cell_rows = N * S <= 4 ? 4 : 2;

template <int S, int N, class T>
__device__ __forceinline__ void store_cell(const Shape<int32_t>& s, const Spot<int32_t>& at,
                                           const compute_t<T> (&sums)[cell_rows<N, S>][S][N], bool paired, T* dx) {
  int channels = N == 1 ? 1 : s.channels, w = at.column * S;
#pragma unroll
  for (int a = 0; a < cell_rows<N, S>; ++a) {
    int h = at.row * cell_rows<N, S> + a;
    if (h >= s.rows.size) return;
    T* to = dx + at.image * s.in + (h * s.columns.size + w) * channels + at.lane * N;
    if (N == 1 && S > 1 && paired) {
      Pack<T, S> pack;
#pragma unroll
      for (int b = 0; b < S; ++b) pack.v[b] = narrow<T>(sums[a][b][0]);
      store_pack(to, pack);
      continue;
    }
#pragma unroll
    for (int b = 0; b < S; ++b) {
      Pack<T, N> pack;
#pragma unroll
      for (int i = 0; i < N; ++i) pack.v[i] = narrow<T>(sums[a][b][i]);
      if (w + b < s.columns.size) store_pack(to + b * channels, pack);
    }
  }
}

// One channel to a thread (N) is one that is alone. paired: S columns can then be written as one pack.
template <class Op, class T, int N, int K, int S, int P>
__global__ void __launch_bounds__(threads, 1)
    cells_kernel(Shape<int32_t> s, Walk<int32_t> walk, bool paired, Op op, T* __restrict__ dx) {
  using Rows = Cell<K, S, P, cell_rows<N, S>>;
  using Columns = Cell<K, S, P, S>;
  int number = thread_number<int32_t>();
  if (number >= walk.count) return;
  Spot<int32_t> at = walk.template spot<N == 1>(number);
  int channels = N == 1 ? 1 : s.channels;
  int last_row = Rows::last_window(at.row, s.rows.padding), last = Columns::last_window(at.column, s.columns.padding);
  int64_t image = at.image * s.out + at.lane * N;
  compute_t<T> sums[cell_rows<N, S>][S][N] = {};
  // With 8 channels, more than a row of windows at a time is more than the registers hold.
#pragma unroll
  for (int i = Rows::ways - 1; i >= 0; --i) {
    typename Op::Window windows[Columns::ways];
    int oh = last_row - i;
    int64_t row = image + oh * s.columns.out * channels;
#pragma unroll
    for (int j = 0; j < Columns::ways; ++j) {
      int ow = last - j;
      bool there = is_inside(s.rows.out, oh) && is_inside(s.columns.out, ow);
      windows[j] = there ? op.window(row + ow * channels) : Op::nothing();
    }
#pragma unroll
    for (int j = 0; j < Columns::ways; ++j)
      if (is_inside(s.rows.out, oh) && is_inside(s.columns.out, last - j)) op.settle(windows[j], s, oh, last - j);
#pragma unroll
    for (int j = Columns::ways - 1; j >= 0; --j)
#pragma unroll
      for (int a = 0; a < cell_rows<N, S>; ++a)
#pragma unroll
        for (int b = 0; b < S; ++b)
          if (Rows::holds(i, a) && Columns::holds(j, b))
            Op::add(sums[a][b], windows[j], Rows::tap_of(i, a) * K + Columns::tap_of(j, b));
  }
  store_cell<S, N>(s, at, sums, paired, dx);
}

// ---- any windows --------------------------------------------------------------------------------

template <class Op, class T, int N, class I, bool Deep>
__global__ void __launch_bounds__(threads, 1) gather_kernel(Shape<I, Deep> s, Walk<I> walk, Op op, T* __restrict__ dx) {
  I number = thread_number<I>();
  if (number >= walk.count) return;
  Spot<I> at = walk.spot(number);
  Position<I> line = input_line(s, at.row);
  Over<I> slices = slices_over(s, line.slice), rows = windows_over(s.rows, line.row);
  Over<I> columns = windows_over(s.columns, at.column);
  I place = at.row * s.columns.size + at.column;
  int64_t image = at.image * s.out + at.lane * N;
  compute_t<T> sums[N] = {};
  for (I od = slices.first; od < slices.last; ++od) {
    I d = slice_tap_at(s, od, line.slice);
    if (d < 0) continue;
#pragma unroll 1
    for (I oh = rows.first; oh < rows.last; ++oh) {
      I r = tap_at(s.rows, oh, line.row);
      if (!s.rows.adaptive && r < 0) continue;  // windows of an adaptive axis have no gaps
      I row = od * s.rows.out + oh, tap = (d * s.rows.kernel + r) * s.columns.kernel;
      for (I ow = columns.first; ow < columns.last; ++ow) {
        I c = tap_at(s.columns, ow, at.column);
        if (!s.columns.adaptive && c < 0) continue;
        int64_t from = image + (row * s.columns.out + ow) * s.channels;
        op.gather(sums, s, row, ow, from, tap + c, place);
      }
    }
  }
  Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < N; ++i) pack.v[i] = narrow<T>(sums[i]);
  store_pack(dx + at.image * s.in + place * s.channels + at.lane * N, pack);
}

// ---- launchers ----------------------------------------------------------------------------------

template <template <class, int, class> class Op, class T, int N, int K, int S, int P, class From>
void launch_cells(const PoolParams& p, const From& from, T* dx) {
  Shape<int32_t> s = shape_of<int32_t>(p);
  bool paired = p.columns.size % S == 0 && reinterpret_cast<uintptr_t>(dx) % (S * sizeof(T)) == 0;
  for_images<int32_t>(images_of(p), ceil_div(p.rows.size, cell_rows<N, S>), ceil_div(p.columns.size, S), s.channels / N,
                      [&](const Walk<int32_t>& walk, int64_t first) {
                        launch(cells_kernel<Op<T, N, int32_t>, T, N, K, S, P>, grid_for(walk.count, threads), threads,
                               0, p.place, s, walk, paired, Op<T, N, int32_t>(p, from.at(first * s.out)),
                               dx + first * s.in);
                      });
}

template <template <class, int, class> class Op, class T, int N, class I, bool Deep, class From>
void launch_gather(const PoolParams& p, const From& from, T* dx) {
  Shape<I, Deep> s = shape_of<I, Deep>(p);
  for_images<I>(images_of(p), p.slices.size * p.rows.size, p.columns.size, s.channels / N,
                [&](const Walk<I>& walk, int64_t first) {
                  launch(gather_kernel<Op<T, N, I>, T, N, I, Deep>, grid_for(walk.count, threads), threads, 0, p.place,
                         s, walk, Op<T, N, I>(p, from.at(first * s.out)), dx + first * s.in);
                });
}

template <template <class, int, class> class Op, class T, int N, class From>
void backward_by_size(const PoolParams& p, const From& from, T* dx) {
  auto is_cells = [&](int64_t kernel, int64_t stride, int64_t padding) {
    return (N > 1 || channels_of(p) == 1) && is_square(p, kernel, stride) &&
           (stride == 1 || (p.rows.padding == padding && p.columns.padding == padding));
  };
  if (is_cells(3, 2, 1))
    launch_cells<Op, T, N, 3, 2, 1>(p, from, dx);
  else if (is_cells(3, 2, 0))
    launch_cells<Op, T, N, 3, 2, 0>(p, from, dx);
  else if (is_cells(3, 1, 0))
    launch_cells<Op, T, N, 3, 1, 0>(p, from, dx);
  else if (is_cells(2, 2, 0))
    launch_cells<Op, T, N, 2, 2, 0>(p, from, dx);
  else if (is_deep(p))
    launch_gather<Op, T, N, int32_t, true>(p, from, dx);
  else
    launch_gather<Op, T, N, int32_t, false>(p, from, dx);
}

// Op: a template over the element type, the channels of a thread and the index type; `from` is what it
// reads from, with the same functions as what the forward pass writes to.
template <template <class, int, class> class Op, class T, class From>
void backward(const PoolParams& p, const From& from, T* dx) {
  constexpr int N = pack_size<T>;
  if (!fits_32(p))
    is_deep(p) ? launch_gather<Op, T, 1, int64_t, true>(p, from, dx)
               : launch_gather<Op, T, 1, int64_t, false>(p, from, dx);
  else if (channels_of(p) % N == 0 && aligned16(dx) && from.aligned())
    backward_by_size<Op, T, N>(p, from, dx);
  else
    backward_by_size<Op, T, 1>(p, from, dx);
}

}  // namespace
}  // namespace arraynn::cuda
