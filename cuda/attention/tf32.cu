#include "attention/launch.h"

namespace arraynn::cuda {

void attention_tf32(const AttentionCall& call) { attention_on_tensor_cores<Tf32Mma<1, SmallTile>>(call); }

}  // namespace arraynn::cuda
