// Backward pass of one layer and direction. A step's tile is the product of the later step's gate
// gradients with the recurrent weights, fused with the gate gradients of its own step. What needs
// all steps (input, weight and bias gradients) is matrix products over time at the end.
//
// Gate gradients `d`, per step and row: an LSTM's lie as i f g o, all before the activation. A GRU's
// lie as n r z hn, so that the input's part (n r z) and the state's part (r z hn) are each adjacent.
#include <cstring>

#include "cpu/rnn/product.h"
#include "cpu/simd/math.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int width = 4;  // vectors of hidden units per tile

template <class T>
struct Backward {
  T *d, *panels, *input, *product;
};

template <class T>
Backward<T> backward_pieces(const RnnLayer& p, Pieces& pieces) {
  int64_t gates = p.cell == Cell::lstm ? 4 : 3, rows = p.steps * p.batch, columns = gates * p.hidden;
  Backward<T> b{};
  b.d = pieces.take<T>(rows * 4 * p.hidden);
  b.panels = pieces.take<T>(p.steps > 1 ? columns * round_up(p.hidden, width * lanes<T>) : 0);
  b.input = pieces.take<T>(p.lengths ? rows * p.input_size : 0);
  b.product = pieces.take<T>(
      std::max({gemm_scratch<T>(rows, p.input_size, columns), gemm_scratch<T>(columns, p.input_size, rows),
                gemm_scratch<T>(columns, p.hidden, rows), gemm_scratch<T>(p.batch, p.hidden, columns), 4 * p.hidden}));
  return b;
}

// The arrays of one step. `carry` is what flows to h of the earlier step besides the product, `dc`
// the gradient of c; both are updated in place.
template <class T>
struct Step {
  int64_t t;
  const T *gates, *hidden_n, *h, *c, *c_next, *d_out;
  T *d, *carry, *dc;
};

// `dh`: the product's part of the gradient of this step's h.
template <class T, class Count>
ARRAYNN_INLINE void lstm_row(const RnnLayer& p, const Step<T>& s, int64_t n, int64_t unit, vec<T> dh, Count count) {
  int64_t state = n * p.hidden + unit;
  const T* gates = s.gates + n * 4 * p.hidden + unit;
  T* d = s.d + n * 4 * p.hidden + unit;
  vec<T> i = load_count(gates, count), f = load_count(gates + p.hidden, count);
  vec<T> g = load_count(gates + 2 * p.hidden, count), o = load_count(gates + 3 * p.hidden, count);
  vec<T> tc = tanh<T>(load_count(s.c_next + state, count));
  dh += load_count(s.carry + state, count) + load_count(s.d_out + n * p.out_n + unit, count);
  vec<T> dc = fma(dh * o, T(1) - tc * tc, load_count(s.dc + state, count));
  store_count(d, dc * g * i * (T(1) - i), count);
  store_count(d + p.hidden, dc * load_count(s.c + state, count) * f * (T(1) - f), count);
  store_count(d + 2 * p.hidden, dc * i * (T(1) - g * g), count);
  store_count(d + 3 * p.hidden, dh * tc * o * (T(1) - o), count);
  store_count(s.dc + state, dc * f, count);
  store_count(s.carry + state, vec<T>{}, count);
}

template <class T, class Count>
ARRAYNN_INLINE void gru_row(const RnnLayer& p, const Step<T>& s, int64_t n, int64_t unit, vec<T> dh, Count count) {
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

template <class T, int G>
ARRAYNN_INLINE void finish_rows(const RnnLayer& p, const Step<T>& s, const T* tile, int64_t first_unit, int64_t first,
                                int rows) {
  constexpr int V = lanes<T>;
  for (int r = 0; r < rows; ++r, tile += width * V) {
    int64_t n = first + r;
    bool active = is_active(p, s.t, n);
    for (int v = 0; v < width; ++v) {
      int64_t unit = first_unit + v * V;
      if (unit >= p.hidden) break;
      auto row = [&](auto count) ARRAYNN_LAMBDA {
        vec<T> dh = load(tile + v * V);
        if (!active) {  // the state passed through unchanged
          T* carry = s.carry + n * p.hidden + unit;
          store_count(carry, load_count(carry, count) + dh, count);
          for (int g = 0; g < 4; ++g) store_count(s.d + (n * 4 + g) * p.hidden + unit, vec<T>{}, count);
        } else if constexpr (G == 4) {
          lstm_row(p, s, n, unit, dh, count);
        } else {
          gru_row(p, s, n, unit, dh, count);
        }
      };
      if (p.hidden - unit >= V)
        row(std::integral_constant<int, V>{});
      else
        row(static_cast<int>(p.hidden - unit));
    }
  }
}

// The input as the weights' gradient may read it: past a sequence's end there may be anything, NaN
// too, which a zero gate gradient would not hide.
template <class T>
const T* readable_input(const RnnLayer& p, const T* x, T* copy) {
  if (!p.lengths) return x;
  size_t row_bytes = static_cast<size_t>(p.input_size) * sizeof(T);
  parallel_chunks(p.steps * p.batch, 1 + 16384 / (p.input_size + 1), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      T* to = copy + row * p.input_size;
      if (is_active(p, row / p.batch, row % p.batch))
        std::memcpy(to, x + row * p.input_size, row_bytes);
      else
        std::memset(to, 0, row_bytes);
    }
  });
  return copy;
}

