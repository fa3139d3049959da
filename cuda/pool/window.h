// Where windows lie, and how threads find theirs: what all kernels of pooling share.
//
// A contiguous array is a channels-last one of N * C images with one channel each, so that there is one
// kernel for both: element (row, column, channel) of an image lies at (row * W + column) * channels +
// channel, and a thread takes N channels next to each other as one pack. Neighbouring threads then read
// neighbouring packs, or in contiguous planes neighbouring columns.
//
// Index arithmetic inside an image is 32 bits wide (I) where everything fits, which the host checks once
// (fits_32); 64-bit kernels are the slow way out for images of more than 2^31 elements.
#pragma once
#include <type_traits>

#include "device/divide.h"
#include "dispatch.h"
#include "kernels.h"

namespace arraynn::cuda {
namespace {

constexpr int threads = 256;

// ---- one axis -----------------------------------------------------------------------------------

template <class I>
struct Axis {
  I size, out, kernel, stride, padding, dilation;
  bool adaptive;
  Divider<I> by_size, by_out, by_stride, by_dilation;
};

// The axis with a stride and a dilation that step out of the input at once brought down to the least
// that does: sums stay small, and windows hold the same entries.
inline PoolAxis tamed(PoolAxis a) {
  if (a.adaptive) return a;
  a.stride = std::min(a.stride, a.size + a.padding);
  a.dilation = a.kernel == 1 ? 1 : std::min(a.dilation, a.size + a.padding);
  return a;
}

template <class I>
Axis<I> axis_of(const PoolAxis& whole) {
  PoolAxis a = tamed(whole);
  auto divider = [](int64_t by) { return Divider<I>(std::max<int64_t>(by, 1)); };
  return {static_cast<I>(a.size),
          static_cast<I>(a.out),
          static_cast<I>(a.kernel),
          static_cast<I>(a.stride),
          static_cast<I>(a.padding),
          static_cast<I>(a.dilation),
          a.adaptive,
          divider(a.size),
          divider(a.out),
          divider(a.stride),
          divider(a.dilation)};
}

// Taps [first, last) of a window lie in the input, tap k at entry start + k * dilation.
template <class I>
struct Taps {
  I start, first, last;
};

template <class I>
__device__ __forceinline__ Taps<I> taps_of(const Axis<I>& a, I o) {
  if (a.adaptive) {
    I begin = a.by_out.divide(o * a.size), end = a.by_out.divide((o + 1) * a.size + a.out - 1);
    return {begin, 0, end - begin};
  }
  I start = o * a.stride - a.padding, room = a.size - start;
  I first = start < 0 ? a.by_dilation.divide(a.dilation - 1 - start) : 0;
  I last = room > 0 ? min(a.by_dilation.divide(room + a.dilation - 1), a.kernel) : 0;
  return {start, min(first, last), last};
}

// Where window o starts.
template <class I>
__device__ __forceinline__ I start_of(const Axis<I>& a, I o) {
  return a.adaptive ? a.by_out.divide(o * a.size) : o * a.stride - a.padding;
}

template <class I>
__device__ __forceinline__ bool is_inside(I size, I i) {
  using Unsigned = std::make_unsigned_t<I>;
  return static_cast<Unsigned>(i) < static_cast<Unsigned>(size);
}

// Windows [first, last) may hold entry i; with dilation, not all of them do.
template <class I>
struct Over {
  I first, last;
};

template <class I>
__device__ __forceinline__ Over<I> windows_over(const Axis<I>& a, I i) {
  if (a.adaptive) return {a.by_size.divide(i * a.out), a.by_size.divide((i + 1) * a.out + a.size - 1)};
  I at = i + a.padding, early = at - (a.kernel - 1) * a.dilation;
  return {early <= 0 ? 0 : a.by_stride.divide(early - 1) + 1, min(a.by_stride.divide(at) + 1, a.out)};
}

// The tap by which window o, one of those over i, holds entry i, or -1.
template <class I>
__device__ __forceinline__ I tap_at(const Axis<I>& a, I o, I i) {
  if (a.adaptive) return i - start_of(a, o);
  I distance = i + a.padding - o * a.stride, tap = a.by_dilation.divide(distance);
  return tap * a.dilation == distance ? tap : -1;
}

// ---- all of the input ---------------------------------------------------------------------------

// Rows of a volume are counted through all its slices. What differs where there are slices stands here, so
// that kernels for planes have nothing of it: a plane is the one slice, and under all windows.
template <class I, bool Deep = false>
struct Shape {
  Axis<I> rows, columns;
  I channels;       // from one column to the next
  int64_t in, out;  // elements of an image of the input and of the output
};
template <class I>
struct Shape<I, true> : Shape<I> {
  Axis<I> slices;
};

template <class I>
struct Position {
  I slice, row;
};

template <class I>
__device__ __forceinline__ I output_rows(const Shape<I>& s) {
  return s.rows.out;
}
template <class I>
__device__ __forceinline__ I output_rows(const Shape<I, true>& s) {
  return s.slices.out * s.rows.out;
}

template <class I>
__device__ __forceinline__ Position<I> output_line(const Shape<I>&, I row) {
  return {0, row};
}
template <class I>
__device__ __forceinline__ Position<I> output_line(const Shape<I, true>& s, I row) {
  I slice = s.rows.by_out.divide(row);
  return {slice, row - slice * s.rows.out};
}

template <class I>
__device__ __forceinline__ Position<I> input_line(const Shape<I>&, I row) {
  return {0, row};
}
template <class I>
__device__ __forceinline__ Position<I> input_line(const Shape<I, true>& s, I row) {
  I slice = s.rows.by_size.divide(row);
  return {slice, row - slice * s.rows.size};
}

template <class I>
__device__ __forceinline__ Taps<I> slice_taps(const Shape<I>&, I) {
  return {0, 0, 1};
}
template <class I>
__device__ __forceinline__ Taps<I> slice_taps(const Shape<I, true>& s, I slice) {
  return taps_of(s.slices, slice);
}

// The slice of the input that tap d of windows that start at slice `start` is.
template <class I>
__device__ __forceinline__ I slice_at(const Shape<I>&, I, I) {
  return 0;
}
template <class I>
__device__ __forceinline__ I slice_at(const Shape<I, true>& s, I start, I d) {
  return start + d * s.slices.dilation;
}

template <class I>
__device__ __forceinline__ Over<I> slices_over(const Shape<I>&, I) {
  return {0, 1};
}
template <class I>
__device__ __forceinline__ Over<I> slices_over(const Shape<I, true>& s, I slice) {
  return windows_over(s.slices, slice);
}

template <class I>
__device__ __forceinline__ I slice_tap_at(const Shape<I>&, I, I) {
  return 0;
}
template <class I>
__device__ __forceinline__ I slice_tap_at(const Shape<I, true>& s, I o, I slice) {
  return tap_at(s.slices, o, slice);
}

inline int64_t channels_of(const PoolParams& p) { return p.layout == Layout::channels_last ? p.channels : 1; }
inline int64_t images_of(const PoolParams& p) {
  return p.layout == Layout::channels_last ? p.batch : p.batch * p.channels;
}

inline bool is_deep(const PoolParams& p) { return p.dims == 3; }

template <class I, bool Deep = false>
Shape<I, Deep> shape_of(const PoolParams& p) {
  int64_t channels = channels_of(p), in = p.slices.size * p.rows.size * p.columns.size * channels;
  int64_t out = p.slices.out * p.rows.out * p.columns.out * channels;
  Shape<I> shape{axis_of<I>(p.rows), axis_of<I>(p.columns), static_cast<I>(channels), in, out};
  if constexpr (Deep)
    return {shape, axis_of<I>(p.slices)};
  else
    return shape;
}

constexpr int64_t most_32 = (int64_t{1} << 31) - 4096;  // numbers of threads too, with the rest of a block

// Whether all places in an image, and all that they are computed from, fit in 32 bits.
inline bool fits_32(const PoolParams& p) {
  auto reach = [](const PoolAxis& axis) {
    PoolAxis a = tamed(axis);
    if (a.adaptive) return (static_cast<__int128>(a.out) + 1) * (a.size + 1);
    return static_cast<__int128>(a.kernel - 1) * a.dilation + a.size + a.padding + a.dilation +
           static_cast<__int128>(a.out + 1) * a.stride;
  };
  auto product = [](int64_t slices, int64_t rows, int64_t columns, int64_t channels) {
    __int128 all = 1;
    for (int64_t n : {slices, rows, columns, channels}) all = std::min<__int128>(all * n, most_32 + 1);
    return all;
  };
  int64_t channels = channels_of(p);
  return std::max({reach(p.slices), reach(p.rows), reach(p.columns),
                   product(p.slices.kernel, p.rows.kernel, p.columns.kernel, 1),
                   product(p.slices.size, p.rows.size, p.columns.size, channels),
                   product(p.slices.out, p.rows.out, p.columns.out, channels)}) <= most_32;
}

// One window over all of a volume.
inline bool is_whole(const PoolParams& p) {
  auto covers = [](const PoolAxis& a) {
    return a.out == 1 && (a.adaptive || (a.dilation == 1 && a.padding == 0 && a.kernel >= a.size));
  };
  return covers(p.slices) && covers(p.rows) && covers(p.columns);
}

// ---- threads ------------------------------------------------------------------------------------

// What a thread works on: a part of a row, which the kernel says more of, in an image.
template <class I>
struct Spot {
  I image, row, column, lane;
};

// Threads are numbered by image, row, column and lane, lanes fastest.
template <class I>
struct Walk {
  I count;
  Divider<I> rows, columns, lanes;

