#include "conv/product.h"

namespace arraynn::cuda {

// float64 as it comes; what old chips multiply, by elements.
void conv_gather_plain(const GatherProduct& p, void* scratch) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (sizeof(T) == 8)
      if (p.plan.packed) return launch_gather<Fma<T>, 16>(p, scratch);
    launch_gather<Fma<T>, sizeof(T)>(p, scratch);
  });
}

void conv_gradient_plain(const GradientProduct& p, void* scratch) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (sizeof(T) == 8)
      if (p.plan.packed) return launch_gradient<Fma<T>, PackedMatrix, 16>(p, scratch);
    launch_gradient<Fma<T>, AnyMatrix, sizeof(T)>(p, scratch);
  });
}

}  // namespace arraynn::cuda
