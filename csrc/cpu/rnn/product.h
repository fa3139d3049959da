// The recurrent product, the heart of a step: a few rows of the state times one panel of weights
// that was packed once for all steps. A panel is 3 or 4 vectors wide. Forward, these are the same V
// hidden units under each of G gates, so that a unit's gates meet in one tile, or several such groups
// where gates are few; backward, 4 V neighbouring hidden units.
#pragma once
#include <cstring>

#include "cpu/gemm.h"
#include "cpu/kernels.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

#if defined(ARRAYNN_ISA_avx512) || defined(__aarch64__)
constexpr int tile_vectors = 24;  // accumulators, of 32 registers
#else
constexpr int tile_vectors = 12;
#endif
template <int G>
constexpr int row_block = tile_vectors / G;

// Of a forward panel: how many groups of V hidden units it has, and its width in vectors.
template <int G>
constexpr int panel_groups = G < 3 ? 4 / G : 1;
template <int G>
constexpr int panel_width = G * panel_groups<G>;

// tile[r][g] = sum_k state[r * row + k] panel[k][g], or += with accumulate
template <class T, int G, int R>
void product_rows(int64_t k, const T* state, int64_t row, const T* panel, T* tile, bool accumulate) {
  constexpr int V = lanes<T>;
  vec<T> acc[R][G] = {};
  if (accumulate)
    static_for<R>([&](auto r) ARRAYNN_LAMBDA {
      static_for<G>([&](auto g) ARRAYNN_LAMBDA { acc[r][g] = load(tile + (r * G + g) * V); });
    });
  for_steps(
      k,
      [&](auto i) ARRAYNN_LAMBDA {
        vec<T> weight[G];
        static_for<G>([&](auto g) ARRAYNN_LAMBDA { weight[g] = load(panel + (i * G + g) * V); });
        static_for<R>([&](auto r) ARRAYNN_LAMBDA {
          vec<T> value = broadcast<T>(state[r * row + i]);
          static_for<G>([&](auto g) ARRAYNN_LAMBDA { acc[r][g] = fma(value, weight[g], acc[r][g]); });
        });
      },
      [&](int64_t count) ARRAYNN_LAMBDA { state += count, panel += count * G * V; });
  static_for<R>([&](auto r) ARRAYNN_LAMBDA {
    static_for<G>([&](auto g) ARRAYNN_LAMBDA { store(tile + (r * G + g) * V, acc[r][g]); });
  });
}

template <class T, int G>
ARRAYNN_INLINE void product(int rows, int64_t k, const T* state, int64_t row, const T* panel, T* tile,
                            bool accumulate = false) {
  with_constant<row_block<G>>(rows,
                              [&](auto count) { product_rows<T, G, count>(k, state, row, panel, tile, accumulate); });
}

// A step's work is blocks of hidden units times groups of rows.
struct Steps {
  int64_t blocks, row_groups;
  int rows;      // per group
  int team;      // more threads than this would wait more than they work
  bool by_rows;  // then workers take sequences through all steps, and wait for nobody
};

template <int G>
Steps steps_of(int64_t batch, int64_t blocks, int64_t flops) {
  int64_t groups = std::max<int64_t>(1, ceil_div(batch, row_block<G>));
  int rows = static_cast<int>(ceil_div(std::max<int64_t>(batch, 1), groups));
  return {blocks, groups, rows, static_cast<int>(std::max<int64_t>(1, std::min(flops / 48000, blocks * groups))),
          false};
}

// The same for a step of a sequence of `steps`, of `flops` and packed weights of `bytes` each in all: by rows, where a
// core's cache holds the weights and the workers' shares are even.
template <int G>
Steps steps_of_sequence(int64_t batch, int64_t blocks, int64_t flops, int64_t steps, int64_t bytes) {
  constexpr int64_t most_weights = 512 << 10, least_flops = 300000;  // per worker
  Steps s = steps_of<G>(batch, blocks, flops);
  int64_t workers = std::clamp<int64_t>(flops * steps / least_flops, 1, num_threads());
  s.by_rows = bytes <= most_weights && 8 * s.row_groups >= 7 * workers * ceil_div(s.row_groups, workers);
  if (s.by_rows) s.team = static_cast<int>(workers);
  return s;
}

