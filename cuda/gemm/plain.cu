#include "gemm/launch.h"

namespace arraynn::cuda {

// float64 in its own order; what old chips multiply, in any order by way of one kernel for each type.
void gemm_plain(const Gemm& g, const GemmPlan& p, void* scratch) {
  switch (g.dtype) {
    case DType::float64:
      return p.packed ? launch_orders<Fma<double>, PackedMatrix>(g, p, scratch)
                      : launch_orders<Fma<double>, AnyMatrix>(g, p, scratch);
    case DType::float16: return launch_gemm<Fma<float16>, AnyMatrix, Along::k, Along::k>(g, p, scratch);
    case DType::bfloat16: return launch_gemm<Fma<bfloat16>, AnyMatrix, Along::k, Along::k>(g, p, scratch);
    default: return launch_gemm<Fma<float>, AnyMatrix, Along::k, Along::k>(g, p, scratch);
  }
}

}  // namespace arraynn::cuda
