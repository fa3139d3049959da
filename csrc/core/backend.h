// Which kernels work on an array, by where it lies: those of the host's instruction set, or the CUDA
// back end's.
#pragma once
#include <cstddef>
#include <string>

#include "core/array.h"
#include "cpu/table.h"

namespace arraynn {

struct CudaStatus {
  bool available;      // a device that can be used is there
  std::string detail;  // its name, or why there is none
};

// All that the host side asks of CUDA. Every call but the last three only queues work on the place's stream.
struct CudaBackend {
  size_t size;  // of this struct, to tell a library of another version
  const KernelTable* kernels;
  CudaStatus (*status)();  // asks the driver; nothing does so at import
  // Copies between arrays of one shape and any strides, converting.
  void (*copy)(const Array& from, const Array& to);
  void (*upload)(const Place& place, const void* host, void* device, size_t bytes);
  void (*download)(const Place& place, const void* device, void* host, size_t bytes);  // waits for it
  void (*synchronize)(const Place& place);
};

// What was compiled in, by cuda/backend.cu; null from cuda/no_cuda.cpp, where there is no CUDA compiler.
const CudaBackend* compiled_cuda_backend();
// The one in use: that, or what load_cuda_backend put in its place.
const CudaBackend* cuda_backend();
// Replaces the back end by that of a shared library: the kernels built for the host, which tests run.
void load_cuda_backend(const std::string& path);

const KernelTable& kernels(const Place& place);

}  // namespace arraynn
