// See few_queries.h. All queries that share a head of keys are its rows. Keys are cut into parts, each with an online
// softmax of its own (Milakov and Gimelshein, 2018), so that one head can occupy several threads; then parts are added.
#include "cpu/attention/few_queries.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int64_t part_keys = 1024;
constexpr int tile_rows = MR / 3, tile_keys = 4;  // accumulators of a tile of scores: 16 of 32 registers, 8 of 16

template <class T>
class FewQueries {
 public:
  FewQueries(const AttentionParams& p, const AttentionForward& b, T* scratch)
      : p_(p),
        b_(b),
        rows_(p.group * p.queries),
        lots_(p.heads / p.group),
        keys_(p.causal ? std::min(p.keys, p.queries) : p.keys),
        parts_(std::max<int64_t>(1, ceil_div(keys_, part_keys))),
        partials_{scratch} {
    sums_ = partials_.take(lots_ * parts_ * rows_ * p.value_depth);
    seen_ = partials_.take(lots_ * parts_ * rows_ * 2);
    shared_ = partials_.used;
    each_ = Worker(*this, {nullptr}).elements;
  }
  int64_t elements() const { return shared_ + each_ * num_threads(); }

  void run(T* scratch) const {
    parallel_for(lots_ * parts_, [&](int64_t task, int worker) {
      Worker room(*this, {scratch + shared_ + worker * each_});
      run_part(task / parts_, task % parts_, room);
      if (parts_ == 1) finish(task);
    });
    if (parts_ > 1) parallel_for(lots_, [&](int64_t lot, int) { finish(lot); });
  }

 private:
  // A worker's scratch: the queries of a lot, and the scores of all of them with a step of keys.
  struct Worker {
    Worker(const FewQueries& f, Pieces<T> room)
        : queries(room.take(f.rows_ * f.p_.depth)),
          scores(room.take(f.rows_ * step_rows)),
          extras(f.p_, f.b_.mask, room),
          elements(room.used) {}
    T *queries, *scores;
    Extras<T, true> extras;
    int64_t elements;
  };

  int64_t head_of(int64_t lot, int64_t row) const { return lot * p_.group + row / p_.queries; }
  T* sums(int64_t lot, int64_t part, int64_t row) const {
    return sums_ + ((lot * parts_ + part) * rows_ + row) * p_.value_depth;
  }
  // The largest score and the sum of exponentials relative to it.
  T* seen(int64_t lot, int64_t part, int64_t row) const { return seen_ + ((lot * parts_ + part) * rows_ + row) * 2; }

  void run_part(int64_t lot, int64_t part, Worker& room) const {
    for (int64_t row = 0; row < rows_; ++row) {
      auto query = matrix_of<T>(p_, p_.query, b_.query, p_.depth, head_of(lot, row));
      const T* from = query.data + row % p_.queries * query.row;
      for (int64_t d = 0; d < p_.depth; ++d) room.queries[row * p_.depth + d] = from[d * query.column];
      T* at = sums(lot, part, row);
      for (int64_t d = 0; d < p_.value_depth; ++d) at[d] = 0;
      seen(lot, part, row)[0] = -static_cast<T>(INFINITY);
      seen(lot, part, row)[1] = 0;
    }
    auto keys = matrix_of<T>(p_, p_.key, b_.key, p_.depth, lot * p_.group, p_.group);
    auto values = matrix_of<T>(p_, p_.value, b_.value, p_.value_depth, lot * p_.group, p_.group);
    int64_t end = std::min((part + 1) * part_keys, keys_);
    for (int64_t first = part * part_keys; first < end; first += step_rows) {
      int64_t count = std::min(step_rows, end - first);
      for_tiles([&](int64_t row, auto n) { score<n()>(keys, first, count, row, room); });
      for (int64_t h = 0; h < p_.group; ++h) {
        Spot spot{lot * p_.group + h, first, count, 0, static_cast<int>(p_.queries)};
        const T *bias = room.extras.bias(spot), *keep = room.extras.keep(spot);
        for (int64_t i = 0; i < p_.queries; ++i) {
          int64_t row = h * p_.queries + i;
          T* scores = room.scores + row * step_rows;
          for (int64_t k = 0; bias && k < count; ++k)
            scores[k] = bias[k * NR<T> + i] == -static_cast<T>(INFINITY) ? bias[k * NR<T> + i]
                                                                         : scores[k] + bias[k * NR<T> + i];
          soften(count, scores, seen(lot, part, row), sums(lot, part, row));
          for (int64_t k = 0; keep && k < count; ++k) scores[k] *= keep[k * NR<T> + i];
        }
      }
      for_tiles([&](int64_t row, auto n) { add_values<n()>(values, first, count, row, lot, part, room); });
    }
  }

