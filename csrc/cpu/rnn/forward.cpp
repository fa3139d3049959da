// Forward pass of one layer and direction. The input product of many steps is one matrix product;
// each step then is the recurrent product (or two, see stage_count) with the gates fused behind it, tile
// by tile, and a barrier where workers share rows. With one step there is nothing to pack weights for: all products are
// plain.
#include <cstring>

#include "cpu/rnn/forward_cells.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

template <class T>
struct Forward {
  // Scratch, in this order.
  T *panels[2], *bias, *bias_hn, *gates, *hidden_n, *h, *c, *product;
  int64_t chunk;  // steps whose input product is made at once
};

template <class T, Cell C>
Forward<T> forward_pieces(const RnnLayer& p, bool saving, Pieces& pieces) {
  constexpr int V = lanes<T>, G = gate_count(C);
  int64_t state = p.batch * p.hidden, columns = G * p.hidden;
  Forward<T> f{};
  f.chunk = chunk_of<T>(p, saving);
  static_for<stage_count(C)>([&](auto stage) {
    constexpr int per_unit = stage_gates(C, stage);
    int64_t units = round_up(p.hidden, panel_groups<per_unit> * V);
    f.panels[stage] = pieces.take<T>(p.steps > 1 ? p.hidden * per_unit * units : 0);
  });
  f.bias = pieces.take<T>(columns);
  f.bias_hn = pieces.take<T>(C == Cell::gru ? p.hidden : 0);
  f.gates = pieces.take<T>(saving ? 0 : f.chunk * p.batch * columns);
  if (C == Cell::gru_reset_first && !saving) f.hidden_n = pieces.take<T>(state);
  f.h = pieces.take<T>(saving ? 0 : 2 * state);
  f.c = pieces.take<T>(saving || C != Cell::lstm ? 0 : state);
  int64_t elements = gemm_scratch<T>(f.chunk * p.batch, columns, p.input_size);
  if (p.steps == 1) elements = std::max(elements, gemm_scratch<T>(p.batch, columns, p.hidden));
  f.product = pieces.take<T>(elements + (p.steps == 1 ? state * G : 0));
  return f;
}

// bias: what is added to the input product. Biases just add up, but a GRU's b_hn is inside the reset gate.
template <class T>
void add_biases(const RnnLayer& p, const T* b_ih, const T* b_hh, const Forward<T>& f) {
  int64_t gates = gate_count(p.cell);
  for (int64_t i = 0; i < gates * p.hidden; ++i) {
    bool inside = p.cell == Cell::gru && i >= 2 * p.hidden;
    T hidden = b_hh ? b_hh[i] : T(0);
    f.bias[i] = (b_ih ? b_ih[i] : T(0)) + (inside ? T(0) : hidden);
    if (inside) f.bias_hn[i - 2 * p.hidden] = hidden;
  }
}

// Panel j holds, for each k, the weights of its groups of V hidden units, of each group under each gate.
template <class T, int G>
void pack_recurrent(int64_t hidden, const T* w_hh, T* panels) {
  constexpr int V = lanes<T>, groups = panel_groups<G>, width = panel_width<G>;
  int64_t blocks = ceil_div(hidden, groups * V);
  parallel_chunks(blocks, 1 + 65536 / (hidden * width * V + 1), [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j)
      for (int v = 0; v < width; ++v) {
        int64_t unit = (j * groups + v / G) * V;
        int units = static_cast<int>(std::clamp<int64_t>(hidden - unit, 0, V));
        pack_panel(w_hh + (v % G * hidden + unit) * hidden, hidden, 1, units, hidden,
                   panels + j * width * V * hidden + v * V, V, width * V);
      }
  });
}

// A layer of one step: the recurrent products are plain ones, whose rows are read as tiles.
template <class T, Cell C>
void run_step(const RnnLayer& p, const ForwardStep<T>& s, const T* w_hh, T* scratch) {
  constexpr int V = lanes<T>;
  static_for<stage_count(C)>([&](auto stage) {
    constexpr int G = stage_gates(C, stage);
    int64_t columns = G * p.hidden;
    T* tiles = scratch;  // [N][G H]
    gemm<T>({p.batch, columns, p.hidden, stage == 0 ? s.h : s.hidden_n, p.hidden, 1,
             w_hh + stage_start(stage) * p.hidden * p.hidden, p.hidden, 1, tiles, columns, nullptr, false},
            tiles + p.batch * columns);
    parallel_chunks(p.batch, 1 + 8192 / (p.hidden + 1), [&](int64_t begin, int64_t last) {
      for (int64_t n = begin; n < last; ++n)
        for (int64_t unit = 0; unit < p.hidden; unit += V) {
          T tile[G * V];
          int units = static_cast<int>(std::min<int64_t>(V, p.hidden - unit));
          for (int g = 0; g < G; ++g) store(tile + g * V, load_first(tiles + n * columns + g * p.hidden + unit, units));
          finish_units<T, C, stage>(p, s, tile, n, unit);
        }
    });
  });
}

