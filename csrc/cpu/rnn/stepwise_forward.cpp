// Forward pass of a layer with RnnExtras or a projection, see stepwise.h.
#include "cpu/rnn/stepwise.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

// The arrays of one step. `fresh_h` and `fresh_c` are the states before zoneout, `inner` what a projection takes
// (without one, fresh_h itself); `masked` is m h, or h.
template <class T>
struct Rows {
  int64_t t;
  T *gates, *hidden_n, *out, *product, *inner, *fresh_h, *fresh_c, *state_norm, *rstd;
  const T *h, *c, *masked;
  T *h_next, *c_next, *masked_next;  // the last one null where nothing is masked
  const T *bias, *bias_hn, *mask;
  const T *peepholes, *gain_hh, *gain_c, *b_c;
  Zone<T> zone_h, zone_c;
};

template <class T>
void lstm_row(const RnnLayer& p, const Rows<T>& s, int64_t n) {
  int64_t H = p.hidden, at = n * H;
  T *gates = s.gates + 4 * at, *fresh = s.fresh_c + at, *inner = s.inner + at;
  const T *with = s.product + 4 * at, *before = is_reset(p, s.t, n) ? nullptr : s.c + at;
  auto c_before = [&](int64_t u, auto count)
                      ARRAYNN_LAMBDA { return before ? load_count(before + u, count) : vec<T>{}; };
  for_vectors<T>(H, [&](int64_t u, auto count) ARRAYNN_LAMBDA {
    auto gate = [&](int64_t g) ARRAYNN_LAMBDA {
      int64_t k = g * H + u;
      return load_count(gates + k, count) + (load_count(with + k, count) + load_count(s.bias + k, count));
    };
    auto peep = [&](int64_t g, vec<T> c, vec<T> x)
                    ARRAYNN_LAMBDA { return s.peepholes ? fma(load_count(s.peepholes + g * H + u, count), c, x) : x; };
    vec<T> c = c_before(u, count);
    vec<T> i = sigmoid<T>(peep(0, c, gate(0))), f = sigmoid<T>(peep(1, c, gate(1))), g = tanh<T>(gate(2));
    vec<T> next = fma(f, c, i * g), o = sigmoid<T>(peep(2, next, gate(3)));
    store_count(gates + u, i, count);
    store_count(gates + H + u, f, count);
    store_count(gates + 2 * H + u, g, count);
    store_count(gates + 3 * H + u, o, count);
    store_count(fresh + u, next, count);
  });
  if (s.gain_c) normalize(H, fresh, inner);
  for_vectors<T>(H, [&](int64_t u, auto count) ARRAYNN_LAMBDA {
    vec<T> next = load_count(fresh + u, count), y = next;
    if (s.gain_c) y = load_count(inner + u, count) * load_count(s.gain_c + u, count);
    if (s.b_c) y += load_count(s.b_c + u, count);
    store_count(inner + u, load_count(gates + 3 * H + u, count) * tanh<T>(y), count);
    store_count(s.c_next + at + u, zoned(s.zone_c, at + u, next, c_before(u, count), count), count);
  });
}

template <class T>
void gru_row(const RnnLayer& p, const Rows<T>& s, int64_t n) {
  int64_t H = p.hidden, at = n * H;
  T* gates = s.gates + 3 * at;
  const T* with = s.product + 3 * at;
  for_vectors<T>(H, [&](int64_t u, auto count) ARRAYNN_LAMBDA {
    auto gate = [&](int64_t g) ARRAYNN_LAMBDA {
      int64_t k = g * H + u;
      return load_count(gates + k, count) + (load_count(with + k, count) + load_count(s.bias + k, count));
    };
    vec<T> r = sigmoid<T>(gate(0)), z = sigmoid<T>(gate(1));
    vec<T> hn = load_count(with + 2 * H + u, count) + load_count(s.bias_hn + u, count);
    vec<T> x = load_count(gates + 2 * H + u, count) + load_count(s.bias + 2 * H + u, count);
    vec<T> candidate = tanh<T>(fma(r, hn, x));
    store_count(gates + u, r, count);
    store_count(gates + H + u, z, count);
    store_count(gates + 2 * H + u, candidate, count);
    if (s.hidden_n) store_count(s.hidden_n + at + u, hn, count);
    store_count(s.inner + at + u, fma(z, load_count(s.h + at + u, count) - candidate, candidate), count);
  });
}

