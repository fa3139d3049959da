// Arrays as units, each of which has a number of its own: channels, columns of a table, channels of an image. A unit's
// elements are planes (of one image or of all), or columns with those of the other units in between. They are walked
// in parts, how many depends on the shape alone, and pairs of sums over a part are added by what needs them.
#pragma once
#include <algorithm>

#include "device/extent.h"
#include "device/reduce.h"
#include "dispatch.h"

namespace arraynn::cuda {

inline constexpr int unit_threads = 256;

// An array (runs, units, inner): as rows of `inner` elements; or (tables, rows, columns), units being the columns of
// the tables.
struct UnitShape {
  bool columns;
  int64_t units;
  int64_t runs, inner;   // planes of a unit, elements of a plane
  int64_t rows, across;  // of a table
  __host__ __device__ int64_t elements() const { return columns ? rows : runs * inner; }
  // Element k of a unit.
  __device__ int64_t at(int64_t unit, int64_t k) const {
    if (columns) return (unit / across * rows + k) * across + unit % across;
    return (k / inner * units + unit) * inner + k % inner;
  }
};

inline UnitShape plane_units(int64_t runs, int64_t units, int64_t inner) { return {false, units, runs, inner, 0, 0}; }
inline UnitShape column_units(int64_t tables, int64_t rows, int64_t columns) {
  return {true, tables * columns, 0, 0, rows, columns};
}

// Parts have at least so many elements, where there are as many; and blocks are few enough to add up soon.
inline constexpr int64_t least_part = 8192, most_unit_blocks = 2048;

// Each of `lanes` threads, a warp or a block, takes packs of N of a unit's part.
template <int N, int lanes>
struct PlaneWay {
  static constexpr int width = N, states = 1;
  UnitShape shape;
  int64_t parts, each;  // packs in a part
  int64_t task = 0;

  explicit PlaneWay(const UnitShape& s) : shape(s) {
    int64_t packs = s.runs * (s.inner / N);
    parts = lanes == 32 ? 1 : std::min(packs * N / least_part, most_unit_blocks / std::max<int64_t>(1, s.units));
    each = std::max<int64_t>(1, ceil_div(packs, std::max<int64_t>(1, parts)));
    parts = std::max<int64_t>(1, ceil_div(packs, each));
  }
  int64_t blocks() const { return ceil_div(shape.units * parts, unit_threads / lanes); }
  template <class C>
  size_t room() const {
    return 32 * sizeof(C);
  }

  __device__ void go(int64_t block) { task = block * (unit_threads / lanes) + static_cast<int>(threadIdx.x) / lanes; }
  __device__ bool inside() const { return task < shape.units * parts; }
  __device__ int64_t unit() const { return task / parts; }
  __device__ int64_t part() const { return task % parts; }
  __device__ bool leads() const { return threadIdx.x % lanes == 0; }
  __host__ __device__ int64_t elements_of(int64_t part) const {
    int64_t rest = shape.runs * (shape.inner / N) - part * each;
    return (rest < each ? rest : each) * N;
  }

  // use(at, row, load(at, row)) for the thread's packs.
  template <int unroll, class Load, class Use>
  __device__ __forceinline__ void walk(const Load& load, const Use& use) const {
    int64_t inner = shape.inner / N, begin = part() * each, end = begin + elements_of(part()) / N;
    int64_t first = begin + static_cast<int>(threadIdx.x) % lanes, run = first / inner, i = first % inner;
    int64_t step_run = lanes / inner, step_i = lanes % inner;
#pragma unroll 1
    for (; first < end; first += unroll * lanes) {
      decltype(load(int64_t{}, int64_t{})) held[unroll];
      int64_t at[unroll];
#pragma unroll
      for (int u = 0; u < unroll; ++u) {
        at[u] = (run * shape.units + unit()) * shape.inner + i * N;
        if (first + u * lanes < end) held[u] = load(at[u], run);
        i += step_i;
        run += step_run + (i >= inner ? 1 : 0);
        i -= i >= inner ? inner : 0;
      }
#pragma unroll
      for (int u = 0; u < unroll; ++u)
        if (first + u * lanes < end) use(at[u], int64_t{0}, held[u]);
    }
  }
  template <class C>
  __device__ __forceinline__ void join(C (&a)[1], C (&b)[1], C* room) const {
    a[0] = lanes == 32 ? warp_reduce(a[0], Add{}) : block_reduce(a[0], Add{}, room);
    b[0] = lanes == 32 ? warp_reduce(b[0], Add{}) : block_reduce(b[0], Add{}, room);
  }
};

// Threads next to each other take columns next to each other, N each; the block's others take other rows.
template <int N>
struct ColumnWay {
  static constexpr int width = N, states = N;
  UnitShape shape;
  int64_t parts, each;  // rows in a part
  int lanes = 1;        // threads side by side
  int64_t table = 0, column = 0, which = 0;

