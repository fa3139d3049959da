// Pointwise losses: one pass over input, target and weights, which writes the gradient too where it is
// wanted. A gradient of a mean over weights takes their sum first: they alone are read twice.
// Sums are in double: of each block, in scratch, and then of the blocks in their order.
#include "device/extent.h"
#include "device/reduce.h"
#include "dispatch.h"
#include "kernels.h"
#include "loss/functions.h"

namespace arraynn::cuda {

namespace {

constexpr int threads = 256, unroll = 2;
constexpr size_t room_bytes = 32 * sizeof(double);

// What the blocks of a call leave in scratch.
struct Parts {
  double *losses, *weights;  // of each block; weights null: not summed
  int weight_blocks;         // 0: the divisor is not made of weights, or not asked for

  explicit Parts(void* scratch) : losses(static_cast<double*>(scratch)), weights(nullptr), weight_blocks(0) {}
  double* of_weights() const { return losses + reduction_blocks; }
};

template <class T>
struct Call {
  Extent<T> extent;
  Reduction reduction;
  const T *x, *t, *w, *p, *cotangent;  // w, p null: ones; cotangent null: one
  T *losses, *dx;                      // null: not wanted
  double count, repeated;  // what the mean is divided by; what the sum of the broadcast weights counts in it, or 0
  bool unit;               // dx holds the gradient for a cotangent of one
};

// Elements of a call: their losses and derivatives, weighted.
template <class T, class F, int N>
struct Elements {
  using C = compute_t<T>;
  Raw<T, N> x, t, w, p;

