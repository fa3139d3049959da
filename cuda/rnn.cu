// Recurrent layers. The input's product is one matrix product for many steps. The steps themselves are one
// launch where the recurrent weights, spread over the multiprocessors, stay in shared memory (rnn/forward.cu,
// rnn/backward.cu: float32); else each is a matrix product and one kernel that finishes it, or two of each
// (rnn/reset_first.h). Weight, bias and input gradients are matrix products and sums over all steps at the end, in a
// fixed order.
#include "channel_sums.h"
#include "dispatch.h"
#include "gemm.h"
#include "kernels.h"
#include "rnn/persistent.h"
#include "rnn/pieces.h"
#include "rnn/reset_first.h"
#include "rnn/steps.h"
#include "rnn/stepwise.h"

namespace arraynn::cuda {

namespace rnn {
namespace {

template <Cell cell, class T>
class Layer {
 public:
  static constexpr int64_t gates = gates_of<cell>;
  static constexpr bool reset_first = cell == Cell::gru_reset_first;

  explicit Layer(const RnnLayer& p)
      : p_(p),
        states_(p.batch * p.hidden),
        columns_(gates * p.hidden),
        rows_(p.steps * p.batch),
        padded_(ceil_div(columns_, 16) * 16),
        d_step_(cell == Cell::gru ? padded_ + ceil_div(p.hidden, 16) * 16 : padded_) {}

  size_t forward_scratch(bool saving) const {
    Pieces pieces(nullptr);
    forward_pieces(saving, pieces);
    return pieces.used();
  }
  size_t backward_scratch() const {
    Pieces pieces(nullptr);
    backward_pieces(pieces);
    return pieces.used();
  }

  void forward(const RnnForward& b, void* scratch) const;
  void backward(const RnnBackward& b, void* scratch) const;

 private:
  struct ForwardPieces {
    T *gates, *between;        // products of one step, or two states
    T* reset_h;                // r h of one step
    void *product, *counters;  // the matrix product's own, and the barriers'
  };
  struct BackwardPieces {
    T *d, *input, *sums, *reset_h;  // the last one the gradient of r h
    void *product, *counters;
  };

  // ---- matrix products ----

  Gemm gemm_of(int64_t m, int64_t n, int64_t k, const T* a, int64_t a_row, int64_t a_column, const T* b, int64_t b_row,
               int64_t b_column, T* c, bool add = false) const {
    return {p_.dtype, p_.place, m, n, k, a, a_row, a_column, b, b_row, b_column, c, n, 1, nullptr, add};
  }
  Gemm input_product(int64_t steps, const T* x, const T* w_ih, T* to) const {
    return gemm_of(steps * p_.batch, columns_, p_.input_size, x, p_.input_size, 1, w_ih, 1, p_.input_size, to);
  }
  // By the weights of `size` gate units.
  Gemm state_product(int64_t size, const T* h, const T* w_hh, T* to) const {
    return gemm_of(p_.batch, size, p_.hidden, h, p_.hidden, 1, w_hh, 1, p_.hidden, to);
  }
  Gemm back_product(int64_t size, const T* d, const T* w_hh, T* dh, bool add) const {
    return gemm_of(p_.batch, p_.hidden, size, d, d_step_, 1, w_hh, p_.hidden, 1, dh, add);
  }
  // `size` columns of the gate gradients, summed over time with what the weights saw.
  Gemm over_time(int64_t size, const T* d, const T* seen, int64_t columns, T* to) const {
    return gemm_of(size, columns, rows_, d, 1, d_step_, seen, columns, 1, to);
  }
  Gemm input_gradient(int64_t size, const T* d, const T* w_ih, T* to, bool add) const {
    return gemm_of(rows_, p_.input_size, size, d, d_step_, 1, w_ih, p_.input_size, 1, to, add);
  }

  ChannelSums all_sums() const { return {p_.dtype, p_.place, rows_, d_step_, 1}; }

  // ---- pieces ----

