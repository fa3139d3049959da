// Depthwise convolution of channels-last images, one output channel for each input channel: lanes are channels. The
// contiguous ones go by planes.cpp.
#include "cpu/conv/taps.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

// A tap whose row lies inside the image, for one row of outputs.
template <class T>
struct RowTap {
  const T *row, *weights;
  int64_t dx;
};

constexpr int most_taps = 64;  // at a time; larger kernels add to what is there
constexpr int tile_pixels = 4;

// The columns that find all taps of a row inside the image.
template <class T>
Columns inner_columns(const Gather<T>& g, const RowTap<T>* taps, int count) {
  Columns inner{0, g.grid.w};
  for (int t = 0; t < count; ++t) {
    Columns its = columns_of(g, taps[t].dx);
    inner = {std::max(inner.begin, its.begin), std::min(inner.end, its.end)};
  }
  return {inner.begin, std::max(inner.begin, inner.end)};
}

// `Pixels` neighbours, all channels, taps all inside; weights lie as (tap, channel).
template <class T, int Pixels>
void tile(const Gather<T>& g, const RowTap<T>* taps, int count, int64_t col, bool add, T* out) {
  int64_t step = g.stride.w * g.in_strides.w;
  for_vectors<T>(g.groups, [&](int64_t c, auto n) ARRAYNN_LAMBDA {
    vec<T> acc[Pixels];
    vec<T> bias = g.bias ? load_count(g.bias + c, n) : vec<T>{};
    static_for<Pixels>([&](auto p)
                           ARRAYNN_LAMBDA { acc[p] = add ? load_count(out + p * g.out_strides.w + c, n) : bias; });
    for (int t = 0; t < count; ++t) {
      vec<T> weight = load_count(taps[t].weights + c, n);
      const T* from = taps[t].row + taps[t].dx * g.in_strides.w + col * step + c;
      static_for<Pixels>([&](auto p) ARRAYNN_LAMBDA { acc[p] = fma(load_count(from + p * step, n), weight, acc[p]); });
    }
    static_for<Pixels>([&](auto p) ARRAYNN_LAMBDA { store_count(out + p * g.out_strides.w + c, acc[p], n); });
  });
}

// A pixel at the image's edge.
template <class T>
void edge(const Gather<T>& g, const RowTap<T>* taps, int count, int64_t col, bool add, T* out) {
  RowTap<T> inside[most_taps];
  int found = 0;
  for (int t = 0; t < count; ++t) {
    int64_t x = col * g.stride.w + taps[t].dx;
    if (x >= 0 && x < g.size.w) inside[found++] = taps[t];
  }
  tile<T, 1>(g, inside, found, col, add, out);
}

// Brings nearer what a tile of the next row reads for the first time and writes: its channels' lines are too scattered
// for the processor to foresee.
template <class T>
void prefetch_next_row(const Gather<T>& g, const T* in, int64_t slice, int64_t row, int64_t col, const T* out) {
  int64_t z = slice * g.stride.d + g.high.d, pixels = tile_pixels * g.stride.w;
  constexpr int64_t size = sizeof(T);
  if (row + 1 < g.grid.h)
    prefetch_part<1>(out + g.out_strides.h + col * g.out_strides.w, tile_pixels * g.out_strides.w * size, 0, 1);
  for (int64_t s = 1; s <= g.stride.h; ++s) {
    int64_t y = row * g.stride.h + g.high.h + s;
    if (z < 0 || z >= g.size.d || y < 0 || y >= g.size.h) continue;
    const T* from = in + z * g.in_strides.d + y * g.in_strides.h + col * g.stride.w * g.in_strides.w;
    prefetch_part(from, pixels * g.in_strides.w * size, 0, 1);
  }
}

template <class T>
void row_of_pixels(const Gather<T>& g, const T* in, const T* weights, int64_t slice, int64_t row, T* out) {
  int64_t first = 0;
  do {
    RowTap<T> taps[most_taps];
    int count = 0;
    int64_t end = std::min<int64_t>(g.tap_count, first + most_taps);
    for (int64_t t = first; t < end; ++t) {
      const Triple& o = g.taps[t].offset;
      int64_t z = slice * g.stride.d + o.d, y = row * g.stride.h + o.h;
      if (z < 0 || z >= g.size.d || y < 0 || y >= g.size.h) continue;
      taps[count++] = {in + z * g.in_strides.d + y * g.in_strides.h, weights + t * g.groups, o.w};
    }
    Columns inner = inner_columns(g, taps, count);
    int64_t col = 0;
    auto at = [&](int64_t c) { return out + c * g.out_strides.w; };
    for (; col < std::min(inner.begin, g.grid.w); ++col) edge(g, taps, count, col, first > 0, at(col));
    for (; col + tile_pixels <= inner.end; col += tile_pixels) {
      if (first == 0) prefetch_next_row(g, in, slice, row, col, out);
      tile<T, tile_pixels>(g, taps, count, col, first > 0, at(col));
    }
    for (; col < g.grid.w; ++col) edge(g, taps, count, col, first > 0, at(col));
    first = end;
  } while (first < g.tap_count);
}

}  // namespace

template <class T>
int64_t gather_depthwise_scratch(const Gather<T>& g) {
  return g.groups * g.tap_count;
}
template int64_t gather_depthwise_scratch(const Gather<float>&);
template int64_t gather_depthwise_scratch(const Gather<double>&);

template <class T>
void gather_depthwise(const Gather<T>& g, T* weights) {
  for (int64_t t = 0; t < g.tap_count; ++t)
    for (int64_t c = 0; c < g.groups; ++c) weights[t * g.groups + c] = g.weight[c * g.w_group + g.taps[t].weight];
  int64_t rows = g.grid.d * g.grid.h;
  parallel_for(g.batch * rows, [&](int64_t index, int) {
    int64_t image = index / rows, slice = index % rows / g.grid.h, row = index % g.grid.h;
    row_of_pixels(g, g.in + image * g.in_strides.n, weights, slice, row,
                  g.out + image * g.out_strides.n + slice * g.out_strides.d + row * g.out_strides.h);
  });
}
template void gather_depthwise(const Gather<float>&, float*);
template void gather_depthwise(const Gather<double>&, double*);

}  // namespace arraynn::cpu::ARRAYNN_ISA
