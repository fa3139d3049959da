// What happens behind the products in a forward step, to a vector of hidden units of one sequence: the
// recurrent products `tile`, a vector per gate, meet the input products in `gates`, which are replaced by
// the activated gates. `count` hidden units, a constant or fewer.
#pragma once
#include <cstring>

#include "cpu/rnn/product.h"
#include "cpu/simd/math.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

// A step's recurrent products, and the gates and first gate of each. A GRU whose reset gate comes first has
// two: of h for r and z, and of r h for n.
constexpr int stage_count(Cell cell) { return cell == Cell::gru_reset_first ? 2 : 1; }
constexpr int stage_gates(Cell cell, int stage) {
  return cell != Cell::gru_reset_first ? gate_count(cell) : stage == 0 ? 2 : 1;
}
constexpr int stage_start(int stage) { return 2 * stage; }

// The arrays of one step.
template <class T>
struct ForwardStep {
  int64_t t;
  T *gates, *hidden_n, *out;
  const T *h, *c;
  T *h_next, *c_next;
  const T* bias_hn;  // of a GRU
};

template <class T, class Count>
ARRAYNN_INLINE void finish_lstm(const RnnLayer& p, const ForwardStep<T>& s, const T* tile, int64_t n, int64_t unit,
                                Count count) {
  constexpr int V = lanes<T>;
  int64_t state = n * p.hidden + unit;
  T* gates = s.gates + n * 4 * p.hidden + unit;
  vec<T> i = sigmoid<T>(load_count(gates, count) + load(tile));
  vec<T> f = sigmoid<T>(load_count(gates + p.hidden, count) + load(tile + V));
  vec<T> g = tanh<T>(load_count(gates + 2 * p.hidden, count) + load(tile + 2 * V));
  vec<T> o = sigmoid<T>(load_count(gates + 3 * p.hidden, count) + load(tile + 3 * V));
  vec<T> c = is_reset(p, s.t, n) ? vec<T>{} : load_count(s.c + state, count);
  vec<T> next = fma(f, c, i * g);
  vec<T> h = o * tanh<T>(next);
  store_count(gates, i, count);
  store_count(gates + p.hidden, f, count);
  store_count(gates + 2 * p.hidden, g, count);
  store_count(gates + 3 * p.hidden, o, count);
  store_count(s.c_next + state, next, count);
  store_count(s.h_next + state, h, count);
  store_count(s.out + n * p.out_n + unit, h, count);
}

template <class T, class Count>
ARRAYNN_INLINE void finish_gru(const RnnLayer& p, const ForwardStep<T>& s, const T* tile, int64_t n, int64_t unit,
                               Count count) {
  constexpr int V = lanes<T>;
  int64_t state = n * p.hidden + unit;
  T* gates = s.gates + n * 3 * p.hidden + unit;
  vec<T> r = sigmoid<T>(load_count(gates, count) + load(tile));
  vec<T> z = sigmoid<T>(load_count(gates + p.hidden, count) + load(tile + V));
  vec<T> hn = load(tile + 2 * V) + load_count(s.bias_hn + unit, count);
  vec<T> candidate = tanh<T>(fma(r, hn, load_count(gates + 2 * p.hidden, count)));
  vec<T> h = fma(z, load_count(s.h + state, count) - candidate, candidate);
  if (s.hidden_n) {
    store_count(gates, r, count);
    store_count(gates + p.hidden, z, count);
    store_count(gates + 2 * p.hidden, candidate, count);
    store_count(s.hidden_n + state, hn, count);
  }
  store_count(s.h_next + state, h, count);
  store_count(s.out + n * p.out_n + unit, h, count);
}

template <class T, class Count>
ARRAYNN_INLINE void finish_reset(const RnnLayer& p, const ForwardStep<T>& s, const T* tile, int64_t n, int64_t unit,
                                 Count count) {
  constexpr int V = lanes<T>;
  int64_t state = n * p.hidden + unit;
  T* gates = s.gates + n * 3 * p.hidden + unit;
  vec<T> r = sigmoid<T>(load_count(gates, count) + load(tile));
  store_count(gates, r, count);
  store_count(gates + p.hidden, sigmoid<T>(load_count(gates + p.hidden, count) + load(tile + V)), count);
  store_count(s.hidden_n + state, r * load_count(s.h + state, count), count);
}

