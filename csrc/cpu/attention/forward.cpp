// Attention with an online softmax (Milakov and Gimelshein, Online normalizer calculation for softmax, 2018).
#include "cpu/attention/few_queries.h"
#include "cpu/attention/panels.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

// What a panel of queries has seen so far: the largest score and the sum of exponentials in each lane.
template <class T>
struct Seen {
  vec<T> top[2], total[2];
};

// Scores become exponentials relative to the new largest; `shrink` brings older ones down to that. A lane that
// has seen no key has a largest score of -inf, to which nothing is relative. NaN is left to the sum.
template <class T>
void soften(int64_t others, T* tile, const T* bias, T scale, Seen<T>& seen, vec<T> (&shrink)[2]) {
  constexpr int V = lanes<T>;
  const vec<T> lowest = broadcast<T>(-static_cast<T>(INFINITY));
  vec<T> top[2] = {seen.top[0], seen.top[1]}, sum[2] = {}, shift[2];
  for (int64_t k = 0; k < others; ++k)
    static_for<2>([&](auto v) ARRAYNN_LAMBDA {
      T* at = tile + k * NR<T> + v * V;
      vec<T> score = load(at) * scale;
      if (bias) score = biased<T>(score, bias + k * NR<T> + v * V);
      top[v] = max(score, top[v]);
      store(at, score);
    });
  static_for<2>([&](auto v) ARRAYNN_LAMBDA { shift[v] = top[v] == lowest ? vec<T>{} : top[v]; });
  for (int64_t k = 0; k < others; ++k)
    static_for<2>([&](auto v) ARRAYNN_LAMBDA {
      T* at = tile + k * NR<T> + v * V;
      vec<T> e = exp_nonpositive<T>(load(at) - shift[v]);
      sum[v] += e;
      store(at, e);
    });
  static_for<2>([&](auto v) ARRAYNN_LAMBDA {
    shrink[v] = exp_nonpositive<T>(seen.top[v] - shift[v]);
    seen.total[v] = seen.total[v] * shrink[v] + sum[v];
    seen.top[v] = top[v];
  });
}

// Rows of NR, each times one vector of factors.
template <class T>
void scale_rows(int64_t rows, T* to, const vec<T> (&factor)[2]) {
  for (int64_t i = 0; i < rows; ++i)
    static_for<2>([&](auto v) ARRAYNN_LAMBDA {
      T* at = to + i * NR<T> + v * lanes<T>;
      store(at, load(at) * factor[v]);
    });
}

template <class T>
void multiply(int64_t count, T* to, const T* by) {
  for (int64_t i = 0; i < count; i += lanes<T>) store(to + i, load(to + i) * load(by + i));
}

template <class T>
class Forward {
 public:
  Forward(const AttentionParams& p, const AttentionForward& b, const Tasks& tasks, Pieces<T> room)
      : p_(p),
        b_(b),
        tasks_(tasks),
        queries_(room.take(tasks.per_task * p.depth * NR<T>)),
        sums_(room.take(tasks.per_task * p.value_depth * NR<T>)),
        keys_(p.keys, p.depth, true, false, room),
        values_(p.keys, p.value_depth, false, true, room),
        tile_(room.take(step_rows * NR<T>)),
        extras_(p, b.mask, room),
        elements_(room.used) {}
  int64_t elements() const { return elements_; }

  void run(int64_t task) {
    int64_t lot = task / tasks_.per_lot(), first = task % tasks_.per_lot() * tasks_.per_task;
    int panels = static_cast<int>(std::min(tasks_.per_task, tasks_.sharing * tasks_.panels - first));
    int64_t last = 0;  // behind the last key that any panel looks at
    for (int i = 0; i < panels; ++i) {
      Spot& s = spots_[i] = spot(lot, first + i);
      pack_owners(matrix_of<T>(p_, p_.query, b_.query, p_.depth, s.head), s.owner, s.owners,
                  queries_ + i * p_.depth * NR<T>);
      for (int64_t k = 0; k < p_.value_depth * NR<T>; ++k) sums_[i * p_.value_depth * NR<T> + k] = 0;
      seen_[i] = {};
      for (vec<T>& top : seen_[i].top) top = broadcast<T>(-static_cast<T>(INFINITY));
      last = std::max(last, last_key(s));
    }
    int64_t head = lot * tasks_.sharing;
    auto keys = matrix_of<T>(p_, p_.key, b_.key, p_.depth, head, p_.group);
    auto values = matrix_of<T>(p_, p_.value, b_.value, p_.value_depth, head, p_.group);
    for (int64_t block = 0; block < last; block += block_rows) {
      int64_t count = std::min(block_rows, p_.keys - block);
      keys_.pack(keys, block, count);
      values_.pack(values, block, count);
      for (int i = 0; i < panels; ++i) add_block(i, block, count);
    }
    for (int i = 0; i < panels; ++i) finish(i);
  }

