#include "gemm/launch.h"

namespace arraynn::cuda {

namespace {

template <class Shape>
using Math = Tf32Mma<1, Shape>;

}  // namespace

void gemm_tf32(const Gemm& g, const GemmPlan& p, void* scratch) {
  launch_gemm<Math, TileShape<128, 128>>(g, p, scratch);
}

}  // namespace arraynn::cuda
