#include "core/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <new>

namespace arraynn {

OutOfMemory::OutOfMemory(size_t bytes) {
  std::snprintf(text_, sizeof text_, "arraynn: cannot allocate %zu bytes", bytes);
}

namespace {

constexpr size_t huge_page = size_t{2} << 20;
constexpr int class_count = 4 * 64;

// Size classes are 1, 1.25, 1.5 and 1.75 times a power of two: at most a quarter is wasted.
int class_of(size_t bytes) {
  int power = 63 - __builtin_clzll(bytes);
  size_t step = size_t{1} << std::max(power - 2, 0);
  size_t quarters = (bytes - (size_t{1} << power) + step - 1) / step;
  return 4 * power + static_cast<int>(quarters);
}

size_t class_size(int size_class) {
  size_t base = size_t{1} << (size_class / 4);
  return base + base / 4 * (size_class % 4);
}

struct Idle {
  void* data;
  size_t age;      // number of the release that left it here
  bool reclaimed;  // its pages were offered to the system
};

struct Pool {
  std::mutex mutex;
  std::deque<Idle> idle[class_count];  // the longest idle first
  size_t idle_bytes = 0, offered_bytes = 0, releases = 0;
  size_t bound;

  Pool() {
    size_t memory = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
    bound = std::min(memory / 8, size_t{1} << 30);
  }
};

// What a loop over a network leaves idle for a moment stays mapped. Offering pages to the system costs
// as much as an op (it clears their dirty bits), so only what waits behind these bytes is offered.
constexpr size_t hot_bytes = size_t{256} << 20;

// Never destroyed: arrays may outlive the module at interpreter exit.
Pool& pool() {
  static Pool* instance = new Pool;
  return *instance;
}

// Lets the system take the pages of the large block that has been idle longest, when it needs them.
bool offer_oldest(Pool& p) {
  Idle* oldest = nullptr;
  size_t capacity = 0;
  for (int c = class_of(huge_page); c < class_count; ++c)
    for (Idle& block : p.idle[c])
      if (!block.reclaimed) {
        if (!oldest || block.age < oldest->age) oldest = &block, capacity = class_size(c);
        break;
      }
  if (!oldest) return false;
  madvise(oldest->data, capacity / huge_page * huge_page, MADV_FREE);
  oldest->reclaimed = true;
  p.offered_bytes += capacity;
  return true;
}

// Whether the pool has taken the block.
bool keep(Pool& p, Block block) {
  if (block.capacity > p.bound) return false;
  try {
    p.idle[class_of(block.capacity)].push_back({block.data, p.releases++, false});
  } catch (const std::bad_alloc&) {
    return false;
  }
  p.idle_bytes += block.capacity;
  return true;
}

// Takes the block that has been idle longest out of the pool.
void* take_oldest(Pool& p) {
  int size_class = -1;
  for (int c = 0; c < class_count; ++c)
    if (!p.idle[c].empty() && (size_class < 0 || p.idle[c].front().age < p.idle[size_class].front().age))
      size_class = c;
  auto& list = p.idle[size_class];
  Idle block = list.front();
  list.pop_front();
  size_t capacity = class_size(size_class);
  p.idle_bytes -= capacity;
  if (block.reclaimed) p.offered_bytes -= capacity;
  return block.data;
}

void* fresh(size_t capacity) {
  size_t alignment = capacity >= huge_page ? huge_page : 64;
  void* data = std::aligned_alloc(alignment, (capacity + alignment - 1) / alignment * alignment);
  if (data && capacity >= huge_page) madvise(data, capacity, MADV_HUGEPAGE);
  return data;
}

}  // namespace

Block acquire(size_t bytes) {
  int size_class = class_of(std::max(bytes, size_t{64}));
  size_t capacity = class_size(size_class);
  if (capacity < bytes) throw OutOfMemory(bytes);
  Pool& p = pool();
  {
    std::lock_guard<std::mutex> lock(p.mutex);
    auto& list = p.idle[size_class];
    if (!list.empty()) {
      Idle block = list.back();
      list.pop_back();
      p.idle_bytes -= capacity;
      if (block.reclaimed) p.offered_bytes -= capacity;
      return {block.data, capacity};
    }
  }
  void* data = fresh(capacity);
  if (!data) {
    trim();
    data = fresh(capacity);
  }
  if (!data) throw OutOfMemory(bytes);
  return {data, capacity};
}

void release(Block block) noexcept {
  Pool& p = pool();
  std::unique_lock<std::mutex> lock(p.mutex);
  if (!keep(p, block)) {
    lock.unlock();
    std::free(block.data);
    return;
  }
  while (p.idle_bytes > p.bound) {  // what was released now is what may be wanted next
    void* oldest = take_oldest(p);
    lock.unlock();
    std::free(oldest);
    lock.lock();
  }
  while (p.idle_bytes - p.offered_bytes > hot_bytes && offer_oldest(p)) {
  }
}

int64_t streamed_bytes() {
  // measured: 16 MiB beside a last cache of 32 MiB, 32 MiB beside one of 480, most of which is far away
#ifdef _SC_LEVEL3_CACHE_SIZE
  static const bool large = sysconf(_SC_LEVEL3_CACHE_SIZE) > (int64_t{256} << 20);
#else
  constexpr bool large = false;
#endif
  return int64_t{large ? 32 : 16} << 20;
}

size_t idle_bytes() {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  return p.idle_bytes;
}

void trim() noexcept {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  for (auto& list : p.idle) {
    for (Idle& block : list) std::free(block.data);
    list.clear();
  }
  p.idle_bytes = p.offered_bytes = 0;
}

}  // namespace arraynn