// Groups of rows [begin, end).
struct Groups {
  int64_t begin, end, batch;
  int rows;  // of a group
  int64_t first(int64_t group) const { return group * rows; }
  int rows_of(int64_t group) const { return static_cast<int>(std::clamp<int64_t>(batch - first(group), 0, rows)); }
};

// The product of groups of rows with one panel, and finish(first row, rows, tile) for each. Few steps of k at a time,
// whose part of the panel stays in the nearest cache for many groups.
template <class T, int G, class F>
ARRAYNN_INLINE void product_of_groups(const Groups& groups, int64_t k, const T* state, int64_t row, const T* panel,
                                      const F& finish) {
  constexpr int V = lanes<T>;
  constexpr int64_t part_bytes = ARRAYNN_VECTOR_BYTES == 64 ? 64 << 10 : 16 << 10;  // the former, of the second cache
  constexpr int64_t together = 16, most_k = part_bytes / (G * V * sizeof(T)), few = 2;
  T tiles[together][tile_vectors * V];
  for (int64_t begin = groups.begin; begin < groups.end; begin += together) {
    int64_t end = std::min(begin + together, groups.end), k0 = 0;
    int64_t part = end - begin <= few ? k : even_part(std::max<int64_t>(k, 1), most_k);
    do {
      for (int64_t i = begin; i < end; ++i)
        if (groups.rows_of(i) > 0)
          product<T, G>(groups.rows_of(i), std::min(part, k - k0), state + groups.first(i) * row + k0, row,
                        panel + k0 * G * V, tiles[i - begin], k0 > 0);
      k0 += part;
    } while (k0 < k);
    for (int64_t i = begin; i < end; ++i)
      if (groups.rows_of(i) > 0) finish(groups.first(i), groups.rows_of(i), tiles[i - begin]);
  }
}

constexpr int64_t parts_per_worker = 4;  // by rows: what a slow core keeps the rest waiting for is a part

// body(step, stage, block, groups) for all tasks of every stage of every step; step_at(s) makes the step.
template <int Stages, class StepAt, class Body>
void run_team_steps(const Steps (&work)[Stages], int64_t batch, int64_t steps, const StepAt& step_at,
                    const Body& body) {
  if (work[0].by_rows) {
    int64_t groups = work[0].row_groups, parts = work[0].team > 1 ? parts_per_worker * work[0].team : 1;
    parts = std::min(parts, groups);
    parallel_for(parts, [&](int64_t part, int) {
      for (int64_t s = 0; s < steps; ++s) {
        auto step = step_at(s);
        static_for<Stages>([&](auto stage) ARRAYNN_LAMBDA {
          Groups own{groups * part / parts, groups * (part + 1) / parts, batch, work[stage].rows};
          for (int64_t block = 0; block < work[stage].blocks; ++block) body(step, stage, block, own);
        });
      }
    });
    return;
  }
  // A worker's range of grains is the same in every step, blocks first, so that its panels stay in its cache. The
  // ranges of the next stage are set while this one's are taken, which nobody does before the barrier.
  constexpr int64_t grains_per_worker = 8;
  int team = 1;
  for (const Steps& w : work) team = std::max(team, w.team);
  Shares shares[2];
  parallel_team(team, [&](int worker, int workers) {
    auto tasks_of = [&](int stage) { return work[stage].blocks * work[stage].row_groups; };
    auto grains_of = [&](int stage) { return std::min(tasks_of(stage), grains_per_worker * workers); };
    int turn = 0;
    shares[0].give(worker, workers, grains_of(0));
    if (workers > 1) team_barrier();
    for (int64_t s = 0; s < steps; ++s) {
      auto step = step_at(s);
      static_for<Stages>([&](auto stage) ARRAYNN_LAMBDA {
        int64_t tasks = tasks_of(stage), groups = work[stage].row_groups, grains = grains_of(stage);
        shares[1 - turn].give(worker, workers, grains_of((stage + 1) % Stages));
        for (int64_t grain; (grain = shares[turn].take(worker)) >= 0;) {
          int64_t begin = tasks * grain / grains, end = tasks * (grain + 1) / grains;
          for (int64_t block = begin / groups; block * groups < end; ++block) {
            int64_t before = block * groups;
            Groups some{std::max(begin - before, int64_t{0}), std::min(end - before, groups), batch, work[stage].rows};
            body(step, stage, block, some);
          }
        }
        turn = 1 - turn;
        if (workers > 1) team_barrier();
      });
    }
  });
}

