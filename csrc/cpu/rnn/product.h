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

// tile[r][g] = sum_k state[r * row + k] panel[k][g]
template <class T, int G, int R>
void product_rows(int64_t k, const T* state, int64_t row, const T* panel, T* tile) {
  constexpr int V = lanes<T>;
  vec<T> acc[R][G] = {};
  for (int64_t i = 0; i < k; ++i, panel += G * V) {
    vec<T> weight[G];
    static_for<G>([&](auto g) ARRAYNN_LAMBDA { weight[g] = load(panel + g * V); });
    static_for<R>([&](auto r) ARRAYNN_LAMBDA {
      vec<T> value = broadcast<T>(state[r * row + i]);
      static_for<G>([&](auto g) ARRAYNN_LAMBDA { acc[r][g] = fma(value, weight[g], acc[r][g]); });
    });
  }
  static_for<R>([&](auto r) ARRAYNN_LAMBDA {
    static_for<G>([&](auto g) ARRAYNN_LAMBDA { store(tile + (r * G + g) * V, acc[r][g]); });
  });
}

template <class T, int G>
ARRAYNN_INLINE void product(int rows, int64_t k, const T* state, int64_t row, const T* panel, T* tile) {
  with_constant<row_block<G>>(rows, [&](auto count) { product_rows<T, G, count>(k, state, row, panel, tile); });
}

// A step's work is blocks of hidden units times groups of rows. A worker has a part of it, the same in every step:
// of all blocks its own rows, which then wait for nobody else's, or a contiguous part of the tasks, blocks first,
// so that its panels stay in its cache over all steps.
struct Steps {
  int64_t blocks, row_groups;
  int rows;      // per group
  int team;      // more threads than this would wait more than they work
  bool by_rows;  // then no barrier is needed between steps
};

template <int G>
Steps steps_of(int64_t batch, int64_t blocks, int64_t flops) {
  int64_t groups = std::max<int64_t>(1, ceil_div(batch, row_block<G>));
  int rows = static_cast<int>(ceil_div(std::max<int64_t>(batch, 1), groups));
  return {blocks, groups, rows, static_cast<int>(std::max<int64_t>(1, std::min(flops / 150000, blocks * groups))),
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

// f(block, first row, rows) for a worker's part of a step.
template <class F>
ARRAYNN_INLINE void for_part(const Steps& s, int64_t batch, int worker, int workers, const F& f) {
  auto task = [&](int64_t block, int64_t group) ARRAYNN_LAMBDA {
    int64_t first = group * s.rows;
    int rows = static_cast<int>(std::min<int64_t>(s.rows, batch - first));
    if (rows > 0) f(block, first, rows);
  };
  auto part = [&](int64_t count, int64_t of) { return count * of / workers; };
  if (s.by_rows) {
    for (int64_t block = 0; block < s.blocks; ++block)
      for (int64_t i = part(s.row_groups, worker); i < part(s.row_groups, worker + 1); ++i) task(block, i);
  } else {
    int64_t tasks = s.blocks * s.row_groups;
    for (int64_t i = part(tasks, worker); i < part(tasks, worker + 1); ++i) task(i / s.row_groups, i % s.row_groups);
  }
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
