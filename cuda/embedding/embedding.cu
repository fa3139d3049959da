// Rows of a table. Forward: packs of 16 bytes of the rows, several on their way at a time.
//
// Backward: the positions sorted by row (sort.h) are cut into tiles of equal length. A thread adds up a pack of
// columns along its tile, row by row. A row that lies in one tile is then done; of one that goes on, each
// tile leaves what it has, and the thread of the tile where the row begins adds those up. Order and
// cuts are functions of the indices alone: no atomics.
//
// Bytes moved, with V rows, n indices, E columns of 2, 4 or 8 bytes: forward 2 n E and the indices; backward
// n E + V E, the zeros among it, and the sort's 32 n for each four bits of V.
#include <cmath>

#include "device/divide.h"
#include "device/reduce.h"
#include "embedding/sort.h"
#include "kernels.h"

namespace arraynn::cuda {

namespace {

constexpr int threads = 256, unroll = 4;
constexpr int64_t most_32 = (int64_t{1} << 31) - 4096;  // numbers of packs, with the rest of a block

// ---- indices ------------------------------------------------------------------------------------

constexpr int64_t most_parts = embedding_index_scratch / sizeof(int64_t);

struct Least {
  __device__ int64_t operator()(int64_t a, int64_t b) const { return a < b ? a : b; }
};

// Each block's first place of an index that is no row, or INT64_MAX.
__global__ void __launch_bounds__(threads) bad_kernel(Rows rows, int64_t* parts) {
  int64_t step = static_cast<int64_t>(gridDim.x) * threads, bad = INT64_MAX;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < rows.count; i += step)
    if (rows.row(i) == rows.rows && bad == INT64_MAX) bad = i;
  bad = block_reduce(bad, Least{}, shared<int64_t>());
  if (threadIdx.x == 0) parts[blockIdx.x] = bad;
}

// ---- forward ------------------------------------------------------------------------------------

// packs: of a row. I: wide enough for the number of all packs.
template <class T, int N, class I>
__global__ void __launch_bounds__(threads) gather_kernel(Rows rows, I count, Divider<I> packs, int64_t row_step,
                                                         const T* __restrict__ weight, T* __restrict__ y) {
  I first = static_cast<I>(blockIdx.x) * (threads * unroll) + static_cast<I>(threadIdx.x);
  Pack<T, N> held[unroll];
#pragma unroll
  for (int u = 0; u < unroll; ++u) {
    I position = first + u * threads;
    if (position >= count) break;
    I column = divide_off(position, packs);
    int64_t row = rows.row(position);
    if (row < rows.rows) {
      held[u] = load_pack<N>(weight + row * row_step + static_cast<int64_t>(column) * N);
    } else {
#pragma unroll
      for (int k = 0; k < N; ++k) held[u].v[k] = narrow<T>(static_cast<compute_t<T>>(NAN));
    }
  }
#pragma unroll
  for (int u = 0; u < unroll; ++u)
    if (first + u * threads < count) store_pack(y + static_cast<int64_t>(first + u * threads) * N, held[u]);
}

// ---- backward -----------------------------------------------------------------------------------

constexpr int sum_threads = 128, most_tile = 512;

// Sorted positions, in tiles.
struct Tiles {
  Rows of;
  const int64_t* order;
  int length;
  int64_t width;  // of a row, in elements

