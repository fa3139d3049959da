#include "attention/launch.h"

namespace arraynn::cuda {

void attention_bfloat16(const AttentionCall& call) { attention_on_tensor_cores<HalfMma<bfloat16, SmallTile>>(call); }

}  // namespace arraynn::cuda