template <class T, class Count>
ARRAYNN_INLINE void finish_candidate(const RnnLayer& p, const ForwardStep<T>& s, const T* tile, int64_t n, int64_t unit,
                                     Count count) {
  int64_t state = n * p.hidden + unit;
  T* gates = s.gates + n * 3 * p.hidden + unit;
  vec<T> z = load_count(gates + p.hidden, count);
  vec<T> candidate = tanh<T>(load_count(gates + 2 * p.hidden, count) + load(tile));
  vec<T> h = fma(z, load_count(s.h + state, count) - candidate, candidate);
  store_count(gates + 2 * p.hidden, candidate, count);
  store_count(s.h_next + state, h, count);
  store_count(s.out + n * p.out_n + unit, h, count);
}

template <class T, class Count>
ARRAYNN_INLINE void finish_rnn(const RnnLayer& p, const ForwardStep<T>& s, const T* tile, int64_t n, int64_t unit,
                               Count count) {
  T* gate = s.gates + n * p.hidden + unit;
  vec<T> x = load_count(gate, count) + load(tile);
  vec<T> h = p.cell == Cell::rnn_relu ? (x < T(0) ? vec<T>{} : x) : tanh<T>(x);  // NaN < 0 is false, so NaN stays
  store_count(gate, h, count);
  store_count(s.h_next + n * p.hidden + unit, h, count);
  store_count(s.out + n * p.out_n + unit, h, count);
}

// Past a sequence's end: the output is zero, and the state stays.
template <class T>
ARRAYNN_INLINE void stand_still(const RnnLayer& p, const ForwardStep<T>& s, int64_t n, int64_t unit, int64_t units) {
  int64_t state = n * p.hidden + unit;
  size_t bytes = static_cast<size_t>(units) * sizeof(T);
  std::memset(s.out + n * p.out_n + unit, 0, bytes);
  std::memcpy(s.h_next + state, s.h + state, bytes);
  if (p.cell == Cell::lstm && s.c != s.c_next) std::memcpy(s.c_next + state, s.c + state, bytes);
}

template <class T, Cell C, int Stage>
ARRAYNN_INLINE void finish_units(const RnnLayer& p, const ForwardStep<T>& s, const T* tile, int64_t n, int64_t unit) {
  constexpr int V = lanes<T>;
  int64_t units = std::min<int64_t>(V, p.hidden - unit);
  constexpr bool last = Stage + 1 == stage_count(C);
  size_t bytes = static_cast<size_t>(units) * sizeof(T);
  auto finish = [&](auto count) ARRAYNN_LAMBDA {
    if constexpr (C == Cell::lstm)
      finish_lstm(p, s, tile, n, unit, count);
    else if constexpr (C == Cell::gru)
      finish_gru(p, s, tile, n, unit, count);
    else if constexpr (C == Cell::rnn)
      finish_rnn(p, s, tile, n, unit, count);
    else if constexpr (Stage == 0)
      finish_reset(p, s, tile, n, unit, count);
    else
      finish_candidate(p, s, tile, n, unit, count);
  };
  if (!is_active(p, s.t, n)) {
    if (last)
      stand_still(p, s, n, unit, units);
    else
      std::memset(s.hidden_n + n * p.hidden + unit, 0, bytes);
  } else if (units == V) {
    finish(std::integral_constant<int, V>{});
  } else {
    finish(static_cast<int>(units));
  }
  if (last && is_reset_next(p, s.t, n)) std::memset(s.h_next + n * p.hidden + unit, 0, bytes);
}

// The rows of a tile, whose panel has one or more groups of V units.
template <class T, Cell C, int Stage>
ARRAYNN_INLINE void finish_rows(const RnnLayer& p, const ForwardStep<T>& s, const T* tile, int64_t first_unit,
                                int64_t first, int rows) {
  constexpr int V = lanes<T>, G = stage_gates(C, Stage);
  for (int r = 0; r < rows; ++r, tile += panel_width<G> * V)
    for (int v = 0; v < panel_groups<G>; ++v) {
      int64_t unit = first_unit + v * V;
      if (v == 0 || unit < p.hidden) finish_units<T, C, Stage>(p, s, tile + v * G * V, first + r, unit);
    }
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
