// Pointwise activations: each element read and written once, four packs of 16 bytes in flight a thread.
#include "activation/functions.h"
#include "device/extent.h"
#include "kernels.h"

namespace arraynn::cuda {

namespace {

constexpr int threads = 256, unroll = 4;

template <class T, class F>
__global__ __launch_bounds__(threads) void forward_kernel(F f, Extent<T> extent, const T* x, T* y) {
  extent.template walk_grid<unroll>([&](auto n, int64_t i) { return load_raw<decltype(n)::value>(x + i); },
                                    [&](auto n, int64_t i, const auto& held) {
                                      constexpr int N = decltype(n)::value;
                                      store_raw<N>(y + i, raw_of<T, N>([&](int j) { return f.forward(held.get(j)); }));
                                    });
}

template <class T, int N>
struct Two {
  Raw<T, N> saved, dy;
};

template <class T, class F>
__global__ __launch_bounds__(threads) void backward_kernel(F f, Extent<T> extent, const T* saved, const T* dy, T* dx) {
  extent.template walk_grid<unroll>(
      [&](auto n, int64_t i) {
        constexpr int N = decltype(n)::value;
        return Two<T, N>{load_raw<N>(saved + i), load_raw<N>(dy + i)};
      },
      [&](auto n, int64_t i, const auto& held) {
        constexpr int N = decltype(n)::value;
        store_raw<N>(dx + i, raw_of<T, N>([&](int j) { return f.backward(held.saved.get(j), held.dy.get(j)); }));
      });
}

template <class T>
dim3 grid_of(const Extent<T>& extent) {
  return grid_for(std::max(extent.packs, extent.edges()), threads * unroll);
}

}  // namespace

void activation_forward(const ActivationParams& p, const void* x, void* y) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto from = static_cast<const T*>(x);
    auto to = static_cast<T*>(y);
    auto extent = extent_of(p.count, from, to);
    with_function<T>(p, [&](auto f) {
      launch(forward_kernel<T, decltype(f)>, grid_of(extent), threads, 0, p.place, f, extent, from, to);
    });
  });
}

void activation_backward(const ActivationParams& p, const void* saved, const void* dy, void* dx) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto from = static_cast<const T*>(saved), cotangent = static_cast<const T*>(dy);
    auto to = static_cast<T*>(dx);
    auto extent = extent_of(p.count, from, cotangent, to);
    with_function<T>(p, [&](auto f) {
      launch(backward_kernel<T, decltype(f)>, grid_of(extent), threads, 0, p.place, f, extent, from, cotangent, to);
    });
  });
}

}  // namespace arraynn::cuda
