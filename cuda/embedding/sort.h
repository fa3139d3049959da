// Sorts the positions of a call's indices by the row that each names, positions of one row in their order: a
// radix sort of four bits at a time, from the lowest on. Three kernels to a pass: every block counts the digits of
// its tile; one block turns the counts into where each tile's entries of each digit begin; every block
// puts its tile there. No atomics: a thread's entries follow each other, and threads and tiles are counted
// up in their order.
//
// What is no row, or is the row that takes no gradient, sorts behind all others.
#pragma once
#include <algorithm>

#include "dispatch.h"
#include "ops/embedding.h"

namespace arraynn::cuda {
namespace {

constexpr int sort_threads = 256, sort_items = 8;  // items of a thread
constexpr int64_t sort_tile = sort_threads * sort_items;
constexpr int digit_bits = 4, digits = 1 << digit_bits;
static_assert(digits * digits == sort_threads);

struct Rows {
  const int64_t* index;
  int64_t count, rows, padding_idx;

  __device__ __forceinline__ int64_t row(int64_t position) const {
    int64_t r = index[position];
    return r < 0 || r >= rows || r == padding_idx ? rows : r;
  }
};

// order: null for the positions as they are.
struct Pass {
  Rows of;
  const int64_t* order;
  int shift;

  __device__ __forceinline__ int64_t position(int64_t i) const { return order ? order[i] : i; }
  __device__ __forceinline__ int digit(int64_t position) const {
    return static_cast<int>(of.row(position) >> shift) & (digits - 1);
  }
};

// Counts the digits of the thread's items into its column of the counters.
__device__ __forceinline__ void count_digits(const Pass& pass, int64_t first, int* counters) {
#pragma unroll
  for (int d = 0; d < digits; ++d) counters[d * sort_threads + threadIdx.x] = 0;
  for (int k = 0; k < sort_items; ++k)
    if (first + k < pass.of.count) ++counters[pass.digit(pass.position(first + k)) * sort_threads + threadIdx.x];
}

__device__ __forceinline__ int64_t first_item() {
  return static_cast<int64_t>(blockIdx.x) * sort_tile + static_cast<int64_t>(threadIdx.x) * sort_items;
}

// The counters of one digit in one of 16 parts of the threads: (digit, part) are a thread's.
struct Segment {
  int digit, begin;
  __device__ __forceinline__ Segment()
      : digit(static_cast<int>(threadIdx.x) / digits),
        begin(digit * sort_threads + static_cast<int>(threadIdx.x) % digits * digits) {}
};

// totals: each segment's count. Shared memory: the counters, and a number per thread.
__device__ __forceinline__ void sum_segments(const int* counters, int* totals) {
  Segment segment;
  int total = 0;
#pragma unroll
  for (int k = 0; k < digits; ++k) total += counters[segment.begin + k];
  totals[threadIdx.x] = total;
  __syncthreads();
}

constexpr size_t sort_room = (digits + 1) * sort_threads * sizeof(int);

// begins[digit][tile] = how many of the tile's entries have the digit.
__global__ void __launch_bounds__(sort_threads) count_kernel(Pass pass, int64_t* begins) {
  int *counters = shared<int>(), *totals = counters + digits * sort_threads;
  count_digits(pass, first_item(), counters);
  __syncthreads();
  sum_segments(counters, totals);
  if (threadIdx.x >= digits) return;
  int64_t total = 0;
  for (int k = 0; k < digits; ++k) total += totals[threadIdx.x * digits + k];
  begins[static_cast<int64_t>(threadIdx.x) * gridDim.x + blockIdx.x] = total;
}

// Each number becomes the sum of those before it. One block.
__global__ void __launch_bounds__(sort_threads) begin_kernel(int64_t count, int64_t* begins) {
  auto* sums = shared<int64_t>();
  int64_t each = (count + sort_threads - 1) / sort_threads;
  int64_t first = min(threadIdx.x * each, count), last = min(first + each, count), sum = 0;
  for (int64_t i = first; i < last; ++i) sum += begins[i];
  sums[threadIdx.x] = sum;
  __syncthreads();
  sum = 0;
  for (unsigned t = 0; t < threadIdx.x; ++t) sum += sums[t];
  for (int64_t i = first; i < last; ++i) {
    int64_t here = begins[i];
    begins[i] = sum;
    sum += here;
  }
}

__global__ void __launch_bounds__(sort_threads) place_kernel(Pass pass, const int64_t* begins, int64_t* sorted) {
  int *counters = shared<int>(), *totals = counters + digits * sort_threads;
  int64_t first = first_item();
  count_digits(pass, first, counters);
  __syncthreads();
  sum_segments(counters, totals);
  // Counters become how many entries of the digit the threads before have.
  Segment segment;
  int before = 0;
  for (int t = segment.digit * digits; t < static_cast<int>(threadIdx.x); ++t) before += totals[t];
#pragma unroll
  for (int k = 0; k < digits; ++k) {
    int here = counters[segment.begin + k];
    counters[segment.begin + k] = before;
    before += here;
  }
  __syncthreads();
  for (int k = 0; k < sort_items; ++k) {
    if (first + k >= pass.of.count) break;
    int64_t position = pass.position(first + k);
    int digit = pass.digit(position), rank = counters[digit * sort_threads + threadIdx.x]++;
    sorted[begins[static_cast<int64_t>(digit) * gridDim.x + blockIdx.x] + rank] = position;
  }
}

// ---- launching ----------------------------------------------------------------------------------

inline int64_t sort_tiles(int64_t count) { return ceil_div(count, sort_tile); }
// int64 numbers of scratch: two orders, and where digits begin.
inline int64_t sort_numbers(int64_t count) { return 2 * count + digits * sort_tiles(count); }

// Returns the order, which lies in scratch.
inline const int64_t* sort_by_row(const Place& place, const Rows& rows, int64_t* scratch) {
  int64_t count = rows.count, tiles = sort_tiles(count);
  int64_t *from = nullptr, *to = scratch, *other = scratch + count, *begins = scratch + 2 * count;
  auto grid = grid_for(count, sort_tile);
  for (int shift = 0; shift == 0 || rows.rows >> shift != 0; shift += digit_bits) {
    Pass pass{rows, from, shift};
    launch(count_kernel, grid, sort_threads, sort_room, place, pass, begins);
    launch(begin_kernel, 1, sort_threads, sort_threads * sizeof(int64_t), place, digits * tiles, begins);
    launch(place_kernel, grid, sort_threads, sort_room, place, pass, begins, to);
    from = to;
    std::swap(to, other);
  }
  return from;
}

}  // namespace
}  // namespace arraynn::cuda
