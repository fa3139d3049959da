// The emulated back end as a library of its own, which load_cuda_backend finds by this name.
#include "core/backend.h"

extern "C" __attribute__((visibility("default"))) const arraynn::CudaBackend* arraynn_cuda_backend() {
  return arraynn::compiled_cuda_backend();
}