// Hands out aligned pieces of scratch; with a null base it only counts.
class Pieces {
 public:
  explicit Pieces(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* take(int64_t elements) {
    T* piece = reinterpret_cast<T*>(base_ + used_);
    used_ += static_cast<size_t>(round_up(elements * static_cast<int64_t>(sizeof(T)), 64));
    return piece;
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

// f(cell), a constant; the two RNNs differ in one function alone, and are one.
template <class F>
void with_cell(Cell cell, const F& f) {
  switch (cell) {
    case Cell::lstm: return f(std::integral_constant<Cell, Cell::lstm>{});
    case Cell::gru: return f(std::integral_constant<Cell, Cell::gru>{});
    case Cell::gru_reset_first: return f(std::integral_constant<Cell, Cell::gru_reset_first>{});
    case Cell::rnn:
    case Cell::rnn_relu: return f(std::integral_constant<Cell, Cell::rnn>{});
  }
}

inline bool is_active(const RnnLayer& p, int64_t t, int64_t n) { return !p.lengths || t < p.lengths[n]; }
// Whether the state is cleared before step t.
inline bool is_reset(const RnnLayer& p, int64_t t, int64_t n) {
  return p.reset && p.reset[t * p.reset_t + n * p.reset_n] && is_active(p, t, n);
}
// The same of the step that follows in the layer's own time, if there is one.
inline bool is_reset_next(const RnnLayer& p, int64_t t, int64_t n) {
  if (!p.reset) return false;
  int64_t next = p.reverse ? t - 1 : t + 1;
  return next >= 0 && next < p.steps && is_reset(p, next, n);
}
// Clears the rows of a state where the layer's first step resets it.
template <class T>
void clear_reset_rows(const RnnLayer& p, T* state, int64_t width) {
  if (!p.reset || p.steps == 0) return;
  for (int64_t n = 0; n < p.batch; ++n)
    if (is_reset(p, p.reverse ? p.steps - 1 : 0, n)) std::fill_n(state + n * width, width, T(0));
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

// Steps whose input product is made at once.
template <class T>
int64_t chunk_of(const RnnLayer& p, bool saving) {
  int64_t gates = gate_count(p.cell);
  int64_t per_step = std::max<int64_t>(1, p.batch * gates * p.hidden);
  return saving ? p.steps : std::clamp<int64_t>((int64_t{1} << 20) / per_step, 1, std::max<int64_t>(p.steps, 1));
}

}  // namespace

template <class T>
size_t forward_scratch(const RnnLayer& p, bool saving);
template <class T>
void layer_forward(const RnnLayer& p, const RnnForward& b, void* scratch);
template <class T>
size_t backward_scratch(const RnnLayer& p);
template <class T>
void layer_backward(const RnnLayer& p, const RnnBackward& b, void* scratch);

// Of layers with RnnExtras or a projection.
template <class T>
size_t stepwise_forward_scratch(const RnnLayer& p, bool saving);
template <class T>
void stepwise_forward(const RnnLayer& p, const RnnForward& b, void* scratch);
template <class T>
size_t stepwise_backward_scratch(const RnnLayer& p);
template <class T>
void stepwise_backward(const RnnLayer& p, const RnnBackward& b, void* scratch);

}  // namespace arraynn::cpu::ARRAYNN_ISA
