// The gradients of attention. Tiles owned by the keys give those of keys and
// values, each task summing its own in the order of the queries. The queries'
// comes from tiles owned by them, in the same way; or, where there are heads
// enough to be a task each, from the keys' tiles too, which saves two products
// of seven: a head's tasks then follow one another, and each adds what its keys
// give.
#include "cpu/attention/panels.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int64_t heads_enough = 16;  // to keep the threads of most machines busy, whatever this one's are
constexpr int64_t gathered_panels = 8;

// delta = the sum of dO O over each row of a query.
template <class T>
T dot_rows(const Matrix<T>& a, int64_t row, const T* b) {
  const T* from = a.data + row * a.row;
  vec<T> total{};
  if (a.column == 1)
    for_vectors<T>(a.columns, [&](int64_t i, auto n) ARRAYNN_LAMBDA {
      total = fma(load_count(from + i, n), load_count(b + i, n), total);
    });
  else
    for (int64_t i = 0; i < a.columns; ++i) total[0] += from[i * a.column] * b[i];
  return sum<T>(total);
}

template <class T>
void find_delta(const AttentionParams& p, const AttentionBackward& b, T* delta) {
  parallel_chunks(p.heads * p.queries, 16384 / (p.value_depth + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      delta[i] = dot_rows(matrix_of<T>(p, b.d_output_at, b.d_output, p.value_depth, i / p.queries), i % p.queries,
                          static_cast<const T*>(b.output) + i * p.value_depth);
  });
}

// What belongs to a query: of each lane, if the lanes are queries, or of each
// row of a tile.
template <class T, bool owned_by_queries>
struct OfQueries {
  const T *top, *inverse, *delta;
  static ARRAYNN_INLINE vec<T> get(const T* values, int64_t row, int v) {
    return owned_by_queries ? load(values + v * lanes<T>) : broadcast<T>(values[row]);
  }
};

// A tile of scores becomes the weights P, times what dropout keeps, and
// `slopes` (those of what was kept, dO V^T) becomes the gradient of the scores'
// products.
template <class T, bool owned_by_queries>
void differentiate(int64_t others, T* tile, T* slopes, const T* bias, const T* keep, T scale,
                   OfQueries<T, owned_by_queries> of) {
  for (int64_t k = 0; k < others; ++k)
    static_for<2>([&](auto v) ARRAYNN_LAMBDA {
      int64_t at = k * NR<T> + v * lanes<T>;
      vec<T> score = load(tile + at) * scale;
      if (bias) score = biased<T>(score, bias + at);
      vec<T> weight = exp_nonpositive<T>(score - of.get(of.top, k, v)) * of.get(of.inverse, k, v);
      vec<T> slope = load(slopes + at), kept_weight = weight;
      if (keep) {
        vec<T> factor = load(keep + at);
        slope = slope * factor;
        kept_weight = weight * factor;
      }
      store(tile + at, kept_weight);
      store(slopes + at, weight * (slope - of.get(of.delta, k, v)) * scale);
    });
}

// Of a query, the owners' side are Q and dO and the others' K and V; of a key,
// K and V, and Q and dO.
template <class T, bool owned_by_queries>
class Backward {
 public:
  Backward(const AttentionParams& p, const AttentionBackward& b, const Tasks& tasks, bool gathers, const T* delta,
           Pieces<T> room)
      : p_(p),
        b_(b),
        tasks_(tasks),
        gathers_(gathers),
        delta_(delta),
        capacity_(tasks.per_task * NR<T>),
        rows_(owned_by_queries ? p.keys : p.queries),
        mine_(room.take(tasks.per_task * p.depth * NR<T>)),
        my_values_(room.take(tasks.per_task * p.value_depth * NR<T>)),
        sums_(room.take(tasks.per_task * p.depth * NR<T>)),
        value_sums_(owned_by_queries ? nullptr : room.take(tasks.per_task * p.value_depth * NR<T>)),
        others_(rows_, p.depth, true, true, room),
        other_values_(rows_, p.value_depth, true, !owned_by_queries, room),
        tile_(room.take(step_rows * NR<T>)),
        slopes_(room.take(step_rows * NR<T>)),
        gathered_(gathers ? room.take(step_rows * capacity_) : nullptr),
        key_columns_(gathers ? room.take(round_up(p.depth, NR<T>) * capacity_) : nullptr),
        extras_(p, b.mask, room),
        elements_(room.used) {}
  int64_t elements() const { return elements_; }