  // Steps whose input products are made at once: no more than stay in a large chip's cache by half.
  int64_t steps_at_once() const {
    int64_t most = std::max<int64_t>(1, (int64_t{1} << 24) / std::max<int64_t>(1, p_.batch * columns_));
    return p_.steps ? ceil_div(p_.steps, ceil_div(p_.steps, most)) : 0;
  }

  static void* counters(Pieces& pieces) { return pieces.bytes(counter_step * most_counters * sizeof(uint32_t)); }

  ForwardPieces forward_pieces(bool saving, Pieces& pieces) const {
    int64_t some = steps_at_once(), rest = some ? p_.steps % some : 0;
    ForwardPieces f{};
    f.gates = pieces.take<T>(saving ? 0 : some * p_.batch * columns_);
    f.between = pieces.take<T>(std::max(states_ * gates, 2 * p_.batch * ceil_div(p_.hidden, 16) * 16));
    f.product = pieces.bytes(std::max({gemm_scratch(input_product(some, nullptr, nullptr, nullptr)),
                                       gemm_scratch(input_product(rest, nullptr, nullptr, nullptr)),
                                       gemm_scratch(state_product(columns_, nullptr, nullptr, nullptr)),
                                       gemm_scratch(state_product(2 * p_.hidden, nullptr, nullptr, nullptr)),
                                       gemm_scratch(state_product(p_.hidden, nullptr, nullptr, nullptr))}));
    f.reset_h = pieces.take<T>(reset_first && !saving ? states_ : 0);
    f.counters = counters(pieces);
    return f;
  }

  BackwardPieces backward_pieces(Pieces& pieces) const {
    const T* none = nullptr;
    BackwardPieces w{};
    w.d = pieces.take<T>(rows_ * d_step_);
    w.input = pieces.take<T>(p_.lengths ? rows_ * p_.input_size : 0);
    w.sums = pieces.take<T>(d_step_);
    w.reset_h = pieces.take<T>(reset_first ? states_ : 0);
    size_t most = channel_sums_scratch(all_sums());
    for (int64_t size : {columns_, 2 * p_.hidden, p_.hidden})
      most = std::max({most, gemm_scratch(back_product(size, none, none, nullptr, true)),
                       gemm_scratch(back_product(size, none, none, nullptr, false)),
                       gemm_scratch(over_time(size, none, none, p_.input_size, nullptr)),
                       gemm_scratch(over_time(size, none, none, p_.hidden, nullptr)),
                       gemm_scratch(input_gradient(size, none, none, nullptr, false))});
    w.product = pieces.bytes(most);
    w.counters = counters(pieces);
    return w;
  }

  // ---- parts of the passes ----

  void begin_state(T* to, const void* from) const {
    size_t bytes = static_cast<size_t>(states_) * sizeof(T);
    if (from)
      copy_bytes(p_.place, to, from, bytes);
    else
      fill_zero(p_.place, to, bytes);
  }
  Marks marks() const { return {p_.lengths, p_.reset, p_.reset_t, p_.reset_n}; }
  // Where the layer's first step resets it.
  void clear_reset(T* state) const {
    if (!p_.reset || p_.steps == 0 || states_ == 0) return;
    RowBlocks r(p_.batch, p_.hidden);
    launch(clear_reset_kernel<T>, r.grid(), r.threads, 0, p_.place, marks(), p_.reverse ? p_.steps - 1 : 0, state,
           p_.hidden, r);
  }
  // The plan of all steps in one launch. One step by itself has nothing to keep weights for.
  Plan plan(bool backward, const T* w_hh) const {
    if (sizeof(T) == 8 || p_.steps < 2 || reset_first) return {};
    Plan plan = plan_of({p_.place, cell, backward, p_.batch, p_.hidden});
    plan.cut.packs = p_.hidden % 4 == 0 && aligned16(w_hh);
    return plan;
  }
  template <class Kernel, class... A>
  void launch_plan(Kernel kernel, const Plan& plan, void* counters, const A&... arguments) const {
    Cut cut = plan.cut;
    if (plan.alone()) return launch(kernel, plan.blocks(), threads, plan.shared_bytes, p_.place, arguments..., cut);
    cut.arrived = static_cast<uint32_t*>(counters);
    fill_zero(p_.place, counters, static_cast<size_t>(cut.row_groups) * counter_step * sizeof(uint32_t));
    launch_cooperative(kernel, plan.blocks(), threads, plan.shared_bytes, p_.place, arguments..., cut);
  }
  void forward_steps(Forward<T> a, const Plan& plan, const ForwardPieces& f) const;
  void backward_steps(const Backward<T>& a, const Plan& plan, const BackwardPieces& w) const;
  void weight_gradients(const RnnBackward& b, const BackwardPieces& w) const;
  void bias_gradients(const RnnBackward& b, const BackwardPieces& w) const;

