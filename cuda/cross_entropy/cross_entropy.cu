// Softmax and cross-entropy in one: the logits are read once and, where the gradient is wanted, it is written
// once; nothing else of their size is touched. Probabilities are read once where rows are short, else twice.
// Rows lie in registers or shared memory on the way, as softmax's do (device/softmax.h).
//
// Losses are summed in double, of each block and then of the blocks in their order. The divisor of a mean over
// labels is summed from them ahead: they are few next to the logits, and the gradient needs it.
#include "cross_entropy/call.h"
#include "device/softmax.h"
#include "kernels.h"

namespace arraynn::cuda {

namespace {

// ---- rows ----

// The shares of a row's classes: sum q, and sum q (x - base).
template <class C>
struct Shares {
  C total = 0, dot = 0;
};

// What a row's loss and gradient are made of, once its maximum and its sum of exponentials are known.
template <class T>
struct RowResult {
  using C = compute_t<T>;
  C top, loss, factor, scale;

  RowResult() = default;
  __device__ __forceinline__ RowResult(const Target<C>& target, const Shares<C>& shares, C top_, C sum, C own, C scale_,
                                       bool smooth)
      : top(top_), scale(scale_) {
    C log_sum = log_of(sum), label_loss = target.hit * (log_sum - (own - top));
    loss = smooth ? shares.total * log_sum - shares.dot : 0;
    if (target.label >= 0 || target.hit != 0) loss += label_loss;  // 0 * inf is not wanted of no label
    if (!target.used) loss = 0;
    factor = (shares.total + target.hit) * scale / sum;
  }
  // The gradient, but for the label's own share.
  __device__ __forceinline__ C gradient(C exponential, C share) const { return exponential * factor - share * scale; }
};

// The label's own element, after its pack has been written by the same thread.
template <class T>
__device__ __forceinline__ void mend_label(const Call<T>& c, const Target<compute_t<T>>& target,
                                           const RowResult<T>& row, compute_t<T> own, T* element) {
  using C = compute_t<T>;
  C share = c.spread != 0 ? c.share(target.label, 0) : C(0);
  *element = narrow<T>(row.gradient(exp_of<T>(own - row.top), share + target.hit));
}

template <class T, class Row, int lanes, bool smooth>
__global__ __launch_bounds__(held_threads) void held_rows(Call<T> c) {
  using C = compute_t<T>;
  double* room = shared<double>();
  if (holds(c)) return;
  C common = common_scale(c, room);
  double total = 0;
  constexpr int at_once = held_threads / lanes;
  int size = static_cast<int>(c.classes), lane = static_cast<int>(threadIdx.x) % lanes;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * at_once; first < c.outer;
       first += static_cast<int64_t>(gridDim.x) * at_once) {
    int64_t row = first + static_cast<int>(threadIdx.x) / lanes, begin = row * size;
    bool inside = row < c.outer;
    Row in, t;
    in.load(c.x + begin, size, inside, -INFINITY);
    if (smooth) t.load(c.probabilities + begin, size, inside && c.probabilities, 0);
    Target<C> target = target_of(c, row, inside);
    C own = target.label >= 0 ? widen(c.x[begin + target.label]) : C(0);

    C top = -INFINITY, sum = 0, e[Row::count];
    Row::template each<true>(size, [&](int j, int) { top = MaxNumber{}(top, in.get(j)); });
    top = warp_reduce<lanes>(top, MaxNumber{});
    Row::template each<true>(size, [&](int j, int) {
      e[j] = exp_of<T>(in.get(j) - top);
      sum += e[j];
    });
    sum = warp_reduce<lanes>(sum, Add{});
    Shares<C> shares;
    if (smooth) {
      Row::each(size, [&](int j, int i) {
        C q = inside ? c.share(i, t.get(j)) : C(0);
        shares.total += q;
        shares.dot += q * (in.get(j) - top);
      });
      shares.total = warp_reduce<lanes>(shares.total, Add{});
      shares.dot = warp_reduce<lanes>(shares.dot, Add{});
    }
    C scale = c.dx && inside ? scale_of(c, common, row) : C(0);
    RowResult<T> result(target, shares, top, sum, own, scale, smooth);
    if (lane == 0 && inside) {
      total += static_cast<double>(result.loss);
      if (c.losses) c.losses[row] = narrow<T>(result.loss);
    }
    if (c.dx) {
      Row::store(c.dx + begin, size, inside, [&](int j, int i) {
        return target.used ? result.gradient(e[j], smooth ? c.share(i, t.get(j)) : C(0)) : C(0);
      });
      if (target.label >= 0 && Row::lane_of(static_cast<int>(target.label)) == lane)
        mend_label(c, target, result, own, c.dx + begin + target.label);
    }
  }
  if (!c.parts) return;
  total = block_reduce(total, Add{}, room);
  if (threadIdx.x == 0) c.parts[blockIdx.x] = total;
}

// Packs in flight a thread: as many as the registers allow.
template <class T, bool smooth>
constexpr int unroll_of = smooth || sizeof(T) == 8 ? 2 : 4;

template <class T, int N>
struct Two {
  Raw<T, N> x, t;
};

// The shares of the threads of a row, made one; before, each has its own base.
template <class Walk, class C, int states>
__device__ __forceinline__ void join_shares(const Walk& walk, Shares<C> (&s)[states], C* room) {
  C total[states], dot[states];
#pragma unroll
  for (int k = 0; k < states; ++k) total[k] = s[k].total, dot[k] = s[k].dot;
  walk.join(total, Add{}, room);
  walk.join(dot, Add{}, room);
#pragma unroll
  for (int k = 0; k < states; ++k) s[k] = {total[k], dot[k]};
}

// As the states' bases grew.
template <class T, class C, int states>
__device__ __forceinline__ void rebase(Shares<C> (&s)[states], const C (&before)[states],
                                       const Online<T> (&o)[states]) {
#pragma unroll
  for (int k = 0; k < states; ++k) s[k].dot += s[k].total * (before[k] - o[k].base());
}

// Maximum, sum of exponentials and shares of the rows that the thread walks over.
template <bool smooth, class T, class Walk, int states>
__device__ __forceinline__ void measure(const Call<T>& c, const Walk& walk, const Slots<T, Walk::width>& kept,
                                        Online<T> (&o)[states], Shares<compute_t<T>> (&shares)[states],
                                        compute_t<T>* room) {
  using C = compute_t<T>;
  walk.template walk<unroll_of<T, smooth>>(
      [&](auto n, Spot spot) {
        constexpr int N = decltype(n)::value;
        Two<T, N> held{};
        held.x = load_raw<N>(c.x + spot.at);
        if (smooth && c.probabilities) held.t = load_raw<N>(c.probabilities + spot.at);
        return held;
      },
      [&](auto n, Spot spot, const auto& held) {
        constexpr int N = decltype(n)::value;
        C before[states];
#pragma unroll
        for (int k = 0; k < states; ++k) before[k] = o[k].base();
        add<N>(o, held.x);
        kept.template put<N>(spot, held.x);
        if constexpr (smooth) {
          rebase(shares, before, o);
#pragma unroll
          for (int j = 0; j < N; ++j) {
            int k = states == 1 ? 0 : j;
            C q = c.share(Walk::index_of(spot, j), held.t.get(j));
            shares[k].total += q;
            shares[k].dot += q * (held.x.get(j) - o[k].base());
          }
        }
      });
  C before[states];
#pragma unroll
  for (int k = 0; k < states; ++k) before[k] = o[k].base();
  join_online(walk, o, room);
  if constexpr (smooth) {
    rebase(shares, before, o);
    join_shares(walk, shares, room);
  }
}

// Writes the gradients of the rows that the thread walks over.
template <bool smooth, class T, class Walk, int states>
__device__ __forceinline__ void write_gradient(const Call<T>& c, const Walk& walk, const Slots<T, Walk::width>& kept,
                                               const Target<compute_t<T>> (&target)[states],
                                               const RowResult<T> (&row)[states]) {
  using C = compute_t<T>;
  walk.template walk<unroll_of<T, smooth>>(
      [&](auto n, Spot spot) {
        constexpr int N = decltype(n)::value;
        Two<T, N> held{};
        held.x = kept.template get<N>(spot, c.x);
        if (smooth && c.probabilities) held.t = load_raw<N>(c.probabilities + spot.at);
        return held;
      },
      [&](auto n, Spot spot, const auto& held) {
        constexpr int N = decltype(n)::value;
        store_raw<N>(c.dx + spot.at, raw_of<T, N>([&](int j) {
                       int k = states == 1 ? 0 : j;
                       C share = smooth ? c.share(Walk::index_of(spot, j), held.t.get(j)) : C(0);
                       C d = row[k].gradient(exp_of<T>(held.x.get(j) - row[k].top), share);
                       return target[k].used ? d : C(0);
                     }));
      });
}

template <class T, class Walk>
__device__ __forceinline__ void write_zeros(const Walk& walk, T* dx) {
  walk.template walk<1>([](auto, Spot) { return 0; },
                        [&](auto n, Spot spot, int) {
                          constexpr int N = decltype(n)::value;
                          store_raw<N>(dx + spot.at, raw_of<T, N>([](int) { return 0; }));
                        });
}

template <class T, class Walk, bool smooth>
__global__ __launch_bounds__(Walk::most_threads, Walk::least_blocks) void walked_rows(Call<T> c, Walk walk,
                                                                                      size_t room_bytes,
                                                                                      int64_t slots) {
  using C = compute_t<T>;
  constexpr int states = Walk::states;
  C* room = shared<C>();
  double* sums = shared<double>();
  Slots<T, Walk::width> kept(shared<char>() + room_bytes, slots, 0);
  if (holds(c)) return;
  C common = common_scale(c, sums);
  double total = 0;
  for (int64_t unit = blockIdx.x; unit < walk.units(); unit += gridDim.x) {
    walk.go(unit);
    Target<C> target[states];
    C own[states];
#pragma unroll
    for (int k = 0; k < states; ++k) {
      target[k] = target_of(c, walk.number(k), walk.inside());
      own[k] = target[k].label >= 0 ? widen(c.x[walk.place(k, target[k].label)]) : C(0);
    }
    if (Walk::alone && !target[0].used) {  // all of the block agree: not even read
      if (c.losses && walk.leads()) c.losses[walk.number(0)] = narrow<T>(0);
      if (c.dx) write_zeros(walk, c.dx);
      continue;
    }
    Online<T> o[states];
    Shares<C> shares[states];
    measure<smooth>(c, walk, kept, o, shares, room);
    RowResult<T> result[states];
#pragma unroll
    for (int k = 0; k < states; ++k) {
      C scale = c.dx && walk.inside() ? scale_of(c, common, walk.number(k)) : C(0);
      result[k] = RowResult<T>(target[k], shares[k], o[k].max, o[k].sum, own[k], scale, smooth);
      if (!walk.leads() || !walk.inside()) continue;
      total += static_cast<double>(result[k].loss);
      if (c.losses) c.losses[walk.number(k)] = narrow<T>(result[k].loss);
    }
    if (!c.dx) continue;
    write_gradient<smooth>(c, walk, kept, target, result);
#pragma unroll
    for (int k = 0; k < states; ++k)
      if (target[k].label >= 0 && walk.owns(target[k].label))
        mend_label(c, target[k], result[k], own[k], c.dx + walk.place(k, target[k].label));
  }
  if (!c.parts) return;
  total = block_reduce(total, Add{}, sums);
  if (threadIdx.x == 0) c.parts[blockIdx.x] = total;
}

// ---- launching ----

// Launches the rows and returns how many blocks they took.
template <class T, bool smooth>
int launch_rows(const CrossEntropyParams& p, const Call<T>& c) {
  auto grid = [&](int64_t blocks) { return static_cast<unsigned>(std::min<int64_t>(blocks, most_parts)); };
  unsigned blocks = 0;
  if (p.inner == 1 && p.classes <= longest_held)
    with_held<T>(p.classes, aligned16(c.x, c.probabilities, c.dx), [&](auto row, auto lanes) {
      blocks = grid(ceil_div(p.outer, held_threads / lanes));
      launch(held_rows<T, decltype(row), decltype(lanes)::value, smooth>, blocks, held_threads, sum_room, p.place, c);
    });
  else
    with_walk(
        p.outer, p.classes, p.inner,
        [&](auto walk) {
          WalkBlock b = block_of(walk, 1, p.place);
          blocks = grid(b.grid);
          launch(walked_rows<T, decltype(walk), smooth>, blocks, b.threads, b.bytes, p.place, c, walk, b.room, b.slots);
        },
        c.x, c.probabilities, c.dx);
  return static_cast<int>(blocks);
}

template <class T>
int launch_all(const CrossEntropyParams& p, Call<T>& c, void* scratch) {
  sum_ahead(p, c, scratch);
  return p.probabilities || p.smoothing != 0 ? launch_rows<T, true>(p, c) : launch_rows<T, false>(p, c);
}

}  // namespace

