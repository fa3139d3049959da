// Winograd's F(4x4, 3x3) and F(2x2, 5x5) (Winograd 1980; Lavin and Gray, Fast Algorithms for Convolutional Neural
// Networks, 2016): four by four outputs of a 3x3 kernel, or two by two of a 5x5 one, from six by six inputs with 36
// products instead of 144 or 100. And F(4, 3) and F(2, 5) along rows, for kernels of one row: 6 products instead of 12
// or 10.
//   Y = A^T [(G g G^T) * (B^T d B)] A, or y = A^T [(G g) * (B^T d)]
// interpolates at the points 0, 1, -1, 2, -2 and infinity, whichever of the two it is: row k of A^T has their k-th
// powers, column k of G the same over the product of a point's distances to the others, 4, -6, -6, 24 and 24. Here are
// the transforms along one axis for a kernel of K; all work on vectors whose lanes are channels.
#pragma once
#include "core/environment.h"
#include "cpu/conv/lines.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

constexpr int tile_points = 6;
template <int K>
constexpr int tile_outputs = tile_points + 1 - K;

// A kernel of Size taps along each of its axes: rows and columns, or columns alone.
template <int Size, int Axes>
struct Kernel {
  static constexpr int size = Size, axes = Axes, high = Axes == 2 ? Size : 1, taps = high * Size;
  // of a tile, along rows, and what it has of rows
  static constexpr int outputs = tile_outputs<Size>, output_rows = Axes == 2 ? outputs : 1;
  static constexpr int64_t points = Axes == 2 ? tile_points * tile_points : tile_points;
};
constexpr int64_t most_bytes = 48 << 20;  // of scratch for all points of the kernel, or of the inputs

template <class T>
struct InputPoints {  // B^T d, for any K
  static constexpr int from = tile_points, to = tile_points;
  ARRAYNN_INLINE static void apply(const vec<T> (&d)[from], vec<T> (&v)[to]) {
    const vec<T> two = broadcast<T>(2), four = broadcast<T>(4), five = broadcast<T>(5);
    vec<T> even = fma(-four, d[2], d[4]), odd = fma(-four, d[1], d[3]);
    vec<T> far = d[4] - d[2], wide = two * (d[3] - d[1]);
    v[0] = fma(four, d[0], fma(-five, d[2], d[4]));
    v[1] = even + odd;
    v[2] = even - odd;
    v[3] = far + wide;
    v[4] = far - wide;
    v[5] = fma(four, d[1], fma(-five, d[3], d[5]));
  }
};

// Sums of what has an even index and an odd one, weighted with the powers of 1 and 2.
template <class T>
struct Powers {
  vec<T> even1, odd1, even2, odd2;
};
template <class T, int N>
ARRAYNN_INLINE Powers<T> powers_of(const vec<T> (&x)[N]) {
  Powers<T> p{x[0], x[1], x[0], broadcast<T>(2) * x[1]};
  static_for<N - 2>([&](auto i) ARRAYNN_LAMBDA {
    constexpr int k = i + 2;
    vec<T>&one = k % 2 ? p.odd1 : p.even1, &two = k % 2 ? p.odd2 : p.even2;
    one += x[k];
    two = fma(broadcast<T>(T(1 << k)), x[k], two);
  });
  return p;
}

template <class T, int K>
struct KernelPoints {  // G g
  static constexpr int from = K, to = tile_points;
  ARRAYNN_INLINE static void apply(const vec<T> (&g)[from], vec<T> (&u)[to]) {
    const vec<T> sixth = broadcast<T>(T(1) / 6), part = broadcast<T>(T(1) / 24);
    Powers<T> p = powers_of<T>(g);
    u[0] = broadcast<T>(T(0.25)) * g[0];
    u[1] = -sixth * (p.even1 + p.odd1);
    u[2] = -sixth * (p.even1 - p.odd1);
    u[3] = part * (p.even2 + p.odd2);
    u[4] = part * (p.even2 - p.odd2);
    u[5] = g[K - 1];
  }
};

template <class T, int K>
struct Outputs {  // A^T m
  static constexpr int from = tile_points, to = tile_outputs<K>;
  ARRAYNN_INLINE static void apply(const vec<T> (&m)[from], vec<T> (&y)[to]) {
    vec<T> sum1 = m[1] + m[2], diff1 = m[1] - m[2], sum2 = m[3] + m[4], diff2 = m[3] - m[4];
    y[0] = m[0] + sum1 + sum2;
    static_for<to - 1>([&](auto i) ARRAYNN_LAMBDA {
      constexpr int k = i + 1;
      y[k] = fma(broadcast<T>(T(1 << k)), k % 2 ? diff2 : sum2, k % 2 ? diff1 : sum1);
    });
    y[to - 1] += m[5];
  }
};

// The transposes of those two, for the gradient in the kernel.
template <class T, int K>
struct CotangentPoints {  // A dy
  static constexpr int from = tile_outputs<K>, to = tile_points;
  ARRAYNN_INLINE static void apply(const vec<T> (&y)[from], vec<T> (&w)[to]) {
    Powers<T> p = powers_of<T>(y);
    w[0] = y[0];
    w[1] = p.even1 + p.odd1;
    w[2] = p.even1 - p.odd1;
    w[3] = p.even2 + p.odd2;
    w[4] = p.even2 - p.odd2;
    w[5] = y[from - 1];
  }
};

