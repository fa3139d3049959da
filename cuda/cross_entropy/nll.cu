// nll_loss: picks the labels' elements. Its gradient is zeros, written in packs, and then one number for each label.
#include "cross_entropy/call.h"
#include "device/extent.h"
#include "kernels.h"

namespace arraynn::cuda {

namespace {

constexpr int fill_threads = 256, fill_unroll = 4;

template <class T>
__global__ __launch_bounds__(fill_threads) void zero_gradient(Call<T> c, Extent<T> extent) {
  if (holds(c)) return;
  extent.template walk_grid<fill_unroll>([](auto, int64_t) { return 0; },
                                         [&](auto n, int64_t i, int) {
                                           constexpr int N = decltype(n)::value;
                                           store_raw<N>(c.dx + i, raw_of<T, N>([](int) { return 0; }));
                                         });
}

// The gradient of a label that is no class: NaN, like its loss.
template <class T>
__device__ __forceinline__ void spoil(const Call<T>& c, int64_t first) {
  for (int64_t i = 0; i < c.classes; ++i) c.dx[first + i * c.inner] = narrow<T>(static_cast<compute_t<T>>(NAN));
}

// Losses, and the labels' part of the gradient, whose zeros are there.
template <class T>
__global__ __launch_bounds__(label_threads) void nll_labels(Call<T> c) {
  using C = compute_t<T>;
  double* room = shared<double>();
  if (holds(c)) return;
  C common = common_scale(c, room);
  double total = 0;
  int64_t rows = c.outer * c.inner, step = static_cast<int64_t>(gridDim.x) * label_threads;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * label_threads + threadIdx.x; row < rows; row += step) {
    Target<C> target = target_of(c, row, true);
    int64_t first = row / c.inner * c.classes * c.inner + row % c.inner, at = first + target.label * c.inner;
    if (c.x) {
      C loss = target.label >= 0 ? -target.hit * widen(c.x[at]) : target.used ? C(NAN) : C(0);
      total += static_cast<double>(loss);
      if (c.losses) c.losses[row] = narrow<T>(loss);
    }
    if (!c.dx || !target.used) continue;
    if (target.label >= 0)
      c.dx[at] = narrow<T>(-target.hit * scale_of(c, common, row));
    else
      spoil(c, first);
  }
  if (!c.parts) return;
  total = block_reduce(total, Add{}, room);
  if (threadIdx.x == 0) c.parts[blockIdx.x] = total;
}

// Launches what a call needs and returns how many blocks the labels took.
template <class T>
int launch_nll(const CrossEntropyParams& p, Call<T>& c, void* scratch) {
  sum_ahead(p, c, scratch);
  if (c.dx) {
    auto extent = extent_of(p.outer * p.classes * p.inner, c.dx);
    launch(zero_gradient<T>, grid_for(std::max(extent.packs, extent.edges()), fill_threads * fill_unroll), fill_threads,
           0, p.place, c, extent);
  }
  int64_t blocks = std::min<int64_t>(ceil_div(p.outer * p.inner, label_threads), most_parts);
  launch(nll_labels<T>, static_cast<unsigned>(blocks), label_threads, sum_room, p.place, c);
  return static_cast<int>(blocks);
}

}  // namespace

void nll_forward(const CrossEntropyParams& p, const void* input, const void* target, const void* weight, void* output,
                 void* d_input, void* scratch) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto c = call_of<T>(p, input, target, weight);
    c.dx = static_cast<T*>(d_input);
    if (p.reduction == Reduction::none)
      c.losses = static_cast<T*>(output);
    else
      c.parts = static_cast<double*>(scratch);
    int blocks = launch_nll(p, c, scratch);
    if (p.reduction != Reduction::none) launch_finish(p, c, blocks, output);
  });
}

void nll_backward(const CrossEntropyParams& p, const void* target, const void* weight, const void* cotangent,
                  void* d_input, bool unit, void* scratch) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto c = call_of<T>(p, nullptr, target, weight);
    c.dx = static_cast<T*>(d_input);
    c.cotangent = static_cast<const T*>(cotangent);
    c.unit = unit && p.reduction != Reduction::none;
    launch_nll(p, c, scratch);
  });
}

}  // namespace arraynn::cuda