LabelSummary cross_entropy_labels(const CrossEntropyParams& p, const void* labels, const void* weight, void* scratch) {
  LabelSummary summary{0, false, 0};
  LabelPart parts[most_label_parts];
  int count = 0;
  dispatch_float(p.dtype, [&](auto zero) {
    auto c = call_of<decltype(zero)>(p, nullptr, labels, weight);
    count = launch_labels(p, c, label_parts_in(scratch));
  });
  copy_bytes(p.place, parts, label_parts_in(scratch), static_cast<size_t>(count) * sizeof(LabelPart));
  synchronize(p.place);
  int64_t bad = INT64_MAX;
  for (int i = 0; i < count; ++i) {
    summary.weight += parts[i].weight;
    bad = std::min(bad, parts[i].bad);
  }
  if (bad == INT64_MAX) return summary;
  summary.is_bad = true;
  copy_bytes(p.place, &summary.bad, static_cast<const int64_t*>(labels) + bad, sizeof summary.bad);
  synchronize(p.place);
  return summary;
}

void cross_entropy_forward(const CrossEntropyParams& p, const void* input, const void* target, const void* weight,
                           void* output, void* d_input, void* scratch) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto c = call_of<T>(p, input, target, weight);
    c.dx = static_cast<T*>(d_input);
    if (p.reduction == Reduction::none)
      c.losses = static_cast<T*>(output);
    else
      c.parts = static_cast<double*>(scratch);
    int blocks = launch_all(p, c, scratch);
    if (p.reduction != Reduction::none) launch_finish(p, c, blocks, output);
  });
}

void cross_entropy_backward(const CrossEntropyParams& p, const void* input, const void* target, const void* weight,
                            const void* cotangent, void* d_input, bool unit, void* scratch) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto c = call_of<T>(p, input, target, weight);
    c.dx = static_cast<T*>(d_input);
    c.cotangent = static_cast<const T*>(cotangent);
    c.unit = unit && p.reduction != Reduction::none;
    launch_all(p, c, scratch);
  });
}

}  // namespace arraynn::cuda
