// Two sums over the rows for each column of a table. A warp's lanes take columns next to each other; long sums are
// cut in parts, a block each, whose results a second kernel adds. How many parts depends on the shape alone, and every
// sum has a fixed order.
#pragma once
#include <algorithm>

#include "device/extent.h"
#include "device/reduce.h"
#include "dispatch.h"

namespace arraynn::cuda {

inline constexpr int pair_threads = 256;

struct ColumnParts {
  int64_t rows, columns;
  int64_t parts, each;  // rows of a part
  int lanes;            // threads side by side across columns, `pack` each
};

// A part has at least `least` elements, and the blocks are few enough that their sums are soon added.
inline ColumnParts column_parts(int64_t rows, int64_t columns, int pack) {
  constexpr int64_t least = 8192, most_blocks = 2048;
  ColumnParts s{rows, columns, 1, std::max<int64_t>(rows, 1), 1};
  while (s.lanes < 32 && s.lanes * pack < columns) s.lanes *= 2;
  int64_t across = static_cast<int64_t>(s.lanes) * pack, blocks = std::max<int64_t>(1, ceil_div(columns, across));
  int64_t parts = std::max<int64_t>(1, std::min(rows * across / least, most_blocks / blocks));
  s.each = std::max<int64_t>(1, ceil_div(rows, parts));
  s.parts = std::max<int64_t>(1, ceil_div(rows, s.each));
  return s;
}

// terms(Elements<N>, row, column, a, b) adds to the sums of N columns next to each other.
template <class T, int N, class Terms>
__global__ void __launch_bounds__(pair_threads)
    column_pairs_kernel(Terms terms, ColumnParts s, compute_t<T>* partials, T* first, T* second) {
  using C = compute_t<T>;
  C* room = shared<C>();
  int thread = static_cast<int>(threadIdx.x), x = thread % s.lanes, y = thread / s.lanes, tall = pair_threads / s.lanes;
  int64_t part = blockIdx.x % s.parts, column = (blockIdx.x / s.parts * s.lanes + x) * N;
  int64_t end = min((part + 1) * s.each, s.rows);
  C sums[2 * N] = {};
  if (column < s.columns) {
#pragma unroll 4
    for (int64_t row = part * s.each + y; row < end; row += tall) {
      C a[N] = {}, b[N] = {};
      terms(Elements<N>{}, row, column, a, b);
#pragma unroll
      for (int e = 0; e < N; ++e) sums[e] += a[e], sums[N + e] += b[e];
    }
  }
#pragma unroll
  for (int e = 0; e < 2 * N; ++e) room[e * pair_threads + thread] = sums[e];
  for (int half = tall / 2; half > 0; half /= 2) {
    __syncthreads();
    if (y < half)
#pragma unroll
      for (int e = 0; e < 2 * N; ++e) {
        C* to = room + e * pair_threads + thread;
        *to += to[half * s.lanes];
      }
  }
  if (y != 0 || column >= s.columns) return;
#pragma unroll
  for (int e = 0; e < 2 * N; ++e) {
    int64_t at = column + e % N;
    C total = room[e * pair_threads + thread];
    T* to = e < N ? first : second;
    if (s.parts > 1)
      partials[(e < N ? at : s.columns + at) * s.parts + part] = total;
    else if (to)
      to[at] = narrow<T>(total);
  }
}

template <class T>
__global__ void __launch_bounds__(pair_threads)
    add_column_pairs_kernel(const compute_t<T>* partials, ColumnParts s, T* first, T* second) {
  int64_t at = static_cast<int64_t>(blockIdx.x) * (pair_threads / 32) + threadIdx.x / 32;
  bool inside = at < 2 * s.columns;
  compute_t<T> sum = 0;
  if (inside)
    for (int64_t part = threadIdx.x % 32; part < s.parts; part += 32) sum += partials[at * s.parts + part];
  sum = warp_reduce(sum, Add{});
  if (!inside || threadIdx.x % 32 != 0) return;
  T* to = at < s.columns ? first : second;
  if (to) to[at < s.columns ? at : at - s.columns] = narrow<T>(sum);
}

template <class T>
size_t column_pairs_scratch(int64_t rows, int64_t columns) {
  int64_t parts = std::max(column_parts(rows, columns, 1).parts, column_parts(rows, columns, pack_size<T>).parts);
  return static_cast<size_t>(2 * parts * columns) * sizeof(compute_t<T>);
}

// Either sum may be null: not wanted. `vector`: terms can be read in packs of 16 bytes.
template <class T, class Terms>
void column_pairs(const Terms& terms, int64_t rows, int64_t columns, bool vector, const Place& place, void* scratch,
                  T* first, T* second) {
  if (columns == 0) return;
  using C = compute_t<T>;
  auto start = [&](auto n) {
    constexpr int N = decltype(n)::value;
    ColumnParts s = column_parts(rows, columns, N);
    int64_t across = ceil_div(columns, static_cast<int64_t>(s.lanes) * N);
    auto* partials = static_cast<C*>(scratch);
    launch(column_pairs_kernel<T, N, Terms>, dim3(static_cast<unsigned>(across * s.parts)), pair_threads,
           2 * N * pair_threads * sizeof(C), place, terms, s, partials, first, second);
    if (s.parts > 1)
      launch(add_column_pairs_kernel<T>, grid_for(2 * columns, pair_threads / 32), pair_threads, 0, place, partials, s,
             first, second);
  };
  if (vector && columns % pack_size<T> == 0)
    start(Elements<pack_size<T>>{});
  else
    start(Elements<1>{});
}

}  // namespace arraynn::cuda