  void run(int64_t task) {
    int64_t lot = task / tasks_.per_lot(), first = task % tasks_.per_lot() * tasks_.per_task;
    int panels = static_cast<int>(std::min(tasks_.per_task, tasks_.sharing * tasks_.panels - first));
    for (int i = 0; i < panels; ++i) start(i, lot, first + i);
    if (gathers_) pack_key_columns(panels);
    // Keys are the others of all heads of queries that share them, and own what
    // those heads add up to.
    int64_t heads = owned_by_queries ? 1 : p_.group;
    for (int64_t h = 0; h < heads; ++h) add_head(owned_by_queries ? lot * tasks_.sharing : lot * p_.group + h, panels);
    for (int i = 0; i < panels; ++i) finish(i);
  }

 private:
  OfQueries<T, false> saved() const {
    const T* top = static_cast<const T*>(b_.saved);
    return {top, top + p_.heads * p_.queries, delta_};
  }
  Matrix<T> queries(int64_t head) const { return matrix_of<T>(p_, p_.query, b_.query, p_.depth, head); }
  Matrix<T> slopes(int64_t head) const { return matrix_of<T>(p_, b_.d_output_at, b_.d_output, p_.value_depth, head); }
  Matrix<T> keys(int64_t head) const { return matrix_of<T>(p_, p_.key, b_.key, p_.depth, head, p_.group); }
  Matrix<T> values(int64_t head) const { return matrix_of<T>(p_, p_.value, b_.value, p_.value_depth, head, p_.group); }

  void start(int i, int64_t lot, int64_t panel) {
    int64_t owner = panel % tasks_.panels * NR<T>, all = owned_by_queries ? p_.queries : p_.keys;
    Spot& s = spots_[i];
    s.owner = owner;
    s.owners = static_cast<int>(std::min<int64_t>(NR<T>, all - owner));
    s.head = owned_by_queries ? lot * tasks_.sharing + panel / tasks_.panels : lot * p_.group;
    T *mine = mine_ + i * p_.depth * NR<T>, *my_values = my_values_ + i * p_.value_depth * NR<T>;
    pack_owners(owned_by_queries ? queries(s.head) : keys(s.head), owner, s.owners, mine);
    pack_owners(owned_by_queries ? slopes(s.head) : values(s.head), owner, s.owners, my_values);
    for (int64_t k = 0; k < p_.depth * NR<T>; ++k) sums_[i * p_.depth * NR<T> + k] = 0;
    if (owned_by_queries) {  // lanes without a query have no weights
      int64_t row = s.head * p_.queries + owner;
      OfQueries<T, false> all = saved();
      for (int l = 0; l < NR<T>; ++l) {
        top_[i][l] = l < s.owners ? all.top[row + l] : T(0);
        inverse_[i][l] = l < s.owners ? all.inverse[row + l] : T(0);
        deltas_[i][l] = l < s.owners ? delta_[row + l] : T(0);
      }
    } else {
      for (int64_t k = 0; k < p_.value_depth * NR<T>; ++k) value_sums_[i * p_.value_depth * NR<T> + k] = 0;
    }
  }

  // The others that any of a panel's owners meets: from `begin` to `end`.
  int64_t begin(const Spot& s) const { return !owned_by_queries && p_.causal ? s.owner / step_rows * step_rows : 0; }
  int64_t end(const Spot& s) const {
    return owned_by_queries && p_.causal ? std::min(rows_, s.owner + s.owners) : rows_;
  }

