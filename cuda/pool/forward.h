// Forward: a thread joins the entries of its window, by an operation that max.cu and average.cu define:
//   Op::State           what is known of N windows of one place, one per channel
//   op.start(tap)       a state of no entries; tap is the first one in the input, or -1
//   Op::add(state, pack, tap), Op::end_row(state)
//   Op::Line, op.start_line(tap), Op::add(line, pack, tap)    the same for one row of a window
//   Op::join(state, line, tap)                                a row, whose first tap has this number
//   Op::nothing()       what padding counts as
//   op.store(shape, to, row, column, step, state)     to element `to` of the output; the i-th of the N
//                                                     windows is the one of column + i * step
//
// Where windows overlap, a thread takes several of a column one below the other: rows that two of them
// hold come from the first-level cache the second time. At a vertical stride of 1, windows of three rows
// share what they join, too: a thread joins the columns of each row once.
#pragma once
#include <cstring>

#include "pool/window.h"

namespace arraynn::cuda {
namespace {

// The element of the output that a thread's pack begins at.
template <int N, class I, bool Deep>
__device__ __forceinline__ int64_t place_of(const Shape<I, Deep>& s, const Spot<I>& at, I row) {
  return at.image * s.out + (row * s.columns.out + at.column) * s.channels + at.lane * N;
}

// ---- one window ---------------------------------------------------------------------------------

template <class Op, int N, class T, class I, bool Deep>
__device__ __forceinline__ typename Op::State join_window(const Shape<I, Deep>& s, const Op& op, const T* image, I oh,
                                                          I ow) {
  Position<I> line = output_line(s, oh);
  Taps<I> slices = slice_taps(s, line.slice), rows = taps_of(s.rows, line.row), columns = taps_of(s.columns, ow);
  bool none = slices.first == slices.last || rows.first == rows.last || columns.first == columns.last;
  I first = (slices.first * s.rows.kernel + rows.first) * s.columns.kernel + columns.first;
  typename Op::State state = op.start(none ? -1 : first);
  I row_step = s.rows.dilation * s.columns.size * s.channels, column_step = s.columns.dilation * s.channels;
  I row = rows.start + rows.first * s.rows.dilation, column = columns.start + columns.first * s.columns.dilation;
  for (I d = slices.first; d < slices.last; ++d) {
    const T* top = image + ((slice_at(s, slices.start, d) * s.rows.size + row) * s.columns.size + column) * s.channels;
    for (I r = rows.first; r < rows.last; ++r, top += row_step) {
      const T* from = top;
      I tap = (d * s.rows.kernel + r) * s.columns.kernel;
      for (I c = columns.first; c < columns.last; ++c, from += column_step) Op::add(state, load_pack<N>(from), tap + c);
      Op::end_row(state);
    }
  }
  return state;
}

template <int K>
__device__ __forceinline__ int first_of(const bool (&inside)[K]) {
  int first = -1;
#pragma unroll
  for (int k = K - 1; k >= 0; --k)
    if (inside[k]) first = k;
  return first;
}

// What the kernels for small squares know: one channel to a thread is one that is alone.
template <int N, class I>
__device__ __forceinline__ I column_step(const Shape<I>& s) {
  return N == 1 ? 1 : s.channels;
}

// A pack, or another where there is none. The choice is between words of 32 bits, whatever they hold: halves
// of words would be chosen one by one.
template <int N, class T>
__device__ __forceinline__ Pack<T, N> load_or(bool there, const T* from, Pack<T, N> other) {
  if constexpr (sizeof(other) % 4 == 0) {
    Pack<uint32_t, static_cast<int>(sizeof(other) / 4)> words;
    std::memcpy(&words, &other, sizeof words);
    if (there) {
      Pack<T, N> pack = load_pack<N>(from);
      std::memcpy(&words, &pack, sizeof words);
    }
    std::memcpy(&other, &words, sizeof words);
    return other;
  } else {
    return there ? load_pack<N>(from) : other;
  }
}

// A window of K x K: all its entries are on their way before the first one is looked at.
template <class Op, int N, int K, class T, class I>
__device__ __forceinline__ typename Op::State join_square(const Shape<I>& s, const Op& op, const T* image, I oh, I ow) {
  I top = oh * s.rows.stride - s.rows.padding, left = ow * s.columns.stride - s.columns.padding;
  I column = column_step<N>(s), row = s.columns.size * column;
  const T* corner = image + (top * row + left * column);
  bool row_inside[K], column_inside[K];
#pragma unroll
  for (int k = 0; k < K; ++k) {
    row_inside[k] = is_inside(s.rows.size, top + k);
    column_inside[k] = is_inside(s.columns.size, left + k);
  }
  Pack<T, N> entries[K][K];
#pragma unroll
  for (int r = 0; r < K; ++r)
#pragma unroll
    for (int c = 0; c < K; ++c)
      entries[r][c] = load_or(row_inside[r] && column_inside[c], corner + r * row + c * column, Op::nothing());
  int first_row = first_of<K>(row_inside), first_column = first_of<K>(column_inside);
  typename Op::State state = op.start(first_row < 0 || first_column < 0 ? -1 : first_row * K + first_column);
#pragma unroll
  for (int r = 0; r < K; ++r) {
#pragma unroll
    for (int c = 0; c < K; ++c) Op::add(state, entries[r][c], r * K + c);
    Op::end_row(state);
  }
  return state;
}

// ---- windows one below the other ----------------------------------------------------------------

// Windows of K x K at a vertical stride of 1, from the output's row `row` to before `last`.
template <class Op, int N, int K, class T, class I>
__device__ __forceinline__ void slide(const Shape<I>& s, const Op& op, const T* image, const Spot<I>& at, I row,
                                      I last) {
  I left = at.column * s.columns.stride - s.columns.padding, column = column_step<N>(s);
  bool column_inside[K];
#pragma unroll
  for (int k = 0; k < K; ++k) column_inside[k] = is_inside(s.columns.size, left + k);
  int first_column = first_of<K>(column_inside);
  auto line_at = [&](I h) {
    Pack<T, N> entries[K];
    bool inside = is_inside(s.rows.size, h);
    const T* from = image + (h * s.columns.size + left) * column;
#pragma unroll
    for (int c = 0; c < K; ++c) entries[c] = load_or(inside && column_inside[c], from + c * column, Op::nothing());
    typename Op::Line line = op.start_line(first_column);
#pragma unroll
    for (int c = 0; c < K; ++c) Op::add(line, entries[c], c);
    return line;
  };
  typename Op::Line lines[K];
  I top = row - s.rows.padding;
#pragma unroll
  for (int r = 0; r < K - 1; ++r) lines[r + 1] = line_at(top + r);
  for (; row < last; ++row, ++top) {
#pragma unroll
    for (int r = 0; r < K - 1; ++r) lines[r] = lines[r + 1];
    lines[K - 1] = line_at(top + K - 1);
    I first_row = top < 0 ? -top : 0;
    bool none = first_column < 0 || first_row >= K || top >= s.rows.size;
    typename Op::State state = op.start(none ? -1 : static_cast<int>(first_row) * K + first_column);
#pragma unroll
    for (int r = 0; r < K; ++r) Op::join(state, lines[r], r * K);
    op.store(s, place_of<N>(s, at, row), row, at.column, I(0), state);
  }
}

// K: the size of square windows without dilation, or 0; with a size, one channel to a thread is one that is
// alone. A thread's part is `depth` rows of a column of the output.
template <class Op, class T, int N, int K, bool Slides, class I, bool Deep>
__global__ void __launch_bounds__(threads, 1)
    forward_kernel(Shape<I, Deep> s, Walk<I> walk, I depth, const T* __restrict__ x, Op op) {
  I number = thread_number<I>();
  if (number >= walk.count) return;
  Spot<I> at = walk.template spot < K != 0 && N == 1 > (number);
  const T* image = x + at.image * s.in + at.lane * N;
  I row = at.row * depth, last = min(row + depth, output_rows(s));
  if constexpr (Slides) {
    slide<Op, N, K>(s, op, image, at, row, last);
  } else {
    for (; row < last; ++row) {
      typename Op::State state;
      if constexpr (K == 0)
        state = join_window<Op, N>(s, op, image, row, at.column);
      else
        state = join_square<Op, N, K>(s, op, image, row, at.column);
      op.store(s, place_of<N>(s, at, row), row, at.column, I(0), state);
    }
  }
}

// ---- contiguous planes, windows of 2 x 2 side by side -------------------------------------------

// 2 N columns of two rows, read as one pack each, hold N windows: the Op's channels. The walk's lanes are
// the windows of a row, N at a time.
template <class Op, class T, int N, class I>
__global__ void __launch_bounds__(threads, 1) pairs_kernel(Shape<I> s, Walk<I> walk, const T* __restrict__ x, Op op) {
  I number = thread_number<I>();
  if (number >= walk.count) return;
  Spot<I> at = walk.spot(number);
  const T* from = x + at.image * s.in + 2 * at.row * s.columns.size + 2 * N * at.lane;
  Pack<T, 2 * N> rows[2] = {load_pack<2 * N>(from), load_pack<2 * N>(from + s.columns.size)};
  typename Op::State state = op.start(0);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      Pack<T, N> entries;
#pragma unroll
      for (int i = 0; i < N; ++i) entries.v[i] = rows[r].v[2 * i + c];
      Op::add(state, entries, 2 * r + c);
    }
    Op::end_row(state);
  }
  op.store(s, place_of<N>(s, at, at.row), at.row, at.lane * N, I(1), state);
}

