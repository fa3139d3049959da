// Steps launched by themselves: `product` is the recurrent one of all rows.
#pragma once
#include "dispatch.h"
#include "rnn/cell.h"

namespace arraynn::cuda::rnn {

// A block of at most 256 threads has one row's part.
struct RowBlocks {
  int threads;
  int64_t per_row, blocks;
  RowBlocks(int64_t rows, int64_t columns)
      : threads(static_cast<int>(std::min<int64_t>(256, ceil_div(columns, 32) * 32))),
        per_row(threads ? ceil_div(columns, threads) : 0),
        blocks(rows * per_row) {}
  dim3 grid() const { return grid_for(blocks, 1); }
};

// f(row, column)
template <class F>
__device__ __forceinline__ void each_of_rows(int64_t per_row, int64_t blocks, int64_t columns, const F& f) {
  for (int64_t i = blockIdx.x; i < blocks; i += gridDim.x) {
    int64_t row = i / per_row, column = i % per_row * blockDim.x + threadIdx.x;
    if (column < columns) f(row, column);
  }
}

template <Cell cell, class T>
__global__ void forward_step_kernel(Forward<T> a, const T* h, const T* product, RowBlocks r) {
  each_of_rows(r.per_row, r.blocks, a.hidden, [&](int64_t n, int64_t unit) {
    Ahead<cell, T> in = look_ahead<cell>(a, a.first, n, unit, h, a.hidden);
    T bias[4], gates[gates_of<cell>];
    load_biases<cell>(a, unit, bias);
#pragma unroll
    for (int g = 0; g < gates_of<cell>; ++g) gates[g] = product[(n * gates_of<cell> + g) * a.hidden + unit];
    finish_forward<cell>(a, a.first, n, unit, in, gates, bias);
  });
}

// The product is in the carry already.
template <Cell cell, class T>
__global__ void backward_step_kernel(Backward<T> a, int64_t s, RowBlocks r) {
  each_of_rows(r.per_row, r.blocks, a.hidden, [&](int64_t n, int64_t unit) {
    finish_backward<cell>(a, s, n, unit, look_behind<cell>(a, s, n, unit), T(0));
  });
}

// Clears a state where step t resets it.
template <class T>
__global__ void clear_reset_kernel(Marks marks, int64_t t, T* state, int64_t columns, RowBlocks r) {
  each_of_rows(r.per_row, r.blocks, columns, [&](int64_t n, int64_t unit) {
    if (marks.reset(t, n)) state[n * columns + unit] = 0;
  });
}

// The input as the weights' gradient may read it: past a sequence's end there may be anything, NaN too,
// which a zero gate gradient would not hide.
template <class T>
__global__ void readable_input_kernel(const T* x, T* copy, const int64_t* lengths, int64_t batch, int64_t columns,
                                      RowBlocks r) {
  each_of_rows(r.per_row, r.blocks, columns, [&](int64_t row, int64_t column) {
    bool active = row / batch < lengths[row % batch];
    copy[row * columns + column] = active ? x[row * columns + column] : T(0);
  });
}

}  // namespace arraynn::cuda::rnn
