// Backward pass of one layer and direction. A step's tile is the product of the later step's gate
// gradients with the recurrent weights, fused with the gate gradients of its own step; where a GRU's
// reset gate comes first there is a second one, of the step's own gradient of n. What needs all steps (input, weight
// and bias gradients) is matrix products over time at the end.
#include <cstring>

#include "cpu/rnn/backward_cells.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int width = 4;  // vectors of hidden units per tile

template <class T>
struct Backward {
  T *d, *panels, *input, *product;
};

template <class T>
Backward<T> backward_pieces(const RnnLayer& p, Pieces& pieces) {
  int64_t rows = p.steps * p.batch, columns = gate_count(p.cell) * p.hidden;
  Backward<T> b{};
  b.d = pieces.take<T>(rows * gradient_parts(p.cell) * p.hidden);
  bool packs = p.steps > 1 || p.cell == Cell::gru_reset_first;
  b.panels = pieces.take<T>(packs ? columns * round_up(p.hidden, width * lanes<T>) : 0);
  b.input = pieces.take<T>(p.lengths ? rows * p.input_size : 0);
  b.product = pieces.take<T>(
      std::max({gemm_scratch<T>(rows, p.input_size, columns), gemm_scratch<T>(columns, p.input_size, rows),
                gemm_scratch<T>(columns, p.hidden, rows), gemm_scratch<T>(p.batch, p.hidden, columns), 4 * p.hidden}));
  return b;
}