  // f(first row, rows as a constant) over all rows.
  template <class F>
  void for_tiles(const F& f) const {
    for (int64_t row = 0; row < rows_; row += tile_rows)
      with_constant<tile_rows>(static_cast<int>(std::min<int64_t>(tile_rows, rows_ - row)), [&](auto n) { f(row, n); });
  }

  template <int Rows>
  void score(const Matrix<T>& keys, int64_t first, int64_t count, int64_t row, Worker& room) const {
    const T* query = room.queries + row * p_.depth;
    for (int64_t k = 0; k < count; k += tile_keys) {
      const T* key[tile_keys];
      for (int j = 0; j < tile_keys; ++j) key[j] = keys.data + (first + std::min(k + j, count - 1)) * keys.row;
      vec<T> acc[Rows][tile_keys] = {};
      for_vectors<T>(p_.depth, [&](int64_t d, auto n) ARRAYNN_LAMBDA {
        vec<T> column[tile_keys];
        static_for<tile_keys>([&](auto j) ARRAYNN_LAMBDA { column[j] = load_count(key[j] + d, n); });
        static_for<Rows>([&](auto i) ARRAYNN_LAMBDA {
          vec<T> q = load_count(query + i * p_.depth + d, n);
          static_for<tile_keys>([&](auto j) ARRAYNN_LAMBDA { acc[i][j] = fma(q, column[j], acc[i][j]); });
        });
      });
      static_for<Rows>([&](auto i) ARRAYNN_LAMBDA {
        T* to = room.scores + (row + i) * step_rows + k;
        static_for<tile_keys>([&](auto j) ARRAYNN_LAMBDA {
          if (k + j < count) to[j] = sum<T>(acc[i][j]) * static_cast<T>(p_.scale);
        });
      });
    }
  }

  // Scores become exponentials relative to the new largest, and the sums so far are brought down to it. Where no key
  // has been seen the largest score is -inf, to which nothing is relative. NaN is left to the sum.
  void soften(int64_t count, T* scores, T* seen, T* sums) const {
    constexpr T lowest = -static_cast<T>(INFINITY);
    vec<T> most = broadcast<T>(seen[0]), total{};
    for_vectors<T>(count, [&](int64_t k, auto n)
                              ARRAYNN_LAMBDA { most = max(keep_count<T>(load_count(scores + k, n), n, most), most); });
    T top = max_lane<T>(most), shift = top == lowest ? T(0) : top;
    for_vectors<T>(count, [&](int64_t k, auto n) ARRAYNN_LAMBDA {
      vec<T> e = exp_nonpositive<T>(load_count(scores + k, n) - shift);
      total += keep_count<T>(e, n, vec<T>{});
      store_count(scores + k, e, n);
    });
    T shrink = exp_nonpositive<T>(broadcast<T>(seen[0] - shift))[0];
    seen[1] = seen[1] * shrink + sum<T>(total);
    seen[0] = top;
    if (shrink == T(1)) return;
    for_vectors<T>(p_.value_depth, [&](int64_t d, auto n)
                                       ARRAYNN_LAMBDA { store_count(sums + d, load_count(sums + d, n) * shrink, n); });
  }

