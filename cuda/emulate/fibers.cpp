#include "fibers.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace arraynn::emulate {

thread_local const Indices* running = nullptr;

namespace {

constexpr size_t stack_bytes = size_t{256} << 10;  // touched as far as needed

// ---- switching stacks ----

#if defined(__x86_64__)
using Context = void*;
extern "C" void arraynn_switch(void** save, void* load);
asm(R"(
.text
.hidden arraynn_switch
.globl arraynn_switch
.type arraynn_switch, @function
arraynn_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size arraynn_switch, .-arraynn_switch
)");

void switch_to(Context& save, Context& load) { arraynn_switch(&save, load); }

void prepare(Context& context, char* stack, size_t number, void (*entry)()) {
  // Stacks lie a power of two apart; were their tops at one offset, they would share a few cache sets.
  auto** top = reinterpret_cast<void**>(stack + stack_bytes - 64 - number * 448 % 16384);
  *--top = nullptr;  // where entry, which never returns, would return to; also what its frame's alignment asks for
  *--top = reinterpret_cast<void*>(entry);
  context = top - 6;
}
#else
using Context = ucontext_t;
void switch_to(Context& save, Context& load) { swapcontext(&save, &load); }
void prepare(Context& context, char* stack, size_t, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = stack_bytes;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
#endif

struct Copy {
  void* to;
  const void* from;
  int bytes, zeros;
};

struct Meeting {
  uint32_t mask, arrived;
  const char* kind;
  void* slots[32];
  Thread* waiting[32];
};

struct Warp {
  std::vector<Meeting> meetings;
  uint32_t existing = 0, returned = 0;
};

struct Block {
  std::vector<Warp> warps;
  std::vector<Thread*> waiting;
  int running = 0;
  char* shared = nullptr;
};

}  // namespace

struct Thread {
  Context context;
  char* stack;
  Indices at;
  int lane;
  Warp* warp;
  Block* block;
  bool done;
  std::vector<Copy> copies;    // not yet done, oldest first
  std::vector<size_t> groups;  // how many of them each committed group holds
  size_t open;                 // in the group not yet committed
};

namespace {

// One launch at a time on each host thread.
struct Scheduler {
  Context home;
  std::vector<Thread> threads;
  std::vector<char*> stacks;
  std::vector<Thread*> ready, grid_waiting;
  std::vector<std::unique_ptr<Block>> blocks;
  int running = 0;
  uint64_t waits = 0;  // since threads last were let go on
  Thread* current = nullptr;
  Body body = nullptr;
  void* argument = nullptr;
  std::string error;
  uint64_t state = 0, launches = 0;
  void* home_stack = nullptr;
  size_t home_size = 0;

  ~Scheduler() {
    for (char* stack : stacks) munmap(stack, stack_bytes);
  }
};

thread_local Scheduler scheduler;

uint64_t seed() {
  static const uint64_t value = [] {
    const char* text = std::getenv("ARRAYNN_EMULATE_SEED");
    return text ? std::strtoull(text, nullptr, 10) : 1;
  }();
  return value;
}

uint32_t next_random() {  // xorshift64*
  uint64_t& x = scheduler.state;
  x ^= x >> 12;
  x ^= x << 25;
  x ^= x >> 27;
  return static_cast<uint32_t>((x * 0x2545F4914F6CDD1DULL) >> 32);
}

// From the running fiber back to the scheduler. Noinline: the thread-local scheduler's address is the
// same for all fibers of a host thread, but the compiler must not move stack accesses across.
__attribute__((noinline)) void leave(bool finished) {
  Thread* self = scheduler.current;
#if defined(__SANITIZE_ADDRESS__)
  if (finished) __asan_handle_no_return();  // the stack is used again: no frame may keep its marks there
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(finished ? nullptr : &fake, scheduler.home_stack, scheduler.home_size);
#else
  (void)finished;
#endif
  switch_to(self->context, scheduler.home);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

__attribute__((noinline)) void resume(Thread* thread) {
  scheduler.current = thread;
  running = &thread->at;
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, thread->stack, stack_bytes);
#endif
  switch_to(scheduler.home, thread->context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  scheduler.current = nullptr;
}

void release(std::vector<Thread*>& waiting) {
  scheduler.waits = 0;
  for (Thread* thread : waiting) scheduler.ready.push_back(thread);
  waiting.clear();
}

// A thread that has returned keeps no barrier waiting, but must not be asked for by its warp.
void finish(Thread& thread) {
  thread.done = true;
  --scheduler.running;
  Block& block = *thread.block;
  --block.running;
  uint32_t bit = 1u << thread.lane;
  thread.warp->returned |= bit;
  for (const Meeting& m : thread.warp->meetings)
    if (m.mask & bit)
      scheduler.error = std::string("emulated device: a lane returned that others wait for in ") + m.kind;
  if (block.running > 0 && static_cast<int>(block.waiting.size()) == block.running) release(block.waiting);
  if (!scheduler.grid_waiting.empty() && static_cast<int>(scheduler.grid_waiting.size()) == scheduler.running)
    release(scheduler.grid_waiting);
}

void entry() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, const_cast<const void**>(&scheduler.home_stack), &scheduler.home_size);
#endif
  scheduler.body(scheduler.argument);
  wait_copies(0);
  finish(*scheduler.current);
  leave(true);
  std::abort();
}

char* stack_of(size_t index) {
  while (scheduler.stacks.size() <= index) {
    void* stack = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED) throw std::runtime_error("emulated device: no memory for another thread's stack");
    scheduler.stacks.push_back(static_cast<char*>(stack));
  }
  return scheduler.stacks[index];
}

