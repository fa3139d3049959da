// A gradient for a cotangent of one, made that for another.
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/simd/vec.h"

namespace arraynn::cpu::ARRAYNN_ISA {

void scale_gradient(const Place&, DType dtype, int64_t count, const void* cotangent, void* gradient) {
  dispatch_float(dtype, [&](auto zero) {
    using T = decltype(zero);
    T factor = *static_cast<const T*>(cotangent);
    T* g = static_cast<T*>(gradient);
    if (factor == T(1)) return;
    parallel_chunks(count, 32 << 10, [=](int64_t begin, int64_t end) {
      for_vectors<T>(end - begin, [&](int64_t i, auto n) ARRAYNN_LAMBDA {
        store_count(g + begin + i, load_count(g + begin + i, n) * factor, n);
      });
    });
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
