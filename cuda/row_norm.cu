// layer_norm and rms_norm read every element once and write it once, as softmax does: rows of up to 1024 elements lie
// in the registers of 4 or 32 lanes, longer ones in a block's shared memory. A row's variance is that of its
// deviations from the sum's mean, which are corrected by their own. The gradients of weight and bias are the sums of
// columns, in a pass of their own.
#include "device/center.h"
#include "device/math.h"
#include "device/softmax.h"
#include "device/units.h"
#include "kernels.h"

namespace arraynn::cuda {

namespace {

// What a kernel has to know of the call.
template <class T>
struct Rows {
  int64_t rows, size;
  bool centered;
  compute_t<T> eps;
  bool pack_affine;  // weight and bias can be read in packs, where a row's elements are
};

template <class C>
struct Normal {
  Center<C> center;
  C rstd;

  __device__ __forceinline__ C operator()(C x) const { return center(x) * rstd; }
  __device__ Statistics statistics() const { return {center.mean(), static_cast<double>(rstd)}; }
  static __device__ __forceinline__ Normal of(const Statistics& s) {
    return {Center<C>::of(s.mean), static_cast<C>(s.rstd)};
  }
  // From the sums of d = x - shift and of d^2 over a row.
  template <class T>
  static __device__ __forceinline__ Normal of_sums(const Rows<T>& r, C shift, C sum, C squares) {
    C n = static_cast<C>(r.size), rest = r.centered ? sum / n : C(0);
    if (r.centered) squares -= rest * sum;
    return {{shift, rest}, 1 / square_root(squares / n + r.eps)};
  }
};

// ---- rows held in registers ----

template <class T, class Row, int lanes>
__global__ __launch_bounds__(held_threads) void row_norm_held(Rows<T> r, const T* x, const T* weight, const T* bias,
                                                              T* y, Statistics* statistics) {
  using C = compute_t<T>;
  int size = static_cast<int>(r.size);
  for_held_rows<lanes>(r.rows, [&](int64_t row, bool inside) {
    Row in;
    in.load(x + row * size, size, inside, 0);
    C shift = 0, sum = 0, squares = 0;
    if (r.centered) {
      Row::each(size, [&](int j, int) { shift += in.get(j); });
      shift = warp_reduce<lanes>(shift, Add{}) / static_cast<C>(size);
    }
    Row::each(size, [&](int j, int) {
      C d = in.get(j) - shift;
      sum += d;
      squares += d * d;
    });
    sum = warp_reduce<lanes>(sum, Add{});
    squares = warp_reduce<lanes>(squares, Add{});
    auto normal = Normal<C>::of_sums(r, shift, sum, squares);
    if (statistics && inside && threadIdx.x % lanes == 0) statistics[row] = normal.statistics();
    Row w, b;
    if (weight) w.load(weight, size, true, 1);
    if (bias) b.load(bias, size, true, 0);
    Row::store(y + row * size, size, inside, [&](int j, int) {
      C v = normal(in.get(j));
      if (weight) v *= w.get(j);
      return bias ? v + b.get(j) : v;
    });
  });
}

template <class T, class Row, int lanes>
__global__ __launch_bounds__(held_threads) void row_norm_backward_held(Rows<T> r, const T* dy, const T* x,
                                                                       const T* weight, const Statistics* statistics,
                                                                       T* dx) {
  using C = compute_t<T>;
  int size = static_cast<int>(r.size);
  for_held_rows<lanes>(r.rows, [&](int64_t row, bool inside) {
    Row in, cotangent, w;
    in.load(x + row * size, size, inside, 0);
    cotangent.load(dy + row * size, size, inside, 0);
    if (weight) w.load(weight, size, true, 1);
    auto normal = Normal<C>::of(inside ? statistics[row] : Statistics{0, 0});
    auto g = [&](int j) { return weight ? cotangent.get(j) * w.get(j) : cotangent.get(j); };
    C sum = 0, product = 0;
    Row::each(size, [&](int j, int) {
      sum += g(j);
      product += g(j) * normal(in.get(j));
    });
    C n = static_cast<C>(size), mean_g = r.centered ? warp_reduce<lanes>(sum, Add{}) / n : C(0);
    C mean_gz = warp_reduce<lanes>(product, Add{}) / n;
    Row::store(dx + row * size, size, inside,
               [&](int j, int) { return ((g(j) - mean_g) - normal(in.get(j)) * mean_gz) * normal.rstd; });
  });
}

// ---- rows walked by a block ----

// N elements of weight or bias, which may be null.
template <int N, class T>
__device__ __forceinline__ void affine_at(const T* array, int64_t index, bool pack, compute_t<T> otherwise,
                                          compute_t<T> (&values)[N]) {
#pragma unroll
  for (int j = 0; j < N; ++j) values[j] = otherwise;
  if (!array) return;
  if (pack && N == pack_size<T>) {
    auto raw = load_raw<N>(array + index);
#pragma unroll
    for (int j = 0; j < N; ++j) values[j] = raw.get(j);
  } else {
#pragma unroll
    for (int j = 0; j < N; ++j) values[j] = widen(array[index + j]);
  }
}

template <class T>
__global__ __launch_bounds__(RowWalk<T>::most_threads) void row_norm_walk(RowWalk<T> walk, Rows<T> r, size_t room_bytes,
                                                                          int64_t slots, const T* x, const T* weight,
                                                                          const T* bias, T* y, Statistics* statistics) {
  using C = compute_t<T>;
  C* room = shared<C>();
  Slots<T, RowWalk<T>::width> kept(shared<char>() + room_bytes, slots, 0);
  auto again = [&](auto n, Spot spot) { return kept.template get<decltype(n)::value>(spot, x); };
  for (int64_t unit = blockIdx.x; unit < walk.units(); unit += gridDim.x) {
    walk.go(unit);
    C shift[1] = {}, sum[1] = {}, squares[1] = {};
    walk.template walk<4>([&](auto n, Spot spot) { return load_raw<decltype(n)::value>(x + spot.at); },
                          [&](auto n, Spot spot, const auto& raw) {
                            constexpr int N = decltype(n)::value;
#pragma unroll
                            for (int j = 0; j < N; ++j) shift[0] += raw.get(j);
                            kept.template put<N>(spot, raw);
                          });
    walk.join(shift, Add{}, room);
    shift[0] = r.centered ? shift[0] / static_cast<C>(r.size) : C(0);
    walk.template walk<4>(again, [&](auto n, Spot, const auto& raw) {
#pragma unroll
      for (int j = 0; j < decltype(n)::value; ++j) {
        C d = raw.get(j) - shift[0];
        sum[0] += d;
        squares[0] += d * d;
      }
    });
    walk.join(sum, Add{}, room);
    walk.join(squares, Add{}, room);
    auto normal = Normal<C>::of_sums(r, shift[0], sum[0], squares[0]);
    if (statistics && threadIdx.x == 0) statistics[unit] = normal.statistics();
    walk.template walk<4>(again, [&](auto n, Spot spot, const auto& raw) {
      constexpr int N = decltype(n)::value;
      C w[N], b[N];
      affine_at(weight, spot.index, r.pack_affine, C(1), w);
      affine_at(bias, spot.index, r.pack_affine, C(0), b);
      store_raw<N>(y + spot.at, raw_of<T, N>([&](int j) { return normal(raw.get(j)) * w[j] + b[j]; }));
    });
  }
}

template <class T, int N>
struct Two {
  Raw<T, N> x, dy;
};

template <class T>
__global__ __launch_bounds__(RowWalk<T>::most_threads) void row_norm_backward_walk(
    RowWalk<T> walk, Rows<T> r, size_t room_bytes, int64_t slots, const T* dy, const T* x, const T* weight,
    const Statistics* statistics, T* dx) {
  using C = compute_t<T>;
  constexpr int width = RowWalk<T>::width;
  C* room = shared<C>();
  Slots<T, width> kept_x(shared<char>() + room_bytes, slots, 0), kept_dy(shared<char>() + room_bytes, slots, 1);
  for (int64_t unit = blockIdx.x; unit < walk.units(); unit += gridDim.x) {
    walk.go(unit);
    auto normal = Normal<C>::of(statistics[unit]);
    C sum[1] = {}, product[1] = {};
    walk.template walk<2>(
        [&](auto n, Spot spot) {
          constexpr int N = decltype(n)::value;
          return Two<T, N>{load_raw<N>(x + spot.at), load_raw<N>(dy + spot.at)};
        },
        [&](auto n, Spot spot, const auto& held) {
          constexpr int N = decltype(n)::value;
          C w[N];
          affine_at(weight, spot.index, r.pack_affine, C(1), w);
#pragma unroll
          for (int j = 0; j < N; ++j) {
            C g = held.dy.get(j) * w[j];
            sum[0] += g;
            product[0] += g * normal(held.x.get(j));
          }
          kept_x.template put<N>(spot, held.x);
          kept_dy.template put<N>(spot, held.dy);
        });
    walk.join(sum, Add{}, room);
    walk.join(product, Add{}, room);
    C n_elements = static_cast<C>(r.size), mean_g = r.centered ? sum[0] / n_elements : C(0);
    C mean_gz = product[0] / n_elements;
    walk.template walk<2>(
        [&](auto n, Spot spot) {
          constexpr int N = decltype(n)::value;
          return Two<T, N>{kept_x.template get<N>(spot, x), kept_dy.template get<N>(spot, dy)};
        },
        [&](auto n, Spot spot, const auto& held) {
          constexpr int N = decltype(n)::value;
          C w[N];
          affine_at(weight, spot.index, r.pack_affine, C(1), w);
          store_raw<N>(dx + spot.at, raw_of<T, N>([&](int j) {
                         return ((held.dy.get(j) * w[j] - mean_g) - normal(held.x.get(j)) * mean_gz) * normal.rstd;
                       }));
        });
  }
}

// ---- weight and bias ----

template <class T, int N>
struct AffineTerm {
  struct Loaded {
    Raw<T, N> dy, x;
    Statistics statistics;
  };
  const T *dy, *x;
  const Statistics* statistics;

