// What happens to one hidden unit of one sequence in one step, forward and backward: the gates behind
// the products, the states, and all that is written of them. The kernels differ in how they come by the
// recurrent product alone.
#pragma once
#include "device/types.h"
#include "ops/rnn.h"

namespace arraynn::cuda::rnn {

template <Cell cell>
inline constexpr int gates_of = gate_count(cell);
template <Cell cell>
inline constexpr int norm_groups_of = norm_groups(cell);

// ---- functions of either type ----

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }
__device__ __forceinline__ float hyperbolic_tangent(float x) { return tanhf(x); }
__device__ __forceinline__ double hyperbolic_tangent(double x) { return tanh(x); }
__device__ __forceinline__ float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ double multiply_add(double a, double b, double c) { return fma(a, b, c); }

// ---- forward ----

// Where sequences end, and where their states are cleared before a step.
struct Marks {
  const int64_t *lengths, *reset_marks;
  int64_t reset_t, reset_n;

  __device__ __forceinline__ bool active(int64_t t, int64_t n) const { return !lengths || t < lengths[n]; }
  __device__ __forceinline__ bool reset(int64_t t, int64_t n) const {
    return reset_marks && reset_marks[t * reset_t + n * reset_n] && active(t, n);
  }
};

// Step s of the layer's own steps is t in time, which runs against them in a reverse direction; slots of
// states are those of RnnForward.
template <class T>
struct Forward : Marks {
  int64_t steps, batch, hidden, out_t, out_n;
  bool reverse, tf32, relu;
  int64_t first, end;  // the steps of this launch; after the last one the state is written to h_n and c_n
  const T *w_hh, *b_ih, *b_hh;
  T* gates;  // the input's product, of times from `gates_t` on; if saving, the activated gates after it
  int64_t gates_t;
  T *hidden_n, *h, *c;    // saved; null: not
  T *output, *h_n, *c_n;  // c_n is where c is changed in place, unless all of them are saved

  __device__ __forceinline__ int64_t time(int64_t s) const { return reverse ? steps - 1 - s : s; }
  __device__ __forceinline__ int64_t before(int64_t s) const { return time(s) + (reverse ? 1 : 0); }
  __device__ __forceinline__ int64_t after(int64_t s) const { return time(s) + (reverse ? 0 : 1); }
  __device__ __forceinline__ const T* c_before(int64_t s) const { return c ? c + before(s) * batch * hidden : c_n; }
  __device__ __forceinline__ T* c_after(int64_t s) const { return c ? c + after(s) * batch * hidden : c_n; }
};

// What a step needs besides the recurrent product, read ahead of it.
template <Cell cell, class T>
struct Ahead {
  T x[gates_of<cell>], h, c;
  bool active;
};

// `h` and its row step: where the state before step s stands.
template <Cell cell, class T>
__device__ __forceinline__ Ahead<cell, T> look_ahead(const Forward<T>& a, int64_t s, int64_t n, int64_t unit,
                                                     const T* h, int64_t h_step) {
  Ahead<cell, T> in{};
  int64_t t = a.time(s);
  in.active = a.active(t, n);
  const T* x = a.gates + ((t - a.gates_t) * a.batch + n) * gates_of<cell> * a.hidden + unit;
  if (in.active) {
#pragma unroll
    for (int g = 0; g < gates_of<cell>; ++g) in.x[g] = x[g * a.hidden];
  }
  if (cell == Cell::gru || !in.active) in.h = h[n * h_step + unit];
  if (cell == Cell::lstm && !a.reset(t, n)) in.c = a.c_before(s)[n * a.hidden + unit];
  return in;
}

// What is added to the products: an LSTM's biases and a GRU's of r and z just add up, the last one of a
// GRU's is inside its reset gate.
template <Cell cell, class T>
__device__ __forceinline__ void load_biases(const Forward<T>& a, int64_t unit, T (&bias)[4]) {
#pragma unroll
  for (int g = 0; g < 4; ++g) bias[g] = 0;
#pragma unroll
  for (int g = 0; g < gates_of<cell>; ++g) {
    if (a.b_ih) bias[g] = a.b_ih[g * a.hidden + unit];
    bool inside = cell == Cell::gru && g == 2;
    if (a.b_hh) bias[inside ? 3 : g] += a.b_hh[g * a.hidden + unit];
  }
}

