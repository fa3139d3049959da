// Backward pass of a layer with RnnExtras or a projection, see stepwise.h.
#include "cpu/rnn/stepwise.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

// The arrays of one step. `d_fresh` is the gradient of h before zoneout, `d_inner` of what a projection takes
// (without one, d_fresh itself). `d_x` and `d_h` are those of the two products behind their normalization, `d` of
// the state's before it; what is the same is one array.
template <class T>
struct Rows {
  int64_t t;
  const T *gates, *hidden_n, *h, *c, *state_norm, *rstd, *d_out;
  T *carry, *dc, *d_fresh, *d_inner, *d_x, *d_h, *d;
  T *flow, *through;                                  // what comes back by the recurrent weights, and to m h besides
  T *peeped, *gain_hh_d, *c_norm_d, *c_norm, *b_c_d;  // rows whose sums over time are parameters' gradients
  const T *mask, *peepholes, *gain_hh, *gain_c, *b_c;
  Zone<T> zone_h, zone_c;
};

// From the carry and the output to what the cell gave.
template <class T>
void arrive_row(const RnnLayer& p, const Rows<T>& s, int64_t n) {
  int64_t at = n * p.width;
  bool active = is_active(p, s.t, n);
  for_vectors<T>(p.width, [&](int64_t u, auto count) ARRAYNN_LAMBDA {
    if (!active) return store_count(s.d_fresh + at + u, vec<T>{}, count);
    vec<T> dh = load_count(s.carry + at + u, count) + load_count(s.d_out + n * p.out_n + u, count);
    Shares<T> d = shares(s.zone_h, at + u, dh, count);
    store_count(s.d_fresh + at + u, d.fresh, count);
    store_count(s.carry + at + u, d.before, count);
  });
}

// d_x of all gates; c of before the step is zero where the step is reset.
template <class T>
void lstm_row(const RnnLayer& p, const Rows<T>& s, int64_t n) {
  int64_t H = p.hidden, at = n * H;
  const T *gates = s.gates + 4 * at, *before = is_reset(p, s.t, n) ? nullptr : s.c + at;
  T* d = s.d_x + 4 * at;
  auto c_before = [&](int64_t u, auto count)
                      ARRAYNN_LAMBDA { return before ? load_count(before + u, count) : vec<T>{}; };
  auto gate = [&](int64_t g, int64_t u, auto count) ARRAYNN_LAMBDA { return load_count(gates + g * H + u, count); };
  auto fresh_c = [&](int64_t u, auto count) ARRAYNN_LAMBDA {
    return fma(gate(1, u, count), c_before(u, count), gate(0, u, count) * gate(2, u, count));
  };
  T* norm = s.c_norm ? s.c_norm + at : nullptr;
  T rstd = 0;
  if (norm) {
    for_vectors<T>(H, [&](int64_t u, auto count) ARRAYNN_LAMBDA { store_count(norm + u, fresh_c(u, count), count); });
    rstd = normalize(H, norm, norm);
  }
  // Through tanh, and the normalization, to c before zoneout: into d's part of o for now.
  T* to_c = d + 3 * H;
  for_vectors<T>(H, [&](int64_t u, auto count) ARRAYNN_LAMBDA {
    vec<T> y = norm ? load_count(norm + u, count) * load_count(s.gain_c + u, count) : fresh_c(u, count);
    if (s.b_c) y += load_count(s.b_c + u, count);
    vec<T> tc = tanh<T>(y), o = gate(3, u, count), by = load_count(s.d_inner + at + u, count);
    store_count(d + u, by * tc * o * (T(1) - o), count);
    store_count(to_c + u, by * o * (T(1) - tc * tc), count);
  });
  if (norm) {
    std::copy_n(to_c, H, s.b_c_d + at);
    normalize_back(H, s.b_c_d + at, s.gain_c, norm, rstd, to_c, s.c_norm_d + at);
  }
  for_vectors<T>(H, [&](int64_t u, auto count) ARRAYNN_LAMBDA {
    vec<T> c = c_before(u, count), i = gate(0, u, count), f = gate(1, u, count), g = gate(2, u, count);
    Shares<T> dc = shares(s.zone_c, at + u, load_count(s.dc + at + u, count), count);
    vec<T> d_o = load_count(d + u, count), fresh = dc.fresh + load_count(to_c + u, count), kept = dc.before;
    if (s.peepholes) fresh = fma(d_o, load_count(s.peepholes + 2 * H + u, count), fresh);
    vec<T> d_i = fresh * g * i * (T(1) - i), d_f = fresh * c * f * (T(1) - f);
    kept = fma(fresh, f, kept);
    if (s.peepholes) {
      kept = fma(d_i, load_count(s.peepholes + u, count), kept);
      kept = fma(d_f, load_count(s.peepholes + H + u, count), kept);
      store_count(s.peeped + 3 * at + u, d_i * c, count);
      store_count(s.peeped + 3 * at + H + u, d_f * c, count);
      store_count(s.peeped + 3 * at + 2 * H + u, d_o * fresh_c(u, count), count);
    }
    store_count(d + u, d_i, count);
    store_count(d + H + u, d_f, count);
    store_count(d + 2 * H + u, fresh * i * (T(1) - g * g), count);
    store_count(d + 3 * H + u, d_o, count);
    store_count(s.dc + at + u, kept, count);
  });
}