  __device__ __forceinline__ int64_t row(int64_t i) const { return of.row(order[i]); }
  __device__ __forceinline__ bool goes_on(int64_t i, int64_t row_) const {
    return i > 0 && i < of.count && row(i) == row_;
  }
};

// The grid: tiles, and parts of the columns.
template <int N>
__device__ __forceinline__ int64_t first_column() {
  return (static_cast<int64_t>(blockIdx.y) * sum_threads + threadIdx.x) * N;
}

// What tiles leave of rows that lie in several: [0] of the row that came from the tile before, [1] of the one that
// begins in the tile and goes on.
template <class C>
__device__ __forceinline__ C* left_at(const Tiles& t, C* left, int64_t tile, int which, int64_t column) {
  return left + (2 * tile + which) * t.width + column;
}

template <class T, int N>
__device__ __forceinline__ void store_sum(T* to, const Pack<compute_t<T>, N>& sum) {
  Pack<T, N> pack;
#pragma unroll
  for (int k = 0; k < N; ++k) pack.v[k] = narrow<T>(sum.v[k]);
  store_pack(to, pack);
}

// A block: a tile, and as many packs of columns as it has threads.
template <class T, int N>
__global__ void __launch_bounds__(sum_threads)
    sum_kernel(Tiles t, const T* __restrict__ dy, T* __restrict__ dw, compute_t<T>* __restrict__ left) {
  using C = compute_t<T>;
  int64_t *rows = shared<int64_t>(), *positions = rows + most_tile;
  int64_t tile = blockIdx.x, begin = tile * t.length;
  int size = static_cast<int>(min(t.of.count - begin, static_cast<int64_t>(t.length)));
  for (int i = static_cast<int>(threadIdx.x); i < size; i += sum_threads) {
    positions[i] = t.order[begin + i];
    rows[i] = t.of.row(positions[i]);
  }
  __syncthreads();
  int64_t column = first_column<N>();
  if (column >= t.width) return;
  bool came = t.goes_on(begin, t.row(max(begin - 1, int64_t{0})));
  for (int first = 0; first < size && rows[first] < t.of.rows;) {
    int64_t row = rows[first];
    Pack<C, N> sum{};
    int i = first;
#pragma unroll 4
    for (; i < size && rows[i] == row; ++i) {
      Pack<T, N> pack = load_pack<N>(dy + positions[i] * t.width + column);
#pragma unroll
      for (int k = 0; k < N; ++k) sum.v[k] += widen(pack.v[k]);
    }
    bool from_before = came && first == 0, goes_on = i == size && t.goes_on(begin + size, row);
    if (from_before || goes_on)
      store_pack(left_at(t, left, tile, from_before ? 0 : 1, column), sum);
    else
      store_sum<T, N>(dw + row * t.width + column, sum);
    first = i;
  }
}

// The rows that lie in several tiles, each by the threads of the tile where it begins.
template <class T, int N>
__global__ void __launch_bounds__(sum_threads) join_kernel(Tiles t, compute_t<T>* left, T* dw) {
  using C = compute_t<T>;
  int64_t tile = blockIdx.x, begin = tile * t.length, end = begin + t.length;
  int64_t column = first_column<N>();
  if (column >= t.width || end >= t.of.count) return;
  int64_t row = t.row(end - 1);
  bool begins_before = t.row(begin) == row && begin > 0 && t.row(begin - 1) == row;
  if (row == t.of.rows || begins_before || !t.goes_on(end, row)) return;
  auto sum = load_pack<N>(left_at<C>(t, left, tile, 1, column));
  do {
    ++tile;
    end += t.length;
    auto part = load_pack<N>(left_at<C>(t, left, tile, 0, column));
#pragma unroll
    for (int k = 0; k < N; ++k) sum.v[k] += part.v[k];
  } while (t.goes_on(end, row));
  store_sum<T, N>(dw + row * t.width + column, sum);
}

// ---- launchers ----------------------------------------------------------------------------------

// About as many positions to a tile as there are tiles, so that neither walk is long.
int tile_length(int64_t count) {
  int length = 16;
  while (length < most_tile && int64_t{length} * length * 4 < count) length *= 2;
  return length;
}

int64_t aligned_numbers(int64_t numbers) { return ceil_div(numbers, 8) * 8; }

template <class T, int N, class I>
void launch_gather(const EmbeddingParams& p, const Rows& rows, const T* weight, T* y) {
  int64_t packs = p.width / N, count = rows.count * packs;
  if (count == 0) return;
  launch(gather_kernel<T, N, I>, grid_for(count, threads * unroll), threads, 0, p.place, rows, static_cast<I>(count),
         Divider<I>(packs), p.row_step, weight, y);
}

template <class T, int N>
void launch_sums(const EmbeddingParams& p, const Tiles& t, const T* dy, T* dw, compute_t<T>* left) {
  dim3 grid(static_cast<unsigned>(ceil_div(t.of.count, t.length)),
            static_cast<unsigned>(ceil_div(p.width, N * sum_threads)));
  launch(sum_kernel<T, N>, grid, sum_threads, 2 * most_tile * sizeof(int64_t), p.place, t, dy, dw, left);
  launch(join_kernel<T, N>, grid, sum_threads, 0, p.place, t, left, dw);
}

}  // namespace

