// Mean squared error: one pass over input, target and weights, which writes the gradient too where it is
// wanted. A gradient of a weighted mean takes the sum of the weights first: they alone are read twice.
// Sums are in double: of each block, in scratch, and then of the blocks in their order.
#include "device/extent.h"
#include "device/reduce.h"
#include "dispatch.h"
#include "kernels.h"

namespace arraynn::cuda {

namespace {

constexpr int threads = 256, unroll = 2;
constexpr size_t room_bytes = 32 * sizeof(double);

// What the blocks of a call leave in scratch.
struct Parts {
  double *losses, *weights;  // of each block; weights null: not summed
  int weight_blocks;         // 0: the loss has no weights, or the divisor is not asked for

  explicit Parts(void* scratch) : losses(static_cast<double*>(scratch)), weights(nullptr), weight_blocks(0) {}
  double* of_weights() const { return losses + reduction_blocks; }
};

template <class T>
struct Call {
  Extent<T> extent;
  Reduction reduction;
  const T *x, *t, *w, *cotangent;  // w null: ones; cotangent null: one
  T *losses, *dx;                  // null: not wanted
  double count, repeated;          // of elements; what the sum of the broadcast weights counts in the divisor
  bool unit;                       // dx holds the gradient for a cotangent of one
};

template <class T, int N>
struct Three {
  Raw<T, N> x, t, w;