// ---- launchers ----------------------------------------------------------------------------------

// Op: a template over the element type, the channels of a thread and the index type. `to` is what it
// writes to: to.at(image, shape's out) is the same from another image on; to.aligned() whether packs fit.
template <template <class, int, class> class Op, class T, int N, int K, bool Slides, class I, bool Deep = false,
          class To>
void launch_forward(const PoolParams& p, const T* x, const To& to) {
  Shape<I, Deep> s = shape_of<I, Deep>(p);
  // Several windows to a thread where that leaves enough threads to keep the memory busy.
  bool overlap = Slides || (p.rows.kernel > p.rows.stride && !p.rows.adaptive);
  int64_t outputs = images_of(p) * s.out / N;
  int64_t depth = overlap && outputs / 4 >= int64_t{1024} * multiprocessors(p.place) ? 4 : 1;
  for_images<I>(images_of(p), ceil_div(p.slices.out * p.rows.out, depth), p.columns.out, s.channels / N,
                [&](const Walk<I>& walk, int64_t first) {
                  launch(forward_kernel<Op<T, N, I>, T, N, K, Slides, I, Deep>, grid_for(walk.count, threads), threads,
                         0, p.place, s, walk, static_cast<I>(depth), x + first * s.in,
                         Op<T, N, I>(p, to.at(first * s.out)));
                });
}

