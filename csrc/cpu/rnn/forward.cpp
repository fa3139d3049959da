// Forward pass of one layer and direction. The input product of many steps is one matrix product;
// each step then is the recurrent product with the gates fused behind it, tile by tile, and one
// barrier. With one step there is nothing to pack weights for: both products are plain.
#include <cstring>

#include "cpu/rnn/product.h"
#include "cpu/simd/math.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

template <class T>
struct Forward {
  // Scratch, in this order.
  T *panels, *bias, *bias_hn, *gates, *h, *c, *product;
  int64_t chunk;  // steps whose input product is made at once
};

template <class T>
int64_t chunk_of(const RnnLayer& p, bool saving) {
  int64_t gates = p.cell == Cell::lstm ? 4 : 3;
  int64_t per_step = std::max<int64_t>(1, p.batch * gates * p.hidden);
  return saving ? p.steps : std::clamp<int64_t>((int64_t{1} << 20) / per_step, 1, std::max<int64_t>(p.steps, 1));
}

template <class T>
Forward<T> forward_pieces(const RnnLayer& p, bool saving, Pieces& pieces) {
  constexpr int V = lanes<T>;
  int64_t gates = p.cell == Cell::lstm ? 4 : 3, state = p.batch * p.hidden, columns = gates * p.hidden;
  Forward<T> f{};
  f.chunk = chunk_of<T>(p, saving);
  f.panels = pieces.take<T>(p.steps > 1 ? p.hidden * gates * round_up(p.hidden, V) : 0);
  f.bias = pieces.take<T>(columns);
  f.bias_hn = pieces.take<T>(round_up(p.hidden, V));
  f.gates = pieces.take<T>(saving ? 0 : f.chunk * p.batch * columns);
  f.h = pieces.take<T>(saving ? 0 : 2 * state);
  f.c = pieces.take<T>(saving || p.cell == Cell::gru ? 0 : state);
  int64_t elements = gemm_scratch<T>(f.chunk * p.batch, columns, p.input_size);
  if (p.steps == 1) elements = std::max(elements, gemm_scratch<T>(p.batch, columns, p.hidden));
  f.product = pieces.take<T>(elements + (p.steps == 1 ? state * gates : 0));
  return f;
}

// bias: what is added to the input product. An LSTM's biases and a GRU's for r and z just add up;
// b_hn is inside the reset gate.
template <class T>
void add_biases(const RnnLayer& p, const T* b_ih, const T* b_hh, const Forward<T>& f) {
  int64_t gates = p.cell == Cell::lstm ? 4 : 3;
  for (int64_t i = 0; i < gates * p.hidden; ++i) {
    bool inside = p.cell == Cell::gru && i >= 2 * p.hidden;
    T hidden = b_hh ? b_hh[i] : T(0);
    f.bias[i] = (b_ih ? b_ih[i] : T(0)) + (inside ? T(0) : hidden);
    if (inside) f.bias_hn[i - 2 * p.hidden] = hidden;
  }
}

// Panel j holds, for each k, the weights of hidden units [j V, j V + V) under each gate.
template <class T, int G>
void pack_recurrent(const RnnLayer& p, const T* w_hh, T* panels) {
  constexpr int V = lanes<T>;
  int64_t blocks = ceil_div(p.hidden, V);
  parallel_chunks(blocks, 1 + 65536 / (p.hidden * G * V + 1), [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j)
      for (int g = 0; g < G; ++g) {
        int units = static_cast<int>(std::min<int64_t>(V, p.hidden - j * V));
        pack_panel(w_hh + (g * p.hidden + j * V) * p.hidden, p.hidden, 1, units, p.hidden,
                   panels + j * V * G * p.hidden + g * V, V, G * V);
      }
  });
}

// One row of gates: the recurrent products `tile` (G vectors) meet the input products in `gates`,
// which are replaced by the activated gates. count hidden units, a constant or fewer.
template <class T, class Count>
ARRAYNN_INLINE void lstm_row(const RnnLayer& p, const T* tile, T* gates, const T* c, T* c_next, T* h_next, T* out,
                             Count n) {
  constexpr int V = lanes<T>;
  vec<T> i = sigmoid<T>(load_count(gates, n) + load(tile));
  vec<T> f = sigmoid<T>(load_count(gates + p.hidden, n) + load(tile + V));
  vec<T> g = tanh<T>(load_count(gates + 2 * p.hidden, n) + load(tile + 2 * V));
  vec<T> o = sigmoid<T>(load_count(gates + 3 * p.hidden, n) + load(tile + 3 * V));
  vec<T> next = fma(f, load_count(c, n), i * g);
  vec<T> h = o * tanh<T>(next);
  store_count(gates, i, n);
  store_count(gates + p.hidden, f, n);
  store_count(gates + 2 * p.hidden, g, n);
  store_count(gates + 3 * p.hidden, o, n);
  store_count(c_next, next, n);
  store_count(h_next, h, n);
  store_count(out, h, n);
}