// Sum over time of the gate gradients times what the weights saw.
template <class T, int G>
void weight_gradients(const RnnLayer& p, const RnnBackward& b, const Backward<T>& w) {
  int64_t rows = p.steps * p.batch, hidden = p.hidden, ld = 4 * hidden;
  const T* h = static_cast<const T*>(b.h) + (p.reverse ? p.batch * hidden : 0);
  const T* x = b.d_w_ih ? readable_input(p, static_cast<const T*>(b.input), w.input) : nullptr;
  T *d_w_ih = static_cast<T*>(b.d_w_ih), *d_w_hh = static_cast<T*>(b.d_w_hh);
  T *d_b_ih = static_cast<T*>(b.d_b_ih), *d_b_hh = static_cast<T*>(b.d_b_hh);
  // d[:, first..first+size) transposed, times `with` (rows x columns).
  auto over_time = [&](int64_t first, int64_t size, const T* with, int64_t columns, T* result) {
    gemm<T>({size, columns, rows, w.d + first, 1, ld, with, 1, columns, result, columns, nullptr, false}, w.product);
  };
  if (G == 4) {
    if (d_w_ih) over_time(0, 4 * hidden, x, p.input_size, d_w_ih);
    if (d_w_hh) over_time(0, 4 * hidden, h, hidden, d_w_hh);
    if (d_b_ih) column_sums(rows, ld, w.d, d_b_ih);
    if (d_b_hh) column_sums(rows, ld, w.d, d_b_hh);
    return;
  }
  if (d_w_ih) {
    over_time(hidden, 2 * hidden, x, p.input_size, d_w_ih);
    over_time(0, hidden, x, p.input_size, d_w_ih + 2 * hidden * p.input_size);
  }
  if (d_w_hh) over_time(hidden, 3 * hidden, h, hidden, d_w_hh);
  if (!d_b_ih && !d_b_hh) return;
  T* sums = w.product;
  column_sums(rows, ld, w.d, sums);
  for (int64_t i = 0; i < hidden; ++i) {
    if (d_b_ih)
      d_b_ih[i] = sums[hidden + i], d_b_ih[hidden + i] = sums[2 * hidden + i], d_b_ih[2 * hidden + i] = sums[i];
    if (d_b_hh)
      d_b_hh[i] = sums[hidden + i], d_b_hh[hidden + i] = sums[2 * hidden + i],
      d_b_hh[2 * hidden + i] = sums[3 * hidden + i];
  }
}

template <class T, int G>
void input_gradient(const RnnLayer& p, const RnnBackward& b, const Backward<T>& w) {
  int64_t rows = p.steps * p.batch, hidden = p.hidden, ld = 4 * hidden;
  const T* w_ih = static_cast<const T*>(b.w_ih);
  T* dx = static_cast<T*>(b.d_input);
  auto add = [&](int64_t first, int64_t size, const T* weights, bool accumulate) {
    gemm<T>(
        {rows, p.input_size, size, w.d + first, ld, 1, weights, 1, p.input_size, dx, p.input_size, nullptr, accumulate},
        w.product);
  };
  if (G == 4) return add(0, 4 * hidden, w_ih, b.add_to_d_input);
  add(hidden, 2 * hidden, w_ih, b.add_to_d_input);
  add(0, hidden, w_ih + 2 * hidden * p.input_size, true);
}