template <class T>
void gru_row(const RnnLayer& p, const Rows<T>& s, int64_t n) {
  int64_t H = p.hidden, at = n * H;
  const T* gates = s.gates + 3 * at;
  T *d_x = s.d_x + 3 * at, *d_h = s.d_h + 3 * at;
  for_vectors<T>(H, [&](int64_t u, auto count) ARRAYNN_LAMBDA {
    vec<T> r = load_count(gates + u, count), z = load_count(gates + H + u, count);
    vec<T> nn = load_count(gates + 2 * H + u, count), dh = load_count(s.d_inner + at + u, count);
    vec<T> dn = dh * (T(1) - z) * (T(1) - nn * nn);
    vec<T> dr = dn * load_count(s.hidden_n + at + u, count) * r * (T(1) - r);
    vec<T> dz = dh * (load_count(s.h + at + u, count) - nn) * z * (T(1) - z);
    for (T* to : {d_x, d_h}) {
      store_count(to + u, dr, count);
      store_count(to + H + u, dz, count);
    }
    store_count(d_x + 2 * H + u, dn, count);
    store_count(d_h + 2 * H + u, dn * r, count);
    store_count(s.carry + at + u, fma(dh, z, load_count(s.carry + at + u, count)), count);
  });
}

// A GRU whose reset gate comes first: z and n; r takes the product of n's gradient with the weights, `flow`.
template <class T>
void candidate_row(const RnnLayer& p, const Rows<T>& s, int64_t n) {
  int64_t H = p.hidden, at = n * H;
  const T* gates = s.gates + 3 * at;
  T* d = s.d_x + 3 * at;
  for_vectors<T>(H, [&](int64_t u, auto count) ARRAYNN_LAMBDA {
    vec<T> z = load_count(gates + H + u, count), nn = load_count(gates + 2 * H + u, count);
    vec<T> dh = load_count(s.d_inner + at + u, count);
    store_count(d + H + u, dh * (load_count(s.h + at + u, count) - nn) * z * (T(1) - z), count);
    store_count(d + 2 * H + u, dh * (T(1) - z) * (T(1) - nn * nn), count);
    store_count(s.carry + at + u, fma(dh, z, load_count(s.carry + at + u, count)), count);
  });
}
template <class T>
void reset_row(const RnnLayer& p, const Rows<T>& s, int64_t n) {
  int64_t H = p.hidden, at = n * H;
  bool active = is_active(p, s.t, n);
  for_vectors<T>(H, [&](int64_t u, auto count) ARRAYNN_LAMBDA {
    if (!active) return store_count(s.through + at + u, vec<T>{}, count);
    vec<T> r = load_count(s.gates + 3 * at + u, count), by = load_count(s.flow + at + u, count);
    vec<T> h = load_count(s.h + at + u, count);
    if (s.mask) h *= load_count(s.mask + at + u, count);
    store_count(s.d_x + 3 * at + u, by * h * r * (T(1) - r), count);
    store_count(s.through + at + u, by * r, count);
  });
}

template <class T>
void rnn_row(const RnnLayer& p, const Rows<T>& s, int64_t n) {
  int64_t at = n * p.hidden;
  for_vectors<T>(p.hidden, [&](int64_t u, auto count) ARRAYNN_LAMBDA {
    vec<T> h = load_count(s.gates + at + u, count), dh = load_count(s.d_inner + at + u, count);
    store_count(s.d_x + at + u, p.cell == Cell::rnn_relu ? (h <= T(0) ? vec<T>{} : dh) : dh * (T(1) - h * h), count);
  });
}