  void add_head(int64_t head, int panels) {
    Matrix<T> others = owned_by_queries ? keys(head) : queries(head);
    Matrix<T> other_values = owned_by_queries ? values(head) : slopes(head);
    int64_t first = rows_, last = 0;
    for (int i = 0; i < panels; ++i) {
      first = std::min(first, begin(spots_[i]));
      last = std::max(last, end(spots_[i]));
      if (!owned_by_queries) spots_[i].head = head;
    }
    for (int64_t block = first / block_rows * block_rows; block < last; block += block_rows) {
      int64_t count = std::min(block_rows, rows_ - block);
      others_.pack(others, block, count);
      other_values_.pack(other_values, block, count);
      if (gathers_) {
        for (int64_t other = block; other < block + count; other += step_rows) {
          int64_t met = 0;  // keys, the first ones of the task
          for (int i = 0; i < panels; ++i)
            if (other >= begin(spots_[i])) {
              add_step(i, block, count, other);
              met += spots_[i].owners;
            }
          if (met) add_to_queries(head, other, std::min(step_rows, block + count - other), met);
        }
        continue;
      }
      for (int i = 0; i < panels; ++i)
        for (int64_t other = std::max(block, begin(spots_[i])); other < std::min(block + count, end(spots_[i]));
             other += step_rows)
          add_step(i, block, count, other);
    }
  }

  // One step of a block by a panel.
  void add_step(int i, int64_t block, int64_t count, int64_t other) {
    Spot& s = spots_[i];
    s.other = other;
    int64_t stop = std::min(block + count, end(s));
    int64_t at = s.other - block, packed = std::min(step_rows, count - at);
    s.others = std::min(packed, round_up(stop - s.other, MR));
    others_.scores(at, s.others, mine_ + i * p_.depth * NR<T>, tile_);
    other_values_.scores(at, s.others, my_values_ + i * p_.value_depth * NR<T>, slopes_);
    int64_t row = s.head * p_.queries + s.other;
    OfQueries<T, owned_by_queries> of{top_[i], inverse_[i], deltas_[i]};
    if (!owned_by_queries) of = {saved().top + row, saved().inverse + row, delta_ + row};
    differentiate(s.others, tile_, slopes_, extras_.bias(s), extras_.keep(s), static_cast<T>(p_.scale), of);
    others_.add_results(at, s.others, slopes_, sums_ + i * p_.depth * NR<T>);
    if (!owned_by_queries) other_values_.add_results(at, s.others, tile_, value_sums_ + i * p_.value_depth * NR<T>);
    if (gathers_) gather(s);
  }

  // The keys of the task as B of the queries' gradient.
  void pack_key_columns(int panels) {
    Matrix<T> m = keys(spots_[0].head);
    int64_t first = spots_[0].owner, count = spots_[panels - 1].owner + spots_[panels - 1].owners - first;
    for (int64_t c = 0; c < p_.depth; c += NR<T>)
      pack_panel(m.data + first * m.row + c * m.column, m.column, m.row,
                 static_cast<int>(std::min<int64_t>(NR<T>, p_.depth - c)), count, key_columns_ + c * capacity_, NR<T>,
                 NR<T>);
  }

  // A panel's gradient of the scores into A of the queries' gradient.
  void gather(const Spot& s) {
    int64_t at = s.owner - spots_[0].owner;
    for (int64_t i = 0; i < s.others; i += MR) {
      int rows = static_cast<int>(std::min<int64_t>(MR, s.others - i));
      pack_panel(slopes_ + i * NR<T>, NR<T>, 1, rows, s.owners, gathered_ + i * capacity_ + at * rows, rows, rows);
    }
  }

  void add_to_queries(int64_t head, int64_t query, int64_t count, int64_t met) {
    for (int64_t c = 0; c < p_.depth; c += NR<T>)
      for (int64_t i = 0; i < count; i += MR) {
        Tile<T> tile{};
        tile.k = met;
        tile.a = gathered_ + i * capacity_;
        tile.b = key_columns_ + c * capacity_;
        tile.c = static_cast<T*>(b_.d_query) + (head * p_.queries + query + i) * p_.depth + c;
        tile.ldc = p_.depth;
        tile.cols = static_cast<int>(std::min<int64_t>(NR<T>, p_.depth - c));
        tile.accumulate = spots_[0].owner > 0;
        micro_kernel<T>(static_cast<int>(std::min<int64_t>(MR, count - i)), tile);
      }
  }