void add_block(dim3 grid, dim3 block, unsigned number, size_t shared_bytes, size_t first_thread) {
  auto made = std::make_unique<Block>();
  unsigned count = block.x * block.y * block.z;
  made->warps.resize((count + 31) / 32);
  made->running = static_cast<int>(count);
  // Of exactly the size asked for, so that AddressSanitizer sees the first byte behind it; and never
  // zero, as on the device.
  size_t room = (shared_bytes / 128 + 1) * 128;
  made->shared = static_cast<char*>(std::aligned_alloc(128, room));
  std::memset(made->shared, 0xFF, room);
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(made->shared + shared_bytes, room - shared_bytes);
#endif
  for (unsigned i = 0; i < count; ++i) {
    Thread& t = scheduler.threads[first_thread + i];
    t.stack = stack_of(first_thread + i);
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(t.stack, stack_bytes);  // of what the stack's last fiber left there
#endif
    t.at = {{i % block.x, i / block.x % block.y, i / (block.x * block.y)},
            {number % grid.x, number / grid.x % grid.y, number / (grid.x * grid.y)},
            block,
            grid};
    t.lane = static_cast<int>(i % 32);
    t.warp = &made->warps[i / 32];
    t.warp->existing |= 1u << t.lane;
    t.block = made.get();
    t.done = false;
    t.copies.clear();
    t.groups.clear();
    t.open = 0;
    prepare(t.context, t.stack, first_thread + i, entry);
    scheduler.ready.push_back(&t);
  }
  scheduler.running += static_cast<int>(count);
  scheduler.blocks.push_back(std::move(made));
}

void run_until_done() {
  auto& ready = scheduler.ready;
  while (!ready.empty() && scheduler.error.empty()) {
    size_t pick = next_random() % ready.size();
    Thread* thread = ready[pick];
    ready[pick] = ready.back();
    ready.pop_back();
    resume(thread);
  }
  if (scheduler.error.empty() && scheduler.running > 0)
    scheduler.error = "emulated device: threads wait for each other in vain (a barrier not reached by all of a block)";
  for (auto& block : scheduler.blocks) {
    std::free(block->shared);
  }
  scheduler.blocks.clear();
  ready.clear();
  scheduler.grid_waiting.clear();
  if (!scheduler.error.empty()) {
    std::string text;
    text.swap(scheduler.error);
    scheduler.running = 0;
    throw std::runtime_error(text);
  }
}

void perform(const Copy& copy) {
  if (copy.bytes) std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
  if (copy.zeros) std::memset(static_cast<char*>(copy.to) + copy.bytes, 0, static_cast<size_t>(copy.zeros));
}

}  // namespace

int lane() { return scheduler.current->lane; }
void* shared_memory() { return scheduler.current->block->shared; }
uint32_t random() { return next_random(); }

void block_barrier() {
  Thread* self = scheduler.current;
  Block& block = *self->block;
  block.waiting.push_back(self);
  if (static_cast<int>(block.waiting.size()) == block.running) release(block.waiting);
  leave(false);
}

