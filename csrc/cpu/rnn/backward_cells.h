// What happens in a backward step to a vector of hidden units of one sequence: the gate gradients before
// the activation, and what flows on to the states. `dh` is the recurrent product's part of the gradient of
// the step's h. `count` hidden units, a constant or fewer.
//
// Gate gradients `d`, per step and row: an LSTM's lie as i f g o. A GRU's lie as n r z hn, so that the
// input's part (n r z) and the state's part (r z hn) are each adjacent; as r z n where its reset gate comes
// first.
#pragma once
#include "cpu/rnn/product.h"
#include "cpu/simd/math.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

// Parts of H in a row of `d`, and the first one of the state's.
constexpr int gradient_parts(Cell cell) { return cell == Cell::gru ? 4 : gate_count(cell); }
constexpr int state_part(Cell cell) { return cell == Cell::gru ? 1 : 0; }

// The arrays of one step. `carry` is what flows to h of the earlier step besides the product, `dc`
// the gradient of c; both are updated in place.
template <class T>
struct BackwardStep {
  int64_t t;
  const T *gates, *hidden_n, *h, *c, *c_next, *d_out;
  T *d, *carry, *dc;
};

template <class T, class Count>
ARRAYNN_INLINE void finish_lstm(const RnnLayer& p, const BackwardStep<T>& s, int64_t n, int64_t unit, vec<T> dh,
                                Count count) {
  int64_t state = n * p.hidden + unit;
  const T* gates = s.gates + n * 4 * p.hidden + unit;
  T* d = s.d + n * 4 * p.hidden + unit;
  vec<T> i = load_count(gates, count), f = load_count(gates + p.hidden, count);
  vec<T> g = load_count(gates + 2 * p.hidden, count), o = load_count(gates + 3 * p.hidden, count);
  vec<T> tc = tanh<T>(load_count(s.c_next + state, count));
  dh += load_count(s.carry + state, count) + load_count(s.d_out + n * p.out_n + unit, count);
  vec<T> dc = fma(dh * o, T(1) - tc * tc, load_count(s.dc + state, count));
  store_count(d, dc * g * i * (T(1) - i), count);
  vec<T> c = is_reset(p, s.t, n) ? vec<T>{} : load_count(s.c + state, count);
  store_count(d + p.hidden, dc * c * f * (T(1) - f), count);
  store_count(d + 2 * p.hidden, dc * i * (T(1) - g * g), count);
  store_count(d + 3 * p.hidden, dh * tc * o * (T(1) - o), count);
  store_count(s.dc + state, dc * f, count);
  store_count(s.carry + state, vec<T>{}, count);
}

template <class T, class Count>
ARRAYNN_INLINE void finish_gru(const RnnLayer& p, const BackwardStep<T>& s, int64_t n, int64_t unit, vec<T> dh,
                               Count count) {
  int64_t state = n * p.hidden + unit;
  const T* gates = s.gates + n * 3 * p.hidden + unit;
  T* d = s.d + n * 4 * p.hidden + unit;
  vec<T> r = load_count(gates, count), z = load_count(gates + p.hidden, count);
  vec<T> nn = load_count(gates + 2 * p.hidden, count), hn = load_count(s.hidden_n + state, count);
  dh += load_count(s.carry + state, count) + load_count(s.d_out + n * p.out_n + unit, count);
  vec<T> dn = dh * (T(1) - z) * (T(1) - nn * nn);
  store_count(d, dn, count);
  store_count(d + p.hidden, dn * hn * r * (T(1) - r), count);
  store_count(d + 2 * p.hidden, dh * (load_count(s.h + state, count) - nn) * z * (T(1) - z), count);
  store_count(d + 3 * p.hidden, dn * r, count);
  store_count(s.carry + state, dh * z, count);
}

