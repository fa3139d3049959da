// What the host side asks about the GPU. Built from device.cu, or from no_cuda.cpp where there is no
// CUDA compiler.
#pragma once
#include <string>

namespace arraynn {

struct CudaStatus {
  bool available;      // a device that can be used is there
  std::string detail;  // its name, or why there is none
};

// Asks the driver; nothing does so at import.
CudaStatus cuda_status();

}  // namespace arraynn
