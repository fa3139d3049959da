// The one way to launch, and to check. emulate/launch.h is the same for the host.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "core/array.h"

namespace arraynn::cuda {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // forget it, if it can be forgotten
  throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(error));
}

// Makes the place's device the thread's current one while it lives.
class OnDevice {
 public:
  explicit OnDevice(const Place& place) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != place.device) check(cudaSetDevice(place.device), "cudaSetDevice");
    changed_ = before_ != place.device;
  }
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

inline cudaStream_t stream_of(const Place& place) { return static_cast<cudaStream_t>(place.stream); }

namespace detail {

inline constexpr size_t plain_shared_bytes = 48 << 10;  // more has to be asked for

template <class... P, size_t... I>
void launch(bool cooperative, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, const Place& place,
            std::tuple<P...> values, std::index_sequence<I...>) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  OnDevice guard(place);
  auto function = reinterpret_cast<const void*>(kernel);
  if (shared_bytes > plain_shared_bytes)
    check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          "cudaFuncSetAttribute");
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&std::get<I>(values)))..., nullptr};
  cudaStream_t stream = stream_of(place);
  cudaError_t error = cooperative ? cudaLaunchCooperativeKernel(function, grid, block, pointers, shared_bytes, stream)
                                  : cudaLaunchKernel(function, grid, block, pointers, shared_bytes, stream);
  check(error, "launch");
  if (place.checks) check(cudaStreamSynchronize(stream), "kernel");
}

}  // namespace detail

// Queues kernel(arguments...) on the place's stream. A grid without blocks is nothing to do. With
// place.checks it waits for the kernel, so that what goes wrong in it is raised here.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, const Place& place, A&&... arguments) {
  detail::launch(false, kernel, grid, block, shared_bytes, place, std::tuple<P...>(std::forward<A>(arguments)...),
                 std::index_sequence_for<P...>{});
}

// The same with all blocks resident at once, so that grid_barrier() works: at most resident_blocks() of them.
template <class... P, class... A>
void launch_cooperative(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, const Place& place,
                        A&&... arguments) {
  detail::launch(true, kernel, grid, block, shared_bytes, place, std::tuple<P...>(std::forward<A>(arguments)...),
                 std::index_sequence_for<P...>{});
}

// How many blocks of a kernel the whole device holds at once; 0 if it cannot run one.
template <class... P>
int resident_blocks(void (*kernel)(P...), int threads, size_t shared_bytes, const Place& place) {
  OnDevice guard(place);
  auto function = reinterpret_cast<const void*>(kernel);
  if (shared_bytes > detail::plain_shared_bytes &&
      cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)) !=
          cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  int per_multiprocessor = 0, multiprocessors = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, function, threads, shared_bytes),
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, place.device),
        "cudaDeviceGetAttribute");
  return per_multiprocessor * multiprocessors;
}

inline int device_attribute(cudaDeviceAttr attribute, const Place& place) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, attribute, place.device), "cudaDeviceGetAttribute");
  return value;
}
inline int multiprocessors(const Place& place) { return device_attribute(cudaDevAttrMultiProcessorCount, place); }
inline int most_shared_bytes(const Place& place) {
  return device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, place);
}
// 80 for 8.0.
inline int capability(const Place& place) {
  return 10 * device_attribute(cudaDevAttrComputeCapabilityMajor, place) +
         device_attribute(cudaDevAttrComputeCapabilityMinor, place);
}

inline void fill_zero(const Place& place, void* to, size_t bytes) {
  if (bytes == 0) return;
  OnDevice guard(place);
  check(cudaMemsetAsync(to, 0, bytes, stream_of(place)), "cudaMemsetAsync");
}

inline void copy_bytes(const Place& place, void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  OnDevice guard(place);
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_of(place)), "cudaMemcpyAsync");
}

inline void synchronize(const Place& place) {
  OnDevice guard(place);
  check(cudaStreamSynchronize(stream_of(place)), "cudaStreamSynchronize");
}

}  // namespace arraynn::cuda
