#include "core/roof.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "core/isa.h"
#include "core/memory.h"
#include "core/threads.h"
#include "cpu/table.h"

namespace arraynn {

namespace {

double now() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

// The best rate of `work` (which returns what it did) over `seconds`.
template <class F>
double best_rate(double seconds, const F& work) {
  double best = 0, end = now() + seconds;
  do {
    double start = now();
    double amount = work();
    best = std::max(best, amount / (now() - start));
  } while (now() < end);
  return best;
}

}  // namespace

double measure_fma_peak(DType dtype, double seconds) {
  struct Work {
    DType dtype;
    double flops[256];
  } work{dtype, {}};
  return 1e-9 * best_rate(seconds, [&] {
           std::fill(work.flops, work.flops + 256, 0.0);
           run_team(
               256,
               [](void* context, int worker, int) {
                 auto* w = static_cast<Work*>(context);
                 w->flops[worker] = cpu().fma_loop(w->dtype, 2000000);
               },
               &work);
           double total = 0;
           for (double flops : work.flops) total += flops;
           return total;
         });
}

double measure_copy_bandwidth(size_t bytes, double seconds) {
  Scratch from(bytes), to(bytes);
  std::memset(from.data(), 1, bytes);
  std::memset(to.data(), 1, bytes);
  struct Work {
    const char* from;
    char* to;
    size_t bytes;
  } work{static_cast<const char*>(from.data()), static_cast<char*>(to.data()), bytes};
  return 1e-9 * best_rate(seconds, [&] {
           run_team(
               256,
               [](void* context, int worker, int workers) {
                 auto* w = static_cast<Work*>(context);
                 size_t begin = w->bytes / workers * worker, end = w->bytes / workers * (worker + 1);
                 std::memcpy(w->to + begin, w->from + begin, end - begin);
               },
               &work);
           return 2.0 * static_cast<double>(bytes);
         });
}

}  // namespace arraynn
