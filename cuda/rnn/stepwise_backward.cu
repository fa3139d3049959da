// Backward pass of a layer with RnnExtras or a projection, see stepwise.h.
#include "rnn/stepwise_backward.h"

#include "rnn/stepwise_layer.h"

namespace arraynn::cuda::rnn {

namespace {

template <Cell cell, class T>
class StepwiseBackward : StepwiseLayer<cell, T> {
 public:
  using Base = StepwiseLayer<cell, T>;
  using Base::G, Base::reset_first;

  StepwiseBackward(const RnnLayer& p, const RnnBackward& b, Pieces& pieces) : Base(p, pieces), b_(b) {
    bool norms = this->norms();
    auto take = [&](bool there, int64_t size) { return there ? pieces.take<T>(size) : nullptr; };
    d_fresh_ = pieces.take<T>(p.projects ? rows_ * p.width : state_);
    d_inner_ = p.projects ? pieces.take<T>(cells_) : d_fresh_;
    d_x_ = pieces.take<T>(rows_ * columns_);
    d_h_ = cell == Cell::gru ? pieces.take<T>(rows_ * columns_) : d_x_;
    d_ = norms ? pieces.take<T>(rows_ * columns_) : d_h_;
    flow_ = pieces.take<T>(state_);
    through_ = take(reset_first, state_);
    peeped_ = take(p.extras.peepholes, 3 * rows_ * p.hidden);
    gain_d_ = take(norms, rows_ * columns_);
    c_norm_ = take(norms && cell == Cell::lstm, cells_);
    c_norm_d_ = take(norms && cell == Cell::lstm, rows_ * p.hidden);
    b_c_d_ = take(norms && cell == Cell::lstm, rows_ * p.hidden);
    input_ = take(p.lengths, rows_ * p.input_size);
    masked_ = take(masks_.has_recurrent(), rows_ * p.width);
    size_t most = 0;
    const T* none = nullptr;
    for (const Gemm& g : {recurrent(none), candidate(none), projection(none), input_gradient(nullptr),
                          over_time(none, columns_, columns_, none, p.input_size, nullptr),
                          over_time(none, columns_, this->leading(), none, p.width, nullptr),
                          over_time(none, columns_, p.hidden, none, p.hidden, nullptr),
                          over_time(none, p.width, p.width, none, p.hidden, nullptr)})
      most = std::max(most, gemm_scratch(g));
    for (int64_t columns : {columns_, 3 * p.hidden, p.hidden})
      most = std::max(most, channel_sums_scratch(all(columns)));
    scratch_ = pieces.bytes(most);
  }

  void run() const {
    this->begin_state(static_cast<T*>(b_.d_h0), b_.d_h_n, state_);
    if (cell == Cell::lstm) this->begin_state(static_cast<T*>(b_.d_c0), b_.d_c_n, cells_);
    if (rows_ > 0 && p_.hidden > 0) {
      masks_.draw();
      for (int64_t s = 0; s < p_.steps; ++s) step(step_at(p_.reverse ? s : p_.steps - 1 - s));
    }
    state_weights();
    input_weights();
    if (b_.d_input) gemm(input_gradient(static_cast<T*>(b_.d_input)), scratch_);
  }

 private:
  using Base::p_, Base::columns_, Base::rows_, Base::state_, Base::cells_, Base::masks_;

  Gemm recurrent(const T* d) const {
    return this->product(p_.batch, p_.width, this->leading(), d, columns_, static_cast<const T*>(b_.w_hh), p_.width, 1,
                         flow_);
  }
  Gemm candidate(const T* d) const {
    return this->product(p_.batch, p_.width, p_.hidden, d, columns_, Base::offset(b_.w_hh, 2 * p_.hidden * p_.width),
                         p_.width, 1, flow_);
  }
  Gemm projection(const T* d) const {
    return this->product(p_.batch, p_.hidden, p_.width, d, p_.width, static_cast<const T*>(b_.more.w_hr), p_.hidden, 1,
                         d_inner_);
  }
  Gemm input_gradient(T* to) const {
    return this->product(rows_, p_.input_size, columns_, d_x_, columns_, static_cast<const T*>(b_.w_ih), p_.input_size,
                         1, to, b_.add_to_d_input);
  }
  // `size` columns of the gradients, rows `step` apart, transposed times what the weights saw.
  Gemm over_time(const T* d, int64_t step, int64_t size, const T* seen, int64_t columns, T* to) const {
    return {p_.dtype, p_.place, size, columns, rows_, d, 1, step, seen, columns, 1, to, columns, 1};
  }
  ChannelSums all(int64_t columns) const { return {p_.dtype, p_.place, rows_, columns, 1}; }
  void sums(int64_t columns, const T* d, void* to) const {
    if (to) channel_sums(all(columns), d, to, scratch_);
  }