// A GRU whose reset gate comes first: all but r, whose gradient takes the product of n's with the weights.
template <class T, class Count>
ARRAYNN_INLINE void finish_candidate(const RnnLayer& p, const BackwardStep<T>& s, int64_t n, int64_t unit, vec<T> dh,
                                     Count count) {
  int64_t state = n * p.hidden + unit;
  const T* gates = s.gates + n * 3 * p.hidden + unit;
  T* d = s.d + n * 3 * p.hidden + unit;
  vec<T> z = load_count(gates + p.hidden, count), nn = load_count(gates + 2 * p.hidden, count);
  dh += load_count(s.carry + state, count) + load_count(s.d_out + n * p.out_n + unit, count);
  store_count(d + p.hidden, dh * (load_count(s.h + state, count) - nn) * z * (T(1) - z), count);
  store_count(d + 2 * p.hidden, dh * (T(1) - z) * (T(1) - nn * nn), count);
  store_count(s.carry + state, dh * z, count);
}

// `product`: that one, the gradient of r h.
template <class T, class Count>
ARRAYNN_INLINE void finish_reset(const RnnLayer& p, const BackwardStep<T>& s, int64_t n, int64_t unit, vec<T> product,
                                 Count count) {
  int64_t state = n * p.hidden + unit;
  vec<T> r = load_count(s.gates + n * 3 * p.hidden + unit, count);
  store_count(s.d + n * 3 * p.hidden + unit, product * load_count(s.h + state, count) * r * (T(1) - r), count);
  store_count(s.carry + state, fma(product, r, load_count(s.carry + state, count)), count);
}

template <class T, class Count>
ARRAYNN_INLINE void finish_rnn(const RnnLayer& p, const BackwardStep<T>& s, int64_t n, int64_t unit, vec<T> dh,
                               Count count) {
  int64_t state = n * p.hidden + unit;
  vec<T> h = load_count(s.gates + state, count);
  dh += load_count(s.carry + state, count) + load_count(s.d_out + n * p.out_n + unit, count);
  store_count(s.d + state, p.cell == Cell::rnn_relu ? (h <= T(0) ? vec<T>{} : dh) : dh * (T(1) - h * h), count);
  store_count(s.carry + state, vec<T>{}, count);
}

// Past a sequence's end the state passed through unchanged.
template <class T, Cell C, class Count>
ARRAYNN_INLINE void pass_back(const RnnLayer& p, const BackwardStep<T>& s, int64_t n, int64_t unit, vec<T> dh,
                              Count count) {
  T* carry = s.carry + n * p.hidden + unit;
  store_count(carry, load_count(carry, count) + dh, count);
  constexpr int parts = gradient_parts(C);
  for (int i = 0; i < parts; ++i) store_count(s.d + (n * parts + i) * p.hidden + unit, vec<T>{}, count);
}

// Stage 1 is that of finish_reset.
template <class T, Cell C, int Stage>
ARRAYNN_INLINE void finish_units(const RnnLayer& p, const BackwardStep<T>& s, const T* tile, int64_t n, int64_t unit,
                                 bool active) {
  constexpr int V = lanes<T>;
  auto finish = [&](auto count) ARRAYNN_LAMBDA {
    vec<T> dh = load(tile);
    if constexpr (Stage == 1) {
      if (active) finish_reset(p, s, n, unit, dh, count);
    } else {
      if (!active)
        pass_back<T, C>(p, s, n, unit, dh, count);
      else if constexpr (C == Cell::lstm)
        finish_lstm(p, s, n, unit, dh, count);
      else if constexpr (C == Cell::gru)
        finish_gru(p, s, n, unit, dh, count);
      else if constexpr (C == Cell::gru_reset_first)
        finish_candidate(p, s, n, unit, dh, count);
      else
        finish_rnn(p, s, n, unit, dh, count);
    }
  };
  if (p.hidden - unit >= V)
    finish(std::integral_constant<int, V>{});
  else
    finish(static_cast<int>(p.hidden - unit));
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