template <class T, int K>
struct KernelGradient {  // G^T du
  static constexpr int from = tile_points, to = K;
  ARRAYNN_INLINE static void apply(const vec<T> (&u)[from], vec<T> (&g)[to]) {
    const vec<T> sixth = broadcast<T>(T(1) / 6), part = broadcast<T>(T(1) / 24);
    vec<T> sum1 = sixth * (u[1] + u[2]), diff1 = sixth * (u[1] - u[2]);
    vec<T> sum2 = part * (u[3] + u[4]), diff2 = part * (u[3] - u[4]);
    g[0] = fma(broadcast<T>(T(0.25)), u[0], sum2 - sum1);
    static_for<K - 1>([&](auto i) ARRAYNN_LAMBDA {
      constexpr int k = i + 1;
      g[k] = fma(broadcast<T>(T(1 << k)), k % 2 ? diff2 : sum2, -(k % 2 ? diff1 : sum1));
    });
    g[K - 1] += u[5];
  }
};

// A transform along one axis or both: read(row, col) gives vectors, write(row, col, vector) takes them.
template <class T, class Transform, int Axes, class Read, class Write>
ARRAYNN_INLINE void transformed(const Read& read, const Write& write) {
  constexpr int from = Transform::from, to = Transform::to;
  if constexpr (Axes == 1) {
    constexpr std::integral_constant<int, 0> row{};
    vec<T> line[from], found[to];
    static_for<from>([&](auto col) ARRAYNN_LAMBDA { line[col] = read(row, col); });
    Transform::apply(line, found);
    static_for<to>([&](auto col) ARRAYNN_LAMBDA { write(row, col, found[col]); });
    return;
  }
  vec<T> half[to][from];
  static_for<from>([&](auto col) ARRAYNN_LAMBDA {
    vec<T> line[from], found[to];
    static_for<from>([&](auto row) ARRAYNN_LAMBDA { line[row] = read(row, col); });
    Transform::apply(line, found);
    static_for<to>([&](auto row) ARRAYNN_LAMBDA { half[row][col] = found[row]; });
  });
  static_for<to>([&](auto row) ARRAYNN_LAMBDA {
    vec<T> found[to];
    Transform::apply(half[row], found);
    static_for<to>([&](auto col) ARRAYNN_LAMBDA { write(row, col, found[col]); });
  });
}

// Whether a convolution is of the kind that the algorithm is for. With few channels the transforms cost as much as
// the products that they save.
template <class T>
ARRAYNN_INLINE bool is_winograd(const ConvParams& p) {
  if (!winograd_allowed() || std::min(p.in_channels, p.out_channels) / p.groups < std::max(8, lanes<T>)) return false;
  auto is_dense = [](const ConvAxis& a) { return a.stride == 1 && a.dilation == 1; };
  bool fits = (p.h.kernel == p.w.kernel || p.h.kernel == 1) && (p.w.kernel == 3 || p.w.kernel == 5);
  // with padding, the one slice of the output may be none of the input's
  bool plane = p.d.kernel == 1 && p.d.in == 1 && p.d.out == 1 && p.d.before == 0;
  return plane && fits && is_dense(p.h) && is_dense(p.w);
}

// ---- tiles ---------------------------------------------------------------------------------------------

// The grid of outputs in tiles, counted image by image, row by row.
struct TileGrid {
  int64_t batch, high, wide;  // tiles of an image
  int64_t count() const { return batch * high * wide; }
};

template <class K>
TileGrid tile_grid(int64_t batch, const Triple& grid) {
  return {batch, ceil_div(grid.h, K::output_rows), ceil_div(grid.w, K::outputs)};
}

// f(Kernel) for one of 3 or 5 columns and as many rows, or one.
template <class F>
ARRAYNN_INLINE void with_kernel(int64_t rows, int64_t columns, const F& f) {
  if (rows == 1)
    columns == 3 ? f(Kernel<3, 1>{}) : f(Kernel<5, 1>{});
  else
    columns == 3 ? f(Kernel<3, 2>{}) : f(Kernel<5, 2>{});
}

// Neighbours in one row of tiles.
struct TileRun {
  int64_t image, row, col, count;
};
// f(at, run) for the runs among tiles [begin, end), the first of a run being tile begin + at.
template <class F>
ARRAYNN_INLINE void for_tile_runs(const TileGrid& t, int64_t begin, int64_t end, const F& f) {
  for (int64_t at = begin; at < end;) {
    int64_t line = at / t.wide, col = at % t.wide, count = std::min(t.wide - col, end - at);
    f(at - begin, TileRun{line / t.high, line % t.high, col, count});
    at += count;
  }
}

// The points of tiles [begin, end), those of a channel in a lane: point p of tile begin + i goes to
// to + p * point_step + i * tile_step. Tile (0, 0) of an image begins at its pixel (top, left).
template <class T, class K, class Transform>
void points_of(const Images<T>& images, const TileGrid& tiles, int64_t begin, int64_t end, int64_t top, int64_t left,
               T* lines, int64_t line_step, T* to, int64_t tile_step, int64_t point_step) {
  constexpr int V = lanes<T>, size = Transform::from, step = K::outputs, rows = K::axes == 2 ? size : 1;
  for_tile_runs(tiles, begin, end, [&](int64_t at, const TileRun& run) {
    read_lines(images, run.image, run.row * K::output_rows + top, run.col * step + left, rows,
               (run.count - 1) * step + size, lines, line_step);
    for (int64_t i = 0; i < run.count; ++i) {
      const T* from = lines + i * step * V;
      T* first = to + (at + i) * tile_step;
      transformed<T, Transform, K::axes>(
          [&](auto row, auto col) ARRAYNN_LAMBDA { return load(from + row * line_step + col * V); },
          [&](auto row, auto col, vec<T> value)
              ARRAYNN_LAMBDA { store(first + (row * tile_points + col) * point_step, value); });
    }
  });
}

// Elements between the lines of a buffer for the pixels of `count` neighbouring tiles.
template <class T, class K>
int64_t line_elements(int64_t count) {
  return round_up(count * K::outputs + K::size - 1, lanes<T>) * lanes<T>;
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