  __device__ __forceinline__ Loaded load(int64_t at, int64_t row) const {
    return {load_raw<N>(dy + at), load_raw<N>(x + at), statistics[row]};
  }
  __device__ __forceinline__ void add(const Loaded& loaded, compute_t<T> (&dw)[N], compute_t<T> (&db)[N]) const {
    auto normal = Normal<compute_t<T>>::of(loaded.statistics);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      dw[j] += loaded.dy.get(j) * normal(loaded.x.get(j));
      db[j] += loaded.dy.get(j);
    }
  }
};

template <class T>
struct AffineTerms {
  const T *dy, *x;
  const Statistics* statistics;

  template <int N>
  __device__ AffineTerm<T, N> of(Elements<N>, Elements<N>, int64_t) const {
    return {dy, x, statistics};
  }
};

// A warp for each column.
template <class T>
__global__ void __launch_bounds__(unit_threads)
    affine_gradient_kernel(const compute_t<T>* partials, int64_t size, int64_t parts, T* d_weight, T* d_bias) {
  int64_t column = static_cast<int64_t>(blockIdx.x) * (unit_threads / 32) + threadIdx.x / 32;
  if (column >= size) return;
  double dw = sum_of_parts(partials, column, parts), db = sum_of_parts(partials + size * parts, column, parts);
  if (threadIdx.x % 32 != 0) return;
  if (d_weight) d_weight[column] = narrow<T>(static_cast<compute_t<T>>(dw));
  if (d_bias) d_bias[column] = narrow<T>(static_cast<compute_t<T>>(db));
}

template <class T>
void affine_gradient(const RowNormParams& p, const T* dy, const T* x, const Statistics* statistics, T* d_weight,
                     T* d_bias, void* scratch) {
  auto* partials = static_cast<compute_t<T>*>(scratch);
  auto add = [&](const auto& way) {
    unit_pairs<T>(way, AffineTerms<T>{dy, x, statistics}, p.place, partials);
    launch(affine_gradient_kernel<T>, grid_for(p.size, unit_threads / 32), unit_threads, 0, p.place, partials, p.size,
           way.parts, d_weight, d_bias);
  };
  with_columns<T>(column_units(1, p.rows, p.size), aligned16(dy, x), add);
}

template <class T>
Rows<T> rows_of(const RowNormParams& p, bool pack_affine) {
  return {p.rows, p.size, p.centered, static_cast<compute_t<T>>(p.eps), pack_affine};
}

}  // namespace