// Sum over time of the gate gradients times what the weights saw.
template <class T, Cell C>
void weight_gradients(const RnnLayer& p, const RnnBackward& b, const Backward<T>& w) {
  int64_t rows = p.steps * p.batch, hidden = p.hidden, ld = gradient_parts(C) * hidden;
  const T* h = static_cast<const T*>(b.h) + (p.reverse ? p.batch * hidden : 0);
  const T* x = b.d_w_ih ? readable_input(p, static_cast<const T*>(b.input), w.input) : nullptr;
  T *d_w_ih = static_cast<T*>(b.d_w_ih), *d_w_hh = static_cast<T*>(b.d_w_hh);
  T *d_b_ih = static_cast<T*>(b.d_b_ih), *d_b_hh = static_cast<T*>(b.d_b_hh);
  // d[:, first..first+size) transposed, times `with` (rows x columns); whether that part of d is packed then.
  auto over_time = [&](int64_t first, int64_t size, const T* with, int64_t columns, T* result, bool packed = false) {
    return gemm<T>({size, columns, rows, w.d + first, 1, ld, with, 1, columns, result, columns, nullptr, false, packed},
                   w.product);
  };
  // Both weights' rows [row, row + size).
  auto both = [&](int64_t first, int64_t size, int64_t row) {
    bool packed = d_w_ih && over_time(first, size, x, p.input_size, d_w_ih + row * p.input_size);
    if (d_w_hh) over_time(first, size, h, hidden, d_w_hh + row * hidden, packed);
  };
  if (C != Cell::gru) {
    if (C == Cell::gru_reset_first) {  // n's weights saw r h
      both(0, 2 * hidden, 0);
      if (d_w_ih) over_time(2 * hidden, hidden, x, p.input_size, d_w_ih + 2 * hidden * p.input_size);
      if (d_w_hh)
        over_time(2 * hidden, hidden, static_cast<const T*>(b.hidden_n), hidden, d_w_hh + 2 * hidden * hidden);
    } else {
      both(0, ld, 0);
    }
    T* sums = d_b_ih ? d_b_ih : d_b_hh;
    if (sums) column_sums(rows, ld, w.d, sums);
    if (d_b_ih && d_b_hh) std::copy_n(d_b_ih, ld, d_b_hh);
    return;
  }
  both(hidden, 2 * hidden, 0);
  if (d_w_ih) over_time(0, hidden, x, p.input_size, d_w_ih + 2 * hidden * p.input_size);
  if (d_w_hh) over_time(3 * hidden, hidden, h, hidden, d_w_hh + 2 * hidden * hidden);
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

template <class T, Cell C>
void input_gradient(const RnnLayer& p, const RnnBackward& b, const Backward<T>& w) {
  int64_t rows = p.steps * p.batch, hidden = p.hidden, ld = gradient_parts(C) * hidden;
  const T* w_ih = static_cast<const T*>(b.w_ih);
  T* dx = static_cast<T*>(b.d_input);
  auto add = [&](int64_t first, int64_t size, const T* weights, bool accumulate) {
    gemm<T>(
        {rows, p.input_size, size, w.d + first, ld, 1, weights, 1, p.input_size, dx, p.input_size, nullptr, accumulate},
        w.product);
  };
  if (C != Cell::gru) return add(0, ld, w_ih, b.add_to_d_input);
  add(hidden, 2 * hidden, w_ih, b.add_to_d_input);
  add(0, hidden, w_ih + 2 * hidden * p.input_size, true);
}

// Lets nothing flow from the later step, which cleared the state.
template <class T>
void cut_row(const RnnLayer& p, const BackwardStep<T>& s, T* product, int64_t n, int64_t first_unit) {
  int64_t units = std::min<int64_t>(width * lanes<T>, p.hidden - first_unit), at = n * p.hidden + first_unit;
  std::fill_n(product, width * lanes<T>, T(0));
  std::fill_n(s.carry + at, units, T(0));
  if (p.cell == Cell::lstm) std::fill_n(s.dc + at, units, T(0));
}

template <class T, Cell C, int Stage>
ARRAYNN_INLINE void finish_rows(const RnnLayer& p, const BackwardStep<T>& s, T* tile, int64_t first_unit, int64_t first,
                                int rows) {
  constexpr int V = lanes<T>;
  for (int r = 0; r < rows; ++r, tile += width * V) {
    int64_t n = first + r;
    bool active = is_active(p, s.t, n);
    if (Stage == 0 && is_reset_next(p, s.t, n)) cut_row(p, s, tile, n, first_unit);
    for (int v = 0; v < width && first_unit + v * V < p.hidden; ++v)
      finish_units<T, C, Stage>(p, s, tile + v * V, n, first_unit + v * V, active);
  }
}

template <class T, Cell C>
void run_backward(const RnnLayer& p, const RnnBackward& b, void* scratch) {
  constexpr int V = lanes<T>, G = gate_count(C);
  Pieces pieces(scratch);
  Backward<T> w = backward_pieces<T>(p, pieces);
  int64_t state = p.batch * p.hidden, columns = G * p.hidden, ld = gradient_parts(C) * p.hidden;
  int64_t own = state_part(C) * p.hidden;
  int64_t leading = C == Cell::gru_reset_first ? 2 * p.hidden : columns;  // that lead to the earlier step's h
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
  if (C == Cell::lstm) begin(dc, b.d_c_n);

  int64_t blocks = ceil_div(p.hidden, width * V);
  if (p.steps > 1 || C == Cell::gru_reset_first)
    parallel_chunks(blocks, 1 + 65536 / (columns * width * V + 1), [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        int64_t unit = j * width * V;
        int units = static_cast<int>(std::min<int64_t>(width * V, p.hidden - unit));
        pack_panel(w_hh + unit, 1, p.hidden, units, columns, w.panels + unit * columns, width * V, width * V);
      }
    });
  constexpr int stages = C == Cell::gru_reset_first ? 2 : 1;
  Steps work[stages];
  for (Steps& each : work)
    each = steps_of_sequence<width>(p.batch, blocks, 2 * state * columns, p.steps,
                                    columns * p.hidden * static_cast<int64_t>(sizeof(T)));
  auto step_at = [&](int64_t s) {
    int64_t t = p.reverse ? s : p.steps - 1 - s;                       // backwards through the layer's own time
    int64_t from = p.reverse ? t + 1 : t, to = p.reverse ? t : t + 1;  // slots before and after step t
    return BackwardStep<T>{t,
                           gates + t * p.batch * columns,
                           C == Cell::gru ? static_cast<const T*>(b.hidden_n) + t * state : nullptr,
                           h + from * state,
                           C == Cell::lstm ? c + from * state : nullptr,
                           C == Cell::lstm ? c + to * state : nullptr,
                           static_cast<const T*>(b.d_output) + t * p.out_t,
                           w.d + t * p.batch * ld,
                           carry,
                           dc};
  };
  auto run_task = [&](const BackwardStep<T>& step, auto stage, int64_t block, const Groups& groups) ARRAYNN_LAMBDA {
    const T* panel = w.panels + block * width * V * columns;
    auto finish = [&](int64_t first, int rows, T* tile)
                      ARRAYNN_LAMBDA { finish_rows<T, C, stage>(p, step, tile, block * width * V, first, rows); };
    int64_t later = p.reverse ? step.t - 1 : step.t + 1;  // the step whose gradients come in
    bool is_first = later < 0 || later >= p.steps;        // then none do, in a product of no steps of k
    if (stage == 1)
      product_of_groups<T, width>(groups, p.hidden, step.d + leading, ld, panel + leading * width * V, finish);
    else
      product_of_groups<T, width>(groups, is_first ? 0 : leading, w.d + (is_first ? 0 : later * p.batch * ld) + own, ld,
                                  panel, finish);
  };
  run_team_steps(work, p.batch, p.steps, step_at, run_task);
  if (p.steps > 0) {
    int64_t first = p.reverse ? p.steps - 1 : 0;  // the layer's first step in its own time
    gemm<T>({p.batch, p.hidden, leading, w.d + first * p.batch * ld + own, ld, 1, w_hh, 1, p.hidden, carry, p.hidden,
             nullptr, true},
            w.product);
  }
  clear_reset_rows(p, carry, p.hidden);
  if (C == Cell::lstm) clear_reset_rows(p, dc, p.hidden);
  weight_gradients<T, C>(p, b, w);
  if (b.d_input) input_gradient<T, C>(p, b, w);
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
  with_cell(p.cell, [&](auto cell) { run_backward<T, cell()>(p, b, scratch); });
}
template void layer_backward<float>(const RnnLayer&, const RnnBackward&, void*);
template void layer_backward<double>(const RnnLayer&, const RnnBackward&, void*);

}  // namespace arraynn::cpu::ARRAYNN_ISA
