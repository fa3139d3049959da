#include "device.h"

namespace arraynn {

CudaStatus cuda_status() { return {false, "built without a CUDA compiler"}; }

}  // namespace arraynn
