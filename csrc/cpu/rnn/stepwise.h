// Layers with RnnExtras or a projection, whose steps are a product, what happens to each sequence's row behind
// it, and perhaps a second product and rest of the row. Weights are packed once for all steps.
#pragma once
#include "cpu/rnn/product.h"
#include "cpu/simd/math.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

// f(n) for every sequence, each row on its own.
template <class F>
void each_row(int64_t rows, int64_t width, const F& f) {
  parallel_chunks(rows, 1 + 8192 / (width + 1), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) f(n);
  });
}

// C (batch x columns) = A W with the same W in every step, element (k, column) of it at
// w[column * column_step + k * k_step].
template <class T>
class StepProduct {
 public:
  StepProduct(const RnnLayer& p, Pieces& pieces, int64_t columns, int64_t k, const void* w, int64_t column_step,
              int64_t k_step)
      : batch_(p.batch),
        columns_(columns),
        k_(k),
        w_(static_cast<const T*>(w)),
        column_step_(column_step),
        k_step_(k_step),
        packs_(p.steps > 1) {
    panels_ = pieces.take<T>(packs_ ? k * round_up(columns, panel) : gemm_scratch<T>(batch_, columns, k));
  }

  void pack() const {
    if (!packs_) return;
    parallel_chunks(ceil_div(columns_, panel), 1 + 65536 / (k_ * panel + 1), [&](int64_t begin, int64_t end) {
      for (int64_t column = begin * panel; column < end * panel; column += V) {
        int columns = static_cast<int>(std::clamp<int64_t>(columns_ - column, 0, V));
        T* to = panels_ + column / panel * panel * k_ + column % panel;
        pack_panel(w_ + column * column_step_, column_step_, k_step_, columns, k_, to, V, panel);
      }
    });
  }

  void run(const T* a, int64_t a_step, T* c, int64_t c_step) const {
    if (!packs_) {
      gemm<T>({batch_, columns_, k_, a, a_step, 1, w_, column_step_, k_step_, c, c_step, nullptr, false}, panels_);
      return;
    }
    Steps work = steps_of<width>(batch_, ceil_div(columns_, panel), 2 * batch_ * columns_ * k_);
    int64_t tasks = work.blocks * work.row_groups;
    parallel_chunks(tasks, ceil_div(tasks, std::max(1, work.team)), [&](int64_t begin, int64_t end) {
      T tile[tile_vectors * V];
      for (int64_t i = begin; i < end; ++i) {
        int64_t row = i % work.row_groups * work.rows, column = i / work.row_groups * panel;
        int rows = static_cast<int>(std::min<int64_t>(work.rows, batch_ - row));
        if (rows <= 0) continue;
        product<T, width>(rows, k_, a + row * a_step, a_step, panels_ + column * k_, tile);
        for (int r = 0; r < rows; ++r)
          for_vectors<T>(std::min(panel, columns_ - column), [&](int64_t v, auto count) ARRAYNN_LAMBDA {
            store_count(c + (row + r) * c_step + column + v, load(tile + r * panel + v), count);
          });
      }
    });
  }

 private:
  static constexpr int width = 4, V = lanes<T>;
  static constexpr int64_t panel = width * V;
  int64_t batch_, columns_, k_;
  const T* w_;
  int64_t column_step_, k_step_;
  bool packs_;
  T* panels_;  // or the scratch of a plain product
};

// ---- normalization ----

// y = (x - mean) / sqrt(variance + eps), in place too; returns the factor.
template <class T>
T normalize(int64_t size, const T* x, T* y) {
  vec<T> total{}, squares{};
  for_vectors<T>(size, [&](int64_t i, auto count) ARRAYNN_LAMBDA { total += load_count(x + i, count); });
  T mean = sum<T>(total) / static_cast<T>(size);
  for_vectors<T>(size, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    vec<T> d = keep_count<T>(load_count(x + i, count) - mean, count, vec<T>{});
    squares = fma(d, d, squares);
  });
  T rstd = T(1) / __builtin_sqrt(sum<T>(squares) / static_cast<T>(size) + static_cast<T>(rnn_norm_eps));
  for_vectors<T>(size, [&](int64_t i, auto count)
                           ARRAYNN_LAMBDA { store_count(y + i, (load_count(x + i, count) - mean) * rstd, count); });
  return rstd;
}

// f(group, first, size) for what is normalized at once of a row of gates.
template <class F>
void each_group(const RnnLayer& p, const F& f) {
  int64_t first = is_gru(p.cell) ? 2 * p.hidden : gate_count(p.cell) * p.hidden;
  f(0, int64_t{0}, first);
  if (norm_groups(p.cell) == 2) f(1, first, p.hidden);
}

