// Forward pass of a layer with RnnExtras or a projection, see stepwise.h.
#include "rnn/stepwise_layer.h"

namespace arraynn::cuda::rnn {

namespace {

template <Cell cell, class T>
class StepwiseForward : StepwiseLayer<cell, T> {
 public:
  using Base = StepwiseLayer<cell, T>;
  using Base::G, Base::reset_first;

  StepwiseForward(const RnnLayer& p, const RnnForward& b, bool saving, Pieces& pieces)
      : Base(p, pieces), b_(b), saving_(saving), chunk_(steps_at_once()) {
    auto saved = [&](void* to, int64_t elements) { return saving ? static_cast<T*>(to) : pieces.take<T>(elements); };
    gates_ = saved(b.gates, chunk_ * p.batch * columns_);
    hidden_n_ = saved(b.hidden_n, reset_first ? cells_ : 0);
    h_ = saved(b.h, 2 * state_);
    c_ = saved(b.c, cell == Cell::lstm ? cells_ : 0);
    inner_ = saving && p.projects ? static_cast<T*>(b.projected) : pieces.take<T>(cells_);
    fresh_h_ = p.projects ? pieces.take<T>(state_) : inner_;
    fresh_c_ = pieces.take<T>(cell == Cell::lstm ? cells_ : 0);
    masked_ = pieces.take<T>(masks_.has_recurrent() ? state_ : 0);
    product_ = pieces.take<T>(p.batch * columns_);
    size_t most = 0;
    int64_t rest = chunk_ ? p.steps % chunk_ : 0;
    for (const Gemm& g : {input_product(0, chunk_), input_product(0, rest), state_product(nullptr),
                          candidate_product(nullptr), projection(nullptr, nullptr)})
      most = std::max(most, gemm_scratch(g));
    scratch_ = pieces.bytes(most);
  }

  void run() const {
    begin();
    if (p_.batch == 0 || p_.hidden == 0) return finish();
    for (int64_t done = 0; done < p_.steps; done += chunk_) {
      int64_t steps = std::min(chunk_, p_.steps - done);
      int64_t first = p_.reverse ? p_.steps - done - steps : done;  // the chunk's earliest step in time
      gemm(input_product(first, steps), scratch_);
      if (this->norms()) normalize_input(first, steps);
      for (int64_t s = done; s < done + steps; ++s) step(step_at(p_.reverse ? p_.steps - 1 - s : s, first));
    }
    finish();
  }

 private:
  using Base::p_, Base::columns_, Base::rows_, Base::state_, Base::cells_, Base::masks_;

  // Steps whose input products are made at once: no more than stay in a large chip's cache by half.
  int64_t steps_at_once() const {
    if (saving_) return p_.steps;
    int64_t most = std::max<int64_t>(1, (int64_t{1} << 24) / std::max<int64_t>(1, p_.batch * columns_));
    return p_.steps ? ceil_div(p_.steps, ceil_div(p_.steps, most)) : 0;
  }
  T* h_slot(int64_t slot) const { return h_ + (saving_ ? slot : slot % 2) * state_; }
  T* c_slot(int64_t slot) const { return c_ + (saving_ ? slot : 0) * cells_; }

  Gemm input_product(int64_t first, int64_t steps) const {
    return this->product(steps * p_.batch, columns_, p_.input_size,
                         Base::offset(b_.input, first * p_.batch * p_.input_size), p_.input_size,
                         static_cast<const T*>(b_.w_ih), 1, p_.input_size,
                         gates_ + (saving_ ? first : 0) * p_.batch * columns_);
  }
  Gemm state_product(const T* h) const {
    return this->product(p_.batch, this->leading(), p_.width, h, p_.width, static_cast<const T*>(b_.w_hh), 1, p_.width,
                         product_);
  }
  Gemm candidate_product(const T* reset_h) const {
    return this->product(p_.batch, p_.hidden, p_.width, reset_h, p_.width,
                         Base::offset(b_.w_hh, 2 * p_.hidden * p_.width), 1, p_.width, product_);
  }
  Gemm projection(const T* inner, T* to) const {
    return this->product(p_.batch, p_.width, p_.hidden, inner, p_.hidden, static_cast<const T*>(b_.more.w_hr), 1,
                         p_.hidden, to);
  }

