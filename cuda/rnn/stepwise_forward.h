// The kernels of a forward step, see stepwise.h.
#pragma once
#include "rnn/stepwise.h"

namespace arraynn::cuda::rnn {

template <class T>
__device__ __forceinline__ T bias_of(const StepForward<T>& s, int64_t k) {
  return (s.b_ih ? s.b_ih[k] : T(0)) + (s.b_hh ? s.b_hh[k] : T(0));
}

template <class T>
__device__ __forceinline__ void lstm_row(const StepForward<T>& s, int64_t n) {
  int64_t H = s.hidden, at = n * H;
  T *gates = s.gates + 4 * at, *fresh = s.fresh_c + at, *inner = s.inner + at;
  const T* with = s.product + 4 * at;
  bool cleared = s.is_reset(n);
  auto c_before = [&](int64_t u) { return cleared ? T(0) : s.c[at + u]; };
  each_unit(H, [&](int64_t u) {
    auto gate = [&](int64_t g) {
      int64_t k = g * H + u;
      return gates[k] + (with[k] + bias_of(s, k));
    };
    auto peep = [&](int64_t g, T c, T x) { return s.peepholes ? multiply_add(s.peepholes[g * H + u], c, x) : x; };
    T c = c_before(u);
    T i = sigmoid(peep(0, c, gate(0))), f = sigmoid(peep(1, c, gate(1))), g = hyperbolic_tangent(gate(2));
    T next = multiply_add(f, c, i * g), o = sigmoid(peep(2, next, gate(3)));
    gates[u] = i;
    gates[H + u] = f;
    gates[2 * H + u] = g;
    gates[3 * H + u] = o;
    fresh[u] = next;
  });
  if (s.gain_c) normalize<T>(H, [&](int64_t u) { return fresh[u]; }, inner);
  each_unit(H, [&](int64_t u) {
    T next = fresh[u], y = s.gain_c ? inner[u] * s.gain_c[u] : next;
    if (s.b_c) y += s.b_c[u];
    inner[u] = gates[3 * H + u] * hyperbolic_tangent(y);
    s.c_next[at + u] = s.zone_c.apply(at + u, next, c_before(u));
  });
}

template <class T>
__device__ __forceinline__ void gru_row(const StepForward<T>& s, int64_t n) {
  int64_t H = s.hidden, at = n * H;
  T* gates = s.gates + 3 * at;
  const T* with = s.product + 3 * at;
  each_unit(H, [&](int64_t u) {
    T r = sigmoid(gates[u] + (with[u] + bias_of(s, u)));
    T z = sigmoid(gates[H + u] + (with[H + u] + bias_of(s, H + u)));
    T hn = with[2 * H + u] + (s.b_hh ? s.b_hh[2 * H + u] : T(0));
    T x = gates[2 * H + u] + (s.b_ih ? s.b_ih[2 * H + u] : T(0));
    T candidate = hyperbolic_tangent(multiply_add(r, hn, x));
    gates[u] = r;
    gates[H + u] = z;
    gates[2 * H + u] = candidate;
    if (s.hidden_n) s.hidden_n[at + u] = hn;
    s.inner[at + u] = multiply_add(z, s.h[at + u] - candidate, candidate);
  });
}

template <class T>
__device__ __forceinline__ void candidate_row(const StepForward<T>& s, int64_t n) {
  int64_t H = s.hidden, at = n * H;
  T* gates = s.gates + 3 * at;
  each_unit(H, [&](int64_t u) {
    T candidate = hyperbolic_tangent(gates[2 * H + u] + (s.product[at + u] + bias_of(s, 2 * H + u)));
    gates[2 * H + u] = candidate;
    s.inner[at + u] = multiply_add(gates[H + u], s.h[at + u] - candidate, candidate);
  });
}

template <class T>
__device__ __forceinline__ void rnn_row(const StepForward<T>& s, int64_t n) {
  int64_t at = n * s.hidden;
  each_unit(s.hidden, [&](int64_t u) {
    T x = s.gates[at + u] + (s.product[at + u] + bias_of(s, u));
    T h = s.relu ? (x < T(0) ? T(0) : x) : hyperbolic_tangent(x);  // NaN < 0 is false, so NaN stays
    s.gates[at + u] = h;
    s.inner[at + u] = h;
  });
}

template <Cell cell, class T>
__device__ __forceinline__ void cell_row(const StepForward<T>& s, int64_t n) {
  constexpr int64_t G = gates_of<cell>;
  int64_t at = n * s.hidden;
  if (!s.is_active(n)) {  // a zero, which the weights' gradient may meet
    each_unit(s.hidden, [&](int64_t u) {
      s.inner[at + u] = 0;
      if (cell == Cell::lstm) s.c_next[at + u] = s.c[at + u];
    });
    return;
  }
  if (s.gain_hh)
    normalize_gates<cell>(s.hidden, s.product + G * at, s.gain_hh, s.state_norm ? s.state_norm + G * at : nullptr,
                          s.rstd ? s.rstd + (2 * n + 1) * norm_groups_of<cell> : nullptr);
  if constexpr (cell == Cell::lstm)
    lstm_row(s, n);
  else if constexpr (cell == Cell::gru)
    gru_row(s, n);
  else if constexpr (cell == Cell::gru_reset_first)
    candidate_row(s, n);
  else
    rnn_row(s, n);
}

// The state behind it, and what the next step sees of it.
template <class T>
__device__ __forceinline__ void state_row(const StepForward<T>& s, int64_t n) {
  bool active = s.is_active(n), reset = s.is_reset_next(n);
  each_unit(s.width, [&](int64_t u) {
    int64_t at = n * s.width + u;
    T before = s.h[at], h = active ? s.zone_h.apply(at, s.fresh_h[at], before) : before;
    s.out[n * s.out_n + u] = active ? h : T(0);
    if (reset) h = 0;
    s.h_next[at] = h;
    if (s.mask) s.masked_next[at] = h * s.mask[at];
  });
}

// ---- kernels ----

template <class T>
__global__ void fill_one_kernel(int64_t size, T* to) {
  int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += step) to[i] = 1;
}

