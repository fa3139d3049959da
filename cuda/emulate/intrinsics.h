// What needs instructions of its own on the device, for the host: shared memory, 16-bit floats,
// asynchronous copies, the tensor cores' products, the grid's barrier. hardware/intrinsics.h holds the
// same functions for the device.
#pragma once
#include "cuda_runtime.h"

namespace arraynn::cuda {

// The block's dynamic shared memory: as many bytes as its launch asked for.
template <class T>
T* shared() {
  return static_cast<T*>(emulate::shared_memory());
}

inline void grid_barrier() { emulate::grid_barrier(); }

// The barrier of some of a cooperative launch's blocks: each adds one to `arrived` and waits until it is
// `all`. It is zero before the launch; every barrier asks for as many more as there are blocks.
inline void group_barrier(uint32_t* arrived, uint32_t all) {
  emulate::block_barrier();
  const emulate::Indices& at = emulate::indices();
  if (at.thread.x + at.thread.y + at.thread.z == 0) {
    ++*arrived;
    while (static_cast<int32_t>(*arrived - all) < 0) emulate::pass_on();
  }
  emulate::block_barrier();
}

// A value of 2, 4, 8 or 16 bytes in global memory, read or written as one access, at an address aligned to
// its size and whatever the type of what lies there.
template <class Value>
Value load_whole(const void* from) {
  if (reinterpret_cast<uintptr_t>(from) % sizeof(Value) != 0) __builtin_trap();
  Value value;
  std::memcpy(static_cast<void*>(&value), from, sizeof value);
  return value;
}
template <class Value>
void store_whole(void* to, const Value& value) {
  if (reinterpret_cast<uintptr_t>(to) % sizeof(Value) != 0) __builtin_trap();
  std::memcpy(to, &value, sizeof value);
}

// ---- 16-bit floats ----

inline float half_to_float(uint16_t bits) {
  uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16, exponent = (bits >> 10) & 31, mantissa = bits & 0x3FFu;
  if (exponent == 31) return __uint_as_float(sign | 0x7F800000u | mantissa << 13);
  if (exponent) return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
  float value = static_cast<float>(mantissa) * 0x1p-24f;
  return sign ? -value : value;
}

inline uint16_t float_to_half(float value) {
  uint32_t bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7FFFu);
  if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);  // rounds to infinity
  if (magnitude < 0x38800000u) {                                               // subnormal: rint rounds to even
    float units = std::rint(__uint_as_float(magnitude) * 0x1p24f);
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(units));
  }
  uint32_t rounded = magnitude + 0xFFFu + (magnitude >> 13 & 1u);
  return static_cast<uint16_t>(sign | ((rounded >> 13) - (112u << 10)));
}

inline uint16_t float_to_bfloat(float value) {
  uint32_t bits = __float_as_uint(value);
  bool is_nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
  return static_cast<uint16_t>(is_nan ? 0x7FFFu : (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

// ---- asynchronous copies, global to shared memory ----

// Bytes (4, 8 or 16) from `from`, of which those behind `valid` become zero without being read.
template <int Bytes>
inline void copy_async(void* to_shared, const void* from, int valid = Bytes) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  emulate::queue_copy(to_shared, from, valid, Bytes - valid);
}
inline void commit_async() { emulate::commit_copies(); }
// Waits until at most `Left` of the thread's committed groups are still under way.
template <int Left>
inline void wait_async() {
  emulate::wait_copies(Left);
}

// ---- tensor cores ----
// D = A B + D for one warp. Fragments as in the PTX manual, "Matrix fragments for mma.m16n8k16" (and
// k8 for TF32): with g = lane / 4 and t = lane % 4,
//   d[0..1] row g, columns 2t, 2t+1; d[2..3] row g + 8
//   16-bit: a[0] row g, k 2t..2t+1; a[1] row g+8; a[2] row g, k 2t+8..2t+9; a[3] row g+8, k 2t+8..2t+9
//           b[0] k 2t..2t+1 of column g; b[1] k 2t+8..2t+9
//   TF32:   a[0] (g, t); a[1] (g+8, t); a[2] (g, t+4); a[3] (g+8, t+4); b[0] (t, g); b[1] (t+4, g)

}  // namespace arraynn::cuda

namespace arraynn::emulate {

struct Fragments {
  float* d;
  const uint32_t *a, *b;
};

template <int K, class Element>
void multiply(void* const* slots, Element element) {
  float a[16][K], b[K][8];
  for (int lane = 0; lane < 32; ++lane) {
    auto* f = static_cast<const Fragments*>(slots[lane]);
    int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i)
      for (int part = 0; part < K / 8; ++part) {
        int k = K == 16 ? 2 * t + 8 * (i / 2) + part : t + 4 * (i / 2);
        a[g + 8 * (i % 2)][k] = element(f->a[i], part);
      }
    for (int i = 0; i < 2; ++i)
      for (int part = 0; part < K / 8; ++part) {
        int k = K == 16 ? 2 * t + 8 * i + part : t + 4 * i;
        b[k][g] = element(f->b[i], part);
      }
  }
  for (int lane = 0; lane < 32; ++lane) {
    auto* f = static_cast<const Fragments*>(slots[lane]);
    for (int i = 0; i < 4; ++i) {
      int row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
      float sum = f->d[i];
      for (int k = 0; k < K; ++k) sum += a[row][k] * b[k][column];
      f->d[i] = sum;
    }
  }
}

inline void check_full_warp(uint32_t mask) {
  if (mask != 0xFFFFFFFFu) __builtin_trap();  // the device's behaviour is undefined
}

}  // namespace arraynn::emulate

