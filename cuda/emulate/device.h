// The device that the host plays.
#pragma once
#include "core/backend.h"

namespace arraynn::cuda {

inline CudaStatus device_status() { return {true, "emulated on the host"}; }

}  // namespace arraynn::cuda
