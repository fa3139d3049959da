#include "attention/launch.h"

namespace arraynn::cuda {

void attention_float16(const AttentionCall& call) { attention_on_tensor_cores<HalfMma<float16, SmallTile>>(call); }

}  // namespace arraynn::cuda
