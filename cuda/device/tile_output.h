// What becomes of a block's sums: through shared memory, so that the result is written in whole lines in
// whatever order it has, with bias, what C held before and the rounding on the way; or to scratch, as
// partial sums over part of k.
#pragma once
#include "device/tile_product.h"

namespace arraynn::cuda {

enum class Write : int {
  packs,    // 16 bytes along a row: its elements lie next to each other, and every row is aligned
  rows,     // elements, neighbours along the row
  columns,  // elements, neighbours along the column
};

template <class T>
struct OutputParams {
  T* data;
  const T* bias;  // or null
  bool bias_by_row, add;
  Write write;
  compute_t<T>* partials;  // or null; (parts, units, m, partial_width(n))
};

// Rows of partial sums begin at 16 bytes.
template <class C>
__host__ __device__ constexpr int64_t partial_width(int64_t n) {
  constexpr int pack = pack_size<C>;
  return (n + pack - 1) / pack * pack;
}

// A tile of one of several products (units): which of its sums, over which k (fewer than 2^31). The
// result's rows among the partial ones begin with `partial_row`.
struct TilePlace {
  int64_t unit, partial_row, row, column, m, n, k_begin, k_end;
};

// What Places::row and column say of a row or column that is no part of the result.
inline constexpr int64_t nowhere = INT64_MIN;

// What is not needed before the sums are there does not wait for them in registers.
struct alignas(16) Kept {
  TilePlace place;
  int repair;  // some sum is not finite
};

template <class Math, class A, class B>
struct TileRoom {
  using T = typename Math::T;
  using C = compute_t<T>;
  static constexpr int slices = tile_stages * (A::Tile::elements + B::Tile::elements) * static_cast<int>(sizeof(T));
  static constexpr int sums = Math::Shape::m * Math::Shape::n * static_cast<int>(sizeof(C));
  static constexpr int offsets_at = slices > sums ? slices : sums;
  static constexpr int kept_at = offsets_at + (Math::Shape::m + Math::Shape::n) * 8;
  static constexpr int a_table_at = kept_at + static_cast<int>(sizeof(Kept));
  static constexpr int b_table_at = a_table_at + A::table_bytes;
  static constexpr int bytes = b_table_at + B::table_bytes;
};

// Where a sum waits in shared memory; groups of 16 bytes are permuted, so that neither the tensor cores'
// order nor rows nor columns meet in one bank.
template <class Math>
__device__ __forceinline__ int waiting_at(int row, int column) {
  constexpr int pack = pack_size<compute_t<typename Math::T>>;
  int spread = (row & 3) << 1 | (row >> 2 & 1);
  return row * Math::Shape::n + ((column / pack) ^ spread) * pack + column % pack;
}

template <class C>
__device__ __forceinline__ bool is_finite(C x) {
  return x - x == 0;
}

// Sums that are not finite once more, by plain multiply-adds.
template <class Math, class A, class B>
__device__ __forceinline__ void repair(const typename A::Params& a, const typename B::Params& b, const TilePlace& t,
                                       compute_t<typename Math::T>* waiting) {
  for (int i = static_cast<int>(threadIdx.x); i < Math::Shape::m * Math::Shape::n; i += Math::Shape::threads) {
    auto& sum = waiting[waiting_at<Math>(i / Math::Shape::n, i % Math::Shape::n)];
    int64_t row = t.row + i / Math::Shape::n, column = t.column + i % Math::Shape::n;
    if (is_finite(sum) || row >= t.m || column >= t.n) continue;
    compute_t<typename Math::T> again = 0;
#pragma unroll 1
    for (int64_t k = t.k_begin; k < t.k_end; ++k)
      again = fma(widen(A::element(a, t.unit, row, k)), widen(B::element(b, t.unit, column, k)), again);
    sum = again;
  }
}

template <int N, class T>
__device__ __forceinline__ void finish_elements(const OutputParams<T>& o, int64_t at, int64_t bias_at,
                                                Pack<compute_t<T>, N> sums) {
  Pack<T, N> before, result;
  if (o.add) before = load_pack<N>(o.data + at);
#pragma unroll
  for (int e = 0; e < N; ++e) {
    compute_t<T> value = sums.v[e];
    if (o.bias) value += widen(o.bias[bias_at + (o.bias_by_row ? 0 : e)]);
    if (o.add) value += widen(before.v[e]);
    result.v[e] = narrow<T>(value);
  }
  store_pack(o.data + at, result);
}

// To scratch, whole rows with what rounds up their width.
template <class Math, class T>
__device__ __forceinline__ void write_partials(const OutputParams<T>& o, const TilePlace& t,
                                               const compute_t<T>* waiting) {
  constexpr int m = Math::Shape::m, n = Math::Shape::n, pack = pack_size<compute_t<T>>;
  int64_t width = partial_width<compute_t<T>>(t.n);
  for (int i = static_cast<int>(threadIdx.x); i < m * n / pack; i += Math::Shape::threads) {
    int row = i / (n / pack), column = i % (n / pack) * pack;
    if (t.row + row < t.m && t.column + column < width)
      store_pack(o.partials + (t.partial_row + t.row + row) * width + t.column + column,
                 load_pack<pack>(waiting + waiting_at<Math>(row, column)));
  }
}

template <class Math, class Places, class T>
__device__ __forceinline__ void write_tile(const OutputParams<T>& o, const TilePlace& t, const Places& places,
                                           const compute_t<T>* waiting, int64_t* row_at) {
  using C = compute_t<T>;
  constexpr int m = Math::Shape::m, n = Math::Shape::n, threads = Math::Shape::threads, pack = pack_size<C>;
  int thread = static_cast<int>(threadIdx.x);
  int64_t* column_at = row_at + m;
  for (int i = thread; i < m; i += threads) row_at[i] = t.row + i < t.m ? places.row(t.unit, t.row + i) : nowhere;
  for (int i = thread; i < n; i += threads) column_at[i] = t.column + i < t.n ? places.column(t.column + i) : nowhere;
  __syncthreads();
  int64_t bias_at = o.bias_by_row ? t.row : places.bias(t.unit) + t.column;
  auto finish = [&](int row, int column, auto sums) {
    if (row_at[row] != nowhere && column_at[column] != nowhere)
      finish_elements(o, row_at[row] + column_at[column], bias_at + (o.bias_by_row ? row : column), sums);
  };
  if (o.write == Write::packs) {
    constexpr int count = pack_size<T>;
#pragma unroll 4
    for (int i = thread; i < m * n / count; i += threads) {
      int row = i / (n / count), column = i % (n / count) * count;
      Pack<C, count> sums;
#pragma unroll
      for (int e = 0; e < count; e += pack) {
        Pack<C, pack> some = load_pack<pack>(waiting + waiting_at<Math>(row, column + e));
#pragma unroll
        for (int f = 0; f < pack; ++f) sums.v[e + f] = some.v[f];
      }
      finish(row, column, sums);
    }
  } else if (o.write == Write::rows) {
#pragma unroll 4
    for (int i = thread; i < m * n; i += threads)
      finish(i / n, i % n, Pack<C, 1>{{waiting[waiting_at<Math>(i / n, i % n)]}});
  } else {
#pragma unroll 4
    for (int i = thread; i < m * n / pack; i += threads) {
      int row = i % m, column = i / m * pack;
      Pack<C, pack> some = load_pack<pack>(waiting + waiting_at<Math>(row, column));
#pragma unroll
      for (int e = 0; e < pack; ++e) finish(row, column + e, Pack<C, 1>{{some.v[e]}});
    }
  }
}

// One tile from its operands to its result. Of the result, places.row(unit, row) + places.column(column) is
// where an element lies, and places.bias(unit) where the bias of column 0.
template <class Math, class A, class B, class Places, class T>
__device__ __forceinline__ void product_tile(const typename A::Params& a_params, const typename B::Params& b_params,
                                             const OutputParams<T>& o, const Places& places, const TilePlace& place) {
  using Room = TileRoom<Math, A, B>;
  using C = typename Room::C;
  char* room = shared<char>();
  auto* waiting = reinterpret_cast<C*>(room);
  auto* kept = reinterpret_cast<Kept*>(room + Room::kept_at);
  if (threadIdx.x == 0) *kept = {place, 0};
  Math math;
  {
    A a(a_params, place.unit, place.row, place.k_begin, place.k_end, room + Room::a_table_at);
    B b(b_params, place.unit, place.column, place.k_begin, place.k_end, room + Room::b_table_at);
    __syncthreads();
    int slices = static_cast<int>((place.k_end - place.k_begin + A::Tile::depth - 1) / A::Tile::depth);
    multiply_slices(math, a, b, slices, reinterpret_cast<T*>(room));
  }
  const TilePlace& t = kept->place;
  bool finite = true;
  math.each([&](int row, int column, auto sums) {
    store_pack(waiting + waiting_at<Math>(row, column), sums);
    if constexpr (Math::repairs)
      for (C sum : sums.v) finite = finite && is_finite(sum);
  });
  if constexpr (Math::repairs)
    if (!finite) kept->repair = 1;
  __syncthreads();
  if constexpr (Math::repairs)
    if (kept->repair) {
      repair<Math, A, B>(a_params, b_params, t, waiting);
      __syncthreads();
    }
  if (o.partials)
    write_partials<Math>(o, t, waiting);
  else
    write_tile<Math>(o, t, places, waiting, reinterpret_cast<int64_t*>(room + Room::offsets_at));
}

// ---- partial sums ----

inline constexpr int finish_threads = 256;

// Adds the parts of each element in their order.
template <class Places, class T>
__global__ void __launch_bounds__(finish_threads)
    finish_kernel(OutputParams<T> o, Places places, int64_t parts, int64_t units, int64_t m, int64_t n) {
  using C = compute_t<T>;
  int64_t width = partial_width<C>(n), step = static_cast<int64_t>(gridDim.x) * finish_threads, count = units * m * n;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * finish_threads + threadIdx.x; i < count; i += step) {
    int64_t column = i % n, row = i / n % m, unit = i / n / m;
    int64_t row_at = places.row(unit, row), column_at = places.column(column);
    if (row_at == nowhere || column_at == nowhere) continue;
    const C* from = o.partials + (unit * m + row) * width + column;
    C sum = 0;
#pragma unroll 4
    for (int64_t part = 0; part < parts; ++part) sum += from[part * units * m * width];
    finish_elements(o, row_at + column_at, o.bias_by_row ? row : places.bias(unit) + column, Pack<C, 1>{{sum}});
  }
}

}  // namespace arraynn::cuda