void row_norm_forward(const RowNormParams& p, const void* x, const void* weight, const void* bias, void* y,
                      Statistics* statistics) {
  if (p.size == 0) return;
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto from = static_cast<const T*>(x), w = static_cast<const T*>(weight), b = static_cast<const T*>(bias);
    auto to = static_cast<T*>(y);
    bool packs = aligned16(from, to, w, b) && p.size % pack_size<T> == 0;
    if (p.size <= longest_held)
      return with_held<T>(p.size, packs, [&](auto row, auto lanes) {
        launch(row_norm_held<T, decltype(row), decltype(lanes)::value>, grid_for(p.rows, held_threads / lanes),
               held_threads, 0, p.place, rows_of<T>(p, packs), from, w, b, to, statistics);
      });
    RowWalk<T> walk{p.rows, p.size, phase_of(from), alike(from, to)};
    WalkBlock block = block_of(walk, 1, p.place);
    launch(row_norm_walk<T>, grid_for(block.grid, 1), block.threads, block.bytes, p.place, walk, rows_of<T>(p, packs),
           block.room, block.slots, from, w, b, to, statistics);
  });
}

size_t row_norm_scratch(const RowNormParams& p) {
  size_t bytes = 0;
  dispatch_float(p.dtype,
                 [&](auto zero) { bytes = unit_pairs_bytes<decltype(zero)>(column_units(1, p.rows, p.size)); });
  return bytes;
}

