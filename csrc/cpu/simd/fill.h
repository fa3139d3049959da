// Writing results: past the cache where they are large, since the next op will not find them near anyway and
// a store to what is not in the cache would read it first.
#pragma once
#include "core/memory.h"
#include "cpu/simd/vec.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

// Whether a result of so many elements is written past the cache.
template <class T>
bool is_streamed(int64_t elements) {
  return elements * static_cast<int64_t>(sizeof(T)) >= streamed_bytes();
}

// y[i] = f(i, count) over [begin, end), by vectors. A short row is not streamed: its ends share cache lines with
// others. Who streams calls stream_end() when a task is done. Of inputs that are named, what comes next is fetched
// ahead then: functions of many instructions have too few loads under way.
template <class T, class F, class... Inputs>
ARRAYNN_INLINE void fill(bool streamed, int64_t begin, int64_t end, T* y, const F& f, const Inputs*... inputs) {
  constexpr int64_t ahead = 2 << 10, least = 512;  // bytes
  if (streamed && (end - begin) * static_cast<int64_t>(sizeof(T)) >= least &&
      reinterpret_cast<uintptr_t>(y + begin) % ARRAYNN_VECTOR_BYTES == 0) {
    std::integral_constant<int, lanes<T>> whole;
    for (; begin + lanes<T> <= end; begin += lanes<T>) {
      (__builtin_prefetch(reinterpret_cast<const char*>(inputs + begin) + ahead), ...);
      stream(y + begin, f(begin, whole));
    }
  }
  for_vectors<T>(end - begin,
                 [&](int64_t i, auto n) ARRAYNN_LAMBDA { store_count(y + begin + i, f(begin + i, n), n); });
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
