#include "attention/launch.h"

namespace arraynn::cuda {

void attention_float32(const AttentionCall& call) { attention_on_tensor_cores<Tf32Mma<3, SmallTile>>(call); }

}  // namespace arraynn::cuda