  void finish(int i) {
    const Spot& s = spots_[i];
    int64_t row = owned_by_queries ? s.head * p_.queries : s.head / p_.group * p_.keys;
    void* to = owned_by_queries ? b_.d_query : b_.d_key;
    if (to)
      write_results(sums_ + i * p_.depth * NR<T>, p_.depth, s.owners, static_cast<T*>(to) + (row + s.owner) * p_.depth);
    if (!owned_by_queries && b_.d_value)
      write_results(value_sums_ + i * p_.value_depth * NR<T>, p_.value_depth, s.owners,
                    static_cast<T*>(b_.d_value) + (row + s.owner) * p_.value_depth);
  }

  const AttentionParams& p_;
  const AttentionBackward& b_;
  Tasks tasks_;
  bool gathers_;
  const T* delta_;
  int64_t capacity_;  // keys of a task
  int64_t rows_;      // of the others
  T *mine_, *my_values_, *sums_, *value_sums_;
  Others<T> others_, other_values_;
  T *tile_, *slopes_, *gathered_, *key_columns_;
  Extras<T, owned_by_queries> extras_;
  int64_t elements_;
  Spot spots_[most_panels];
  T top_[most_panels][NR<T>], inverse_[most_panels][NR<T>], deltas_[most_panels][NR<T>];
};

template <class T, bool owned_by_queries>
Tasks backward_tasks(const AttentionParams& p, bool gathers) {
  int64_t heads = p.heads / p.group;
  if (owned_by_queries) return tasks_of(heads, p.group, ceil_div(p.queries, NR<T>));
  Tasks tasks = tasks_of(heads, 1, ceil_div(p.keys, NR<T>));
  if (gathers) tasks.per_task = std::min(gathered_panels, tasks.panels);  // which the results depend on
  return tasks;
}

template <class T, bool owned_by_queries>
int64_t elements_of_worker(const AttentionParams& p, bool gathers) {
  AttentionBackward none{};
  none.mask = p.mask_kind == AttentionMask::none ? nullptr : &none;
  Tasks tasks = backward_tasks<T, owned_by_queries>(p, gathers);
  return Backward<T, owned_by_queries>(p, none, tasks, gathers, nullptr, {nullptr}).elements();
}

template <class T, bool owned_by_queries>
void run_backward(const AttentionParams& p, const AttentionBackward& b, bool gathers, const T* delta, T* scratch) {
  using Worker = Backward<T, owned_by_queries>;
  Tasks tasks = backward_tasks<T, owned_by_queries>(p, gathers);
  int64_t each = elements_of_worker<T, owned_by_queries>(p, gathers);
  int64_t in_turn = gathers ? tasks.per_lot() : 1;
  parallel_for(tasks.count() / in_turn, [&](int64_t index, int worker) {
    for (int64_t i = 0; i < in_turn; ++i)
      Worker(p, b, tasks, gathers, delta, {scratch + worker * each}).run(index * in_turn + i);
  });
}

bool can_gather(const AttentionParams& p) { return p.heads / p.group >= heads_enough && p.keys > 0 && p.queries > 0; }

}  // namespace

size_t attention_backward_scratch(const AttentionParams& p) {
  size_t bytes = 0;
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    int64_t each = std::max(elements_of_worker<T, true>(p, false), elements_of_worker<T, false>(p, false));
    if (can_gather(p)) each = std::max(each, elements_of_worker<T, false>(p, true));
    bytes = static_cast<size_t>(round_up(p.heads * p.queries, 64) + each * num_threads()) * sizeof(T);
  });
  return bytes;
}

void attention_backward(const AttentionParams& p, const AttentionBackward& b, void* scratch) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    T *delta = static_cast<T*>(scratch), *rest = delta + round_up(p.heads * p.queries, 64);
    find_delta(p, b, delta);
    bool gathers = b.d_query && b.d_key && b.d_value && can_gather(p);
    if (b.d_query && !gathers) run_backward<T, true>(p, b, false, delta, rest);
    if (b.d_key || b.d_value) run_backward<T, false>(p, b, gathers, delta, rest);
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
