// The kernels of a backward step, see stepwise.h.
#pragma once
#include "rnn/stepwise.h"

namespace arraynn::cuda::rnn {

// From the carry and the output to what the cell gave.
template <class T>
__device__ __forceinline__ void arrive_row(const StepBackward<T>& s, int64_t n) {
  bool active = s.is_active(n);
  each_unit(s.width, [&](int64_t u) {
    int64_t at = n * s.width + u;
    T fresh = 0, before = s.carry[at];
    if (active) s.zone_h.share(at, before + s.d_out[n * s.out_n + u], fresh, before);
    s.d_fresh[at] = fresh;
    s.carry[at] = before;
  });
}

// d_x of all gates; c of before the step is zero where the step is reset.
template <class T>
__device__ __forceinline__ void lstm_row(const StepBackward<T>& s, int64_t n) {
  int64_t H = s.hidden, at = n * H;
  const T* gates = s.gates + 4 * at;
  T *d = s.d_x + 4 * at, *norm = s.c_norm ? s.c_norm + at : nullptr;
  bool cleared = s.is_reset(n);
  auto c_before = [&](int64_t u) { return cleared ? T(0) : s.c[at + u]; };
  auto fresh_c = [&](int64_t u) { return multiply_add(gates[H + u], c_before(u), gates[u] * gates[2 * H + u]); };
  T rstd = 0;
  if (norm) rstd = normalize<T>(H, fresh_c, norm);
  // Through tanh, and the normalization, to c before zoneout: into d's part of o for now.
  T* to_c = d + 3 * H;
  each_unit(H, [&](int64_t u) {
    T y = norm ? norm[u] * s.gain_c[u] : fresh_c(u);
    if (s.b_c) y += s.b_c[u];
    T tc = hyperbolic_tangent(y), o = gates[3 * H + u], by = s.d_inner[at + u];
    d[u] = by * tc * o * (T(1) - o);
    T dy = by * o * (T(1) - tc * tc);
    to_c[u] = dy;
    if (norm) s.b_c_d[at + u] = dy;
  });
  if (norm) normalize_back(H, s.b_c_d + at, s.gain_c, norm, rstd, to_c, s.c_norm_d + at);
  each_unit(H, [&](int64_t u) {
    T c = c_before(u), i = gates[u], f = gates[H + u], g = gates[2 * H + u], d_o = d[u], fresh, kept;
    s.zone_c.share(at + u, s.dc[at + u], fresh, kept);
    fresh += to_c[u];
    if (s.peepholes) fresh = multiply_add(d_o, s.peepholes[2 * H + u], fresh);
    T d_i = fresh * g * i * (T(1) - i), d_f = fresh * c * f * (T(1) - f);
    kept = multiply_add(fresh, f, kept);
    if (s.peepholes) {
      kept = multiply_add(d_i, s.peepholes[u], kept);
      kept = multiply_add(d_f, s.peepholes[H + u], kept);
      s.peeped[3 * at + u] = d_i * c;
      s.peeped[3 * at + H + u] = d_f * c;
      s.peeped[3 * at + 2 * H + u] = d_o * fresh_c(u);
    }
    d[u] = d_i;
    d[H + u] = d_f;
    d[2 * H + u] = fresh * i * (T(1) - g * g);
    d[3 * H + u] = d_o;
    s.dc[at + u] = kept;
  });
}

template <class T>
__device__ __forceinline__ void gru_row(const StepBackward<T>& s, int64_t n) {
  int64_t H = s.hidden, at = n * H;
  const T* gates = s.gates + 3 * at;
  T *d_x = s.d_x + 3 * at, *d_h = s.d_h + 3 * at;
  each_unit(H, [&](int64_t u) {
    T r = gates[u], z = gates[H + u], candidate = gates[2 * H + u], dh = s.d_inner[at + u];
    T dn = dh * (T(1) - z) * (T(1) - candidate * candidate);
    d_x[u] = d_h[u] = dn * s.hidden_n[at + u] * r * (T(1) - r);
    d_x[H + u] = d_h[H + u] = dh * (s.h[at + u] - candidate) * z * (T(1) - z);
    d_x[2 * H + u] = dn;
    d_h[2 * H + u] = dn * r;
    s.carry[at + u] = multiply_add(dh, z, s.carry[at + u]);
  });
}

// A GRU whose reset gate comes first: z and n; r takes the product of n's gradient with the weights.
template <class T>
__device__ __forceinline__ void candidate_row(const StepBackward<T>& s, int64_t n) {
  int64_t H = s.hidden, at = n * H;
  const T* gates = s.gates + 3 * at;
  T* d = s.d_x + 3 * at;
  each_unit(H, [&](int64_t u) {
    T z = gates[H + u], candidate = gates[2 * H + u], dh = s.d_inner[at + u];
    d[H + u] = dh * (s.h[at + u] - candidate) * z * (T(1) - z);
    d[2 * H + u] = dh * (T(1) - z) * (T(1) - candidate * candidate);
    s.carry[at + u] = multiply_add(dh, z, s.carry[at + u]);
  });
}

template <class T>
__device__ __forceinline__ void rnn_row(const StepBackward<T>& s, int64_t n) {
  int64_t at = n * s.hidden;
  each_unit(s.hidden, [&](int64_t u) {
    T h = s.gates[at + u], dh = s.d_inner[at + u];
    s.d_x[at + u] = s.relu ? (h <= T(0) ? T(0) : dh) : dh * (T(1) - h * h);
  });
}

template <class T>
__device__ __forceinline__ void fill_row(T* to, int64_t size) {
  if (to) each_unit(size, [&](int64_t u) { to[u] = 0; });
}

template <Cell cell, class T>
__device__ __forceinline__ void cell_row(const StepBackward<T>& s, int64_t n) {
  constexpr int64_t G = gates_of<cell>;
  int64_t at = n * s.hidden, columns = G * s.hidden;
  if (!s.is_active(n)) {
    fill_row(s.d_x + G * at, columns);
    fill_row(s.d_h + G * at, columns);
    fill_row(s.d + G * at, columns);
    fill_row(s.gain_hh_d ? s.gain_hh_d + G * at : nullptr, columns);
    fill_row(s.peeped ? s.peeped + 3 * at : nullptr, 3 * s.hidden);
    fill_row(s.c_norm_d ? s.c_norm_d + at : nullptr, s.hidden);
    fill_row(s.b_c_d ? s.b_c_d + at : nullptr, s.hidden);
    return;
  }
  if constexpr (cell == Cell::lstm)
    lstm_row(s, n);
  else if constexpr (cell == Cell::gru)
    gru_row(s, n);
  else if constexpr (cell == Cell::gru_reset_first)
    candidate_row(s, n);
  else
    rnn_row(s, n);
  if (!s.gain_hh) return;
  __syncthreads();  // the row is another thread's here
  normalize_gates_back<cell>(s.hidden, s.d_h + G * at, s.gain_hh, s.state_norm + G * at,
                             s.rstd + (2 * n + 1) * norm_groups_of<cell>, s.d + G * at, s.gain_hh_d + G * at);
}

// ---- kernels ----

template <Cell cell, class T>
__global__ void step_cell_back_kernel(StepBackward<T> s, bool arrives) {
  each_block_row(s.batch, [&](int64_t n) {
    if (arrives) arrive_row(s, n);  // each thread its own units
    cell_row<cell>(s, n);
  });
}

template <class T>
__global__ void step_arrive_kernel(StepBackward<T> s) {
  each_block_row(s.batch, [&](int64_t n) { arrive_row(s, n); });
}

// A GRU whose reset gate comes first: r, from the gradient of r h in `flow`.
template <class T>
__global__ void step_reset_back_kernel(StepBackward<T> s) {
  each_block_row(s.batch, [&](int64_t n) {
    int64_t H = s.hidden, at = n * H;
    bool active = s.is_active(n);
    each_unit(H, [&](int64_t u) {
      T back = 0;
      if (active) {
        T r = s.gates[3 * at + u], by = s.flow[at + u], h = s.h[at + u];
        if (s.mask) h *= s.mask[at + u];
        s.d_x[3 * at + u] = by * h * r * (T(1) - r);
        back = by * r;
      }
      s.through[at + u] = back;
    });
  });
}

// To the state before the step, unless the step reset it.
template <class T>
__global__ void step_leave_kernel(StepBackward<T> s) {
  each_block_row(s.batch, [&](int64_t n) {
    if (s.is_reset(n)) {
      fill_row(s.carry + n * s.width, s.width);
      fill_row(s.dc ? s.dc + n * s.hidden : nullptr, s.hidden);
      return;
    }
    each_unit(s.width, [&](int64_t u) {
      int64_t at = n * s.width + u;
      T d = s.flow[at];
      if (s.through) d += s.through[at];
      if (s.mask) d *= s.mask[at];
      s.carry[at] += d;
    });
  });
}

// Through the input's normalization: d changes in place, and its products with what was normalized are written.
template <Cell cell, class T>
__global__ void normalize_input_back_kernel(Marks marks, int64_t rows, int64_t batch, int64_t hidden, T* d,
                                            const T* gain, const T* norm, const T* rstd, T* products) {
  constexpr int64_t G = gates_of<cell>;
  each_block_row(rows, [&](int64_t row) {
    int64_t at = row * G * hidden;
    if (!marks.active(row / batch, row % batch)) return fill_row(products + at, G * hidden);
    normalize_gates_back<cell>(hidden, d + at, gain, norm + at, rstd + 2 * row * norm_groups_of<cell>, d + at,
                               products + at);
  });
}

}  // namespace arraynn::cuda::rnn
