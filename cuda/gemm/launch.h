// The matrix product's kernel, for the sources beside this one: each holds the instances of one way to
// multiply, so that they compile side by side.
#pragma once
#include "device/tile_output.h"
#include "dispatch.h"
#include "gemm.h"

namespace arraynn::cuda {

// How a product is cut, by its shape alone.
struct GemmPlan {
  bool packed;   // both operands can be copied by 16 bytes
  bool large;    // tiles of 128 x 128, not 64 x 64
  bool swapped;  // it is the transpose of what was asked for
  Along a_along, b_along;
  int64_t tiles_m, tiles_n, splits, k_per_split;
};

void gemm_float32(const Gemm& g, const GemmPlan& p, void* scratch);
void gemm_tf32(const Gemm& g, const GemmPlan& p, void* scratch);
void gemm_float16(const Gemm& g, const GemmPlan& p, void* scratch);
void gemm_bfloat16(const Gemm& g, const GemmPlan& p, void* scratch);
void gemm_plain(const Gemm& g, const GemmPlan& p, void* scratch);  // without tensor cores

namespace {

struct Strided {
  int64_t row_step, column_step;
  __device__ int64_t row(int64_t, int64_t i) const { return i * row_step; }
  __device__ int64_t column(int64_t j) const { return j * column_step; }
  __device__ int64_t bias(int64_t) const { return 0; }
};

struct GemmShape {
  int64_t m, n, k, k_per_split;
  unsigned tiles_m, tiles_n;
};

template <class Math, class A, class B>
__global__ void __launch_bounds__(Math::Shape::threads, Math::Shape::blocks)
    gemm_kernel(MatrixParams<typename Math::T> a, MatrixParams<typename Math::T> b, OutputParams<typename Math::T> o,
                Strided places, GemmShape s) {
  unsigned tiles = s.tiles_m * s.tiles_n, part = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  constexpr unsigned band = 8;
  unsigned first = tile / (band * s.tiles_n) * band, in_band = tile % (band * s.tiles_n);
  unsigned tall = min(band, s.tiles_m - first);
  TilePlace t{};
  t.partial_row = part * s.m;
  t.row = static_cast<int64_t>(first + in_band % tall) * Math::Shape::m;
  t.column = static_cast<int64_t>(in_band / tall) * Math::Shape::n;
  t.m = s.m;
  t.n = s.n;
  t.k_begin = part * s.k_per_split;
  t.k_end = min(s.k, t.k_begin + s.k_per_split);
  product_tile<Math, A, B>(a, b, o, places, t);
}

template <class T>
MatrixParams<T> operand(const void* data, int64_t row_step, int64_t k_step, int64_t rows, Along along) {
  int64_t along_step = along == Along::k ? k_step : row_step, across = along == Along::k ? row_step : k_step;
  auto fits = [&](int64_t size) {
    return along_step == 1 && across * static_cast<int64_t>(sizeof(T)) % size == 0 &&
           reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(size) == 0;
  };
  int bytes = fits(16) ? 16 : fits(4) ? 4 : static_cast<int>(sizeof(T));
  return {static_cast<const T*>(data), row_step, k_step, rows, bytes};
}

template <class Math, template <class, class> class Matrix, Along along_a, Along along_b>
void launch_gemm(const Gemm& g, const GemmPlan& p, void* scratch) {
  using T = typename Math::T;
  using Shape = typename Math::Shape;
  using A = Matrix<Slice<T, Shape::m, along_a, Shape::threads>, T>;
  using B = Matrix<Slice<T, Shape::n, along_b, Shape::threads>, T>;
  OutputParams<T> o{static_cast<T*>(g.c), static_cast<const T*>(g.bias), p.swapped, g.add, Write::rows, nullptr};
  if (g.c_column == 1 && g.c_row % pack_size<T> == 0 && g.n % pack_size<T> == 0 && aligned16(o.data))
    o.write = Write::packs;
  else if (g.c_row == 1 && g.c_column != 1)
    o.write = Write::columns;
  if (p.splits > 1) o.partials = static_cast<compute_t<T>*>(scratch);
  Strided places{g.c_row, g.c_column};
  launch(gemm_kernel<Math, A, B>, dim3(static_cast<unsigned>(p.tiles_m * p.tiles_n * p.splits)), Shape::threads,
         TileRoom<Math, A, B>::bytes, g.place, operand<T>(g.a, g.a_row, g.a_column, g.m, along_a),
         operand<T>(g.b, g.b_column, g.b_row, g.n, along_b), o, places,
         GemmShape{g.m, g.n, g.k, p.k_per_split, static_cast<unsigned>(p.tiles_m), static_cast<unsigned>(p.tiles_n)});
  if (p.splits > 1)
    launch(finish_kernel<Strided, T>, grid_for(g.m * g.n, finish_threads), finish_threads, 0, g.place, o, places,
           p.splits, int64_t{1}, g.m, g.n);
}

// Three of the four orders; the fourth is the second's transpose, which gemm() makes of it.
template <class Math, template <class, class> class Matrix>
void launch_orders(const Gemm& g, const GemmPlan& p, void* scratch) {
  if (p.b_along == Along::k)
    launch_gemm<Math, Matrix, Along::k, Along::k>(g, p, scratch);
  else if (p.a_along == Along::k)
    launch_gemm<Math, Matrix, Along::k, Along::rows>(g, p, scratch);
  else
    launch_gemm<Math, Matrix, Along::rows, Along::rows>(g, p, scratch);
}

template <template <class> class Math, class LargeTile>
void launch_gemm(const Gemm& g, const GemmPlan& p, void* scratch) {
  if (p.large)
    launch_orders<Math<LargeTile>, PackedMatrix>(g, p, scratch);
  else if (p.packed)
    launch_orders<Math<SmallTile>, PackedMatrix>(g, p, scratch);
  else
    launch_orders<Math<SmallTile>, AnyMatrix>(g, p, scratch);
}

}  // namespace

}  // namespace arraynn::cuda