// Returns h as the next step sees it: zero, if that resets it.
template <Cell cell, class T>
__device__ __forceinline__ T write_state(const Forward<T>& a, int64_t s, int64_t n, int64_t unit, bool active, T h,
                                         T c) {
  int64_t at = n * a.hidden + unit;
  a.output[a.time(s) * a.out_t + n * a.out_n + unit] = active ? h : T(0);
  if (s + 1 < a.steps && a.reset(a.time(s + 1), n)) h = 0;
  if (a.h) a.h[a.after(s) * a.batch * a.hidden + at] = h;
  if (cell == Cell::lstm) a.c_after(s)[at] = c;
  if (s + 1 == a.end) {
    a.h_n[at] = h;
    if (cell == Cell::lstm && a.c) a.c_n[at] = c;
  }
  return h;
}

// `product`: the recurrent one, gate by gate. Returns h.
template <Cell cell, class T>
__device__ __forceinline__ T finish_forward(const Forward<T>& a, int64_t s, int64_t n, int64_t unit,
                                            const Ahead<cell, T>& in, const T* product, const T (&bias)[4]) {
  int64_t t = a.time(s), at = n * a.hidden + unit, states = a.batch * a.hidden;
  T h = in.h, c = in.c;
  if (in.active) {
    T gate[gates_of<cell>];
    if constexpr (cell == Cell::lstm) {
#pragma unroll
      for (int g = 0; g < 4; ++g) {
        T x = in.x[g] + (product[g] + bias[g]);
        gate[g] = g == 2 ? hyperbolic_tangent(x) : sigmoid(x);
      }
      c = multiply_add(gate[1], c, gate[0] * gate[2]);
      h = gate[3] * hyperbolic_tangent(c);
    } else if constexpr (cell == Cell::rnn) {
      T x = in.x[0] + (product[0] + bias[0]);
      h = a.relu ? (x < T(0) ? T(0) : x) : hyperbolic_tangent(x);  // NaN < 0 is false, so NaN stays
      gate[0] = h;
    } else {
      gate[0] = sigmoid(in.x[0] + (product[0] + bias[0]));
      gate[1] = sigmoid(in.x[1] + (product[1] + bias[1]));
      T inner = product[2] + bias[3];
      gate[2] = hyperbolic_tangent(multiply_add(gate[0], inner, in.x[2] + bias[2]));
      h = multiply_add(gate[1], h - gate[2], gate[2]);
      if (a.h) a.hidden_n[t * states + at] = inner;
    }
    if (a.h) {
      T* saved = a.gates + ((t - a.gates_t) * a.batch + n) * gates_of<cell> * a.hidden + unit;
#pragma unroll
      for (int g = 0; g < gates_of<cell>; ++g) saved[g * a.hidden] = gate[g];
    }
  }
  return write_state<cell>(a, s, n, unit, in.active, h, c);
}

// ---- backward ----

// Step s is the s-th from the end of the layer's own steps. Its gate gradients are a row of `d` for each
// sequence, before the activation: i f g o of an LSTM; r z hn of a GRU, and from d_n on n; an RNN's one.
// What pads the first part to `padded` is zero.
template <class T>
struct Backward : Marks {
  int64_t steps, batch, hidden, out_t, out_n;
  bool reverse, tf32, relu;
  const T *w_hh, *gates, *hidden_n, *h, *c, *d_output;
  T* d;
  int64_t d_step, padded, d_n;
  T *carry, *dc;  // what flows to h of the earlier step besides the product, and to c; changed in place