void grid_barrier() {
  scheduler.grid_waiting.push_back(scheduler.current);
  if (static_cast<int>(scheduler.grid_waiting.size()) == scheduler.running) release(scheduler.grid_waiting);
  leave(false);
}

void pass_on() {
  if (++scheduler.waits > 100000000) scheduler.error = "emulated device: a thread waits for a value in vain";
  scheduler.ready.push_back(scheduler.current);
  leave(false);
}

void warp_meet(uint32_t mask, const char* kind, void* mine, Complete complete) {
  Thread* self = scheduler.current;
  Warp& warp = *self->warp;
  uint32_t bit = 1u << self->lane;
  if (!(mask & bit) || (mask & warp.returned)) {
    scheduler.error = std::string("emulated device: ") + kind +
                      " with a mask that leaves out its own lane, or names one that has returned";
    leave(false);
  }
  Meeting* meeting = nullptr;
  for (Meeting& m : warp.meetings)
    if (m.mask == mask) meeting = &m;
  if (!meeting) {
    warp.meetings.push_back({mask, 0, kind, {}, {}});
    meeting = &warp.meetings.back();
  }
  if (std::strcmp(meeting->kind, kind) != 0) {
    scheduler.error = std::string("emulated device: lanes of a warp meet in ") + kind + " and in " + meeting->kind;
    leave(false);
  }
  meeting->arrived |= bit;
  meeting->slots[self->lane] = mine;
  meeting->waiting[self->lane] = self;
  if ((meeting->mask & warp.existing & ~meeting->arrived) != 0) {
    leave(false);
    return;
  }
  Meeting done = *meeting;
  *meeting = warp.meetings.back();
  warp.meetings.pop_back();
  complete(done.slots, done.arrived);
  for (int i = 0; i < 32; ++i)
    if (done.waiting[i] && done.waiting[i] != self) scheduler.ready.push_back(done.waiting[i]);
}

void queue_copy(void* to, const void* from, int bytes, int zeros) {
  Copy copy{to, from, bytes, zeros};
  if (next_random() % 2) {
    perform(copy);
    return;
  }
  scheduler.current->copies.push_back(copy);
  ++scheduler.current->open;
}

void commit_copies() {
  Thread& self = *scheduler.current;
  self.groups.push_back(self.open);
  self.open = 0;
}

void wait_copies(int groups_left) {
  Thread& self = *scheduler.current;
  size_t done = 0;
  while (static_cast<int>(self.groups.size()) > groups_left) {
    for (size_t i = 0; i < self.groups.front(); ++i) perform(self.copies[done++]);
    self.groups.erase(self.groups.begin());
  }
  self.copies.erase(self.copies.begin(), self.copies.begin() + static_cast<long>(done));
}

void run(dim3 grid, dim3 block, size_t shared_bytes, bool cooperative, Body body, void* context) {
  unsigned blocks = grid.x * grid.y * grid.z, threads = block.x * block.y * block.z;
  if (threads == 0 || threads > 1024) throw std::runtime_error("emulated device: a block has 1 to 1024 threads");
  scheduler.body = body;
  scheduler.argument = context;
  scheduler.state = (seed() * 0x9E3779B97F4A7C15ULL + ++scheduler.launches * 0xD1B54A32D192ED03ULL) | 1;
  size_t wanted = static_cast<size_t>(threads) * (cooperative ? blocks : 1);
  if (scheduler.threads.size() < wanted) scheduler.threads.resize(wanted);
  if (cooperative) {
    for (unsigned i = 0; i < blocks; ++i) add_block(grid, block, i, shared_bytes, static_cast<size_t>(i) * threads);
    run_until_done();
    return;
  }
  // A stride that has no factor in common with the count visits every block once, in no plain order.
  unsigned stride = blocks > 2 ? next_random() % (blocks - 1) + 1 : 1, start = next_random() % blocks;
  auto gcd = [](unsigned a, unsigned b) {
    while (b) {
      unsigned rest = a % b;
      a = b;
      b = rest;
    }
    return a;
  };
  while (gcd(stride, blocks) != 1) ++stride;
  for (unsigned i = 0; i < blocks; ++i) {
    auto number = static_cast<unsigned>((start + static_cast<uint64_t>(i) * stride) % blocks);
    add_block(grid, block, number, shared_bytes, 0);
    run_until_done();
  }
}

}  // namespace arraynn::emulate
