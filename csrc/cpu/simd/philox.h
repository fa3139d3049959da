// Philox4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011) on vectors, its counter in the two
// low words: the generator of every dropout mask.
#pragma once
#include "cpu/simd/vec.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

constexpr int counters = lanes<double>;  // per step
constexpr int words = 4 * counters;      // of a step

// The four words of each counter, in the low halves of the lanes. The high halves are left to chance
// on the way: products look at the low ones only.
ARRAYNN_INLINE void philox(vu64 counter, uint64_t key, vu64 (&word)[4]) {
  const vu64 low = vu64{} + 0xffffffffu, m0 = vu64{} + 0xD2511F53u, m1 = vu64{} + 0xCD9E8D57u;
  vu64 c0 = counter, c1 = counter >> 32, c2{}, c3{};
  auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  static_for<10>([&](auto) ARRAYNN_LAMBDA {
    vu64 a = multiply_low(m0, c0), b = multiply_low(m1, c2);
    c0 = (b >> 32) ^ c1 ^ uint64_t{k0};
    c1 = b;
    c2 = (a >> 32) ^ c3 ^ uint64_t{k1};
    c3 = a;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  });
  word[0] = c0 & low;
  word[1] = c1 & low;
  word[2] = c2 & low;
  word[3] = c3 & low;
}

// The words of `counters` counters from `first` on, in order.
ARRAYNN_INLINE void words_in_order(uint64_t first, uint64_t key, uint32_t* out) {
  vu64 word[4];
  philox((vu64)iota<double>() + first, key, word);
  vu64 a = word[0] | (word[1] << 32), b = word[2] | (word[3] << 32);
  vu64 lo = zip_lo_(a, b, lane_sequence<double>{}), hi = zip_hi_(a, b, lane_sequence<double>{});
  __builtin_memcpy(out, &lo, sizeof lo);
  __builtin_memcpy(out + words / 2, &hi, sizeof hi);
}

// lanes<T> words as a mask of those that are at least `threshold`.
ARRAYNN_INLINE vi32 kept(const uint32_t* word, uint32_t threshold, float) {
  vu32 w;
  __builtin_memcpy(&w, word, sizeof w);
  return w >= threshold;
}
ARRAYNN_INLINE vi64 kept(const uint32_t* word, uint32_t threshold, double) {
  typedef uint32_t half __attribute__((vector_size(ARRAYNN_VECTOR_BYTES / 2)));
  half w;
  __builtin_memcpy(&w, word, sizeof w);
  return __builtin_convertvector(w, vi64) >= int64_t{threshold};
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