  __device__ __forceinline__ Elements(const Call<T>& c, int64_t i)
      : x(load_raw<N>(c.x + i)), t(load_raw<N>(c.t + i)), w{}, p{} {
    if (c.w) w = load_raw<N>(c.w + i);
    if (F::has_positive && c.p) p = load_raw<N>(c.p + i);
  }
  Elements() = default;
  __device__ __forceinline__ C loss(const F& f, const Call<T>& c, int j) const {
    C l = f.loss(x.get(j), t.get(j), positive(c, j));
    return c.w ? l * w.get(j) : l;
  }
  __device__ __forceinline__ C slope(const F& f, const Call<T>& c, int j) const {
    C d = f.slope(x.get(j), t.get(j), positive(c, j));
    return c.w ? d * w.get(j) : d;
  }
  __device__ __forceinline__ C positive(const Call<T>& c, int j) const {
    return F::has_positive && c.p ? p.get(j) : C(1);
  }
};

// Whether dx holds what is asked for already; the same for all threads.
template <class T>
__device__ bool holds(const Call<T>& c) {
  return c.unit && widen(*c.cotangent) == 1;
}

// Of a mean. All threads get it.
template <class T>
__device__ double divisor_of(const Call<T>& c, const Parts& parts, double* room) {
  return parts.weight_blocks > 0 ? block_sum(parts.weights, parts.weight_blocks, room) * c.repeated : c.count;
}

template <class T>
__global__ __launch_bounds__(threads) void sum_weights(Call<T> c, double* sums) {
  if (holds(c)) return;
  double sum = 0;
  c.extent.template walk_grid<4>([&](auto n, int64_t i) { return load_raw<decltype(n)::value>(c.w + i); },
                                 [&](auto n, int64_t, const auto& raw) {
#pragma unroll
                                   for (int j = 0; j < decltype(n)::value; ++j) sum += static_cast<double>(raw.get(j));
                                 });
  sum = block_reduce(sum, Add{}, shared<double>());
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// Every element on its own: losses, or the gradient for a cotangent of each.
template <class T, class F>
__global__ __launch_bounds__(threads) void loss_each(F f, Call<T> c) {
  c.extent.template walk_grid<unroll>(
      [&](auto n, int64_t i) { return Elements<T, F, decltype(n)::value>(c, i); },
      [&](auto n, int64_t i, const auto& held) {
        constexpr int N = decltype(n)::value;
        if (c.losses) store_raw<N>(c.losses + i, raw_of<T, N>([&](int j) { return held.loss(f, c, j); }));
        if (c.dx) {
          Raw<T, N> dl = load_raw<N>(c.cotangent + i);
          store_raw<N>(c.dx + i, raw_of<T, N>([&](int j) { return held.slope(f, c, j) * dl.get(j); }));
        }
      });
}

// Sums of losses, and of weights where parts.weights is to be filled; the gradient for one cotangent.
template <class T, class F>
__global__ __launch_bounds__(threads) void loss_sum(F f, Call<T> c, Parts parts, bool sum_losses, bool add_weights) {
  using C = compute_t<T>;
  double* room = shared<double>();
  if (holds(c)) return;
  C factor = 0;
  if (c.dx) {
    double dl = c.cotangent ? static_cast<double>(widen(*c.cotangent)) : 1;
    factor = static_cast<C>(dl / (c.reduction == Reduction::mean ? divisor_of(c, parts, room) : 1));
  }
  double loss = 0, weight = 0;
  c.extent.template walk_grid<unroll>(
      [&](auto n, int64_t i) { return Elements<T, F, decltype(n)::value>(c, i); },
      [&](auto n, int64_t i, const auto& held) {
        constexpr int N = decltype(n)::value;
        if (sum_losses)
#pragma unroll
          for (int j = 0; j < N; ++j) {
            loss += static_cast<double>(held.loss(f, c, j));
            if (add_weights) weight += static_cast<double>(held.w.get(j));
          }
        if (c.dx) store_raw<N>(c.dx + i, raw_of<T, N>([&](int j) { return held.slope(f, c, j) * factor; }));
      });
  if (!sum_losses) return;
  loss = block_reduce(loss, Add{}, room);
  if (threadIdx.x == 0) parts.losses[blockIdx.x] = loss;
  if (!add_weights) return;
  weight = block_reduce(weight, Add{}, room);
  if (threadIdx.x == 0) parts.weights[blockIdx.x] = weight;
}

template <class T>
__global__ __launch_bounds__(threads) void loss_finish(Call<T> c, Parts parts, int blocks, T* output) {
  double* room = shared<double>();
  double total = block_sum(parts.losses, blocks, room);
  if (c.reduction == Reduction::mean) total /= divisor_of(c, parts, room);
  if (threadIdx.x == 0) *output = narrow<T>(static_cast<compute_t<T>>(total));
}

template <class T>
Call<T> call_of(const LossParams& p, const LossInputs& in, const void* cotangent, void* losses, void* d_input,
                bool unit) {
  auto x = static_cast<const T*>(in.input), t = static_cast<const T*>(in.target), w = static_cast<const T*>(in.weight),
       positive = static_cast<const T*>(in.pos_weight), dl = static_cast<const T*>(cotangent);
  auto y = static_cast<T*>(losses), dx = static_cast<T*>(d_input);
  auto extent = p.reduction == Reduction::none ? extent_of(p.count, x, t, w, positive, dl, y, dx)
                                               : extent_of(p.count, x, t, w, positive, dx);
  double repeated = p.count > 0 ? static_cast<double>(p.weights) / static_cast<double>(p.count) : 0;
  return {extent, p.reduction, x, t, w, positive, dl, y, dx, p.divisor, repeated, unit};
}

template <class T>
int blocks_of(const Extent<T>& extent, int64_t most) {
  return static_cast<int>(std::min(ceil_div(std::max(extent.packs, extent.edges()), threads * unroll), most));
}

// Whether the mean is divided by the sum of the weights.
bool divides_by_weights(const LossParams& p, const LossInputs& in) {
  return in.weight && p.weights > 0 && p.reduction == Reduction::mean;
}

// Sums the weights ahead of a gradient that is divided by them.
template <class T>
void sum_ahead(const LossParams& p, const Call<T>& c, Parts& parts) {
  constexpr int64_t most = 128;  // each later block reads them all
  parts.weights = parts.of_weights();
  parts.weight_blocks = blocks_of(c.extent, most);
  launch(sum_weights<T>, static_cast<unsigned>(parts.weight_blocks), threads, room_bytes, p.place, c, parts.weights);
}

// f(function, zero) of the call's function and dtype.
template <class F>
void with_call(const LossParams& p, const F& f) {
  dispatch_float(p.dtype,
                 [&](auto zero) { with_function<decltype(zero)>(p, [&](auto function) { f(function, zero); }); });
}

}  // namespace

void loss_forward(const LossParams& p, const LossInputs& in, void* output, void* d_input, void* scratch) {
  with_call(p, [&](auto f, auto zero) {
    using T = decltype(zero);
    using F = decltype(f);
    bool each = p.reduction == Reduction::none;
    auto c = call_of<T>(p, in, nullptr, each ? output : nullptr, each ? nullptr : d_input, false);
    if (each)
      return launch(loss_each<T, F>, static_cast<unsigned>(blocks_of(c.extent, INT32_MAX)), threads, 0, p.place, f, c);
    Parts parts(scratch);
    int blocks = blocks_of(c.extent, reduction_blocks);
    bool add_weights = divides_by_weights(p, in) && !c.dx;
    if (add_weights) {
      parts.weights = parts.of_weights();
      parts.weight_blocks = blocks;
    } else if (divides_by_weights(p, in)) {
      sum_ahead(p, c, parts);
    }
    launch(loss_sum<T, F>, static_cast<unsigned>(blocks), threads, room_bytes, p.place, f, c, parts, true, add_weights);
    launch(loss_finish<T>, 1, threads, room_bytes, p.place, c, parts, blocks, static_cast<T*>(output));
  });
}

void loss_backward(const LossParams& p, const LossInputs& in, const void* cotangent, void* d_input, bool unit,
                   void* scratch) {
  with_call(p, [&](auto f, auto zero) {
    using T = decltype(zero);
    using F = decltype(f);
    bool each = p.reduction == Reduction::none;
    auto c = call_of<T>(p, in, cotangent, nullptr, d_input, unit && !each);
    auto blocks = static_cast<unsigned>(blocks_of(c.extent, INT32_MAX));
    if (each) return launch(loss_each<T, F>, blocks, threads, 0, p.place, f, c);
    Parts parts(scratch);
    if (divides_by_weights(p, in)) sum_ahead(p, c, parts);
    launch(loss_sum<T, F>, blocks, threads, room_bytes, p.place, f, c, parts, false, false);
  });
}

}  // namespace arraynn::cuda