  // Contiguous: lanes are 1.
  template <bool Contiguous = false>
  __device__ __forceinline__ Spot<I> spot(I number) const {
    I lane = Contiguous ? 0 : divide_off(number, lanes), column = divide_off(number, columns),
      row = divide_off(number, rows);
    return {number, row, column, lane};
  }
};

template <class I>
__device__ __forceinline__ I thread_number() {
  return static_cast<I>(blockIdx.x) * static_cast<I>(threads) + static_cast<I>(threadIdx.x);
}

// Whether both axes of planes have windows of this size, and of this stride if it is not 0, without dilation.
inline bool is_square(const PoolParams& p, int64_t kernel, int64_t stride) {
  auto fits = [&](const PoolAxis& a) {
    return !a.adaptive && a.kernel == kernel && a.dilation == 1 && (stride == 0 || a.stride == stride);
  };
  return !is_deep(p) && fits(p.rows) && fits(p.columns);
}

// f(walk, first image) for parts of the images that a launch can number.
template <class I, class F>
void for_images(int64_t images, int64_t rows, int64_t columns, int64_t lanes, const F& f) {
  int64_t each = rows * columns * lanes;
  if (each == 0) return;
  int64_t most = std::max<int64_t>((sizeof(I) == 4 ? most_32 : most_32 * threads) / each, 1);
  for (int64_t first = 0; first < images; first += most) {
    int64_t count = std::min(most, images - first);
    f(Walk<I>{static_cast<I>(count * each), Divider<I>(rows), Divider<I>(columns), Divider<I>(lanes)}, first);
  }
}

}  // namespace
}  // namespace arraynn::cuda
