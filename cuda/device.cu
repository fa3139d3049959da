#include <cuda_runtime.h>

#include "device.h"

namespace arraynn {

CudaStatus cuda_status() {
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return {false, cudaGetErrorString(error)};
  if (count == 0) return {false, "no CUDA device"};
  cudaDeviceProp properties;
  error = cudaGetDeviceProperties(&properties, 0);
  if (error != cudaSuccess) return {false, cudaGetErrorString(error)};
  return {true, properties.name};
}

}  // namespace arraynn