namespace arraynn::cuda {

inline void mma_float16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulate::Fragments f{d, a, b};
  emulate::warp_meet(0xFFFFFFFFu, "mma_float16", &f, [](void* const* slots, uint32_t mask) {
    emulate::check_full_warp(mask);
    emulate::multiply<16>(
        slots, [](uint32_t word, int part) { return half_to_float(static_cast<uint16_t>(word >> 16 * part)); });
  });
}

inline void mma_bfloat16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulate::Fragments f{d, a, b};
  emulate::warp_meet(0xFFFFFFFFu, "mma_bfloat16", &f, [](void* const* slots, uint32_t mask) {
    emulate::check_full_warp(mask);
    emulate::multiply<16>(
        slots, [](uint32_t word, int part) { return __uint_as_float(part ? word & 0xFFFF0000u : word << 16); });
  });
}

// The tensor cores look at 10 bits of the mantissa, whatever the others are.
inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulate::Fragments f{d, a, b};
  emulate::warp_meet(0xFFFFFFFFu, "mma_tf32", &f, [](void* const* slots, uint32_t mask) {
    emulate::check_full_warp(mask);
    emulate::multiply<8>(slots, [](uint32_t word, int) { return __uint_as_float(word & 0xFFFFE000u); });
  });
}

// The nearest TF32 number, ties away from zero (cvt.rna.tf32.f32), as the bits of a float.
inline uint32_t to_tf32(float value) {
  uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7F800000u) == 0x7F800000u) return bits;
  return (bits + 0x1000u) & 0xFFFFE000u;
}

// Four 8 x 8 matrices of 16-bit elements from shared memory: lane 8 m + r passes the address of row r of
// matrix m (16 bytes, aligned), and gets in word m the elements 2t, 2t+1 of row g. Transposed: the
// elements (2t, g) and (2t+1, g).
inline void load_matrices(uint32_t (&words)[4], const void* row) {
  struct Slot {
    const void* row;
    uint32_t* words;
  } mine{row, words};
  emulate::warp_meet(0xFFFFFFFFu, "load_matrices", &mine, [](void* const* slots, uint32_t mask) {
    emulate::check_full_warp(mask);
    for (int lane = 0; lane < 32; ++lane)
      for (int m = 0; m < 4; ++m) {
        auto* from = static_cast<const char*>(static_cast<Slot*>(slots[8 * m + lane / 4])->row);
        std::memcpy(&static_cast<Slot*>(slots[lane])->words[m], from + 4 * (lane % 4), 4);
      }
  });
}
inline void load_matrices_transposed(uint32_t (&words)[4], const void* row) {
  struct Slot {
    const void* row;
    uint32_t* words;
  } mine{row, words};
  emulate::warp_meet(0xFFFFFFFFu, "load_matrices_transposed", &mine, [](void* const* slots, uint32_t mask) {
    emulate::check_full_warp(mask);
    for (int lane = 0; lane < 32; ++lane)
      for (int m = 0; m < 4; ++m) {
        uint16_t low, high;
        int g = lane / 4, t = lane % 4;
        std::memcpy(&low, static_cast<const char*>(static_cast<Slot*>(slots[8 * m + 2 * t])->row) + 2 * g, 2);
        std::memcpy(&high, static_cast<const char*>(static_cast<Slot*>(slots[8 * m + 2 * t + 1])->row) + 2 * g, 2);
        static_cast<Slot*>(slots[lane])->words[m] = low | static_cast<uint32_t>(high) << 16;
      }
  });
}

}  // namespace arraynn::cuda