  RnnLayer p_;
  int64_t states_, columns_, rows_, padded_, d_step_;
};

// The steps from a.first to a.end, whose input products are there.
template <Cell cell, class T>
void Layer<cell, T>::forward_steps(Forward<T> a, const Plan& plan, const ForwardPieces& f) const {
  auto state = [&](int64_t s) { return a.h ? a.h + (p_.reverse ? p_.steps - s : s) * states_ : a.h_n; };
  if constexpr (sizeof(T) == 4 && !reset_first) {
    if (plan.found) {
      ForwardBuffers buffers{state(a.first), f.between};
      return launch_plan(forward_kernel_of(cell, plan.tile), plan, f.counters, a, buffers);
    }
  }
  RowBlocks r(p_.batch, p_.hidden);
  for (int64_t s = a.first, end = a.end; s < end; ++s) {
    gemm(state_product(reset_first ? 2 * p_.hidden : columns_, state(s), a.w_hh, f.between), f.product);
    a.first = s;
    a.end = s + 1;
    if constexpr (reset_first) {
      T* reset_h = a.h ? a.hidden_n + (p_.reverse ? p_.steps - 1 - s : s) * states_ : f.reset_h;
      launch(reset_kernel<T>, r.grid(), r.threads, 0, p_.place, a, state(s), f.between, reset_h, r);
      gemm(state_product(p_.hidden, reset_h, a.w_hh + 2 * p_.hidden * p_.hidden, f.between), f.product);
      launch(candidate_kernel<T>, r.grid(), r.threads, 0, p_.place, a, state(s), f.between, r);
    } else {
      launch(forward_step_kernel<cell, T>, r.grid(), r.threads, 0, p_.place, a, state(s), f.between, r);
    }
  }
}

template <Cell cell, class T>
void Layer<cell, T>::forward(const RnnForward& b, void* scratch) const {
  Pieces pieces(scratch);
  bool saving = b.gates != nullptr;
  ForwardPieces f = forward_pieces(saving, pieces);
  auto *h = static_cast<T*>(b.h), *c = static_cast<T*>(b.c), *h_n = static_cast<T*>(b.h_n),
       *c_n = static_cast<T*>(b.c_n);
  auto *x = static_cast<const T*>(b.input), *w_ih = static_cast<const T*>(b.w_ih),
       *w_hh = static_cast<const T*>(b.w_hh);
  int64_t start = p_.reverse ? p_.steps : 0;
  bool in_place = !saving || p_.steps == 0;
  if (saving) begin_state(h + start * states_, b.h0);
  if (in_place) begin_state(h_n, b.h0);
  clear_reset(saving ? h + start * states_ : h_n);
  if (cell == Cell::lstm && saving) begin_state(c + start * states_, b.c0);
  if (cell == Cell::lstm && in_place) begin_state(c_n, b.c0);
  if (states_ == 0) return;
  Plan way = plan(false, w_hh);
  int64_t some = steps_at_once();
  for (int64_t s = 0; s < p_.steps; s += some) {
    int64_t end = std::min(p_.steps, s + some), t = p_.reverse ? p_.steps - end : s;  // the earliest in time
    T* gates_at = saving ? static_cast<T*>(b.gates) + t * p_.batch * columns_ : f.gates;
    gemm(input_product(end - s, x + t * p_.batch * p_.input_size, w_ih, gates_at), f.product);
    Forward<T> a{marks()};
    a.steps = p_.steps;
    a.batch = p_.batch;
    a.hidden = p_.hidden;
    a.out_t = p_.out_t;
    a.out_n = p_.out_n;
    a.reverse = p_.reverse;
    a.tf32 = p_.place.tf32;
    a.relu = p_.cell == Cell::rnn_relu;
    a.first = s;
    a.end = end;
    a.w_hh = w_hh;
    a.b_ih = static_cast<const T*>(b.b_ih);
    a.b_hh = static_cast<const T*>(b.b_hh);
    a.gates = gates_at;
    a.gates_t = t;
    a.hidden_n = static_cast<T*>(b.hidden_n);
    a.h = saving ? h : nullptr;
    a.c = saving ? c : nullptr;
    a.output = static_cast<T*>(b.output);
    a.h_n = h_n;
    a.c_n = c_n;
    forward_steps(a, way, f);
  }
}

template <Cell cell, class T>
void Layer<cell, T>::backward_steps(const Backward<T>& a, const Plan& plan, const BackwardPieces& w) const {
  if constexpr (sizeof(T) == 4 && !reset_first) {
    if (plan.found) {
      return launch_plan(backward_kernel_of(cell, plan.tile), plan, w.counters, a);
    }
  }
  RowBlocks r(p_.batch, p_.hidden);
  for (int64_t s = 0; s < p_.steps; ++s) {
    T* d = a.d + (p_.reverse ? s : p_.steps - 1 - s) * p_.batch * d_step_;
    if constexpr (reset_first) {
      launch(candidate_back_kernel<T>, r.grid(), r.threads, 0, p_.place, a, s, r);
      const T* w_hn = a.w_hh + 2 * p_.hidden * p_.hidden;
      gemm(back_product(p_.hidden, d + 2 * p_.hidden, w_hn, w.reset_h, false), w.product);
      launch(reset_back_kernel<T>, r.grid(), r.threads, 0, p_.place, a, s, w.reset_h, r);
    } else {
      launch(backward_step_kernel<cell, T>, r.grid(), r.threads, 0, p_.place, a, s, r);
    }
    gemm(back_product(reset_first ? 2 * p_.hidden : columns_, d, a.w_hh, a.carry, true), w.product);
  }
}

template <Cell cell, class T>
void Layer<cell, T>::weight_gradients(const RnnBackward& b, const BackwardPieces& w) const {
  auto* h = static_cast<const T*>(b.h) + (p_.reverse ? states_ : 0);
  auto *d_w_ih = static_cast<T*>(b.d_w_ih), *d_w_hh = static_cast<T*>(b.d_w_hh);
  if (d_w_ih) {
    auto* x = static_cast<const T*>(b.input);
    if (p_.lengths) {
      RowBlocks r(rows_, p_.input_size);
      launch(readable_input_kernel<T>, r.grid(), r.threads, 0, p_.place, x, w.input, p_.lengths, p_.batch,
             p_.input_size, r);
      x = w.input;
    }
    int64_t first = cell == Cell::gru ? 2 * p_.hidden : columns_;
    gemm(over_time(first, w.d, x, p_.input_size, d_w_ih), w.product);
    if (cell == Cell::gru)
      gemm(over_time(p_.hidden, w.d + padded_, x, p_.input_size, d_w_ih + first * p_.input_size), w.product);
  }
  if (d_w_hh) gemm(over_time(reset_first ? 2 * p_.hidden : columns_, w.d, h, p_.hidden, d_w_hh), w.product);
  if (d_w_hh && reset_first)
    gemm(over_time(p_.hidden, w.d + 2 * p_.hidden, static_cast<const T*>(b.hidden_n), p_.hidden,
                   d_w_hh + 2 * p_.hidden * p_.hidden),
         w.product);
}

template <Cell cell, class T>
void Layer<cell, T>::bias_gradients(const RnnBackward& b, const BackwardPieces& w) const {
  auto *d_b_ih = static_cast<T*>(b.d_b_ih), *d_b_hh = static_cast<T*>(b.d_b_hh);
  if (!d_b_ih && !d_b_hh) return;
  channel_sums(all_sums(), w.d, w.sums, w.product);
  auto copy = [&](T* to, const T* from, int64_t size) {
    copy_bytes(p_.place, to, from, static_cast<size_t>(size) * sizeof(T));
  };
  if (d_b_hh) copy(d_b_hh, w.sums, columns_);
  if (!d_b_ih) return;
  int64_t first = cell == Cell::gru ? 2 * p_.hidden : columns_;
  copy(d_b_ih, w.sums, first);
  if (cell == Cell::gru) copy(d_b_ih + first, w.sums + padded_, p_.hidden);
}

template <Cell cell, class T>
void Layer<cell, T>::backward(const RnnBackward& b, void* scratch) const {
  Pieces pieces(scratch);
  BackwardPieces w = backward_pieces(pieces);
  auto *w_ih = static_cast<const T*>(b.w_ih), *w_hh = static_cast<const T*>(b.w_hh);
  auto *carry = static_cast<T*>(b.d_h0), *dc = static_cast<T*>(b.d_c0), *d_input = static_cast<T*>(b.d_input);
  begin_state(carry, b.d_h_n);
  if (cell == Cell::lstm) begin_state(dc, b.d_c_n);
  if (states_ > 0 && p_.steps > 0) {
    Backward<T> a{marks()};
    a.steps = p_.steps;
    a.batch = p_.batch;
    a.hidden = p_.hidden;
    a.out_t = p_.out_t;
    a.out_n = p_.out_n;
    a.reverse = p_.reverse;
    a.tf32 = p_.place.tf32;
    a.relu = p_.cell == Cell::rnn_relu;
    a.w_hh = w_hh;
    a.gates = static_cast<const T*>(b.gates);
    a.hidden_n = static_cast<const T*>(b.hidden_n);
    a.h = static_cast<const T*>(b.h);
    a.c = static_cast<const T*>(b.c);
    a.d_output = static_cast<const T*>(b.d_output);
    a.d = w.d;
    a.d_step = d_step_;
    a.padded = a.d_n = padded_;
    a.carry = carry;
    a.dc = dc;
    backward_steps(a, plan(true, w_hh), w);
    clear_reset(carry);
    if (cell == Cell::lstm) clear_reset(dc);
  }
  weight_gradients(b, w);
  bias_gradients(b, w);
  if (!d_input) return;
  int64_t first = cell == Cell::gru ? 2 * p_.hidden : columns_;
  gemm(input_gradient(first, w.d, w_ih, d_input, b.add_to_d_input), w.product);
  if (cell == Cell::gru)
    gemm(input_gradient(p_.hidden, w.d + padded_, w_ih + first * p_.input_size, d_input, true), w.product);
}

template <class F>
void dispatch_layer(const RnnLayer& p, const F& f) {
  dispatch_cell(p, [&](auto cell, auto zero) { f(Layer<cell(), decltype(zero)>(p)); });
}

}  // namespace
}  // namespace rnn

size_t rnn_layer_scratch(const RnnLayer& p, bool backward, bool saving) {
  if (p.stepwise()) return backward ? rnn::stepwise_backward_scratch(p) : rnn::stepwise_forward_scratch(p, saving);
  size_t bytes = 0;
  rnn::dispatch_layer(
      p, [&](const auto& layer) { bytes = backward ? layer.backward_scratch() : layer.forward_scratch(saving); });
  return bytes;
}

void rnn_layer_forward(const RnnLayer& p, const RnnForward& b, void* scratch) {
  if (p.stepwise()) return rnn::stepwise_forward(p, b, scratch);
  rnn::dispatch_layer(p, [&](const auto& layer) { layer.forward(b, scratch); });
}

void rnn_layer_backward(const RnnLayer& p, const RnnBackward& b, void* scratch) {
  if (p.stepwise()) return rnn::stepwise_backward(p, b, scratch);
  rnn::dispatch_layer(p, [&](const auto& layer) { layer.backward(b, scratch); });
}

}  // namespace arraynn::cuda