  StepBackward<T> step_at(int64_t t) const {
    int64_t from = p_.reverse ? t + 1 : t, gates = t * p_.batch * columns_;
    StepBackward<T> s{};
    this->fill_step(s, t, b_.more);
    s.gates = Base::offset(b_.gates, gates);
    if (cell == Cell::gru) s.hidden_n = Base::offset(b_.hidden_n, t * cells_);
    s.h = Base::offset(b_.h, from * state_);
    if (cell == Cell::lstm) {
      s.c = Base::offset(b_.c, from * cells_);
      s.dc = static_cast<T*>(b_.d_c0);
    }
    if (this->norms()) {
      s.state_norm = Base::offset(b_.state_norm, gates);
      s.rstd = Base::offset(b_.rstd, t * p_.batch * 2 * norm_groups(cell));
    }
    s.d_out = Base::offset(b_.d_output, t * p_.out_t);
    s.carry = static_cast<T*>(b_.d_h0);
    s.d_fresh = d_fresh_ + (p_.projects ? t * state_ : 0);
    s.d_inner = p_.projects ? d_inner_ : s.d_fresh;
    s.d_x = d_x_ + gates;
    s.d_h = d_h_ + gates;
    s.d = d_ + gates;
    s.flow = flow_;
    s.through = through_;
    s.peeped = Base::offset(peeped_, 3 * t * cells_);
    s.gain_hh_d = Base::offset(gain_d_, gates);
    s.c_norm = c_norm_;
    s.c_norm_d = Base::offset(c_norm_d_, t * cells_);
    s.b_c_d = Base::offset(b_c_d_, t * cells_);
    return s;
  }

  void step(const StepBackward<T>& s) const {
    if (p_.projects) {
      this->each_row(step_arrive_kernel<T>, p_.batch, p_.width, s);
      gemm(projection(s.d_fresh), scratch_);
    }
    this->each_row(step_cell_back_kernel<cell, T>, p_.batch, columns_, s, !p_.projects);
    if constexpr (reset_first) {
      gemm(candidate(s.d + 2 * p_.hidden), scratch_);
      this->each_row(step_reset_back_kernel<T>, p_.batch, p_.hidden, s);
    }
    gemm(recurrent(s.d), scratch_);
    this->each_row(step_leave_kernel<T>, p_.batch, p_.width, s);
  }

  // Of what the recurrent product, the projection and the cell took.
  void state_weights() const {
    const T* h = Base::offset(b_.h, p_.reverse ? state_ : 0);
    if (auto* d_w_hh = static_cast<T*>(b_.d_w_hh)) {
      if (masks_.has_recurrent()) {
        this->each_row(mask_kernel<T>, rows_, p_.width, rows_, p_.batch, p_.width, h, masks_.recurrent(), masked_);
        h = masked_;
      }
      gemm(over_time(d_, columns_, this->leading(), h, p_.width, d_w_hh), scratch_);
      if (reset_first)
        gemm(over_time(d_ + 2 * p_.hidden, columns_, p_.hidden, static_cast<const T*>(b_.hidden_n), p_.hidden,
                       d_w_hh + 2 * p_.hidden * p_.width),
             scratch_);
    }
    if (auto* d_w_hr = static_cast<T*>(b_.d_more.w_hr))
      gemm(over_time(d_fresh_, p_.width, p_.width, static_cast<const T*>(b_.projected), p_.hidden, d_w_hr), scratch_);
    sums(columns_, d_h_, b_.d_b_hh);
    sums(3 * p_.hidden, peeped_, b_.d_more.peepholes);
    sums(columns_, gain_d_, b_.d_more.gain_hh);
    sums(p_.hidden, c_norm_d_, b_.d_more.gain_c);
    sums(p_.hidden, b_c_d_, b_.d_more.b_c);
  }

  void input_weights() const {
    sums(columns_, d_x_, b_.d_b_ih);
    if (this->norms()) {
      this->each_row(normalize_input_back_kernel<cell, T>, rows_, columns_, this->marks(), rows_, p_.batch, p_.hidden,
                     d_x_, static_cast<const T*>(b_.more.gain_ih), static_cast<const T*>(b_.input_norm),
                     static_cast<const T*>(b_.rstd), gain_d_);
      sums(columns_, gain_d_, b_.d_more.gain_ih);
    }
    if (!b_.d_w_ih) return;
    auto* x = static_cast<const T*>(b_.input);
    if (p_.lengths) {
      RowBlocks r(rows_, p_.input_size);
      launch(readable_input_kernel<T>, r.grid(), r.threads, 0, p_.place, x, input_, p_.lengths, p_.batch, p_.input_size,
             r);
      x = input_;
    }
    gemm(over_time(d_x_, columns_, columns_, x, p_.input_size, static_cast<T*>(b_.d_w_ih)), scratch_);
  }

  const RnnBackward& b_;
  T *d_fresh_, *d_inner_, *d_x_, *d_h_, *d_, *flow_, *through_, *peeped_, *gain_d_, *c_norm_, *c_norm_d_, *b_c_d_,
      *input_, *masked_;
  void* scratch_;
};

}  // namespace

size_t stepwise_backward_scratch(const RnnLayer& p) {
  Pieces pieces(nullptr);
  dispatch_cell(p, [&](auto cell, auto zero) { StepwiseBackward<cell(), decltype(zero)>(p, RnnBackward{}, pieces); });
  return pieces.used();
}

void stepwise_backward(const RnnLayer& p, const RnnBackward& b, void* scratch) {
  Pieces pieces(scratch);
  dispatch_cell(p, [&](auto cell, auto zero) { StepwiseBackward<cell(), decltype(zero)>(p, b, pieces).run(); });
}

}  // namespace arraynn::cuda::rnn