  template <int Rows>
  void add_values(const Matrix<T>& values, int64_t first, int64_t count, int64_t row, int64_t lot, int64_t part,
                  const Worker& room) const {
    constexpr int V = lanes<T>, columns = 8 / Rows;  // sums of 8 vectors hide the latency
    T* to = sums(lot, part, row);
    const T *weights = room.scores + row * step_rows, *from = values.data + first * values.row;
    auto add = [&](int64_t d, auto vectors, auto n) ARRAYNN_LAMBDA {
      vec<T> acc[Rows][vectors()];
      auto each = [&](auto&& f) ARRAYNN_LAMBDA {
        static_for<Rows>([&](auto i) ARRAYNN_LAMBDA {
          static_for<vectors()>([&](auto c) ARRAYNN_LAMBDA { f(acc[i][c], to + i * p_.value_depth + d + c * V); });
        });
      };
      each([&](vec<T>& v, T* at) ARRAYNN_LAMBDA { v = load_count(at, n); });
      for (int64_t k = 0; k < count; ++k) {
        vec<T> value[vectors()];
        static_for<vectors()>([&](auto c)
                                  ARRAYNN_LAMBDA { value[c] = load_count(from + k * values.row + d + c * V, n); });
        static_for<Rows>([&](auto i) ARRAYNN_LAMBDA {
          vec<T> weight = broadcast<T>(weights[i * step_rows + k]);
          static_for<vectors()>([&](auto c) ARRAYNN_LAMBDA { acc[i][c] = fma(weight, value[c], acc[i][c]); });
        });
      }
      each([&](vec<T>& v, T* at) ARRAYNN_LAMBDA { store_count(at, v, n); });
    };
    int64_t d = 0;
    constexpr std::integral_constant<int, V> whole{};
    for (; d + columns * V <= p_.value_depth; d += columns * V) add(d, std::integral_constant<int, columns>{}, whole);
    constexpr std::integral_constant<int, 1> one{};
    for (; d + V <= p_.value_depth; d += V) add(d, one, whole);
    if (d < p_.value_depth) add(d, one, static_cast<int>(p_.value_depth - d));
  }

  // The parts of a lot, each brought down to the largest score of all, added in their order.
  void finish(int64_t lot) const {
    constexpr T lowest = -static_cast<T>(INFINITY);
    for (int64_t row = 0; row < rows_; ++row) {
      T top = lowest, total = 0;
      for (int64_t part = 0; part < parts_; ++part) top = std::max(top, seen(lot, part, row)[0]);
      T shift = top == lowest ? T(0) : top;
      T* to = sums(lot, 0, row);
      for (int64_t part = 0; part < parts_; ++part) {
        const T *had = seen(lot, part, row), *from = sums(lot, part, row);
        T factor = exp_nonpositive<T>(broadcast<T>(had[0] - shift))[0];
        total += had[1] * factor;
        for_vectors<T>(p_.value_depth, [&](int64_t d, auto n) ARRAYNN_LAMBDA {
          vec<T> sum = load_count(from + d, n) * factor;
          store_count(to + d, part == 0 ? sum : load_count(to + d, n) + sum, n);
        });
      }
      int64_t at = lot * rows_ + row;  // of all queries, as a lot's heads are neighbours
      T inverse = total == T(0) ? T(0) : T(1) / total;
      T* out = static_cast<T*>(b_.output) + at * p_.value_depth;
      for_vectors<T>(p_.value_depth, [&](int64_t d, auto n)
                                         ARRAYNN_LAMBDA { store_count(out + d, load_count(to + d, n) * inverse, n); });
      if (!b_.saved) continue;
      T* saved = static_cast<T*>(b_.saved) + at;
      saved[0] = total == T(0) ? T(0) : top;
      saved[p_.heads * p_.queries] = inverse;
    }
  }

  const AttentionParams& p_;
  const AttentionForward& b_;
  int64_t rows_, lots_, keys_, parts_;
  Pieces<T> partials_;
  T *sums_, *seen_;
  int64_t shared_, each_;
};

}  // namespace

bool is_few_queries(const AttentionParams& p) {
  auto whole_rows = [](const AttentionMatrix& m, int64_t columns) { return m.column == 1 || columns <= 1; };
  int64_t panel = p.dtype == DType::float32 ? NR<float> : NR<double>;
  return 4 * p.queries <= panel && whole_rows(p.key, p.depth) && whole_rows(p.value, p.value_depth);
}

size_t few_queries_scratch(const AttentionParams& p, bool mask) {
  size_t bytes = 0;
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    AttentionForward none{};
    none.mask = mask ? &none : nullptr;
    bytes = static_cast<size_t>(FewQueries<T>(p, none, nullptr).elements()) * sizeof(T);
  });
  return bytes;
}

void attention_few_queries(const AttentionParams& p, const AttentionForward& b, void* scratch) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    FewQueries<T>(p, b, static_cast<T*>(scratch)).run(static_cast<T*>(scratch));
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