BadIndex embedding_indices(const EmbeddingParams& p, const void* index, void* scratch) {
  auto* places = static_cast<const int64_t*>(index);
  auto* parts = static_cast<int64_t*>(scratch);
  auto blocks = static_cast<unsigned>(std::min(ceil_div(p.count, threads * unroll), most_parts));
  int64_t found[most_parts], bad = INT64_MAX;
  launch(bad_kernel, blocks, threads, 32 * sizeof(int64_t), p.place, Rows{places, p.count, p.rows, -1}, parts);
  copy_bytes(p.place, found, parts, blocks * sizeof(int64_t));
  synchronize(p.place);
  for (unsigned i = 0; i < blocks; ++i) bad = std::min(bad, found[i]);
  if (bad == INT64_MAX) return {0, false};
  BadIndex result{0, true};
  copy_bytes(p.place, &result.value, places + bad, sizeof result.value);
  synchronize(p.place);
  return result;
}

void embedding_forward(const EmbeddingParams& p, const void* index, const void* weight, void* output) {
  Rows rows{static_cast<const int64_t*>(index), p.count, p.rows, -1};
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int N = pack_size<T>;
    auto* w = static_cast<const T*>(weight);
    auto* y = static_cast<T*>(output);
    if (p.count * p.width > most_32)
      launch_gather<T, 1, int64_t>(p, rows, w, y);
    else if (p.width % N == 0 && p.row_step % N == 0 && aligned16(w, y))
      launch_gather<T, N, int32_t>(p, rows, w, y);
    else
      launch_gather<T, 1, int32_t>(p, rows, w, y);
  });
}

size_t embedding_backward_scratch(const EmbeddingParams& p) {
  auto numbers = static_cast<size_t>(aligned_numbers(sort_numbers(p.count)));
  auto left = static_cast<size_t>(2 * ceil_div(p.count, tile_length(p.count)) * p.width);
  return numbers * sizeof(int64_t) + left * (p.dtype == DType::float64 ? sizeof(double) : sizeof(float));
}

void embedding_backward(const EmbeddingParams& p, const void* d_output, const void* index, void* d_weight,
                        void* scratch) {
  fill_zero(p.place, d_weight, static_cast<size_t>(p.rows * p.width * item_size(p.dtype)));
  if (p.count == 0 || p.rows == 0 || p.width == 0) return;
  Rows rows{static_cast<const int64_t*>(index), p.count, p.rows, p.padding_idx};
  auto* numbers = static_cast<int64_t*>(scratch);
  Tiles tiles{rows, sort_by_row(p.place, rows, numbers), tile_length(p.count), p.width};
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int N = pack_size<T>;
    auto* dy = static_cast<const T*>(d_output);
    auto* dw = static_cast<T*>(d_weight);
    auto* left = reinterpret_cast<compute_t<T>*>(numbers + aligned_numbers(sort_numbers(p.count)));
    if (p.width % N == 0 && aligned16(dy, dw))
      launch_sums<T, N>(p, tiles, dy, dw, left);
    else
      launch_sums<T, 1>(p, tiles, dy, dw, left);
  });
}

}  // namespace arraynn::cuda
