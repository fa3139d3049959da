// A GRU whose reset gate comes before the product. That makes two products of a step, the second one of what
// is behind the first, so its steps are launched by themselves: product, kernel, product, kernel.
#pragma once
#include "rnn/steps.h"

namespace arraynn::cuda::rnn {

// ---- forward ----

// `product`: W h of r and z. The gates take the place of the input's products, and r h goes to `reset_h`.
template <class T>
__device__ __forceinline__ void finish_reset(const Forward<T>& a, int64_t n, int64_t unit, const T* h, const T* product,
                                             T* reset_h) {
  int64_t t = a.time(a.first), at = n * a.hidden + unit;
  if (!a.active(t, n)) {  // a zero, which the weights' gradient may meet
    reset_h[at] = 0;
    return;
  }
  T bias[4];
  load_biases<Cell::gru_reset_first>(a, unit, bias);
  T* gates = a.gates + ((t - a.gates_t) * a.batch + n) * 3 * a.hidden + unit;
  const T* with = product + n * 2 * a.hidden + unit;
  T r = sigmoid(gates[0] + (with[0] + bias[0]));
  gates[0] = r;
  gates[a.hidden] = sigmoid(gates[a.hidden] + (with[a.hidden] + bias[1]));
  reset_h[at] = r * h[at];
}

// `product`: W_hn (r h).
template <class T>
__device__ __forceinline__ void finish_candidate(const Forward<T>& a, int64_t n, int64_t unit, const T* h,
                                                 const T* product) {
  int64_t t = a.time(a.first), at = n * a.hidden + unit;
  bool active = a.active(t, n);
  T next = h[at];
  if (active) {
    T bias[4];
    load_biases<Cell::gru_reset_first>(a, unit, bias);
    T* gates = a.gates + ((t - a.gates_t) * a.batch + n) * 3 * a.hidden + unit;
    T candidate = hyperbolic_tangent(gates[2 * a.hidden] + (product[at] + bias[2]));
    gates[2 * a.hidden] = candidate;
    next = multiply_add(gates[a.hidden], next - candidate, candidate);
  }
  write_state<Cell::gru_reset_first>(a, a.first, n, unit, active, next, T(0));
}

// ---- backward ----

// All but r, whose gradient takes the product of n's with the weights. Gate gradients lie as r z n.
template <class T>
__device__ __forceinline__ void finish_candidate_back(const Backward<T>& a, int64_t s, int64_t n, int64_t unit) {
  int64_t t = a.time(s), at = n * a.hidden + unit, states = a.batch * a.hidden;
  T d[3] = {0, 0, 0}, carry = a.cut(s, n) ? T(0) : a.carry[at];
  if (a.active(t, n)) {
    const T* gates = a.gates + (t * a.batch + n) * 3 * a.hidden + unit;
    T z = gates[a.hidden], candidate = gates[2 * a.hidden], dh = carry + a.d_output[t * a.out_t + n * a.out_n + unit];
    d[1] = dh * (a.h[a.before(s) * states + at] - candidate) * z * (T(1) - z);
    d[2] = dh * (T(1) - z) * (T(1) - candidate * candidate);
    carry = dh * z;
  }
  a.carry[at] = carry;
  T* to = a.gradients(s) + n * a.d_step;
#pragma unroll
  for (int g = 0; g < 3; ++g) to[g * a.hidden + unit] = d[g];
  if (unit + 1 == a.hidden)
    for (int64_t k = 3 * a.hidden; k < a.padded; ++k) to[k] = 0;
}

// `product`: that one, the gradient of r h.
template <class T>
__device__ __forceinline__ void finish_reset_back(const Backward<T>& a, int64_t s, int64_t n, int64_t unit,
                                                  const T* product) {
  int64_t t = a.time(s), at = n * a.hidden + unit;
  if (!a.active(t, n)) return;
  T r = a.gates[(t * a.batch + n) * 3 * a.hidden + unit], by = product[at];
  a.gradients(s)[n * a.d_step + unit] = by * a.h[a.before(s) * a.batch * a.hidden + at] * r * (T(1) - r);
  a.carry[at] = multiply_add(by, r, a.carry[at]);
}

// ---- kernels ----

template <class T>
__global__ void reset_kernel(Forward<T> a, const T* h, const T* product, T* reset_h, RowBlocks r) {
  each_of_rows(r.per_row, r.blocks, a.hidden,
               [&](int64_t n, int64_t unit) { finish_reset(a, n, unit, h, product, reset_h); });
}
template <class T>
__global__ void candidate_kernel(Forward<T> a, const T* h, const T* product, RowBlocks r) {
  each_of_rows(r.per_row, r.blocks, a.hidden,
               [&](int64_t n, int64_t unit) { finish_candidate(a, n, unit, h, product); });
}
template <class T>
__global__ void candidate_back_kernel(Backward<T> a, int64_t s, RowBlocks r) {
  each_of_rows(r.per_row, r.blocks, a.hidden, [&](int64_t n, int64_t unit) { finish_candidate_back(a, s, n, unit); });
}
template <class T>
__global__ void reset_back_kernel(Backward<T> a, int64_t s, const T* product, RowBlocks r) {
  each_of_rows(r.per_row, r.blocks, a.hidden,
               [&](int64_t n, int64_t unit) { finish_reset_back(a, s, n, unit, product); });
}

}  // namespace arraynn::cuda::rnn