  explicit ColumnWay(const UnitShape& s) : shape(s) {
    while (lanes < 32 && lanes * N < s.across) lanes *= 2;
    int64_t wide = static_cast<int64_t>(lanes) * N;
    parts = std::min(s.rows * wide / least_part, most_unit_blocks / std::max<int64_t>(1, ceil_div(s.units, wide)));
    each = std::max<int64_t>(1, ceil_div(s.rows, std::max<int64_t>(1, parts)));
    parts = std::max<int64_t>(1, ceil_div(s.rows, each));
  }
  __host__ __device__ int64_t strips() const { return (shape.across + lanes * N - 1) / (lanes * N); }
  int64_t blocks() const { return shape.across == 0 ? 0 : shape.units / shape.across * strips() * parts; }
  template <class C>
  size_t room() const {
    return 2 * N * unit_threads * sizeof(C);
  }

  __device__ int row() const { return static_cast<int>(threadIdx.x) / lanes; }
  __device__ void go(int64_t block) {
    which = block % parts;
    table = block / parts / strips();
    column = (block / parts % strips() * lanes + static_cast<int>(threadIdx.x) % lanes) * N;
  }
  __device__ bool inside() const { return column < shape.across; }
  __device__ int64_t unit() const { return table * shape.across + column; }
  __device__ int64_t part() const { return which; }
  __device__ bool leads() const { return row() == 0; }
  __host__ __device__ int64_t elements_of(int64_t part) const {
    int64_t rest = shape.rows - part * each;
    return rest < each ? rest : each;
  }

  template <int unroll, class Load, class Use>
  __device__ __forceinline__ void walk(const Load& load, const Use& use) const {
    int64_t end = which * each + elements_of(which), tall = unit_threads / lanes;
    auto at = [&](int64_t row) { return (table * shape.rows + row) * shape.across + column; };
#pragma unroll 1
    for (int64_t first = which * each + row(); first < end; first += unroll * tall) {
      decltype(load(int64_t{}, int64_t{})) held[unroll];
#pragma unroll
      for (int u = 0; u < unroll; ++u)
        if (first + u * tall < end) held[u] = load(at(first + u * tall), first + u * tall);
#pragma unroll
      for (int u = 0; u < unroll; ++u)
        if (first + u * tall < end) use(at(first + u * tall), first + u * tall, held[u]);
    }
  }
  template <class C>
  __device__ __forceinline__ void join(C (&a)[N], C (&b)[N], C* room) const {
    int thread = static_cast<int>(threadIdx.x);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      room[2 * j * unit_threads + thread] = a[j];
      room[(2 * j + 1) * unit_threads + thread] = b[j];
    }
    for (int half = unit_threads / lanes / 2; half > 0; half /= 2) {
      __syncthreads();
      if (row() < half)
#pragma unroll
        for (int j = 0; j < 2 * N; ++j) {
          C* to = room + j * unit_threads + thread;
          *to += to[half * lanes];
        }
    }
    if (row() != 0) return;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      a[j] = room[2 * j * unit_threads + thread];
      b[j] = room[(2 * j + 1) * unit_threads + thread];
    }
  }
};