// The steps from `first` to before `last`; step_at(s) has the arrays of each.
template <class T, Cell C, class StepAt>
void run_steps(const RnnLayer& p, const Forward<T>& f, int64_t first, int64_t last, const StepAt& step_at) {
  constexpr int V = lanes<T>, stages = stage_count(C);
  int64_t weights = gate_count(C) * p.hidden * p.hidden, bytes = weights * static_cast<int64_t>(sizeof(T));
  Steps work[stages];
  static_for<stages>([&](auto stage) {
    constexpr int G = stage_gates(C, stage), width = panel_width<G>;
    int64_t blocks = ceil_div(p.hidden, panel_groups<G> * V);
    work[stage] = steps_of_sequence<width>(p.batch, blocks, 2 * p.batch * weights, last - first, bytes);
  });
  static_assert(stages == 1 || panel_width<stage_gates(C, 0)> == panel_width<stage_gates(C, stages - 1)>,
                "both stages cut rows alike");
  run_team_steps(
      work, p.batch, last - first, [&](int64_t s) { return step_at(first + s); },
      [&](const ForwardStep<T>& step, auto stage, int64_t block, const Groups& groups) ARRAYNN_LAMBDA {
        constexpr int G = stage_gates(C, stage), width = panel_width<G>;
        product_of_groups<T, width>(groups, p.hidden, stage == 0 ? step.h : step.hidden_n, p.hidden,
                                    f.panels[stage] + block * width * V * p.hidden,
                                    [&](int64_t first, int rows, const T* tile) ARRAYNN_LAMBDA {
                                      finish_rows<T, C, stage>(p, step, tile, block * panel_groups<G> * V, first, rows);
                                    });
      });
}

template <class T, Cell C>
void run_forward(const RnnLayer& p, const RnnForward& b, void* scratch) {
  constexpr int G = gate_count(C);
  Pieces pieces(scratch);
  bool saving = b.gates != nullptr;
  Forward<T> f = forward_pieces<T, C>(p, saving, pieces);
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
  clear_reset_rows(p, h_slot(start), p.hidden);
  if (C == Cell::lstm) begin_state(c_slot(start), b.c0);

  add_biases(p, static_cast<const T*>(b.b_ih), static_cast<const T*>(b.b_hh), f);
  if (p.steps > 1)
    static_for<stage_count(C)>([&](auto stage) {
      pack_recurrent<T, stage_gates(C, stage)>(p.hidden, w_hh + stage_start(stage) * p.hidden * p.hidden,
                                               f.panels[stage]);
    });

  for (int64_t done = 0; done < p.steps; done += f.chunk) {
    int64_t steps = std::min(f.chunk, p.steps - done);
    int64_t first_t = p.reverse ? p.steps - done - steps : done;  // the chunk's earliest step in time
    gemm<T>({steps * p.batch, columns, p.input_size, input + first_t * p.batch * p.input_size, p.input_size, 1, w_ih,
             p.input_size, 1, gates + (saving ? first_t : 0) * p.batch * columns, columns, f.bias, false},
            f.product);
    auto step_at = [&](int64_t s) {
      int64_t t = p.reverse ? p.steps - 1 - s : s, from = p.reverse ? t + 1 : t, to = p.reverse ? t : t + 1;
      ForwardStep<T> step{};
      step.t = t;
      step.gates = gates + (saving ? t : t - first_t) * p.batch * columns;
      if (is_gru(C)) step.hidden_n = saving ? static_cast<T*>(b.hidden_n) + t * state : f.hidden_n;
      step.out = static_cast<T*>(b.output) + t * p.out_t;
      step.h = h_slot(from);
      step.h_next = h_slot(to);
      if (C == Cell::lstm) step.c = c_slot(from);
      if (C == Cell::lstm) step.c_next = c_slot(to);
      step.bias_hn = f.bias_hn;
      return step;
    };
    if (p.steps == 1)
      run_step<T, C>(p, step_at(0), w_hh, f.product);
    else
      run_steps<T, C>(p, f, done, done + steps, step_at);
  }
  std::memcpy(b.h_n, h_slot(end), state_bytes);
  if (C == Cell::lstm) std::memcpy(b.c_n, c_slot(end), state_bytes);
}

}  // namespace

template <class T>
size_t forward_scratch(const RnnLayer& p, bool saving) {
  Pieces pieces(nullptr);
  with_cell(p.cell, [&](auto cell) { forward_pieces<T, cell()>(p, saving, pieces); });
  return pieces.used();
}
template size_t forward_scratch<float>(const RnnLayer&, bool);
template size_t forward_scratch<double>(const RnnLayer&, bool);

template <class T>
void layer_forward(const RnnLayer& p, const RnnForward& b, void* scratch) {
  with_cell(p.cell, [&](auto cell) { run_forward<T, cell()>(p, b, scratch); });
}
template void layer_forward<float>(const RnnLayer&, const RnnForward&, void*);
template void layer_forward<double>(const RnnLayer&, const RnnForward&, void*);

}  // namespace arraynn::cpu::ARRAYNN_ISA