 private:
  Spot spot(int64_t lot, int64_t panel) const {
    int64_t owner = panel % tasks_.panels * NR<T>;
    return {lot * tasks_.sharing + panel / tasks_.panels, 0, 0, owner,
            static_cast<int>(std::min<int64_t>(NR<T>, p_.queries - owner))};
  }
  int64_t last_key(const Spot& s) const { return p_.causal ? std::min(p_.keys, s.owner + s.owners) : p_.keys; }

  void add_block(int i, int64_t block, int64_t count) {
    Spot& s = spots_[i];
    T* sums = sums_ + i * p_.value_depth * NR<T>;
    int64_t end = std::min(block + count, last_key(s));
    for (s.other = block; s.other < end; s.other += step_rows) {
      int64_t at = s.other - block, packed = std::min(step_rows, count - at);
      s.others = std::min(packed, round_up(end - s.other, MR));
      keys_.scores(at, s.others, queries_ + i * p_.depth * NR<T>, tile_);
      vec<T> shrink[2];
      soften(s.others, tile_, extras_.bias(s), static_cast<T>(p_.scale), seen_[i], shrink);
      scale_rows<T>(p_.value_depth, sums, shrink);
      if (const T* keep = extras_.keep(s)) multiply(s.others * NR<T>, tile_, keep);
      values_.add_results(at, s.others, tile_, sums);
    }
  }

  void finish(int i) {
    constexpr int V = lanes<T>;
    const Spot& s = spots_[i];
    T* sums = sums_ + i * p_.value_depth * NR<T>;
    int64_t row = s.head * p_.queries + s.owner;
    vec<T> inverse[2];
    static_for<2>([&](auto v) ARRAYNN_LAMBDA {
      vec<T> total = seen_[i].total[v];
      inverse[v] = total == T(0) ? vec<T>{} : T(1) / total;
      int count = std::min(V, s.owners - v * V);
      if (!b_.saved || count <= 0) return;
      T* saved = static_cast<T*>(b_.saved) + row + v * V;
      store_first(saved, total == T(0) ? vec<T>{} : seen_[i].top[v], count);
      store_first(saved + p_.heads * p_.queries, inverse[v], count);
    });
    scale_rows<T>(p_.value_depth, sums, inverse);
    write_results(sums, p_.value_depth, s.owners, static_cast<T*>(b_.output) + row * p_.value_depth);
  }

  const AttentionParams& p_;
  const AttentionForward& b_;
  Tasks tasks_;
  T *queries_, *sums_;
  Others<T> keys_, values_;
  T* tile_;
  Extras<T, true> extras_;
  int64_t elements_;
  Spot spots_[most_panels];
  Seen<T> seen_[most_panels];
};

template <class T>
Tasks forward_tasks(const AttentionParams& p) {
  return tasks_of(p.heads / p.group, p.group, ceil_div(p.queries, NR<T>));
}

}  // namespace

size_t attention_forward_scratch(const AttentionParams& p) {
  if (p.heads == 0 || p.queries == 0) return 0;
  if (is_few_queries(p)) return few_queries_scratch(p, p.mask_kind != AttentionMask::none);
  size_t bytes = 0;
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    AttentionForward none{};
    none.mask = p.mask_kind == AttentionMask::none ? nullptr : &none;
    Forward<T> counted(p, none, forward_tasks<T>(p), {nullptr});
    bytes = static_cast<size_t>(counted.elements() * num_threads()) * sizeof(T);
  });
  return bytes;
}

void attention_forward(const AttentionParams& p, const AttentionForward& b, void* scratch) {
  if (p.heads == 0 || p.queries == 0) return;
  if (is_few_queries(p)) return attention_few_queries(p, b, scratch);
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    Tasks tasks = forward_tasks<T>(p);
    int64_t each = Forward<T>(p, b, tasks, {nullptr}).elements();
    parallel_for(tasks.count(), [&](int64_t task, int worker) {
      Forward<T>(p, b, tasks, {static_cast<T*>(scratch) + worker * each}).run(task);
    });
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
