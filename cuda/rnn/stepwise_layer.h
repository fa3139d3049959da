// What both passes of a stepwise layer share on the host.
#pragma once
#include "channel_sums.h"
#include "gemm.h"
#include "kernels.h"
#include "ops/dropout.h"
#include "rnn/pieces.h"
#include "rnn/stepwise_forward.h"

namespace arraynn::cuda::rnn {

// The masks that a layer draws, with the same keys in both passes; null: none.
template <class T>
class Masks {
 public:
  Masks(const RnnLayer& p, Pieces& pieces)
      : p_(p),
        draws_h_(p.extras.training && p.extras.zoneout_h > 0),
        draws_c_(p.extras.training && p.cell == Cell::lstm && p.extras.zoneout_c > 0) {
    auto take = [&](bool there, int64_t size) { return there ? pieces.take<T>(size) : nullptr; };
    recurrent_ = take(has_recurrent(), p.batch * p.width);
    h_ = take(draws_h_, p.steps * p.batch * p.width);
    c_ = take(draws_c_, p.steps * p.batch * p.hidden);
  }

  void draw() const {
    const RnnExtras& e = p_.extras;
    if (has_recurrent()) drop(recurrent_, p_.batch * p_.width, e.recurrent_dropout, e.recurrent_keys);
    if (draws_h_) drop(h_, p_.steps * p_.batch * p_.width, e.zoneout_h, e.zoneout_h_keys);
    if (draws_c_) drop(c_, p_.steps * p_.batch * p_.hidden, e.zoneout_c, e.zoneout_c_keys);
  }

  bool has_recurrent() const { return p_.extras.recurrent_dropout > 0; }
  const T* recurrent() const { return recurrent_; }
  Zone<T> h_at(int64_t t) const {
    return {static_cast<T>(p_.extras.zoneout_h), draws_h_ ? h_ + t * p_.batch * p_.width : nullptr};
  }
  Zone<T> c_at(int64_t t) const {
    return {static_cast<T>(p_.extras.zoneout_c), draws_c_ ? c_ + t * p_.batch * p_.hidden : nullptr};
  }

 private:
  void drop(T* mask, int64_t size, double rate, const uint64_t* key) const {
    launch(fill_one_kernel<T>, grid_for(size, 256), 256, 0, p_.place, size, mask);
    dropout_forward({p_.dtype, p_.place, size, *key, rate}, mask, mask);
  }

  const RnnLayer& p_;
  bool draws_h_, draws_c_;
  T *recurrent_, *h_, *c_;
};

// A layer, and its products.
template <Cell cell, class T>
class StepwiseLayer {
 public:
  static constexpr int64_t G = gates_of<cell>;
  static constexpr bool reset_first = cell == Cell::gru_reset_first;

 protected:
  StepwiseLayer(const RnnLayer& p, Pieces& pieces)
      : p_(p),
        columns_(G * p.hidden),
        rows_(p.steps * p.batch),
        state_(p.batch * p.width),
        cells_(p.batch * p.hidden),
        masks_(p, pieces) {}

  template <class U>
  static const T* offset(const U* base, int64_t elements) {
    return base ? static_cast<const T*>(static_cast<const void*>(base)) + elements : nullptr;
  }
  static T* offset(T* base, int64_t elements) { return base ? base + elements : nullptr; }
  static T* writable(void* base, int64_t elements) { return base ? static_cast<T*>(base) + elements : nullptr; }

  int64_t leading() const { return reset_first ? 2 * p_.hidden : columns_; }  // gates whose weights saw h alone
  bool norms() const { return p_.extras.layer_norm; }
  Marks marks() const { return {p_.lengths, p_.reset, p_.reset_t, p_.reset_n}; }

  // C (m x n) = A B, rows of A a_step apart, element (i, j) of B at i * b_row + j * b_column.
  Gemm product(int64_t m, int64_t n, int64_t k, const T* a, int64_t a_step, const T* b, int64_t b_row, int64_t b_column,
               T* c, bool add = false) const {
    return {p_.dtype, p_.place, m, n, k, a, a_step, 1, b, b_row, b_column, c, n, 1, nullptr, add};
  }

  void begin_state(T* to, const void* from, int64_t size) const {
    if (from)
      copy_bytes(p_.place, to, from, static_cast<size_t>(size) * sizeof(T));
    else
      fill_zero(p_.place, to, static_cast<size_t>(size) * sizeof(T));
  }

  // One block for a row.
  template <class Kernel, class... A>
  void each_row(Kernel kernel, int64_t rows, int64_t columns, const A&... arguments) const {
    if (rows == 0 || columns == 0) return;
    launch(kernel, grid_for(rows, 1), row_threads(columns), 32 * sizeof(T), p_.place, arguments...);
  }

  template <class Step>
  void fill_step(Step& s, int64_t t, const RnnMore<const void*>& more) const {
    static_cast<Marks&>(s) = marks();
    int64_t next = p_.reverse ? t - 1 : t + 1;
    s.t = t;
    s.next = next < p_.steps ? next : -1;
    s.batch = p_.batch;
    s.hidden = p_.hidden;
    s.width = p_.width;
    s.out_n = p_.out_n;
    s.relu = p_.cell == Cell::rnn_relu;
    s.mask = masks_.has_recurrent() ? masks_.recurrent() : nullptr;
    s.peepholes = static_cast<const T*>(more.peepholes);
    s.gain_hh = static_cast<const T*>(more.gain_hh);
    s.gain_c = static_cast<const T*>(more.gain_c);
    s.b_c = static_cast<const T*>(more.b_c);
    s.zone_h = masks_.h_at(t);
    s.zone_c = masks_.c_at(t);
  }

  const RnnLayer& p_;
  int64_t columns_, rows_, state_, cells_;
  Masks<T> masks_;
};

}  // namespace arraynn::cuda::rnn
