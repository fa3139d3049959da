// How kernels use threads: core/threads.h for lambdas. The order in which floats are summed depends on
// the shape alone, so that the results are the same bits for any number of threads.
#pragma once
#include <cstdint>

#include "core/array.h"
#include "core/threads.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

// f(index, worker) for every index in [0, count).
template <class F>
void parallel_for(int64_t count, const F& f) {
  run_tasks(
      count, [](void* context, int64_t index, int worker) { (*static_cast<const F*>(context))(index, worker); },
      const_cast<F*>(&f));
}

constexpr int max_chunks = 256;

// The size of the chunks of [0, n): at least `grain`, and at most max_chunks of them.
inline int64_t chunk_size(int64_t n, int64_t grain) {
  int64_t least = (n + max_chunks - 1) / max_chunks;
  return least > grain ? least : grain;
}

// f(begin, end) over [0, n) in chunks.
template <class F>
void parallel_chunks(int64_t n, int64_t grain, const F& f) {
  if (n <= 0) return;
  int64_t chunk = chunk_size(n, grain);
  int64_t count = (n + chunk - 1) / chunk;
  parallel_for(count, [&](int64_t index, int) {
    int64_t begin = index * chunk;
    f(begin, begin + chunk < n ? begin + chunk : n);
  });
}

// The sum of f(begin, end) over such chunks, added in their order.
template <class F>
double parallel_sum(int64_t n, int64_t grain, const F& f) {
  double parts[max_chunks];
  int64_t chunk = chunk_size(n, grain);
  parallel_chunks(n, grain, [&](int64_t begin, int64_t end) { parts[begin / chunk] = f(begin, end); });
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += chunk) total += parts[begin / chunk];
  return total;
}

// f(worker, workers) on each thread of one team.
template <class F>
void parallel_team(int limit, const F& f) {
  run_team(
      limit, [](void* context, int worker, int workers) { (*static_cast<const F*>(context))(worker, workers); },
      const_cast<F*>(&f));
}

// Brings part `index` of `parts` of some memory nearer, which will be read, or written.
template <int Write = 0>
inline void prefetch_part(const void* memory, int64_t bytes, int64_t index, int64_t parts) {
  int64_t lines = (bytes + 63) / 64;
  const char* from = static_cast<const char*>(memory);
  for (int64_t i = lines * index / parts; i < lines * (index + 1) / parts; ++i)
    __builtin_prefetch(from + i * 64, Write, 2);
}

// Calls f with a value of the C++ type of a floating dtype.
template <class F>
void dispatch_float(DType dtype, const F& f) {
  if (dtype == DType::float32)
    f(float{});
  else
    f(double{});
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