// A row of gates: `norm` and `rstd` are for the backward pass, null in inference; the row gets the gain.
template <class T>
void normalize_gates(const RnnLayer& p, T* row, const T* gain, T* norm, T* rstd) {
  each_group(p, [&](int group, int64_t first, int64_t size) {
    T* to = norm ? norm + first : row + first;
    T factor = normalize(size, row + first, to);
    if (rstd) rstd[group] = factor;
    for_vectors<T>(size, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
      store_count(row + first + i, load_count(to + i, count) * load_count(gain + first + i, count), count);
    });
  });
}

// d of the normalized times its gain -> dx, and the products of d with what was normalized, whose sum is the
// gain's gradient. dx may be d.
template <class T>
void normalize_back(int64_t size, const T* d, const T* gain, const T* norm, T rstd, T* dx, T* products) {
  vec<T> total{}, along{};
  for_vectors<T>(size, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    vec<T> g = load_count(d + i, count) * load_count(gain + i, count);
    total += g;
    along = fma(g, load_count(norm + i, count), along);
  });
  T mean = sum<T>(total) / static_cast<T>(size), slope = sum<T>(along) / static_cast<T>(size);
  for_vectors<T>(size, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    vec<T> by = load_count(d + i, count), y = load_count(norm + i, count);
    store_count(products + i, by * y, count);
    store_count(dx + i, (by * load_count(gain + i, count) - mean - y * slope) * rstd, count);
  });
}

template <class T>
void normalize_gates_back(const RnnLayer& p, const T* d, const T* gain, const T* norm, const T* rstd, T* dx,
                          T* products) {
  each_group(p, [&](int group, int64_t first, int64_t size) {
    normalize_back(size, d + first, gain + first, norm + first, rstd[group], dx + first, products + first);
  });
}

// ---- masks ----

// Of a state, at one step: what stays as it was.
template <class T>
struct Zone {
  double rate;
  const T* mask;  // 0 where it stays; null: its mean is taken
};

template <class T, class Count>
ARRAYNN_INLINE vec<T> zoned(const Zone<T>& z, int64_t at, vec<T> fresh, vec<T> before, Count count) {
  if (z.rate <= 0) return fresh;
  if (!z.mask) return fma(broadcast<T>(static_cast<T>(z.rate)), before, fresh * static_cast<T>(1 - z.rate));
  return load_count(z.mask + at, count) != T(0) ? fresh : before;
}
// The gradient's parts that go to the fresh state and to the one before.
template <class T>
struct Shares {
  vec<T> fresh, before;
};
template <class T, class Count>
ARRAYNN_INLINE Shares<T> shares(const Zone<T>& z, int64_t at, vec<T> d, Count count) {
  vec<T> none{};
  if (z.rate <= 0) return {d, none};
  if (!z.mask) return {d * static_cast<T>(1 - z.rate), d * static_cast<T>(z.rate)};
  auto fresh = load_count(z.mask + at, count) != T(0);
  return {fresh ? d : none, fresh ? none : d};
}

// The masks that a layer draws, with the same keys in both passes; null: none.
template <class T>
struct Masks {
  T *recurrent, *zone_h, *zone_c;

  Masks(const RnnLayer& p, Pieces& pieces) {
    bool draws = p.extras.training;
    int64_t rows = p.steps * p.batch;
    auto take = [&](bool there, int64_t size) { return there ? pieces.take<T>(size) : nullptr; };
    recurrent_size_ = p.batch * p.width;
    zone_h_size_ = rows * p.width;
    zone_c_size_ = rows * p.hidden;
    has_recurrent_ = p.extras.recurrent_dropout > 0;
    has_h_ = draws && p.extras.zoneout_h > 0;
    has_c_ = draws && p.cell == Cell::lstm && p.extras.zoneout_c > 0;
    recurrent = take(has_recurrent_, recurrent_size_);
    zone_h = take(has_h_, zone_h_size_);
    zone_c = take(has_c_, zone_c_size_);
  }

  void draw(const RnnLayer& p) const {
    auto drop = [&](T* mask, int64_t size, double rate, const uint64_t* key) {
      std::fill_n(mask, size, T(1));
      dropout_forward({p.dtype, p.place, size, *key, rate}, mask, mask);
    };
    const RnnExtras& e = p.extras;
    if (has_recurrent_) drop(recurrent, recurrent_size_, e.recurrent_dropout, e.recurrent_keys);
    if (has_h_) drop(zone_h, zone_h_size_, e.zoneout_h, e.zoneout_h_keys);
    if (has_c_) drop(zone_c, zone_c_size_, e.zoneout_c, e.zoneout_c_keys);
  }

  Zone<T> h_at(const RnnLayer& p, int64_t t) const {
    return {p.extras.zoneout_h, has_h_ ? zone_h + t * p.batch * p.width : nullptr};
  }
  Zone<T> c_at(const RnnLayer& p, int64_t t) const {
    return {p.extras.zoneout_c, has_c_ ? zone_c + t * p.batch * p.hidden : nullptr};
  }
  bool has_recurrent() const { return has_recurrent_; }

 private:
  bool has_recurrent_, has_h_, has_c_;
  int64_t recurrent_size_, zone_h_size_, zone_c_size_;
};

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