// A GRU whose reset gate comes first: r, z and what n's weights take, behind the products of r and z.
template <class T>
void reset_row(const RnnLayer& p, const Rows<T>& s, int64_t n) {
  int64_t H = p.hidden, at = n * H;
  T* gates = s.gates + 3 * at;
  const T* with = s.product + 2 * at;
  for_vectors<T>(H, [&](int64_t u, auto count) ARRAYNN_LAMBDA {
    auto gate = [&](int64_t g) ARRAYNN_LAMBDA {
      int64_t k = g * H + u;
      return sigmoid<T>(load_count(gates + k, count) + (load_count(with + k, count) + load_count(s.bias + k, count)));
    };
    vec<T> r = gate(0);
    store_count(gates + u, r, count);
    store_count(gates + H + u, gate(1), count);
    store_count(s.hidden_n + at + u, r * load_count(s.masked + at + u, count), count);
  });
}

template <class T>
void candidate_row(const RnnLayer& p, const Rows<T>& s, int64_t n) {
  int64_t H = p.hidden, at = n * H;
  T* gates = s.gates + 3 * at;
  for_vectors<T>(H, [&](int64_t u, auto count) ARRAYNN_LAMBDA {
    vec<T> x = load_count(s.product + at + u, count) + load_count(s.bias + 2 * H + u, count);
    vec<T> z = load_count(gates + H + u, count), candidate = tanh<T>(load_count(gates + 2 * H + u, count) + x);
    store_count(gates + 2 * H + u, candidate, count);
    store_count(s.inner + at + u, fma(z, load_count(s.h + at + u, count) - candidate, candidate), count);
  });
}

template <class T>
void rnn_row(const RnnLayer& p, const Rows<T>& s, int64_t n) {
  int64_t at = n * p.hidden;
  for_vectors<T>(p.hidden, [&](int64_t u, auto count) ARRAYNN_LAMBDA {
    vec<T> x = load_count(s.product + at + u, count) + load_count(s.bias + u, count);
    x += load_count(s.gates + at + u, count);
    vec<T> h = p.cell == Cell::rnn_relu ? (x < T(0) ? vec<T>{} : x) : tanh<T>(x);  // NaN < 0 is false, so NaN stays
    store_count(s.gates + at + u, h, count);
    store_count(s.inner + at + u, h, count);
  });
}

// The cell of one sequence, behind the recurrent products.
template <class T, Cell C>
void cell_row(const RnnLayer& p, const Rows<T>& s, int64_t n) {
  constexpr int64_t G = gate_count(C);
  int64_t at = n * p.hidden;
  if (!is_active(p, s.t, n)) {  // a zero, which the weights' gradient may meet
    std::fill_n(s.inner + at, p.hidden, T(0));
    if (C == Cell::lstm && s.c != s.c_next) std::copy_n(s.c + at, p.hidden, s.c_next + at);
    return;
  }
  if (s.gain_hh) {
    constexpr int groups = norm_groups(C);
    normalize_gates(p, s.product + G * at, s.gain_hh, s.state_norm ? s.state_norm + G * at : nullptr,
                    s.rstd ? s.rstd + (2 * n + 1) * groups : nullptr);
  }
  if constexpr (C == Cell::lstm)
    lstm_row(p, s, n);
  else if constexpr (C == Cell::gru)
    gru_row(p, s, n);
  else if constexpr (C == Cell::gru_reset_first)
    candidate_row(p, s, n);
  else
    rnn_row(p, s, n);
}

// The state behind it, and what the next step sees of it.
template <class T>
void state_row(const RnnLayer& p, const Rows<T>& s, int64_t n) {
  int64_t at = n * p.width;
  bool active = is_active(p, s.t, n), reset = is_reset_next(p, s.t, n);
  for_vectors<T>(p.width, [&](int64_t u, auto count) ARRAYNN_LAMBDA {
    vec<T> before = load_count(s.h + at + u, count), h = before;
    if (active) h = zoned(s.zone_h, at + u, load_count(s.fresh_h + at + u, count), before, count);
    store_count(s.out + n * p.out_n + u, active ? h : vec<T>{}, count);
    if (reset) h = vec<T>{};
    store_count(s.h_next + at + u, h, count);
    if (s.mask) store_count(s.masked_next + at + u, h * load_count(s.mask + at + u, count), count);
  });
}

template <class T, Cell C>
class StepwiseForward {
 public:
  static constexpr int64_t G = gate_count(C);
  static constexpr bool reset_first = C == Cell::gru_reset_first;