template <class T, int G>
void run_backward(const RnnLayer& p, const RnnBackward& b, void* scratch) {
  constexpr int V = lanes<T>;
  Pieces pieces(scratch);
  Backward<T> w = backward_pieces<T>(p, pieces);
  int64_t state = p.batch * p.hidden, columns = G * p.hidden, ld = 4 * p.hidden;
  int64_t own = G == 3 ? p.hidden : 0;  // where the state's part of a row of d starts
  size_t state_bytes = static_cast<size_t>(state) * sizeof(T);
  const T *w_hh = static_cast<const T*>(b.w_hh), *gates = static_cast<const T*>(b.gates);
  const T *h = static_cast<const T*>(b.h), *c = static_cast<const T*>(b.c);
  T *carry = static_cast<T*>(b.d_h0), *dc = static_cast<T*>(b.d_c0);
  auto begin = [&](T* to, const void* from) {
    if (from)
      std::memcpy(to, from, state_bytes);
    else
      std::memset(to, 0, state_bytes);
  };
  begin(carry, b.d_h_n);
  if (G == 4) begin(dc, b.d_c_n);

  int64_t blocks = ceil_div(p.hidden, width * V);
  if (p.steps > 1)
    parallel_chunks(blocks, 1 + 65536 / (columns * width * V + 1), [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        int64_t unit = j * width * V;
        int units = static_cast<int>(std::min<int64_t>(width * V, p.hidden - unit));
        pack_panel(w_hh + unit, 1, p.hidden, units, columns, w.panels + unit * columns, width * V, width * V);
      }
    });
  Steps work = steps_of<width>(p.batch, blocks, 2 * state * columns);
  parallel_team(work.team, [&](int worker, int workers) {
    T tile[row_block<width> * width * V] = {};
    for (int64_t s = 0; s < p.steps; ++s) {
      int64_t t = p.reverse ? s : p.steps - 1 - s;                       // backwards through the layer's own time
      int64_t later = p.reverse ? t - 1 : t + 1;                         // the step whose gradients come in
      int64_t from = p.reverse ? t + 1 : t, to = p.reverse ? t : t + 1;  // slots before and after step t
      Step<T> step{t,
                   gates + t * p.batch * columns,
                   G == 3 ? static_cast<const T*>(b.hidden_n) + t * state : nullptr,
                   h + from * state,
                   G == 4 ? c + from * state : nullptr,
                   G == 4 ? c + to * state : nullptr,
                   static_cast<const T*>(b.d_output) + t * p.out_t,
                   w.d + t * p.batch * ld,
                   carry,
                   dc};
      for_part(work, p.batch, worker, workers, [&](int64_t block, int64_t first, int rows) ARRAYNN_LAMBDA {
        if (s > 0)
          product<T, width>(rows, columns, w.d + (later * p.batch + first) * ld + own, ld,
                            w.panels + block * width * V * columns, tile);
        finish_rows<T, G>(p, step, tile, block * width * V, first, rows);
      });
      if (workers > 1) team_barrier();
    }
  });
  if (p.steps > 0) {
    int64_t first = p.reverse ? p.steps - 1 : 0;  // the layer's first step in its own time
    gemm<T>({p.batch, p.hidden, columns, w.d + first * p.batch * ld + own, ld, 1, w_hh, 1, p.hidden, carry, p.hidden,
             nullptr, true},
            w.product);
  }
  weight_gradients<T, G>(p, b, w);
  if (b.d_input) input_gradient<T, G>(p, b, w);
}

}  // namespace

template <class T>
size_t backward_scratch(const RnnLayer& p) {
  Pieces pieces(nullptr);
  backward_pieces<T>(p, pieces);
  return pieces.used();
}
template size_t backward_scratch<float>(const RnnLayer&);
template size_t backward_scratch<double>(const RnnLayer&);

template <class T>
void layer_backward(const RnnLayer& p, const RnnBackward& b, void* scratch) {
  if (p.cell == Cell::lstm)
    run_backward<T, 4>(p, b, scratch);
  else
    run_backward<T, 3>(p, b, scratch);
}
template void layer_backward<float>(const RnnLayer&, const RnnBackward&, void*);
template void layer_backward<double>(const RnnLayer&, const RnnBackward&, void*);

}  // namespace arraynn::cpu::ARRAYNN_ISA
