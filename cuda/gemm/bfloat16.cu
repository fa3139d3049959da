#include "gemm/launch.h"

namespace arraynn::cuda {

namespace {

template <class Shape>
using Math = HalfMma<bfloat16, Shape>;

}  // namespace

void gemm_bfloat16(const Gemm& g, const GemmPlan& p, void* scratch) {
  launch_gemm<Math, TileShape<128, 128>>(g, p, scratch);
}

}  // namespace arraynn::cuda