template <class T, Cell C>
void cell_row(const RnnLayer& p, const Rows<T>& s, int64_t n) {
  constexpr int64_t G = gate_count(C);
  int64_t at = n * p.hidden, columns = G * p.hidden;
  if (!is_active(p, s.t, n)) {
    for (T* d : {s.d_x, s.d_h, s.d, s.gain_hh_d})
      if (d) std::fill_n(d + G * at, columns, T(0));
    if (s.peeped) std::fill_n(s.peeped + 3 * at, 3 * p.hidden, T(0));
    for (T* d : {s.c_norm_d, s.b_c_d})
      if (d) std::fill_n(d + at, p.hidden, T(0));
    return;
  }
  if constexpr (C == Cell::lstm)
    lstm_row(p, s, n);
  else if constexpr (C == Cell::gru)
    gru_row(p, s, n);
  else if constexpr (C == Cell::gru_reset_first)
    candidate_row(p, s, n);
  else
    rnn_row(p, s, n);
  if (s.gain_hh)
    normalize_gates_back(p, s.d_h + G * at, s.gain_hh, s.state_norm + G * at, s.rstd + (2 * n + 1) * norm_groups(C),
                         s.d + G * at, s.gain_hh_d + G * at);
}

// To the state before the step, unless the step reset it.
template <class T>
void leave_row(const RnnLayer& p, const Rows<T>& s, int64_t n) {
  int64_t at = n * p.width;
  if (is_reset(p, s.t, n)) {
    std::fill_n(s.carry + at, p.width, T(0));
    if (s.dc) std::fill_n(s.dc + n * p.hidden, p.hidden, T(0));
    return;
  }
  for_vectors<T>(p.width, [&](int64_t u, auto count) ARRAYNN_LAMBDA {
    vec<T> d = load_count(s.flow + at + u, count);
    if (s.through) d += load_count(s.through + at + u, count);
    if (s.mask) d *= load_count(s.mask + at + u, count);
    store_count(s.carry + at + u, load_count(s.carry + at + u, count) + d, count);
  });
}

template <class T, Cell C>
class StepwiseBackward {
 public:
  static constexpr int64_t G = gate_count(C);
  static constexpr bool reset_first = C == Cell::gru_reset_first;

  StepwiseBackward(const RnnLayer& p, const RnnBackward& b, Pieces& pieces)
      : p_(p),
        b_(b),
        rows_(p.steps * p.batch),
        columns_(G * p.hidden),
        state_(p.batch * p.width),
        cells_(p.batch * p.hidden),
        norms_(p.extras.layer_norm),
        masks_(p, pieces),
        recurrent_(p, pieces, p.width, leading(), b.w_hh, 1, p.width),
        candidate_(p, pieces, reset_first ? p.width : 0, p.hidden, offset(b.w_hh, 2 * p.hidden * p.width), 1, p.width),
        projection_(p, pieces, p.projects ? p.hidden : 0, p.width, b.more.w_hr, 1, p.hidden) {
    auto take = [&](bool there, int64_t size) { return there ? pieces.take<T>(size) : nullptr; };
    d_fresh_ = pieces.take<T>(p.projects ? rows_ * p.width : state_);
    d_inner_ = p.projects ? pieces.take<T>(cells_) : d_fresh_;
    d_x_ = pieces.take<T>(rows_ * columns_);
    d_h_ = C == Cell::gru ? pieces.take<T>(rows_ * columns_) : d_x_;
    d_ = norms_ ? pieces.take<T>(rows_ * columns_) : d_h_;
    flow_ = pieces.take<T>(state_);
    through_ = take(reset_first, state_);
    peeped_ = take(p.extras.peepholes, 3 * rows_ * p.hidden);
    gain_d_ = take(norms_, rows_ * columns_);
    c_norm_ = take(norms_ && C == Cell::lstm, cells_);
    c_norm_d_ = take(norms_ && C == Cell::lstm, rows_ * p.hidden);
    b_c_d_ = take(norms_ && C == Cell::lstm, rows_ * p.hidden);
    input_ = pieces.take<T>(p.lengths ? rows_ * p.input_size : 0);
    masked_ = pieces.take<T>(masks_.has_recurrent() ? rows_ * p.width : 0);
    scratch_ = pieces.take<T>(std::max({gemm_scratch<T>(rows_, p.input_size, columns_),
                                        gemm_scratch<T>(columns_, std::max(p.input_size, p.width), rows_),
                                        p.projects ? gemm_scratch<T>(p.width, p.hidden, rows_) : 0}));
  }

