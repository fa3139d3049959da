#include "gemm/launch.h"

namespace arraynn::cuda {

namespace {

template <class Shape>
using Math = Tf32Mma<3, Shape>;

}  // namespace

void gemm_float32(const Gemm& g, const GemmPlan& p, void* scratch) {
  launch_gemm<Math, TileShape<128, 128, 2, 4>>(g, p, scratch);
}

}  // namespace arraynn::cuda