// f(way) of the kind for a shape; `vector` if all arrays begin at 16 bytes.
template <class T, class F>
void with_columns(const UnitShape& s, bool vector, const F& f) {
  if (vector && s.across % pack_size<T> == 0) return f(ColumnWay<pack_size<T>>(s));
  f(ColumnWay<1>(s));
}
template <class T, class F>
void with_planes(const UnitShape& s, bool vector, const F& f) {
  auto of_width = [&](auto width) {
    constexpr int N = decltype(width)::value;
    if (s.runs * s.inner <= 32 * 8 * N) return f(PlaneWay<N, 32>(s));
    f(PlaneWay<N, unit_threads>(s));
  };
  if (vector && s.inner % pack_size<T> == 0) return of_width(Elements<pack_size<T>>{});
  of_width(Elements<1>{});
}
template <class T, class F>
void with_way(const UnitShape& s, bool vector, const F& f) {
  s.columns ? with_columns<T>(s, vector, f) : with_planes<T>(s, vector, f);
}

// The sums of a unit's part: partials[unit][part] and, behind those of all units, the second ones.
// terms.of(Elements<width>, Elements<states>, unit) gives what adds up: load(at, row), and add(loaded, a, b).
template <class T, class Way, class Terms>
__global__ void __launch_bounds__(unit_threads) unit_pairs_kernel(Way way, Terms terms, compute_t<T>* partials) {
  using C = compute_t<T>;
  constexpr int states = Way::states;
  way.go(blockIdx.x);
  C a[states] = {}, b[states] = {};
  if (way.inside()) {
    auto of = terms.of(Elements<Way::width>{}, Elements<states>{}, way.unit());
    way.template walk<4>([&](int64_t at, int64_t row) { return of.load(at, row); },
                         [&](int64_t, int64_t, const auto& loaded) { of.add(loaded, a, b); });
  }
  way.join(a, b, shared<C>());
  if (!way.inside() || !way.leads()) return;
#pragma unroll
  for (int s = 0; s < states; ++s) {
    int64_t at = (way.unit() + s) * way.parts + way.part();
    partials[at] = a[s];
    partials[way.shape.units * way.parts + at] = b[s];
  }
}

template <class T, class Way, class Terms>
void unit_pairs(const Way& way, const Terms& terms, const Place& place, compute_t<T>* partials) {
  launch(unit_pairs_kernel<T, Way, Terms>, grid_for(way.blocks(), 1), unit_threads, way.template room<compute_t<T>>(),
         place, way, terms, partials);
}

// The same for what writes: load(at), and store(at, loaded).
template <class Way, class Map>
__global__ void __launch_bounds__(unit_threads) unit_map_kernel(Way way, Map map) {
  way.go(blockIdx.x);
  if (!way.inside()) return;
  auto of = map.of(Elements<Way::width>{}, Elements<Way::states>{}, way.unit());
  way.template walk<4>([&](int64_t at, int64_t) { return of.load(at); },
                       [&](int64_t at, int64_t, const auto& loaded) { of.store(at, loaded); });
}

template <class Way, class Map>
void unit_map(const Way& way, const Map& map, const Place& place) {
  launch(unit_map_kernel<Way, Map>, grid_for(way.blocks(), 1), unit_threads, 0, place, way, map);
}

// Bytes of partials, whatever the alignment.
template <class T>
size_t unit_pairs_bytes(const UnitShape& s) {
  int64_t parts = 0;
  for (bool vector : {false, true})
    with_way<T>(s, vector, [&](const auto& way) { parts = std::max(parts, way.parts); });
  return static_cast<size_t>(2 * parts * s.units) * sizeof(compute_t<T>);
}

// The sum of a unit's parts, by a warp.
template <class C>
__device__ __forceinline__ double sum_of_parts(const C* partials, int64_t unit, int64_t parts) {
  double sum = 0;
  for (int64_t part = threadIdx.x % 32; part < parts; part += 32)
    sum += static_cast<double>(partials[unit * parts + part]);
  return warp_reduce(sum, Add{});
}

}  // namespace arraynn::cuda
