// A gradient for a cotangent of one, made that for another: the kernel looks at the cotangent, so that the host need
// not wait for it.
#include "device/extent.h"
#include "dispatch.h"
#include "kernels.h"

namespace arraynn::cuda {

namespace {

constexpr int threads = 256, unroll = 4;

template <class T>
__global__ __launch_bounds__(threads) void scale_kernel(Extent<T> extent, const T* cotangent, T* gradient) {
  compute_t<T> factor = widen(*cotangent);
  if (factor == 1) return;
  extent.template walk_grid<unroll>([&](auto n, int64_t i) { return load_raw<decltype(n)::value>(gradient + i); },
                                    [&](auto n, int64_t i, const auto& held) {
                                      constexpr int N = decltype(n)::value;
                                      store_raw<N>(gradient + i,
                                                   raw_of<T, N>([&](int j) { return held.get(j) * factor; }));
                                    });
}

}  // namespace

void scale_gradient(const Place& place, DType dtype, int64_t count, const void* cotangent, void* gradient) {
  dispatch_float(dtype, [&](auto zero) {
    using T = decltype(zero);
    auto g = static_cast<T*>(gradient);
    auto extent = extent_of(count, g);
    launch(scale_kernel<T>, grid_for(std::max(extent.packs, extent.edges()), threads * unroll), threads, 0, place,
           extent, static_cast<const T*>(cotangent), g);
  });
}

}  // namespace arraynn::cuda
