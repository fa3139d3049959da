// The products that convolutions are: of gathered pixels and weights, and of an output's gradient and
// gathered pixels. For the sources beside this one: each holds the instances of one way to multiply, so that
// they compile side by side.
#pragma once
#include "conv/gather.h"
#include "device/tile_output.h"
#include "dispatch.h"

namespace arraynn::cuda {

// How a product is cut, by its shape alone, and how its operands may be copied.
enum class ConvTile : int { small, tall, large };  // 64 x 64, 128 x 64, 128 x 128

struct ConvPlan {
  ConvTile tile;
  bool packed;             // both operands by 16 bytes, else by elements
  int64_t units, m, n, k;  // m, n, k: the most of any unit
  int64_t parts;           // of k, each a block of its own
};

// An image, channels-last.
struct ConvImage {
  const void* data;
  int64_t pixel_step;  // all channels
  int channels;        // of one group
};

// Where the result lies. Forward and for the input's gradient its rows are the pixels of (batch, d, h, w) in
// the order of the phases, its columns the channels of a group.
struct ConvResult {
  void* data;
  const void* bias;
  ImageSteps steps;
  Write write;
};

struct GatherProduct {
  DType dtype;
  Place place;
  ConvPlan plan;
  Axes axes;
  unsigned pitch;
  int batch;
  ConvImage image;
  const void* weights;  // (groups, slots of d, h and w, n, weight_step): rows of taps and channels, as gathered
  int64_t weight_step;
  ConvResult result;
};

// dw (groups, m, channels, taps of d, h and w), where channels counts what is in the result; image.channels
// may be more, of which the rest is zero.
struct GradientProduct {
  DType dtype;
  Place place;
  ConvPlan plan;
  Axes axes;
  unsigned pitch;
  int batch, channels;
  ConvImage image, d_output;
  void* d_weight;
};

#define ARRAYNN_CONV_PRODUCTS(name)                               \
  void conv_gather_##name(const GatherProduct& p, void* scratch); \
  void conv_gradient_##name(const GradientProduct& p, void* scratch);
ARRAYNN_CONV_PRODUCTS(float32)
ARRAYNN_CONV_PRODUCTS(tf32)
ARRAYNN_CONV_PRODUCTS(float16)
ARRAYNN_CONV_PRODUCTS(bfloat16)
ARRAYNN_CONV_PRODUCTS(plain)
#undef ARRAYNN_CONV_PRODUCTS

namespace {

// ---- kernels ----

struct ConvGrid {
  unsigned units, parts, tiles_m, tiles_n;
  int64_t most_rows, n;  // of any unit; of all
};

// Which tile the block works on, k still to be filled in.
template <class Shape>
__device__ __forceinline__ TilePlace tile_of_block(const ConvGrid& g, unsigned* part) {
  unsigned tiles = g.tiles_m * g.tiles_n, tile = blockIdx.x % tiles, rest = blockIdx.x / tiles;
  constexpr unsigned band = 8;
  unsigned first = tile / (band * g.tiles_n) * band, in_band = tile % (band * g.tiles_n);
  unsigned tall = min(band, g.tiles_m - first);
  TilePlace t{};
  t.unit = rest % g.units;
  *part = rest / g.units;
  t.partial_row = rest * g.most_rows;
  t.row = static_cast<int64_t>(first + in_band % tall) * Shape::m;
  t.column = static_cast<int64_t>(in_band / tall) * Shape::n;
  t.n = g.n;
  return t;
}

__device__ __forceinline__ void set_part_of_k(TilePlace& t, int64_t k, unsigned part, unsigned parts, int depth) {
  t.k_end = k;
  if (parts == 1) return;
  int64_t slices = (k + depth - 1) / depth, each = (slices + parts - 1) / parts;
  t.k_begin = min(k, part * each * depth);
  t.k_end = min(k, t.k_begin + each * depth);
}

struct PixelPlaces {
  Axes axes;
  ImageSteps steps;
  int64_t columns;
  int batch;
  __device__ int64_t row(int64_t unit, int64_t i) const {
    Unit u = unit_of(axes, unit);
    if (i >= batch * u.pixels()) return nowhere;
    int64_t line = i / u.w.count, plane = line / u.h.count;
    int64_t n = plane / u.d.count, z = plane % u.d.count, y = line % u.h.count, x = i % u.w.count;
    return n * steps.n + (u.d.phase + z * axes.d.phases) * steps.d + (u.h.phase + y * axes.h.phases) * steps.h +
           (u.w.phase + x * axes.w.phases) * steps.w + u.group * columns * steps.c;
  }
  __device__ int64_t column(int64_t j) const { return j * steps.c; }
  __device__ int64_t bias(int64_t unit) const { return unit / phases_of(axes) * columns; }
};

template <class Math, class A, class B>
__global__ void __launch_bounds__(Math::Shape::threads, Math::Shape::blocks)
    gather_kernel(GatherParams<typename Math::T> image, MatrixParams<typename Math::T> weights,
                  OutputParams<typename Math::T> o, PixelPlaces places, ConvGrid g) {
  unsigned part;
  TilePlace t = tile_of_block<typename Math::Shape>(g, &part);
  Unit u = unit_of(image.axes, t.unit);
  t.m = u.pixels() * image.batch;
  if (t.row >= t.m) return;
  set_part_of_k(t, u.taps() * image.channels, part, g.parts, A::Tile::depth);
  weights.data += slot_of(image.axes, u.group, u.d.slot, u.h.slot, u.w.slot) * g.n * weights.row_step;
  product_tile<Math, A, B>(image, weights, o, places, t);
}

struct WeightPlaces {
  int64_t rows, channels, padded_channels, taps;
  __device__ int64_t row(int64_t unit, int64_t i) const { return (unit * rows + i) * channels * taps; }
  __device__ int64_t column(int64_t j) const {
    int64_t c = j % padded_channels;
    return c < channels ? c * taps + j / padded_channels : nowhere;
  }
  __device__ int64_t bias(int64_t) const { return 0; }
};

template <class Math, class A, class B>
__global__ void __launch_bounds__(Math::Shape::threads, Math::Shape::blocks)
    gradient_kernel(MatrixParams<typename Math::T> d_output, GatherParams<typename Math::T> image,
                    OutputParams<typename Math::T> o, WeightPlaces places, ConvGrid g, int group_step) {
  unsigned part;
  TilePlace t = tile_of_block<typename Math::Shape>(g, &part);
  t.m = d_output.rows;
  d_output.data += t.unit * group_step;
  int64_t k = static_cast<int64_t>(image.axes.d.count) * image.axes.h.count * image.axes.w.count * image.batch;
  set_part_of_k(t, k, part, g.parts, A::Tile::depth);
  product_tile<Math, A, B>(d_output, image, o, places, t);
}

// ---- launchers ----

template <class T, class Product>
GatherParams<T> gather_params(const Product& p) {
  return {static_cast<const T*>(p.image.data), p.axes, p.pitch, p.image.pixel_step, p.batch, p.image.channels};
}

template <class Shape>
ConvGrid grid_of(const ConvPlan& p) {
  auto small = [](int64_t x) { return static_cast<unsigned>(x); };
  return {small(p.units), small(p.parts), small(ceil_div(p.m, Shape::m)), small(ceil_div(p.n, Shape::n)), p.m, p.n};
}

inline dim3 blocks_of(const ConvGrid& g) { return dim3(g.units * g.parts * g.tiles_m * g.tiles_n); }

template <class Math, int Bytes>
void launch_gather(const GatherProduct& p, void* scratch) {
  using T = typename Math::T;
  using Shape = typename Math::Shape;
  using A = Gather<Slice<T, Shape::m, Along::k, Shape::threads>, T, Bytes>;
  using B = PackedMatrix<Slice<T, Shape::n, Along::k, Shape::threads>, T>;
  ConvGrid g = grid_of<Shape>(p.plan);
  const ConvResult& r = p.result;
  OutputParams<T> o{static_cast<T*>(r.data), static_cast<const T*>(r.bias), false, false, r.write, nullptr};
  if (p.plan.parts > 1) o.partials = static_cast<compute_t<T>*>(scratch);
  PixelPlaces places{p.axes, r.steps, p.plan.n, p.batch};
  launch(gather_kernel<Math, A, B>, blocks_of(g), Shape::threads, TileRoom<Math, A, B>::bytes, p.place,
         gather_params<T>(p), MatrixParams<T>{static_cast<const T*>(p.weights), p.weight_step, 1, p.plan.n, 16}, o,
         places, g);
  if (p.plan.parts > 1)
    launch(finish_kernel<PixelPlaces, T>, grid_for(p.plan.units * p.plan.m * p.plan.n, finish_threads), finish_threads,
           0, p.place, o, places, p.plan.parts, p.plan.units, p.plan.m, p.plan.n);
}

template <class Math, template <class, class> class Matrix, int Bytes>
void launch_gradient(const GradientProduct& p, void* scratch) {
  using T = typename Math::T;
  using Shape = typename Math::Shape;
  using A = Matrix<Slice<T, Shape::m, Along::rows, Shape::threads>, T>;
  using B = Gather<Slice<T, Shape::n, Along::rows, Shape::threads>, T, Bytes>;
  ConvGrid g = grid_of<Shape>(p.plan);
  OutputParams<T> o{static_cast<T*>(p.d_weight), nullptr, false, false, Write::rows, nullptr};
  if (p.plan.parts > 1) o.partials = static_cast<compute_t<T>*>(scratch);
  WeightPlaces places{p.plan.m, p.channels, p.image.channels, taps_of(p.axes)};
  launch(gradient_kernel<Math, A, B>, blocks_of(g), Shape::threads, TileRoom<Math, A, B>::bytes, p.place,
         MatrixParams<T>{static_cast<const T*>(p.d_output.data), 1, p.d_output.pixel_step, p.plan.m,
                         static_cast<int>(sizeof(T))},
         gather_params<T>(p), o, places, g, p.d_output.channels);
  if (p.plan.parts > 1)
    launch(finish_kernel<WeightPlaces, T>, grid_for(p.plan.units * p.plan.m * p.plan.n, finish_threads), finish_threads,
           0, p.place, o, places, p.plan.parts, p.plan.units, p.plan.m, p.plan.n);
}

template <template <class> class Math, class LargeTile, class TallTile>
void launch_gather(const GatherProduct& p, void* scratch) {
  using T = typename Math<SmallTile>::T;
  if (!p.plan.packed)
    launch_gather<Math<SmallTile>, sizeof(T)>(p, scratch);
  else if (p.plan.tile == ConvTile::small)
    launch_gather<Math<SmallTile>, 16>(p, scratch);
  else if (p.plan.tile == ConvTile::tall)
    launch_gather<Math<TallTile>, 16>(p, scratch);
  else
    launch_gather<Math<LargeTile>, 16>(p, scratch);
}

template <template <class> class Math, class LargeTile>
void launch_gradient(const GradientProduct& p, void* scratch) {
  using T = typename Math<SmallTile>::T;
  if (!p.plan.packed)
    launch_gradient<Math<SmallTile>, AnyMatrix, sizeof(T)>(p, scratch);
  else if (p.plan.tile != ConvTile::large)
    launch_gradient<Math<SmallTile>, PackedMatrix, 16>(p, scratch);
  else
    launch_gradient<Math<LargeTile>, PackedMatrix, 16>(p, scratch);
}

}  // namespace

}  // namespace arraynn::cuda