  __device__ __forceinline__ int64_t time(int64_t s) const { return reverse ? s : steps - 1 - s; }
  // Whether nothing flows from the later step, which cleared the state.
  __device__ __forceinline__ bool cut(int64_t s, int64_t n) const { return s > 0 && reset(time(s - 1), n); }
  __device__ __forceinline__ int64_t before(int64_t s) const { return time(s) + (reverse ? 1 : 0); }
  __device__ __forceinline__ int64_t after(int64_t s) const { return time(s) + (reverse ? 0 : 1); }
  __device__ __forceinline__ T* gradients(int64_t s) const { return d + time(s) * batch * d_step; }
};

template <Cell cell, class T>
struct Behind {
  T gate[gates_of<cell>];
  T before, after;  // an LSTM's c before and after the step; a GRU's h before it and W_hn h + b_hn; else nothing
  T d_out, carry, dc;
  bool active, cut;
};

template <Cell cell, class T>
__device__ __forceinline__ Behind<cell, T> look_behind(const Backward<T>& a, int64_t s, int64_t n, int64_t unit) {
  Behind<cell, T> in{};
  int64_t t = a.time(s), at = n * a.hidden + unit, states = a.batch * a.hidden;
  in.active = a.active(t, n);
  in.cut = a.cut(s, n);
  in.carry = a.carry[at];
  if (!in.active) return in;
  const T* gates = a.gates + (t * a.batch + n) * gates_of<cell> * a.hidden + unit;
#pragma unroll
  for (int g = 0; g < gates_of<cell>; ++g) in.gate[g] = gates[g * a.hidden];
  if (cell != Cell::rnn) {
    if (cell != Cell::lstm || !a.reset(t, n)) in.before = (cell == Cell::lstm ? a.c : a.h)[a.before(s) * states + at];
    in.after = cell == Cell::lstm ? a.c[a.after(s) * states + at] : a.hidden_n[t * states + at];
  }
  in.d_out = a.d_output[t * a.out_t + n * a.out_n + unit];
  if (cell == Cell::lstm && !in.cut) in.dc = a.dc[at];
  return in;
}

// `product`: what comes by the later step's gates.
template <Cell cell, class T>
__device__ __forceinline__ void finish_backward(const Backward<T>& a, int64_t s, int64_t n, int64_t unit,
                                                const Behind<cell, T>& in, T product) {
  int64_t at = n * a.hidden + unit;
  T d[4] = {0, 0, 0, 0}, carry = in.cut ? T(0) : in.carry + product;
  if (in.active) {
    T dh = carry + in.d_out;
    if constexpr (cell == Cell::lstm) {
      T i = in.gate[0], f = in.gate[1], g = in.gate[2], o = in.gate[3], tc = hyperbolic_tangent(in.after);
      T dc = multiply_add(dh * o, T(1) - tc * tc, in.dc);
      d[0] = dc * g * i * (T(1) - i);
      d[1] = dc * in.before * f * (T(1) - f);
      d[2] = dc * i * (T(1) - g * g);
      d[3] = dh * tc * o * (T(1) - o);
      a.dc[at] = dc * f;
      carry = 0;
    } else if constexpr (cell == Cell::rnn) {
      T y = in.gate[0];
      d[0] = a.relu ? (y <= T(0) ? T(0) : dh) : dh * (T(1) - y * y);
      carry = 0;
    } else {
      T r = in.gate[0], z = in.gate[1], new_h = in.gate[2];
      T dn = dh * (T(1) - z) * (T(1) - new_h * new_h);
      d[0] = dn * in.after * r * (T(1) - r);
      d[1] = dh * (in.before - new_h) * z * (T(1) - z);
      d[2] = dn * r;
      d[3] = dn;
      carry = dh * z;
    }
  }
  a.carry[at] = carry;
  if (cell == Cell::lstm && in.cut && !in.active) a.dc[at] = 0;
  T* to = a.gradients(s) + n * a.d_step;
#pragma unroll
  for (int g = 0; g < gates_of<cell>; ++g) to[g * a.hidden + unit] = d[g];
  if (cell == Cell::gru) to[a.d_n + unit] = d[3];
  if (unit + 1 == a.hidden)
    for (int64_t k = gates_of<cell> * a.hidden; k < a.padded; ++k) to[k] = 0;
}

}  // namespace arraynn::cuda::rnn
