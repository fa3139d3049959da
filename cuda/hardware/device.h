// Whether a device is there.
#pragma once
#include <cuda_runtime.h>

#include "core/backend.h"

namespace arraynn::cuda {

inline CudaStatus device_status() {
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return {false, cudaGetErrorString(error)};
  if (count == 0) return {false, "no CUDA device"};
  cudaDeviceProp properties;
  error = cudaGetDeviceProperties(&properties, 0);
  if (error != cudaSuccess) return {false, cudaGetErrorString(error)};
  return {true, properties.name};
}

}  // namespace arraynn::cuda
