#include "conv/product.h"

namespace arraynn::cuda {

namespace {

template <class Shape>
using Math = HalfMma<bfloat16, Shape>;

}  // namespace

void conv_gather_bfloat16(const GatherProduct& p, void* scratch) {
  launch_gather<Math, TileShape<128, 128>, TileShape<128, 64>>(p, scratch);
}

void conv_gradient_bfloat16(const GradientProduct& p, void* scratch) {
  launch_gradient<Math, TileShape<128, 128>>(p, scratch);
}

}  // namespace arraynn::cuda