  void run() const {
    auto begin = [&](void* to, const void* from, int64_t size) {
      if (from)
        std::copy_n(static_cast<const T*>(from), size, static_cast<T*>(to));
      else
        std::fill_n(static_cast<T*>(to), size, T(0));
    };
    begin(b_.d_h0, b_.d_h_n, state_);
    if (C == Cell::lstm) begin(b_.d_c0, b_.d_c_n, cells_);
    masks_.draw(p_);
    recurrent_.pack();
    if (reset_first) candidate_.pack();
    if (p_.projects) projection_.pack();
    for (int64_t s = 0; s < p_.steps; ++s) step(rows_at(p_.reverse ? s : p_.steps - 1 - s));
    state_weights();
    input_weights();
    if (b_.d_input)
      gemm<T>({rows_, p_.input_size, columns_, d_x_, columns_, 1, static_cast<const T*>(b_.w_ih), 1, p_.input_size,
               static_cast<T*>(b_.d_input), p_.input_size, nullptr, b_.add_to_d_input},
              scratch_);
  }

 private:
  int64_t leading() const { return reset_first ? 2 * p_.hidden : columns_; }  // gates whose weights saw h alone
  static const T* offset(const void* base, int64_t elements) {
    return base ? static_cast<const T*>(base) + elements : nullptr;
  }
  static T* offset(T* base, int64_t elements) { return base ? base + elements : nullptr; }

  Rows<T> rows_at(int64_t t) const {
    int64_t from = p_.reverse ? t + 1 : t, gates = t * G * cells_;
    Rows<T> s{};
    s.t = t;
    s.gates = offset(b_.gates, gates);
    if (C == Cell::gru) s.hidden_n = offset(b_.hidden_n, t * cells_);
    s.h = offset(b_.h, from * state_);
    if (C == Cell::lstm) s.c = offset(b_.c, from * cells_), s.dc = static_cast<T*>(b_.d_c0);
    if (norms_) {
      s.state_norm = offset(b_.state_norm, gates);
      s.rstd = offset(b_.rstd, t * p_.batch * 2 * norm_groups(C));
    }
    s.d_out = offset(b_.d_output, t * p_.out_t);
    s.carry = static_cast<T*>(b_.d_h0);
    s.d_fresh = d_fresh_ + (p_.projects ? t * state_ : 0);
    s.d_inner = p_.projects ? d_inner_ : s.d_fresh;
    s.d_x = d_x_ + gates;
    s.d_h = d_h_ + gates;
    s.d = d_ + gates;
    s.flow = flow_;
    s.through = through_;
    s.peeped = offset(peeped_, 3 * t * cells_);
    s.gain_hh_d = offset(gain_d_, gates);
    s.c_norm = c_norm_;
    s.c_norm_d = offset(c_norm_d_, t * cells_);
    s.b_c_d = offset(b_c_d_, t * cells_);
    s.mask = masks_.recurrent;
    s.peepholes = static_cast<const T*>(b_.more.peepholes);
    s.gain_hh = static_cast<const T*>(b_.more.gain_hh);
    s.gain_c = static_cast<const T*>(b_.more.gain_c);
    s.b_c = static_cast<const T*>(b_.more.b_c);
    s.zone_h = masks_.h_at(p_, t);
    s.zone_c = masks_.c_at(p_, t);
    return s;
  }

  void step(const Rows<T>& s) const {
    each_row(p_.batch, p_.width, [&](int64_t n) {
      arrive_row(p_, s, n);
      if (!p_.projects) cell_row<T, C>(p_, s, n);
    });
    if (p_.projects) {
      projection_.run(s.d_fresh, p_.width, s.d_inner, p_.hidden);
      each_row(p_.batch, p_.hidden, [&](int64_t n) { cell_row<T, C>(p_, s, n); });
    }
    if constexpr (reset_first) {
      candidate_.run(s.d + 2 * p_.hidden, columns_, s.flow, p_.width);
      each_row(p_.batch, p_.hidden, [&](int64_t n) { reset_row(p_, s, n); });
    }
    recurrent_.run(s.d, columns_, s.flow, p_.width);
    each_row(p_.batch, p_.width, [&](int64_t n) { leave_row(p_, s, n); });
  }