  StepwiseForward(const RnnLayer& p, const RnnForward& b, bool saving, Pieces& pieces)
      : p_(p),
        b_(b),
        saving_(saving),
        state_(p.batch * p.width),
        cells_(p.batch * p.hidden),
        chunk_(chunk_of<T>(p, saving)),
        masks_(p, pieces),
        recurrent_(p, pieces, reset_first ? 2 * p.hidden : G * p.hidden, p.width, b.w_hh, p.width, 1),
        candidate_(p, pieces, reset_first ? p.hidden : 0, p.width, offset(b.w_hh, 2 * p.hidden * p.width), p.width, 1),
        projection_(p, pieces, p.projects ? p.width : 0, p.hidden, b.more.w_hr, p.hidden, 1) {
    auto saved = [&](void* to, int64_t elements) { return saving ? static_cast<T*>(to) : pieces.take<T>(elements); };
    bias_ = pieces.take<T>(G * p.hidden);
    bias_hn_ = pieces.take<T>(p.hidden);
    gates_ = saved(b.gates, chunk_ * G * cells_);
    hidden_n_ = saved(b.hidden_n, reset_first ? cells_ : 0);
    h_ = saved(b.h, 2 * state_);
    c_ = saved(b.c, C == Cell::lstm ? cells_ : 0);
    bool inner_saved = saving && p.projects;
    inner_ = inner_saved ? static_cast<T*>(b.projected) : pieces.take<T>(cells_);
    fresh_h_ = p.projects ? pieces.take<T>(state_) : inner_;
    fresh_c_ = pieces.take<T>(C == Cell::lstm ? cells_ : 0);
    masked_ = pieces.take<T>(masks_.has_recurrent() ? state_ : 0);
    product_ = pieces.take<T>(G * cells_);
    scratch_ = pieces.take<T>(gemm_scratch<T>(chunk_ * p.batch, G * p.hidden, p.input_size));
  }

  void run() const {
    begin();
    for (int64_t done = 0; done < p_.steps; done += chunk_) {
      int64_t steps = std::min(chunk_, p_.steps - done);
      int64_t first = p_.reverse ? p_.steps - done - steps : done;  // the chunk's earliest step in time
      input_product(first, steps);
      for (int64_t s = done; s < done + steps; ++s) step(rows_at(p_.reverse ? p_.steps - 1 - s : s, first));
    }
    int64_t end = p_.reverse ? 0 : p_.steps;
    std::copy_n(h_slot(end), state_, static_cast<T*>(b_.h_n));
    if (C == Cell::lstm) std::copy_n(c_slot(end), cells_, static_cast<T*>(b_.c_n));
  }

 private:
  static const T* offset(const void* base, int64_t elements) {
    return base ? static_cast<const T*>(base) + elements : nullptr;
  }
  T* h_slot(int64_t slot) const { return h_ + (saving_ ? slot : slot % 2) * state_; }
  T* c_slot(int64_t slot) const { return c_ + (saving_ ? slot : 0) * cells_; }

