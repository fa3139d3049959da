// The recycling allocator behind outputs and scratch. A fresh page costs a fault, which is more
// than many ops take; so blocks come back here instead of going back to the system.
#pragma once
#include <cstddef>
#include <cstdint>
#include <new>

namespace arraynn {

struct Block {
  void* data;
  size_t capacity;
};

class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(size_t bytes);
  const char* what() const noexcept override { return text_; }

 private:
  char text_[64];
};

// 64-byte aligned; 2 MiB aligned and advised for huge pages from 2 MiB up. Throws OutOfMemory.
Block acquire(size_t bytes);
void release(Block block) noexcept;

// Idle bytes are bounded (an eighth of the memory, at most 1 GiB): beyond that what has been idle longest is
// freed. Before that its pages are marked free (MADV_FREE), so that the system takes them by itself under
// pressure; and all idle blocks go back before an allocation fails.
size_t idle_bytes();
void trim() noexcept;  // return every idle block to the system

// From so many bytes on a result is stored past the cache, which would not hold it until the next op.
int64_t streamed_bytes();

// A block held for the length of a call.
class Scratch {
 public:
  explicit Scratch(size_t bytes) : block_(bytes ? acquire(bytes) : Block{nullptr, 0}) {}
  ~Scratch() {
    if (block_.data) release(block_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* data() const { return block_.data; }

 private:
  Block block_;
};

}  // namespace arraynn