  void begin() const {
    int64_t start = p_.reverse ? p_.steps : 0;
    this->begin_state(h_slot(start), b_.h0, state_);
    if (cell == Cell::lstm) this->begin_state(c_slot(start), b_.c0, cells_);
    if (p_.steps == 0 || state_ == 0) return;
    if (p_.reset) {
      RowBlocks r(p_.batch, p_.width);
      launch(clear_reset_kernel<T>, r.grid(), r.threads, 0, p_.place, this->marks(), p_.reverse ? p_.steps - 1 : 0,
             h_slot(start), p_.width, r);
    }
    masks_.draw();
    if (masks_.has_recurrent())
      this->each_row(mask_kernel<T>, p_.batch, p_.width, p_.batch, p_.batch, p_.width,
                     static_cast<const T*>(h_slot(start)), masks_.recurrent(), masked_);
  }

  void finish() const {
    int64_t end = p_.reverse ? 0 : p_.steps;
    this->begin_state(static_cast<T*>(b_.h_n), h_slot(end), state_);
    if (cell == Cell::lstm) this->begin_state(static_cast<T*>(b_.c_n), c_slot(end), cells_);
  }

  void normalize_input(int64_t first, int64_t steps) const {
    int64_t rows = steps * p_.batch, at = (saving_ ? first : 0) * p_.batch;
    this->each_row(normalize_input_kernel<cell, T>, rows, columns_, rows, p_.hidden, gates_ + at * columns_,
                   static_cast<const T*>(b_.more.gain_ih),
                   saving_ ? Base::writable(b_.input_norm, at * columns_) : nullptr,
                   saving_ ? Base::writable(b_.rstd, at * 2 * norm_groups(cell)) : nullptr);
  }

  StepForward<T> step_at(int64_t t, int64_t first) const {
    int64_t from = p_.reverse ? t + 1 : t, to = p_.reverse ? t : t + 1;
    StepForward<T> s{};
    this->fill_step(s, t, b_.more);
    s.gates = gates_ + (saving_ ? t : t - first) * p_.batch * columns_;
    if (is_gru(cell)) s.hidden_n = saving_ ? hidden_n_ + t * cells_ : reset_first ? hidden_n_ : nullptr;
    s.out = static_cast<T*>(b_.output) + t * p_.out_t;
    s.product = product_;
    s.inner = inner_ + (saving_ && p_.projects ? t * cells_ : 0);
    s.fresh_h = p_.projects ? fresh_h_ : s.inner;
    s.fresh_c = fresh_c_;
    if (saving_ && this->norms()) {
      s.state_norm = Base::writable(b_.state_norm, t * p_.batch * columns_);
      s.rstd = Base::writable(b_.rstd, t * p_.batch * 2 * norm_groups(cell));
    }
    s.h = h_slot(from);
    s.h_next = h_slot(to);
    if (cell == Cell::lstm) {
      s.c = c_slot(from);
      s.c_next = c_slot(to);
    }
    s.masked = s.mask ? masked_ : s.h;
    s.masked_next = masked_;
    s.b_ih = static_cast<const T*>(b_.b_ih);
    s.b_hh = static_cast<const T*>(b_.b_hh);
    return s;
  }

  void step(const StepForward<T>& s) const {
    gemm(state_product(s.masked), scratch_);
    if constexpr (reset_first) {
      this->each_row(step_reset_kernel<T>, p_.batch, p_.hidden, s);
      gemm(candidate_product(s.hidden_n), scratch_);
    }
    this->each_row(step_cell_kernel<cell, T>, p_.batch, columns_, s, !p_.projects);
    if (!p_.projects) return;
    gemm(projection(s.inner, s.fresh_h), scratch_);
    this->each_row(step_state_kernel<T>, p_.batch, p_.width, s);
  }

  const RnnForward& b_;
  bool saving_;
  int64_t chunk_;
  T *gates_, *hidden_n_, *h_, *c_, *inner_, *fresh_h_, *fresh_c_, *masked_, *product_;
  void* scratch_;
};

}  // namespace

size_t stepwise_forward_scratch(const RnnLayer& p, bool saving) {
  Pieces pieces(nullptr);
  dispatch_cell(
      p, [&](auto cell, auto zero) { StepwiseForward<cell(), decltype(zero)>(p, RnnForward{}, saving, pieces); });
  return pieces.used();
}

void stepwise_forward(const RnnLayer& p, const RnnForward& b, void* scratch) {
  Pieces pieces(scratch);
  dispatch_cell(p, [&](auto cell, auto zero) {
    StepwiseForward<cell(), decltype(zero)>(p, b, b.gates != nullptr, pieces).run();
  });
}

}  // namespace arraynn::cuda::rnn
