// The one way to launch, on the host; hardware/launch.h is the same for the device and says what each
// does. A stream is done as soon as it is asked.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "core/array.h"
#include "cuda_runtime.h"

namespace arraynn::cuda {

namespace detail {

// As a device of these kinds would refuse it.
inline void check_launch(dim3 grid, dim3 block, size_t shared_bytes) {
  if (block.x * block.y * block.z == 0 || block.x * block.y * block.z > 1024 || block.z > 64)
    throw std::runtime_error("CUDA: launch: invalid configuration argument (block)");
  if (grid.x > 0x7FFFFFFFu || grid.y > 65535 || grid.z > 65535)
    throw std::runtime_error("CUDA: launch: invalid configuration argument (grid)");
  if (shared_bytes > (227u << 10)) throw std::runtime_error("CUDA: launch: too much shared memory");
}

template <class... P, size_t... I>
void launch(bool cooperative, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, std::tuple<P...> values,
            std::index_sequence<I...>) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  check_launch(grid, block, shared_bytes);
  auto body = [&] { kernel(std::get<I>(values)...); };
  emulate::run(
      grid, block, shared_bytes, cooperative, [](void* context) { (*static_cast<decltype(body)*>(context))(); }, &body);
}

inline int environment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atoi(text) : otherwise;
}

}  // namespace detail

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, const Place&, A&&... arguments) {
  detail::launch(false, kernel, grid, block, shared_bytes, std::tuple<P...>(std::forward<A>(arguments)...),
                 std::index_sequence_for<P...>{});
}

template <class... P, class... A>
void launch_cooperative(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, const Place&,
                        A&&... arguments) {
  detail::launch(true, kernel, grid, block, shared_bytes, std::tuple<P...>(std::forward<A>(arguments)...),
                 std::index_sequence_for<P...>{});
}

// A device with few and small multiprocessors, so that every split across blocks occurs in small tests.
inline int multiprocessors(const Place&) { return 4; }
inline int most_shared_bytes(const Place&) { return 227 << 10; }
// ARRAYNN_EMULATE_CAPABILITY=75: a chip without the tensor cores' float32 and asynchronous copies.
inline int capability(const Place&) { return detail::environment("ARRAYNN_EMULATE_CAPABILITY", 80); }

template <class... P>
int resident_blocks(void (*)(P...), int threads, size_t shared_bytes, const Place& place) {
  if (shared_bytes > static_cast<size_t>(most_shared_bytes(place)) || threads > 1024) return 0;
  return multiprocessors(place);
}

inline void fill_zero(const Place&, void* to, size_t bytes) {
  if (bytes) std::memset(to, 0, bytes);
}
inline void copy_bytes(const Place&, void* to, const void* from, size_t bytes) {
  if (bytes) std::memcpy(to, from, bytes);
}
inline void synchronize(const Place&) {}

}  // namespace arraynn::cuda
