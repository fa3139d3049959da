#include "core/backend.h"

#include <dlfcn.h>

#include <atomic>
#include <stdexcept>

#include "core/isa.h"

namespace arraynn {

namespace {

std::atomic<const CudaBackend*> loaded{nullptr};

}  // namespace

const CudaBackend* cuda_backend() {
  const CudaBackend* backend = loaded.load(std::memory_order_acquire);
  return backend ? backend : compiled_cuda_backend();
}

void load_cuda_backend(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error(dlerror());
  using Entry = const CudaBackend* (*)();
  auto entry = reinterpret_cast<Entry>(dlsym(library, "arraynn_cuda_backend"));
  const CudaBackend* backend = entry ? entry() : nullptr;
  if (!backend || backend->size != sizeof(CudaBackend))
    throw std::runtime_error(path + " is not a CUDA back end of this version of arraynn");
  loaded.store(backend, std::memory_order_release);
}

const KernelTable& kernels(const Place& place) { return place.on_device() ? *cuda_backend()->kernels : cpu(); }

}  // namespace arraynn
