// Threads: how many, and the two ways to use them. Kernels come here through cpu/parallel.h.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>

namespace arraynn {

// The number of threads the next parallel call may use: what was set, or else the smaller of
// available_cpus() and what OpenMP allows the caller (threadpoolctl, OMP_NUM_THREADS); and 1 in a
// child forked from a process that had used threads, because libgomp's workers do not survive it.
int num_threads();
void set_num_threads(int count);  // 0: back to the default

// Holds num_threads() still on this thread while it lives: a call sizes its scratch by it, and must
// find the same number when it runs.
class PinnedThreads {
 public:
  PinnedThreads();
  ~PinnedThreads();
  PinnedThreads(const PinnedThreads&) = delete;
  PinnedThreads& operator=(const PinnedThreads&) = delete;

 private:
  int before_;
};

// The smaller of the CPU affinity and the cgroup's CPU quota, rounded up.
int available_cpus();

// Tasks for workers. Each has a range of its own, the same in every call with as many tasks, so that what a worker
// wrote in one call is in its cache in the next; one that is done with its range helps with the others.
class Shares {
 public:
  // Sets the worker's range of [0, count); all have theirs before anyone takes.
  void give(int worker, int workers, int64_t count) {
    int ranges = std::min(workers, most);
    if (worker == 0) workers_ = ranges;
    if (worker >= ranges) return;
    range_[worker].next.store(count * worker / ranges, std::memory_order_relaxed);
    range_[worker].end = count * (worker + 1) / ranges;
  }
  // The next task for a worker, -1 when there is none.
  int64_t take(int worker);

 private:
  static constexpr int most = 64;
  struct alignas(64) Range {  // a cache line each
    std::atomic<int64_t> next;
    int64_t end;
  };
  int workers_ = 0;
  Range range_[most];
};

// task(context, index, worker) for every index in [0, count), in any order; worker < num_threads().
using Task = void (*)(void* context, int64_t index, int worker);
void run_tasks(int64_t count, Task task, void* context);

// member(context, worker, workers) once on each of at most `limit` threads, all at the same time;
// team_barrier() inside waits for the whole team.
using Member = void (*)(void* context, int worker, int workers);
void run_team(int limit, Member member, void* context);
void team_barrier();

}  // namespace arraynn
