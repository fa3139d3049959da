#include "core/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

namespace arraynn {

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

struct Pool {
  std::mutex mutex;
  std::vector<void*> idle[class_count];
  size_t idle_bytes = 0;
  size_t bound;

  Pool() {
    size_t memory = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
    bound = std::min(memory / 8, size_t{1} << 30);
  }
};

// Never destroyed: arrays may outlive the module at interpreter exit.
Pool& pool() {
  static Pool* instance = new Pool;
  return *instance;
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
  if (capacity < bytes) throw std::bad_alloc();
  Pool& p = pool();
  {
    std::lock_guard<std::mutex> lock(p.mutex);
    auto& list = p.idle[size_class];
    if (!list.empty()) {
      void* data = list.back();
      list.pop_back();
      p.idle_bytes -= capacity;
      return {data, capacity};
    }
  }
  void* data = fresh(capacity);
  if (!data) {
    trim();
    data = fresh(capacity);
  }
  if (!data) throw std::bad_alloc();
  return {data, capacity};
}

void release(Block block) noexcept {
  Pool& p = pool();
  {
    std::lock_guard<std::mutex> lock(p.mutex);
    if (p.idle_bytes + block.capacity <= p.bound) {
      if (block.capacity >= huge_page) madvise(block.data, block.capacity / huge_page * huge_page, MADV_FREE);
      try {
        p.idle[class_of(block.capacity)].push_back(block.data);
        p.idle_bytes += block.capacity;
        return;
      } catch (const std::bad_alloc&) {
      }
    }
  }
  std::free(block.data);
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
    for (void* data : list) std::free(data);
    list.clear();
  }
  p.idle_bytes = 0;
}

}  // namespace arraynn
