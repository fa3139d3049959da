// Softmax and its gradient read every element once and write it once too (twice read: what of a row is
// longer than the registers or the shared memory hold, then mostly from L2):
//   rows of up to 1024 adjacent elements lie in the registers of 4 or 32 lanes,
//   longer ones are walked by a block, which finds maximum and sum in one pass and keeps the row in shared
//   memory for the second,
//   elements with others in between are walked the same way, neighbouring threads on neighbouring rows.
#include "device/softmax.h"
#include "kernels.h"

namespace arraynn::cuda {

namespace {

template <class T, int N>
struct Two {
  Raw<T, N> y, dy;
};

// What follows from the row's maximum and sum of exponentials.
template <class T>
struct Normalizer {
  using C = compute_t<T>;
  C top, last;
  bool log;

  __device__ Normalizer(C top_, C sum, bool log_) : top(top_), last(log_ ? log_of(sum) : 1 / sum), log(log_) {}
  __device__ C of(C x, C exponential) const { return log ? (x - top) - last : exponential * last; }
};

template <class T>
__device__ __forceinline__ compute_t<T> softmax_gradient(compute_t<T> y, compute_t<T> dy, compute_t<T> sum, bool log) {
  return log ? dy - exp_of<T>(y) * sum : y * (dy - sum);
}

template <class T, class Row, int lanes>
__global__ __launch_bounds__(held_threads) void softmax_held(int64_t rows, int size, bool log, const T* x, T* y) {
  using C = compute_t<T>;
  for_held_rows<lanes>(rows, [&](int64_t row, bool inside) {
    Row in;
    in.load(x + row * size, size, inside, -INFINITY);
    C top = -INFINITY, sum = 0, e[Row::count];
    Row::template each<true>(size, [&](int j, int) { top = MaxNumber{}(top, in.get(j)); });
    top = warp_reduce<lanes>(top, MaxNumber{});
    Row::template each<true>(size, [&](int j, int) {
      e[j] = exp_of<T>(in.get(j) - top);
      sum += e[j];
    });
    Normalizer<T> normal(top, warp_reduce<lanes>(sum, Add{}), log);
    Row::store(y + row * size, size, inside, [&](int j, int) { return normal.of(in.get(j), e[j]); });
  });
}

template <class T, class Row, int lanes>
__global__ __launch_bounds__(held_threads) void softmax_backward_held(int64_t rows, int size, bool log, const T* y,
                                                                      const T* dy, T* dx) {
  using C = compute_t<T>;
  for_held_rows<lanes>(rows, [&](int64_t row, bool inside) {
    Row out, cotangent;
    out.load(y + row * size, size, inside, 0);
    cotangent.load(dy + row * size, size, inside, 0);
    C sum = 0;
    Row::template each<true>(size, [&](int j, int) { sum += log ? cotangent.get(j) : cotangent.get(j) * out.get(j); });
    sum = warp_reduce<lanes>(sum, Add{});
    Row::store(dx + row * size, size, inside,
               [&](int j, int) { return softmax_gradient<T>(out.get(j), cotangent.get(j), sum, log); });
  });
}

template <class T, class Walk>
__global__ __launch_bounds__(Walk::most_threads, Walk::least_blocks) void softmax_walk(Walk walk, size_t room_bytes,
                                                                                       int64_t slots, bool log,
                                                                                       const T* x, T* y) {
  using C = compute_t<T>;
  constexpr int states = Walk::states;
  C* room = shared<C>();
  Slots<T, Walk::width> kept(shared<char>() + room_bytes, slots, 0);
  for (int64_t unit = blockIdx.x; unit < walk.units(); unit += gridDim.x) {
    walk.go(unit);
    Online<T> o[states];
    walk.template walk<4>([&](auto n, Spot spot) { return load_raw<decltype(n)::value>(x + spot.at); },
                          [&](auto n, Spot spot, const auto& raw) {
                            add<decltype(n)::value>(o, raw);
                            kept.template put<decltype(n)::value>(spot, raw);
                          });
    join_online(walk, o, room);
    C last[states];
#pragma unroll
    for (int s = 0; s < states; ++s) last[s] = Normalizer<T>(o[s].max, o[s].sum, log).last;
    walk.template walk<4>([&](auto n, Spot spot) { return kept.template get<decltype(n)::value>(spot, x); },
                          [&](auto n, Spot spot, const auto& raw) {
                            constexpr int N = decltype(n)::value;
                            store_raw<N>(y + spot.at, raw_of<T, N>([&](int j) {
                                           int s = states == 1 ? 0 : j;
                                           C v = raw.get(j) - o[s].max;
                                           return log ? v - last[s] : exp_of<T>(v) * last[s];
                                         }));
                          });
  }
}

template <class T, class Walk>
__global__ __launch_bounds__(Walk::most_threads,
                             Walk::least_blocks) void softmax_backward_walk(Walk walk, size_t room_bytes, int64_t slots,
                                                                            bool log, const T* y, const T* dy, T* dx) {
  using C = compute_t<T>;
  constexpr int states = Walk::states;
  C* room = shared<C>();
  Slots<T, Walk::width> kept_y(shared<char>() + room_bytes, slots, 0), kept_dy(shared<char>() + room_bytes, slots, 1);
  for (int64_t unit = blockIdx.x; unit < walk.units(); unit += gridDim.x) {
    walk.go(unit);
    C sum[states] = {};
    walk.template walk<2>(
        [&](auto n, Spot spot) {
          constexpr int N = decltype(n)::value;
          return Two<T, N>{load_raw<N>(y + spot.at), load_raw<N>(dy + spot.at)};
        },
        [&](auto n, Spot spot, const auto& held) {
          constexpr int N = decltype(n)::value;
#pragma unroll
          for (int j = 0; j < N; ++j) sum[states == 1 ? 0 : j] += log ? held.dy.get(j) : held.dy.get(j) * held.y.get(j);
          kept_y.template put<N>(spot, held.y);
          kept_dy.template put<N>(spot, held.dy);
        });
    walk.join(sum, Add{}, room);
    walk.template walk<2>(
        [&](auto n, Spot spot) {
          constexpr int N = decltype(n)::value;
          return Two<T, N>{kept_y.template get<N>(spot, y), kept_dy.template get<N>(spot, dy)};
        },
        [&](auto n, Spot spot, const auto& held) {
          constexpr int N = decltype(n)::value;
          store_raw<N>(dx + spot.at, raw_of<T, N>([&](int j) {
                         return softmax_gradient<T>(held.y.get(j), held.dy.get(j), sum[states == 1 ? 0 : j], log);
                       }));
        });
  }
}

}  // namespace

void softmax_forward(const SoftmaxParams& p, const void* x, void* y) {
  if (p.size == 0) return;
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto from = static_cast<const T*>(x);
    auto to = static_cast<T*>(y);
    if (p.inner == 1 && p.size <= longest_held)
      return with_held<T>(p.size, aligned16(from, to), [&](auto row, auto lanes) {
        launch(softmax_held<T, decltype(row), decltype(lanes)::value>, grid_for(p.outer, held_threads / lanes),
               held_threads, 0, p.place, p.outer, static_cast<int>(p.size), p.log, from, to);
      });
    with_walk(
        p.outer, p.size, p.inner,
        [&](auto walk) {
          WalkBlock b = block_of(walk, 1, p.place);
          launch(softmax_walk<T, decltype(walk)>, grid_for(b.grid, 1), b.threads, b.bytes, p.place, walk, b.room,
                 b.slots, p.log, from, to);
        },
        from, to);
  });
}

void softmax_backward(const SoftmaxParams& p, const void* y, const void* dy, void* dx) {
  if (p.size == 0) return;
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto out = static_cast<const T*>(y), cotangent = static_cast<const T*>(dy);
    auto to = static_cast<T*>(dx);
    if (p.inner == 1 && p.size <= longest_held)
      return with_held<T>(p.size, aligned16(out, cotangent, to), [&](auto row, auto lanes) {
        launch(softmax_backward_held<T, decltype(row), decltype(lanes)::value>, grid_for(p.outer, held_threads / lanes),
               held_threads, 0, p.place, p.outer, static_cast<int>(p.size), p.log, out, cotangent, to);
      });
    with_walk(
        p.outer, p.size, p.inner,
        [&](auto walk) {
          WalkBlock b = block_of(walk, 2, p.place);
          launch(softmax_backward_walk<T, decltype(walk)>, grid_for(b.grid, 1), b.threads, b.bytes, p.place, walk,
                 b.room, b.slots, p.log, out, cotangent, to);
        },
        out, cotangent, to);
  });
}

}  // namespace arraynn::cuda