void row_norm_backward(const RowNormParams& p, const void* dy, const void* x, const void* weight,
                       const Statistics* statistics, void* dx, void* d_weight, void* d_bias, void* scratch) {
  if (p.size == 0) return;
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto from = static_cast<const T*>(x), cotangent = static_cast<const T*>(dy), w = static_cast<const T*>(weight);
    auto to = static_cast<T*>(dx);
    if (d_weight || d_bias)
      affine_gradient(p, cotangent, from, statistics, static_cast<T*>(d_weight), static_cast<T*>(d_bias), scratch);
    if (!to) return;
    bool packs = aligned16(from, cotangent, to, w) && p.size % pack_size<T> == 0;
    if (p.size <= longest_held)
      return with_held<T>(p.size, packs, [&](auto row, auto lanes) {
        launch(row_norm_backward_held<T, decltype(row), decltype(lanes)::value>, grid_for(p.rows, held_threads / lanes),
               held_threads, 0, p.place, rows_of<T>(p, packs), cotangent, from, w, statistics, to);
      });
    RowWalk<T> walk{p.rows, p.size, phase_of(from), alike(from, cotangent, to)};
    WalkBlock block = block_of(walk, 2, p.place);
    launch(row_norm_backward_walk<T>, grid_for(block.grid, 1), block.threads, block.bytes, p.place, walk,
           rows_of<T>(p, packs), block.room, block.slots, cotangent, from, w, statistics, to);
  });
}

}  // namespace arraynn::cuda
