// Depthwise convolution of channels-last images, one output channel for each input channel: lanes are channels. A tile
// is some neighbouring pixels, of which a vector of the input serves all that it is a tap of.
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

// The taps from the least offset on: an input's gradient has them the other way round.
template <class T>
const Tap& tap_at(const Gather<T>& g, int64_t t) {
  return g.taps[g.taps[0].offset.w > g.taps[g.tap_count - 1].offset.w ? g.tap_count - 1 - t : t];
}

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

// Kernels whose rows have so many columns side by side, and strides, with a tile of their own.
template <class T>
bool is_grid(const Gather<T>& g) {
  int64_t columns = g.high.w - g.low.w + 1;
  bool known = (columns == 3 || columns == 5 || columns == 7) && g.tap_count <= most_taps && g.stride.w <= 2;
  if (!known || g.tap_count % columns) return false;
  for (int64_t t = 0; t < g.tap_count; ++t)
    if (tap_at(g, t).offset.w != g.low.w + t % columns) return false;
  return true;
}

// f(columns, stride), as constants.
template <class T, class F>
void with_grid(const Gather<T>& g, const F& f) {
  auto with_columns = [&](auto stride) {
    switch (g.high.w - g.low.w + 1) {
      case 3: return f(std::integral_constant<int, 3>{}, stride);
      case 5: return f(std::integral_constant<int, 5>{}, stride);
      default: return f(std::integral_constant<int, 7>{}, stride);
    }
  };
  if (g.stride.w == 1)
    with_columns(std::integral_constant<int, 1>{});
  else
    with_columns(std::integral_constant<int, 2>{});
}

constexpr int grid_pixels = 8;
template <int Columns>
constexpr int pixels_of = Columns == 7 ? 6 : grid_pixels;  // for the registers

// Neighbours whose taps are all inside; `count` is a multiple of the kernel's columns.
template <class T, int Columns, int Stride>
void grid_tile(const Gather<T>& g, const RowTap<T>* taps, int count, int64_t col, const NextRow<T>& next, T* out) {
  constexpr int pixels = pixels_of<Columns>;
  int64_t step = g.in_strides.w, out_step = g.out_strides.w, first = g.low.w + col * Stride;
  for_vectors<T>(g.groups, [&](int64_t c, auto n) ARRAYNN_LAMBDA {
    next.template prefetch<pixels * Stride, pixels>(c, step, out_step);
    vec<T> acc[pixels], bias = g.bias ? load_count(g.bias + c, n) : vec<T>{};
    static_for<pixels>([&](auto p) ARRAYNN_LAMBDA { acc[p] = bias; });
    for (int t = 0; t < count; t += Columns) {
      vec<T> weight[Columns];
      static_for<Columns>([&](auto s)
                              ARRAYNN_LAMBDA { weight[s] = load_count(taps[t].weights + s * g.groups + c, n); });
      const T* from = taps[t].row + first * step + c;
      static_for<(pixels - 1) * Stride + Columns>([&](auto i) ARRAYNN_LAMBDA {
        vec<T> x = load_count(from + i * step, n);
        static_for<pixels>([&](auto p) ARRAYNN_LAMBDA {
          constexpr int s = i - p * Stride;
          if constexpr (s >= 0 && s < Columns) acc[p] = fma(x, weight[s], acc[p]);
        });
      });
    }
    static_for<pixels>([&](auto p) ARRAYNN_LAMBDA { store_count(out + p * out_step + c, acc[p], n); });
  });
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

template <class T>
void row_of_pixels(const Gather<T>& g, const T* in, const T* weights, int64_t slice, int64_t row, bool grid, T* out) {
  int64_t first = 0;
  do {
    RowTap<T> taps[most_taps];
    int count = 0;
    int64_t end = std::min<int64_t>(g.tap_count, first + most_taps);
    for (int64_t t = first; t < end; ++t) {
      const Triple& o = tap_at(g, t).offset;
      int64_t z = slice * g.stride.d + o.d, y = row * g.stride.h + o.h;
      if (z < 0 || z >= g.size.d || y < 0 || y >= g.size.h) continue;
      taps[count++] = {in + z * g.in_strides.d + y * g.in_strides.h, weights + t * g.groups, o.w};
    }
    Columns inner = inner_columns(g, taps, count);
    int64_t col = 0;
    auto at = [&](int64_t c) { return out + c * g.out_strides.w; };
    for (; col < std::min(inner.begin, g.grid.w); ++col) edge(g, taps, count, col, first > 0, at(col));
    if (grid && inner.end - inner.begin >= grid_pixels) {
      with_grid(g, [&](auto columns, auto stride) {
        constexpr int pixels = pixels_of<columns()>;
        for (; col < inner.end; col += pixels) {
          int64_t from = std::min(col, inner.end - pixels);  // the last one overlaps
          grid_tile<T, columns(), stride()>(g, taps, count, from, next_row(g, in, slice, row, from, out), at(from));
        }
      });
      col = inner.end;
    }
    for (; col + tile_pixels <= inner.end; col += tile_pixels)
      tile<T, tile_pixels>(g, taps, count, col, first > 0, at(col));
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
    for (int64_t c = 0; c < g.groups; ++c) weights[t * g.groups + c] = g.weight[c * g.w_group + tap_at(g, t).weight];
  int64_t rows = g.grid.d * g.grid.h;
  bool grid = is_grid(g);
  parallel_for(g.batch * rows, [&](int64_t index, int) {
    int64_t image = index / rows, slice = index % rows / g.grid.h, row = index % g.grid.h;
    row_of_pixels(g, g.in + image * g.in_strides.n, weights, slice, row, grid,
                  g.out + image * g.out_strides.n + slice * g.out_strides.d + row * g.out_strides.h);
  });
}
template void gather_depthwise(const Gather<float>&, float*);
template void gather_depthwise(const Gather<double>&, double*);

}  // namespace arraynn::cpu::ARRAYNN_ISA