  __device__ __forceinline__ Three(const Call<T>& c, int64_t i)
      : x(load_raw<N>(c.x + i)), t(load_raw<N>(c.t + i)), w{} {
    if (c.w) w = load_raw<N>(c.w + i);
  }
  Three() = default;
  __device__ __forceinline__ compute_t<T> error(int j) const { return x.get(j) - t.get(j); }
  __device__ __forceinline__ compute_t<T> weighted(const Call<T>& c, compute_t<T> v, int j) const {
    return c.w ? v * w.get(j) : v;
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
  return c.w ? block_sum(parts.weights, parts.weight_blocks, room) * c.repeated : c.count;
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
template <class T>
__global__ __launch_bounds__(threads) void mse_each(Call<T> c) {
  c.extent.template walk_grid<unroll>([&](auto n, int64_t i) { return Three<T, decltype(n)::value>(c, i); },
                                      [&](auto n, int64_t i, const auto& held) {
                                        constexpr int N = decltype(n)::value;
                                        if (c.losses)
                                          store_raw<N>(c.losses + i, raw_of<T, N>([&](int j) {
                                                         compute_t<T> d = held.error(j);
                                                         return held.weighted(c, d * d, j);
                                                       }));
                                        if (c.dx) {
                                          Raw<T, N> dl = load_raw<N>(c.cotangent + i);
                                          store_raw<N>(c.dx + i, raw_of<T, N>([&](int j) {
                                                         return held.weighted(c, held.error(j), j) * 2 * dl.get(j);
                                                       }));
                                        }
                                      });
}

// Sums of losses, and of weights where parts.weights is to be filled; the gradient for one cotangent.
template <class T>
__global__ __launch_bounds__(threads) void mse_sum(Call<T> c, Parts parts, bool sum_losses, bool add_weights) {
  using C = compute_t<T>;
  double* room = shared<double>();
  if (holds(c)) return;
  C factor = 0;
  if (c.dx) {
    double dl = c.cotangent ? static_cast<double>(widen(*c.cotangent)) : 1;
    factor = static_cast<C>(2 * dl / (c.reduction == Reduction::mean ? divisor_of(c, parts, room) : 1));
  }
  double loss = 0, weight = 0;
  c.extent.template walk_grid<unroll>(
      [&](auto n, int64_t i) { return Three<T, decltype(n)::value>(c, i); },
      [&](auto n, int64_t i, const auto& held) {
        constexpr int N = decltype(n)::value;
        if (sum_losses)
#pragma unroll
          for (int j = 0; j < N; ++j) {
            C d = held.error(j);
            loss += static_cast<double>(d * held.weighted(c, d, j));
            if (add_weights) weight += static_cast<double>(held.w.get(j));
          }
        if (c.dx)
          store_raw<N>(c.dx + i, raw_of<T, N>([&](int j) { return held.weighted(c, held.error(j), j) * factor; }));
      });
  if (!sum_losses) return;
  loss = block_reduce(loss, Add{}, room);
  if (threadIdx.x == 0) parts.losses[blockIdx.x] = loss;
  if (!add_weights) return;
  weight = block_reduce(weight, Add{}, room);
  if (threadIdx.x == 0) parts.weights[blockIdx.x] = weight;
}

template <class T>
__global__ __launch_bounds__(threads) void mse_finish(Call<T> c, Parts parts, int blocks, T* output) {
  double* room = shared<double>();
  double total = block_sum(parts.losses, blocks, room);
  if (c.reduction == Reduction::mean) total /= divisor_of(c, parts, room);
  if (threadIdx.x == 0) *output = narrow<T>(static_cast<compute_t<T>>(total));
}

template <class T>
Call<T> call_of(const MseParams& p, const void* input, const void* target, const void* weight, const void* cotangent,
                void* losses, void* d_input, bool unit) {
  auto x = static_cast<const T*>(input), t = static_cast<const T*>(target), w = static_cast<const T*>(weight),
       dl = static_cast<const T*>(cotangent);
  auto y = static_cast<T*>(losses), dx = static_cast<T*>(d_input);
  auto extent =
      p.reduction == Reduction::none ? extent_of(p.count, x, t, w, dl, y, dx) : extent_of(p.count, x, t, w, dx);
  double count = static_cast<double>(p.count);
  return {extent, p.reduction, x, t, w, dl, y, dx, count, static_cast<double>(p.weights) / count, unit};
}

template <class T>
int blocks_of(const Extent<T>& extent, int64_t most) {
  return static_cast<int>(std::min(ceil_div(std::max(extent.packs, extent.edges()), threads * unroll), most));
}

// Sums the weights ahead of a gradient that is divided by them.
template <class T>
void sum_ahead(const MseParams& p, const Call<T>& c, Parts& parts) {
  constexpr int64_t most = 128;  // each later block reads them all
  if (!c.w || p.reduction != Reduction::mean) return;
  parts.weights = parts.of_weights();
  parts.weight_blocks = blocks_of(c.extent, most);
  launch(sum_weights<T>, static_cast<unsigned>(parts.weight_blocks), threads, room_bytes, p.place, c, parts.weights);
}

}  // namespace

void mse_forward(const MseParams& p, const void* input, const void* target, const void* weight, void* output,
                 void* d_input, void* scratch) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    bool each = p.reduction == Reduction::none;
    auto c = call_of<T>(p, input, target, weight, nullptr, each ? output : nullptr, each ? nullptr : d_input, false);
    if (each) {
      launch(mse_each<T>, static_cast<unsigned>(blocks_of(c.extent, INT32_MAX)), threads, 0, p.place, c);
      return;
    }
    Parts parts(scratch);
    int blocks = blocks_of(c.extent, reduction_blocks);
    bool add_weights = false;
    if (c.dx) {
      sum_ahead(p, c, parts);
    } else if (c.w && p.reduction == Reduction::mean) {
      add_weights = true;
      parts.weights = parts.of_weights();
      parts.weight_blocks = blocks;
    }
    launch(mse_sum<T>, static_cast<unsigned>(blocks), threads, room_bytes, p.place, c, parts, true, add_weights);
    launch(mse_finish<T>, 1, threads, room_bytes, p.place, c, parts, blocks, static_cast<T*>(output));
  });
}

void mse_backward(const MseParams& p, const void* input, const void* target, const void* weight, const void* cotangent,
                  void* d_input, bool unit, void* scratch) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    bool each = p.reduction == Reduction::none;
    auto c = call_of<T>(p, input, target, weight, cotangent, nullptr, d_input, unit && !each);
    auto blocks = static_cast<unsigned>(blocks_of(c.extent, INT32_MAX));
    if (each) {
      launch(mse_each<T>, blocks, threads, 0, p.place, c);
      return;
    }
    Parts parts(scratch);
    sum_ahead(p, c, parts);
    launch(mse_sum<T>, blocks, threads, room_bytes, p.place, c, parts, false, false);
  });
}

}  // namespace arraynn::cuda