template <class T, class Count>
ARRAYNN_INLINE void gru_row(const RnnLayer& p, const T* tile, const T* bias_hn, T* gates, T* hidden_n, const T* h,
                            T* h_next, T* out, Count count) {
  constexpr int V = lanes<T>;
  vec<T> r = sigmoid<T>(load_count(gates, count) + load(tile));
  vec<T> z = sigmoid<T>(load_count(gates + p.hidden, count) + load(tile + V));
  vec<T> hn = load(tile + 2 * V) + load_count(bias_hn, count);
  vec<T> n = tanh<T>(fma(r, hn, load_count(gates + 2 * p.hidden, count)));
  vec<T> next = fma(z, load_count(h, count) - n, n);
  if (hidden_n) {
    store_count(gates, r, count);
    store_count(gates + p.hidden, z, count);
    store_count(gates + 2 * p.hidden, n, count);
    store_count(hidden_n, hn, count);
  }
  store_count(h_next, next, count);
  store_count(out, next, count);
}

// The arrays of one step.
template <class T>
struct Step {
  int64_t t;
  T *gates, *hidden_n, *out;
  const T *h, *c;
  T *h_next, *c_next;
};

template <class T, int G>
ARRAYNN_INLINE void finish_rows(const RnnLayer& p, const Step<T>& s, const T* tile, const T* bias_hn, int64_t unit,
                                int64_t first, int rows) {
  constexpr int V = lanes<T>;
  int64_t units = std::min<int64_t>(V, p.hidden - unit);
  for (int r = 0; r < rows; ++r, tile += G * V) {
    int64_t n = first + r, state = n * p.hidden + unit;
    T* out = s.out + n * p.out_n + unit;
    if (!is_active(p, s.t, n)) {
      std::memset(out, 0, static_cast<size_t>(units) * sizeof(T));
      std::memcpy(s.h_next + state, s.h + state, static_cast<size_t>(units) * sizeof(T));
      if (G == 4 && s.c != s.c_next) std::memcpy(s.c_next + state, s.c + state, static_cast<size_t>(units) * sizeof(T));
      continue;
    }
    T* gates = s.gates + n * G * p.hidden + unit;
    auto row = [&](auto count) ARRAYNN_LAMBDA {
      if constexpr (G == 4)
        lstm_row(p, tile, gates, s.c + state, s.c_next + state, s.h_next + state, out, count);
      else
        gru_row(p, tile, bias_hn + unit, gates, s.hidden_n ? s.hidden_n + state : nullptr, s.h + state,
                s.h_next + state, out, count);
    };
    if (units == V)
      row(std::integral_constant<int, V>{});
    else
      row(static_cast<int>(units));
  }
}