template <template <class, int, class> class Op, class T, int N, class To>
void launch_pairs(const PoolParams& p, const T* x, const To& to) {
  Shape<int32_t> s = shape_of<int32_t>(p);
  for_images<int32_t>(images_of(p), p.rows.out, 1, p.columns.out / N, [&](const Walk<int32_t>& walk, int64_t first) {
    launch(pairs_kernel<Op<T, N, int32_t>, T, N, int32_t>, grid_for(walk.count, threads), threads, 0, p.place, s, walk,
           x + first * s.in, Op<T, N, int32_t>(p, to.at(first * s.out)));
  });
}

// Whether a contiguous plane is tiled by windows of 2 x 2 whose rows begin where packs of 2 columns may.
inline bool is_pairs(const PoolParams& p) {
  auto fits = [](const PoolAxis& a) { return a.padding == 0 && 2 * a.out <= a.size; };
  return channels_of(p) == 1 && is_square(p, 2, 2) && fits(p.rows) && fits(p.columns) && p.columns.size % 2 == 0;
}

// The kernel for a window's size, N channels to a thread.
template <template <class, int, class> class Op, class T, int N, class To>
void forward_by_size(const PoolParams& p, const T* x, const To& to) {
  bool special = N > 1 || channels_of(p) == 1;
  if (is_deep(p)) return launch_forward<Op, T, N, 0, false, int32_t, true>(p, x, to);
  if (special && is_square(p, 3, 0) && p.rows.stride == 1)
    launch_forward<Op, T, N, 3, true, int32_t>(p, x, to);
  else if (special && is_square(p, 3, 0))
    launch_forward<Op, T, N, 3, false, int32_t>(p, x, to);
  else if (special && is_square(p, 2, 0))
    launch_forward<Op, T, N, 2, false, int32_t>(p, x, to);
  else
    launch_forward<Op, T, N, 0, false, int32_t>(p, x, to);
}

template <template <class, int, class> class Op, class T, class To>
void forward(const PoolParams& p, const T* x, const To& to) {
  constexpr int N = pack_size<T>;
  bool aligned = aligned16(x) && to.aligned();
  if (!fits_32(p))
    is_deep(p) ? launch_forward<Op, T, 1, 0, false, int64_t, true>(p, x, to)
               : launch_forward<Op, T, 1, 0, false, int64_t>(p, x, to);
  else if (aligned && is_pairs(p) && p.columns.size % N == 0)
    launch_pairs<Op, T, N / 2>(p, x, to);
  else if (aligned && is_pairs(p))
    launch_pairs<Op, T, 1>(p, x, to);
  else if (aligned && channels_of(p) % N == 0)
    forward_by_size<Op, T, N>(p, x, to);
  else
    forward_by_size<Op, T, 1>(p, x, to);
}

}  // namespace
}  // namespace arraynn::cuda
