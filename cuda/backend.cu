// The back end as the host side sees it: every launcher by its name, and the device itself.
#include "core/backend.h"

#include "copy.h"
#include "device.h"
#include "kernels.h"
#include "launch.h"

namespace arraynn {

namespace {

const KernelTable table = {
#define ARRAYNN_KERNEL(result, name, parameters) cuda::name,
#define ARRAYNN_CPU_KERNEL(result, name, parameters)
#include "cpu/kernels.def"
#undef ARRAYNN_KERNEL
#undef ARRAYNN_CPU_KERNEL
};

void upload(const Place& place, const void* host, void* device, size_t bytes) {
  cuda::copy_bytes(place, device, host, bytes);
}

void download(const Place& place, const void* device, void* host, size_t bytes) {
  cuda::copy_bytes(place, host, device, bytes);
  cuda::synchronize(place);
}

}  // namespace

const CudaBackend* compiled_cuda_backend() {
  static const CudaBackend backend = {sizeof(CudaBackend), &table, cuda::device_status, cuda::copy, upload, download,
                                      cuda::synchronize};
  return &backend;
}

}  // namespace arraynn
