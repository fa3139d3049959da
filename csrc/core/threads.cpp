#include "core/threads.h"

#include <omp.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>

#include "core/float_mode.h"

namespace arraynn {

namespace {

std::atomic<int> requested{0};
thread_local int pinned = 0;
std::atomic<bool> forked{false};

// CPUs per second of wall time that a cgroup file grants, or a large number without a limit.
double quota(const char* path) {
  std::FILE* file = std::fopen(path, "r");
  if (!file) return 1e9;
  char first[32] = "";
  double period = 0;
  int fields = std::fscanf(file, "%31s %lf", first, &period);
  std::fclose(file);
  double allowed = 0;
  if (fields != 2 || period <= 0 || std::sscanf(first, "%lf", &allowed) != 1) return 1e9;
  return allowed / period;
}

// cgroup v2 nests: every level up to the root may set a quota, and the smallest one holds.
double cgroup_quota() {
  double smallest = quota("/sys/fs/cgroup/cpu.max");
  std::FILE* file = std::fopen("/proc/self/cgroup", "r");
  if (!file) return smallest;
  char line[1024];
  while (std::fgets(line, sizeof line, file)) {
    if (std::strncmp(line, "0::/", 4) != 0) continue;
    line[std::strcspn(line, "\n")] = 0;
    for (char* path = line + 3; *path;) {
      char full[1100];
      std::snprintf(full, sizeof full, "/sys/fs/cgroup%s/cpu.max", path);
      smallest = std::min(smallest, quota(full));
      char* slash = std::strrchr(path, '/');
      if (!slash) break;
      *slash = 0;
    }
  }
  std::fclose(file);
  return smallest;
}

int detect_cpus() {
  int cpus = omp_get_num_procs();  // the affinity the process began with: OMP_PROC_BIND leaves this thread one CPU
  double allowed = cgroup_quota();
  if (allowed < cpus) cpus = static_cast<int>(allowed + 0.999);
  return std::max(cpus, 1);
}

// OpenMP's own barrier spins for milliseconds before it yields, which stalls a recurrent layer badly
// where other work shares the cores; this one yields soon.
struct Team {
  int size;
  std::atomic<int> arrived{0}, phase{0};
};

thread_local Team* team = nullptr;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

int64_t Shares::take(int worker) {
  for (int i = 0; i < workers_; ++i) {
    Range& range = range_[(worker + i) % workers_];
    if (range.next.load(std::memory_order_relaxed) >= range.end) continue;
    int64_t task = range.next.fetch_add(1, std::memory_order_relaxed);
    if (task < range.end) return task;
  }
  return -1;
}

int available_cpus() {
  static const int cpus = [] {
    pthread_atfork(nullptr, nullptr, [] { forked = true; });
    return detect_cpus();
  }();
  return cpus;
}

PinnedThreads::PinnedThreads() : before_(pinned) { pinned = num_threads(); }
PinnedThreads::~PinnedThreads() { pinned = before_; }

int num_threads() {
  if (pinned > 0) return pinned;
  int cpus = available_cpus();
  if (forked.load(std::memory_order_relaxed)) return 1;
  int wanted = requested.load(std::memory_order_relaxed);
  if (wanted > 0) return wanted;
  return std::max(1, std::min(cpus, omp_get_max_threads()));
}

void set_num_threads(int count) { requested = count; }

void run_tasks(int64_t count, Task task, void* context) {
  int threads = static_cast<int>(std::min<int64_t>(num_threads(), count));
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) task(context, i, 0);
    return;
  }
  Shares shares;
  for (int worker = 0; worker < threads; ++worker) shares.give(worker, threads, count);
  FloatMode mode = float_mode();
#pragma omp parallel num_threads(threads)
  {
    WithFloatMode callers(mode);
    int worker = omp_get_thread_num();
    for (int64_t i; (i = shares.take(worker)) >= 0;) task(context, i, worker);
  }
}

void run_team(int limit, Member member, void* context) {
  int threads = std::min(num_threads(), limit);
  if (threads <= 1) {
    member(context, 0, 1);
    return;
  }
  Team shared{0, {}, {}};
  FloatMode mode = float_mode();
#pragma omp parallel num_threads(threads)
  {
    WithFloatMode callers(mode);
    int worker = omp_get_thread_num(), workers = omp_get_num_threads();
    if (worker == 0) shared.size = workers;
#pragma omp barrier
    Team* outer = team;
    team = &shared;
    member(context, worker, workers);
    team = outer;
  }
}

void team_barrier() {
  constexpr int spins = 2000;  // some microseconds
  int phase = team->phase.load(std::memory_order_acquire);
  if (team->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == team->size) {
    team->arrived.store(0, std::memory_order_relaxed);
    team->phase.store(phase + 1, std::memory_order_release);
    return;
  }
  for (int i = 0; team->phase.load(std::memory_order_acquire) == phase; ++i) {
    if (i < spins)
      pause();
    else
      sched_yield();
  }
}

}  // namespace arraynn