template <class T, int G>
void run_forward(const RnnLayer& p, const RnnForward& b, void* scratch) {
  constexpr int V = lanes<T>;
  Pieces pieces(scratch);
  bool saving = b.gates != nullptr;
  Forward<T> f = forward_pieces<T>(p, saving, pieces);
  int64_t state = p.batch * p.hidden, columns = G * p.hidden;
  size_t state_bytes = static_cast<size_t>(state) * sizeof(T);
  const T *input = static_cast<const T*>(b.input), *w_ih = static_cast<const T*>(b.w_ih),
          *w_hh = static_cast<const T*>(b.w_hh);
  T* gates = saving ? static_cast<T*>(b.gates) : f.gates;
  T* h = saving ? static_cast<T*>(b.h) : f.h;
  T* c = saving ? static_cast<T*>(b.c) : f.c;
  // A slot's place in memory (see RnnForward).
  auto h_slot = [&](int64_t slot) { return h + (saving ? slot : slot % 2) * state; };
  auto c_slot = [&](int64_t slot) { return c + (saving ? slot : 0) * state; };
  int64_t start = p.reverse ? p.steps : 0, end = p.steps - start;
  auto begin_state = [&](T* to, const void* from) {
    if (from)
      std::memcpy(to, from, state_bytes);
    else
      std::memset(to, 0, state_bytes);
  };
  begin_state(h_slot(start), b.h0);
  if (G == 4) begin_state(c_slot(start), b.c0);

  add_biases(p, static_cast<const T*>(b.b_ih), static_cast<const T*>(b.b_hh), f);
  if (p.steps > 1) pack_recurrent<T, G>(p, w_hh, f.panels);
  Steps work = steps_of<G>(p.batch, ceil_div(p.hidden, V), 2 * p.batch * p.hidden * columns);

  for (int64_t done = 0; done < p.steps; done += f.chunk) {
    int64_t steps = std::min(f.chunk, p.steps - done);
    int64_t first_t = p.reverse ? p.steps - done - steps : done;  // the chunk's earliest step in time
    gemm<T>({steps * p.batch, columns, p.input_size, input + first_t * p.batch * p.input_size, p.input_size, 1, w_ih,
             p.input_size, 1, gates + (saving ? first_t : 0) * p.batch * columns, columns, f.bias, false},
            f.product);
    auto step_at = [&](int64_t s) {
      int64_t t = p.reverse ? p.steps - 1 - s : s, from = p.reverse ? t + 1 : t, to = p.reverse ? t : t + 1;
      return Step<T>{t,
                     gates + (saving ? t : t - first_t) * p.batch * columns,
                     b.hidden_n && saving ? static_cast<T*>(b.hidden_n) + t * state : nullptr,
                     static_cast<T*>(b.output) + t * p.out_t,
                     h_slot(from),
                     G == 4 ? c_slot(from) : nullptr,
                     h_slot(to),
                     G == 4 ? c_slot(to) : nullptr};
    };
    if (p.steps == 1) {
      Step<T> s = step_at(0);
      T* tiles = f.product;  // [N][G H], read as tiles below
      T* rest = tiles + state * G;
      gemm<T>({p.batch, columns, p.hidden, s.h, p.hidden, 1, w_hh, p.hidden, 1, tiles, columns, nullptr, false}, rest);
      parallel_chunks(p.batch, 1 + 8192 / (p.hidden + 1), [&](int64_t begin, int64_t last) {
        for (int64_t n = begin; n < last; ++n)
          for (int64_t unit = 0; unit < p.hidden; unit += V) {
            T tile[G * V];
            int units = static_cast<int>(std::min<int64_t>(V, p.hidden - unit));
            for (int g = 0; g < G; ++g)
              store(tile + g * V, load_first(tiles + n * columns + g * p.hidden + unit, units));
            finish_rows<T, G>(p, s, tile, f.bias_hn, unit, n, 1);
          }
      });
      continue;
    }
    parallel_team(work.team, [&](int worker, int workers) {
      T tile[row_block<G> * G * V];
      for (int64_t s = done; s < done + steps; ++s) {
        Step<T> step = step_at(s);
        for_part(work, p.batch, worker, workers, [&](int64_t block, int64_t first, int rows) ARRAYNN_LAMBDA {
          product<T, G>(rows, p.hidden, step.h + first * p.hidden, p.hidden, f.panels + block * V * G * p.hidden, tile);
          finish_rows<T, G>(p, step, tile, f.bias_hn, block * V, first, rows);
        });
        if (workers > 1) team_barrier();
      }
    });
  }
  std::memcpy(b.h_n, h_slot(end), state_bytes);
  if (G == 4) std::memcpy(b.c_n, c_slot(end), state_bytes);
}

}  // namespace

template <class T>
size_t forward_scratch(const RnnLayer& p, bool saving) {
  Pieces pieces(nullptr);
  forward_pieces<T>(p, saving, pieces);
  return pieces.used();
}
template size_t forward_scratch<float>(const RnnLayer&, bool);
template size_t forward_scratch<double>(const RnnLayer&, bool);

template <class T>
void layer_forward(const RnnLayer& p, const RnnForward& b, void* scratch) {
  if (p.cell == Cell::lstm)
    run_forward<T, 4>(p, b, scratch);
  else
    run_forward<T, 3>(p, b, scratch);
}
template void layer_forward<float>(const RnnLayer&, const RnnForward&, void*);
template void layer_forward<double>(const RnnLayer&, const RnnForward&, void*);

}  // namespace arraynn::cpu::ARRAYNN_ISA