// h of `rows` rows, as masked by the row's sequence.
template <class T>
__global__ void mask_kernel(int64_t rows, int64_t batch, int64_t width, const T* h, const T* mask, T* to) {
  each_block_row(rows, [&](int64_t row) {
    each_unit(width, [&](int64_t u) { to[row * width + u] = h[row * width + u] * mask[row % batch * width + u]; });
  });
}

template <Cell cell, class T>
__global__ void normalize_input_kernel(int64_t rows, int64_t hidden, T* gates, const T* gain, T* norm, T* rstd) {
  constexpr int64_t G = gates_of<cell>;
  each_block_row(rows, [&](int64_t row) {
    int64_t at = row * G * hidden;
    normalize_gates<cell>(hidden, gates + at, gain, norm ? norm + at : nullptr,
                          rstd ? rstd + 2 * row * norm_groups_of<cell> : nullptr);
  });
}

// A GRU whose reset gate comes first: r, z and what n's weights take, behind the products of r and z.
template <class T>
__global__ void step_reset_kernel(StepForward<T> s) {
  each_block_row(s.batch, [&](int64_t n) {
    int64_t H = s.hidden, at = n * H;
    T* gates = s.gates + 3 * at;
    const T* with = s.product + 2 * at;
    bool active = s.is_active(n);
    each_unit(H, [&](int64_t u) {
      T reset_h = 0;
      if (active) {
        T r = sigmoid(gates[u] + (with[u] + bias_of(s, u)));
        gates[u] = r;
        gates[H + u] = sigmoid(gates[H + u] + (with[H + u] + bias_of(s, H + u)));
        reset_h = r * s.masked[at + u];
      }
      s.hidden_n[at + u] = reset_h;
    });
  });
}

template <Cell cell, class T>
__global__ void step_cell_kernel(StepForward<T> s, bool ends) {
  each_block_row(s.batch, [&](int64_t n) {
    cell_row<cell>(s, n);
    if (ends) state_row(s, n);  // each thread its own units
  });
}

template <class T>
__global__ void step_state_kernel(StepForward<T> s) {
  each_block_row(s.batch, [&](int64_t n) { state_row(s, n); });
}

}  // namespace arraynn::cuda::rnn
