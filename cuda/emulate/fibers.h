// The host plays the device: every CUDA thread is a fiber, and blocks run one after the other (those
// of a cooperative launch all at once). Fibers run in a shuffled, seeded order from one point where
// they wait for each other to the next, so that what lacks a barrier meets the wrong order soon.
// ARRAYNN_EMULATE_SEED sets the seed.
#pragma once
#include <cstddef>
#include <cstdint>

#include "cuda_types.h"

namespace arraynn::emulate {

struct Thread;

struct Indices {
  uint3 thread, block;
  dim3 block_size, grid_size;
};

// Where the running fiber is in the launch. Kernels ask for it at every turn, so it is found without a
// call: in this library's own part of the thread's storage.
extern thread_local const Indices* running __attribute__((tls_model("initial-exec")));
inline const Indices& indices() { return *running; }
int lane();
// The dynamic shared memory of the running fiber's block.
void* shared_memory();
// A random number of the launch's sequence.
uint32_t random();

// What has to wait for each other: the block; the grid of a cooperative launch; lanes of a warp.
void block_barrier();
void grid_barrier();
// Lets the others run, for one that waits for a value in memory to change.
void pass_on();

// The lanes named by `mask` that are still running meet; the last one calls complete(context, slots),
// where slots[lane] is what each passed as `mine` and null for the others. `kind` tells one operation
// from another: lanes that meet in different ones are reported.
using Complete = void (*)(void* const* slots, uint32_t mask);
void warp_meet(uint32_t mask, const char* kind, void* mine, Complete complete);

// Copies that the fiber has queued (cp.async): done at once or when waited for, at random.
void queue_copy(void* to, const void* from, int bytes, int zeros);
void commit_copies();
void wait_copies(int groups_left);

// Runs body(context) once for each thread. Throws std::runtime_error where fibers wait for each other
// in vain.
using Body = void (*)(void* context);
void run(dim3 grid, dim3 block, size_t shared_bytes, bool cooperative, Body body, void* context);

}  // namespace arraynn::emulate