  // Columns of the gradients `d`, `step` apart, transposed times `seen` (rows x columns).
  void over_time(const T* d, int64_t step, int64_t size, const T* seen, int64_t columns, T* to) const {
    gemm<T>({size, columns, rows_, d, 1, step, seen, 1, columns, to, columns, nullptr, false}, scratch_);
  }
  void sums(int64_t columns, const T* d, void* to) const {
    if (to) column_sums(rows_, columns, d, static_cast<T*>(to));
  }

  // Of what the recurrent product, the projection and the cell took.
  void state_weights() const {
    const T* h = offset(b_.h, p_.reverse ? state_ : 0);
    if (auto* d_w_hh = static_cast<T*>(b_.d_w_hh)) {
      if (masks_.has_recurrent()) {
        each_row(rows_, p_.width, [&](int64_t row) {
          const T* mask = masks_.recurrent + row % std::max<int64_t>(p_.batch, 1) * p_.width;
          for_vectors<T>(p_.width, [&](int64_t u, auto count) ARRAYNN_LAMBDA {
            int64_t at = row * p_.width + u;
            store_count(masked_ + at, load_count(h + at, count) * load_count(mask + u, count), count);
          });
        });
        h = masked_;
      }
      over_time(d_, columns_, leading(), h, p_.width, d_w_hh);
      if (reset_first)
        over_time(d_ + 2 * p_.hidden, columns_, p_.hidden, static_cast<const T*>(b_.hidden_n), p_.hidden,
                  d_w_hh + 2 * p_.hidden * p_.width);
    }
    if (b_.d_more.w_hr)
      over_time(d_fresh_, p_.width, p_.width, static_cast<const T*>(b_.projected), p_.hidden,
                static_cast<T*>(b_.d_more.w_hr));
    sums(columns_, d_h_, b_.d_b_hh);
    sums(3 * p_.hidden, peeped_, b_.d_more.peepholes);
    sums(columns_, gain_d_, b_.d_more.gain_hh);
    sums(p_.hidden, c_norm_d_, b_.d_more.gain_c);
    sums(p_.hidden, b_c_d_, b_.d_more.b_c);
  }

  void input_weights() const {
    sums(columns_, d_x_, b_.d_b_ih);
    if (norms_) {
      constexpr int groups = norm_groups(C);
      each_row(rows_, columns_, [&](int64_t row) {
        int64_t at = row * columns_;
        if (is_active(p_, row / p_.batch, row % p_.batch))
          normalize_gates_back(p_, d_x_ + at, static_cast<const T*>(b_.more.gain_ih), offset(b_.input_norm, at),
                               offset(b_.rstd, 2 * row * groups), d_x_ + at, gain_d_ + at);
        else
          std::fill_n(gain_d_ + at, columns_, T(0));
      });
      sums(columns_, gain_d_, b_.d_more.gain_ih);
    }
    if (!b_.d_w_ih) return;
    const T* x = readable_input(p_, static_cast<const T*>(b_.input), input_);
    over_time(d_x_, columns_, columns_, x, p_.input_size, static_cast<T*>(b_.d_w_ih));
  }

  const RnnLayer& p_;
  const RnnBackward& b_;
  int64_t rows_, columns_, state_, cells_;
  bool norms_;
  Masks<T> masks_;
  StepProduct<T> recurrent_, candidate_, projection_;
  T *d_fresh_, *d_inner_, *d_x_, *d_h_, *d_, *flow_, *through_, *peeped_, *gain_d_, *c_norm_, *c_norm_d_, *b_c_d_,
      *input_, *masked_, *scratch_;
};

}  // namespace

template <class T>
size_t stepwise_backward_scratch(const RnnLayer& p) {
  Pieces pieces(nullptr);
  with_cell(p.cell, [&](auto cell) { StepwiseBackward<T, cell()>(p, RnnBackward{}, pieces); });
  return pieces.used();
}
template size_t stepwise_backward_scratch<float>(const RnnLayer&);
template size_t stepwise_backward_scratch<double>(const RnnLayer&);

template <class T>
void stepwise_backward(const RnnLayer& p, const RnnBackward& b, void* scratch) {
  Pieces pieces(scratch);
  with_cell(p.cell, [&](auto cell) { StepwiseBackward<T, cell()>(p, b, pieces).run(); });
}
template void stepwise_backward<float>(const RnnLayer&, const RnnBackward&, void*);
template void stepwise_backward<double>(const RnnLayer&, const RnnBackward&, void*);

}  // namespace arraynn::cpu::ARRAYNN_ISA
