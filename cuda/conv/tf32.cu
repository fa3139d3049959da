#include "conv/product.h"

namespace arraynn::cuda {

namespace {

template <class Shape>
using Math = Tf32Mma<1, Shape>;

}  // namespace

void conv_gather_tf32(const GatherProduct& p, void* scratch) {
  launch_gather<Math, TileShape<128, 128>, TileShape<128, 64>>(p, scratch);
}

void conv_gradient_tf32(const GradientProduct& p, void* scratch) {
  launch_gradient<Math, TileShape<128, 128>>(p, scratch);
}

}  // namespace arraynn::cuda