  void begin() const {
    int64_t start = p_.reverse ? p_.steps : 0;
    auto state = [&](T* to, const void* from, int64_t size) {
      if (from)
        std::copy_n(static_cast<const T*>(from), size, to);
      else
        std::fill_n(to, size, T(0));
    };
    state(h_slot(start), b_.h0, state_);
    clear_reset_rows(p_, h_slot(start), p_.width);
    if (C == Cell::lstm) state(c_slot(start), b_.c0, cells_);
    masks_.draw(p_);
    if (masks_.has_recurrent())
      for_vectors<T>(state_, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
        store_count(masked_ + i, load_count(h_slot(start) + i, count) * load_count(masks_.recurrent + i, count), count);
      });
    const T *b_ih = static_cast<const T*>(b_.b_ih), *b_hh = static_cast<const T*>(b_.b_hh);
    for (int64_t i = 0; i < G * p_.hidden; ++i) {  // biases just add up, but a GRU's b_hn is inside the reset gate
      bool inside = C == Cell::gru && i >= 2 * p_.hidden;
      T hidden = b_hh ? b_hh[i] : T(0);
      bias_[i] = (b_ih ? b_ih[i] : T(0)) + (inside ? T(0) : hidden);
      if (inside) bias_hn_[i - 2 * p_.hidden] = hidden;
    }
    recurrent_.pack();
    if (reset_first) candidate_.pack();
    if (p_.projects) projection_.pack();
  }

  void input_product(int64_t first, int64_t steps) const {
    int64_t rows = steps * p_.batch, columns = G * p_.hidden;
    T* gates = gates_ + (saving_ ? first : 0) * p_.batch * columns;
    gemm<T>({rows, columns, p_.input_size, offset(b_.input, first * p_.batch * p_.input_size), p_.input_size, 1,
             static_cast<const T*>(b_.w_ih), p_.input_size, 1, gates, columns, nullptr, false},
            scratch_);
    if (!b_.more.gain_ih) return;
    constexpr int groups = norm_groups(C);
    T *norm = saving_ ? static_cast<T*>(b_.input_norm) + first * p_.batch * columns : nullptr,
      *rstd = saving_ ? static_cast<T*>(b_.rstd) + first * p_.batch * 2 * groups : nullptr;
    each_row(rows, columns, [&](int64_t n) {
      normalize_gates(p_, gates + n * columns, static_cast<const T*>(b_.more.gain_ih),
                      norm ? norm + n * columns : nullptr, rstd ? rstd + 2 * n * groups : nullptr);
    });
  }

  Rows<T> rows_at(int64_t t, int64_t first) const {
    int64_t from = p_.reverse ? t + 1 : t, to = p_.reverse ? t : t + 1;
    Rows<T> s{};
    s.t = t;
    s.gates = gates_ + (saving_ ? t : t - first) * G * cells_;
    if (is_gru(C)) s.hidden_n = saving_ ? hidden_n_ + t * cells_ : reset_first ? hidden_n_ : nullptr;
    s.out = static_cast<T*>(b_.output) + t * p_.out_t;
    s.product = product_;
    s.inner = inner_ + (saving_ && p_.projects ? t * cells_ : 0);
    s.fresh_h = p_.projects ? fresh_h_ : s.inner;
    s.fresh_c = fresh_c_;
    if (saving_ && b_.more.gain_hh) {
      s.state_norm = static_cast<T*>(b_.state_norm) + t * G * cells_;
      s.rstd = static_cast<T*>(b_.rstd) + t * p_.batch * 2 * norm_groups(C);
    }
    s.h = h_slot(from);
    s.h_next = h_slot(to);
    if (C == Cell::lstm) s.c = c_slot(from), s.c_next = c_slot(to);
    s.mask = masks_.recurrent;
    s.masked = s.mask ? masked_ : s.h;
    s.masked_next = masked_;
    s.bias = bias_;
    s.bias_hn = bias_hn_;
    s.peepholes = static_cast<const T*>(b_.more.peepholes);
    s.gain_hh = static_cast<const T*>(b_.more.gain_hh);
    s.gain_c = static_cast<const T*>(b_.more.gain_c);
    s.b_c = static_cast<const T*>(b_.more.b_c);
    s.zone_h = masks_.h_at(p_, t);
    s.zone_c = masks_.c_at(p_, t);
    return s;
  }

  void step(const Rows<T>& s) const {
    recurrent_.run(s.masked, p_.width, s.product, (reset_first ? 2 : G) * p_.hidden);
    if constexpr (reset_first) {
      each_row(p_.batch, p_.hidden, [&](int64_t n) {
        if (is_active(p_, s.t, n))
          reset_row(p_, s, n);
        else
          std::fill_n(s.hidden_n + n * p_.hidden, p_.hidden, T(0));
      });
      candidate_.run(s.hidden_n, p_.hidden, s.product, p_.hidden);
    }
    each_row(p_.batch, p_.hidden, [&](int64_t n) {
      cell_row<T, C>(p_, s, n);
      if (!p_.projects) state_row(p_, s, n);
    });
    if (!p_.projects) return;
    projection_.run(s.inner, p_.hidden, s.fresh_h, p_.width);
    each_row(p_.batch, p_.width, [&](int64_t n) { state_row(p_, s, n); });
  }

  const RnnLayer& p_;
  const RnnForward& b_;
  bool saving_;
  int64_t state_, cells_, chunk_;
  Masks<T> masks_;
  StepProduct<T> recurrent_, candidate_, projection_;
  T *bias_, *bias_hn_, *gates_, *hidden_n_, *h_, *c_, *inner_, *fresh_h_, *fresh_c_, *masked_, *product_, *scratch_;
};

}  // namespace

template <class T>
size_t stepwise_forward_scratch(const RnnLayer& p, bool saving) {
  Pieces pieces(nullptr);
  with_cell(p.cell, [&](auto cell) { StepwiseForward<T, cell()>(p, RnnForward{}, saving, pieces); });
  return pieces.used();
}
template size_t stepwise_forward_scratch<float>(const RnnLayer&, bool);
template size_t stepwise_forward_scratch<double>(const RnnLayer&, bool);

template <class T>
void stepwise_forward(const RnnLayer& p, const RnnForward& b, void* scratch) {
  Pieces pieces(scratch);
  with_cell(p.cell, [&](auto cell) { StepwiseForward<T, cell()>(p, b, b.gates != nullptr, pieces).run(); });
}
template void stepwise_forward<float>(const RnnLayer&, const RnnForward&, void*);
template void stepwise_forward<double>(const RnnLayer&, const RnnForward&, void*);

}  // namespace arraynn::cpu::ARRAYNN_ISA
