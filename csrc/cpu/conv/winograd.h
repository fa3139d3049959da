// Winograd's F(4x4, 3x3) (Winograd 1980; Lavin and Gray, Fast Algorithms for Convolutional Neural Networks,
// 2016): four by four outputs of a 3x3 kernel from six by six inputs with 36 products instead of 144.
//   Y = A^T [(G g G^T) * (B^T d B)] A
// interpolates at the points 0, 1, -1, 2, -2 and infinity. Here are the transforms along one axis; all work on
// vectors whose lanes are channels.
#pragma once
#include "core/environment.h"
#include "cpu/conv/lines.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

constexpr int tile_outputs = 4, tile_points = 6, tile_kernel = 3;
constexpr int64_t all_points = tile_points * tile_points;
constexpr int64_t most_bytes = 48 << 20;  // of scratch for what is as large as the kernel

template <class T>
struct InputPoints {  // B^T d
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

template <class T>
struct KernelPoints {  // G g
  static constexpr int from = tile_kernel, to = tile_points;
  ARRAYNN_INLINE static void apply(const vec<T> (&g)[from], vec<T> (&u)[to]) {
    const vec<T> sixth = broadcast<T>(T(1) / 6), part = broadcast<T>(T(1) / 24);
    vec<T> ends = -sixth * (g[0] + g[2]), middle = sixth * g[1];
    vec<T> outer = part * fma(broadcast<T>(4), g[2], g[0]), half = part * (g[1] + g[1]);
    u[0] = broadcast<T>(T(0.25)) * g[0];
    u[1] = ends - middle;
    u[2] = ends + middle;
    u[3] = outer + half;
    u[4] = outer - half;
    u[5] = g[2];
  }
};

template <class T>
struct Outputs {  // A^T m
  static constexpr int from = tile_points, to = tile_outputs;
  ARRAYNN_INLINE static void apply(const vec<T> (&m)[from], vec<T> (&y)[to]) {
    vec<T> sum1 = m[1] + m[2], diff1 = m[1] - m[2], sum2 = m[3] + m[4], diff2 = m[3] - m[4];
    y[0] = m[0] + sum1 + sum2;
    y[1] = fma(broadcast<T>(2), diff2, diff1);
    y[2] = fma(broadcast<T>(4), sum2, sum1);
    y[3] = fma(broadcast<T>(8), diff2, diff1) + m[5];
  }
};

// The transposes of those two, for the gradient in the kernel.
template <class T>
struct CotangentPoints {  // A dy
  static constexpr int from = tile_outputs, to = tile_points;
  ARRAYNN_INLINE static void apply(const vec<T> (&y)[from], vec<T> (&w)[to]) {
    const vec<T> four = broadcast<T>(4);
    vec<T> even = y[0] + y[2], odd = y[1] + y[3];
    vec<T> even2 = fma(four, y[2], y[0]), odd2 = broadcast<T>(2) * fma(four, y[3], y[1]);
    w[0] = y[0];
    w[1] = even + odd;
    w[2] = even - odd;
    w[3] = even2 + odd2;
    w[4] = even2 - odd2;
    w[5] = y[3];
  }
};

template <class T>
struct KernelGradient {  // G^T du
  static constexpr int from = tile_points, to = tile_kernel;
  ARRAYNN_INLINE static void apply(const vec<T> (&u)[from], vec<T> (&g)[to]) {
    const vec<T> sixth = broadcast<T>(T(1) / 6), part = broadcast<T>(T(1) / 24);
    vec<T> inner = sixth * (u[1] + u[2]), outer = part * (u[3] + u[4]);
    g[0] = fma(broadcast<T>(T(0.25)), u[0], outer - inner);
    g[1] = fma(sixth, u[2] - u[1], part * ((u[3] - u[4]) + (u[3] - u[4])));
    g[2] = fma(broadcast<T>(4), outer, u[5] - inner);
  }
};

// A transform along both axes of a square: read(row, col) gives vectors, write(row, col, vector) takes them.
template <class T, template <class> class Transform, class Read, class Write>
ARRAYNN_INLINE void along_both(const Read& read, const Write& write) {
  constexpr int from = Transform<T>::from, to = Transform<T>::to;
  vec<T> half[to][from];
  static_for<from>([&](auto col) ARRAYNN_LAMBDA {
    vec<T> line[from], found[to];
    static_for<from>([&](auto row) ARRAYNN_LAMBDA { line[row] = read(row, col); });
    Transform<T>::apply(line, found);
    static_for<to>([&](auto row) ARRAYNN_LAMBDA { half[row][col] = found[row]; });
  });
  static_for<to>([&](auto row) ARRAYNN_LAMBDA {
    vec<T> found[to];
    Transform<T>::apply(half[row], found);
    static_for<to>([&](auto col) ARRAYNN_LAMBDA { write(row, col, found[col]); });
  });
}

// Whether a convolution is of the kind that the algorithm is for. With few channels the transforms cost as much as
// the products that they save.
template <class T>
ARRAYNN_INLINE bool is_winograd(const ConvParams& p) {
  if (!winograd_allowed() || std::min(p.in_channels, p.out_channels) / p.groups < std::max(8, lanes<T>)) return false;
  auto is_three = [](const ConvAxis& a) { return a.kernel == tile_kernel && a.stride == 1 && a.dilation == 1; };
  // with padding, the one slice of the output may be none of the input's
  bool plane = p.d.kernel == 1 && p.d.in == 1 && p.d.out == 1 && p.d.before == 0;
  return plane && is_three(p.h) && is_three(p.w);
}

// ---- tiles ---------------------------------------------------------------------------------------------

// The grid of outputs in tiles, counted image by image, row by row.
struct TileGrid {
  int64_t batch, high, wide;  // tiles of an image
  int64_t count() const { return batch * high * wide; }
};

ARRAYNN_INLINE TileGrid tile_grid(int64_t batch, const Triple& grid) {
  return {batch, ceil_div(grid.h, tile_outputs), ceil_div(grid.w, tile_outputs)};
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
template <class T, template <class> class Transform>
void points_of(const Images<T>& images, const TileGrid& tiles, int64_t begin, int64_t end, int64_t top, int64_t left,
               T* lines, int64_t line_step, T* to, int64_t tile_step, int64_t point_step) {
  constexpr int V = lanes<T>, size = Transform<T>::from;
  for_tile_runs(tiles, begin, end, [&](int64_t at, const TileRun& run) {
    read_lines(images, run.image, run.row * tile_outputs + top, run.col * tile_outputs + left, size,
               (run.count - 1) * tile_outputs + size, lines, line_step);
    for (int64_t i = 0; i < run.count; ++i) {
      const T* from = lines + i * tile_outputs * V;
      T* first = to + (at + i) * tile_step;
      along_both<T, Transform>([&](auto row, auto col)
                                   ARRAYNN_LAMBDA { return load(from + row * line_step + col * V); },
                               [&](auto row, auto col, vec<T> value)
                                   ARRAYNN_LAMBDA { store(first + (row * tile_points + col) * point_step, value); });
    }
  });
}

// Elements between the lines of a buffer for the pixels of `count` neighbouring tiles.
template <class T>
int64_t line_elements(int64_t count) {
  return round_up(count * tile_outputs + tile_points - tile_outputs, lanes<T>) * lanes<T>;
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
