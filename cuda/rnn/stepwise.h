// Layers with RnnExtras or a projection, whose steps are a product, a kernel for what is behind it, and perhaps a
// second product and kernel. A block has one sequence's row, as normalization takes sums of all of it; without
// normalization its threads never wait for each other.
#pragma once
#include "device/reduce.h"
#include "rnn/steps.h"

namespace arraynn::cuda::rnn {

// Threads for a row: whole warps.
inline int row_threads(int64_t columns) {
  return static_cast<int>(std::min<int64_t>(256, std::max<int64_t>(1, ceil_div(columns, 32)) * 32));
}

template <class F>
__device__ __forceinline__ void each_unit(int64_t size, const F& f) {
  for (int64_t u = threadIdx.x; u < size; u += blockDim.x) f(u);
}

template <class F>
__device__ __forceinline__ void each_block_row(int64_t rows, const F& f) {
  for (int64_t n = blockIdx.x; n < rows; n += gridDim.x) f(n);
}

// ---- normalization ----

// value(u) -> y[u], each thread its own elements; returns the factor. To be called by the whole block.
template <class T, class F>
__device__ __forceinline__ T normalize(int64_t size, const F& value, T* y) {
  T* room = shared<T>();
  T total = 0, squares = 0;
  each_unit(size, [&](int64_t u) { total += value(u); });
  T mean = block_reduce(total, Add{}, room) / static_cast<T>(size);
  each_unit(size, [&](int64_t u) {
    T d = value(u) - mean;
    squares = multiply_add(d, d, squares);
  });
  T variance = block_reduce(squares, Add{}, room) / static_cast<T>(size);
  T rstd = T(1) / sqrt(variance + static_cast<T>(rnn_norm_eps));
  each_unit(size, [&](int64_t u) { y[u] = (value(u) - mean) * rstd; });
  return rstd;
}

// The gradient d of what was normalized times its gain -> dx, which may be d, and the products of d with what was
// normalized.
template <class T>
__device__ __forceinline__ void normalize_back(int64_t size, const T* d, const T* gain, const T* norm, T rstd, T* dx,
                                               T* products) {
  T* room = shared<T>();
  T total = 0, along = 0;
  each_unit(size, [&](int64_t u) {
    T g = d[u] * gain[u];
    total += g;
    along = multiply_add(g, norm[u], along);
  });
  T mean = block_reduce(total, Add{}, room) / static_cast<T>(size);
  T slope = block_reduce(along, Add{}, room) / static_cast<T>(size);
  each_unit(size, [&](int64_t u) {
    T by = d[u], y = norm[u];
    products[u] = by * y;
    dx[u] = (by * gain[u] - mean - y * slope) * rstd;
  });
}

// f(group, first, size) for what is normalized at once of a row of gates.
template <Cell cell, class F>
__device__ __forceinline__ void each_group(int64_t hidden, const F& f) {
  int64_t first = norm_groups_of<cell> == 2 ? 2 * hidden : gates_of<cell> * hidden;
  f(0, int64_t{0}, first);
  if (norm_groups_of<cell> == 2) f(1, first, hidden);
}

template <Cell cell, class T>
__device__ __forceinline__ void normalize_gates(int64_t hidden, T* row, const T* gain, T* norm, T* rstd) {
  each_group<cell>(hidden, [&](int group, int64_t first, int64_t size) {
    T* to = norm ? norm + first : row + first;
    const T* from = row + first;
    T factor = normalize<T>(size, [&](int64_t u) { return from[u]; }, to);
    if (rstd && threadIdx.x == 0) rstd[group] = factor;
    each_unit(size, [&](int64_t u) { row[first + u] = to[u] * gain[first + u]; });
  });
  __syncthreads();  // other threads read the row
}

template <Cell cell, class T>
__device__ __forceinline__ void normalize_gates_back(int64_t hidden, const T* d, const T* gain, const T* norm,
                                                     const T* rstd, T* dx, T* products) {
  each_group<cell>(hidden, [&](int group, int64_t first, int64_t size) {
    normalize_back(size, d + first, gain + first, norm + first, rstd[group], dx + first, products + first);
  });
}

// ---- masks ----

// Of a state, at one step: what stays as it was.
template <class T>
struct Zone {
  T rate;
  const T* mask;  // 0 where it stays; null: its mean is taken

  __device__ __forceinline__ T apply(int64_t at, T fresh, T before) const {
    if (rate <= T(0)) return fresh;
    if (!mask) return multiply_add(rate, before, fresh * (T(1) - rate));
    return mask[at] != T(0) ? fresh : before;
  }
  // The gradient's parts that go to the fresh state and to the one before.
  __device__ __forceinline__ void share(int64_t at, T d, T& fresh, T& before) const {
    if (rate <= T(0)) {
      fresh = d;
      before = 0;
    } else if (!mask) {
      fresh = d * (T(1) - rate);
      before = d * rate;
    } else {
      bool goes = mask[at] != T(0);
      fresh = goes ? d : T(0);
      before = goes ? T(0) : d;
    }
  }
};

// ---- what a step knows, in both passes ----

template <class T>
struct StepRow : Marks {
  int64_t t, next, batch, hidden, width, out_n;  // next: the time of the following step, or -1
  bool relu;
  const T *mask, *peepholes, *gain_hh, *gain_c, *b_c;
  Zone<T> zone_h, zone_c;
  __device__ __forceinline__ bool is_active(int64_t n) const { return active(t, n); }
  __device__ __forceinline__ bool is_reset(int64_t n) const { return reset(t, n); }
  __device__ __forceinline__ bool is_reset_next(int64_t n) const { return next >= 0 && reset(next, n); }
};

// The arrays of one forward step. `fresh_h` and `fresh_c` are the states before zoneout, `inner` what a projection
// takes (without one, fresh_h itself); `masked` is m h, or h.
template <class T>
struct StepForward : StepRow<T> {
  T *gates, *hidden_n, *out, *product, *inner, *fresh_h, *fresh_c, *state_norm, *rstd;
  const T *h, *c, *masked, *b_ih, *b_hh;
  T *h_next, *c_next, *masked_next;
};

// The arrays of one backward step. `d_fresh` is the gradient of h before zoneout, `d_inner` of what a projection takes
// (without one, d_fresh itself). `d_x` and `d_h` are those of the two products behind their normalization, `d` of the
// state's before it; what is the same is one array.
template <class T>
struct StepBackward : StepRow<T> {
  const T *gates, *hidden_n, *h, *c, *state_norm, *rstd, *d_out;
  T *carry, *dc, *d_fresh, *d_inner, *d_x, *d_h, *d;
  T *flow, *through;                                  // what comes back by the recurrent weights, and to m h besides
  T *peeped, *gain_hh_d, *c_norm, *c_norm_d, *b_c_d;  // rows whose sums over time are parameters' gradients
};

// ---- host ----

size_t stepwise_forward_scratch(const RnnLayer& p, bool saving);
size_t stepwise_backward_scratch(const RnnLayer& p);
void stepwise_forward(const RnnLayer& p, const RnnForward& b, void* scratch);
void stepwise_backward(const RnnLayer& p, const RnnBackward& b, void* scratch);

}  // namespace arraynn::cuda::rnn
