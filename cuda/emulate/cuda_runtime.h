// What the .cu sources use of CUDA's language and runtime, for the host. Found in place of CUDA's own
// header by the include path of the emulated build.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cuda_types.h"
#include "fibers.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

#define threadIdx (::arraynn::emulate::indices().thread)
#define blockIdx (::arraynn::emulate::indices().block)
#define blockDim (::arraynn::emulate::indices().block_size)
#define gridDim (::arraynn::emulate::indices().grid_size)
constexpr int warpSize = 32;

inline void __syncthreads() { ::arraynn::emulate::block_barrier(); }

// ---- warps ----

namespace arraynn::emulate {

template <class T>
struct Shuffle {
  T value, result;
  int source;  // lane
};

template <class T>
T shuffle(uint32_t mask, const char* kind, T value, int source) {
  Shuffle<T> mine{value, value, source};
  warp_meet(mask, kind, &mine, [](void* const* slots, uint32_t) {
    for (int i = 0; i < 32; ++i) {
      auto* to = static_cast<Shuffle<T>*>(slots[i]);
      if (!to) continue;
      // A lane that takes no part has nothing to give: on the device that value is undefined.
      auto* from = static_cast<Shuffle<T>*>(slots[to->source]);
      if (from)
        to->result = from->value;
      else
        std::memset(static_cast<void*>(&to->result), 0xFF, sizeof(T));
    }
  });
  return mine.result;
}

struct Vote {
  bool mine;
  uint32_t result;
};

inline uint32_t ballot(uint32_t mask, const char* kind, bool predicate) {
  Vote vote{predicate, 0};
  warp_meet(mask, kind, &vote, [](void* const* slots, uint32_t) {
    uint32_t bits = 0;
    for (int i = 0; i < 32; ++i)
      if (slots[i] && static_cast<Vote*>(slots[i])->mine) bits |= 1u << i;
    for (int i = 0; i < 32; ++i)
      if (slots[i]) static_cast<Vote*>(slots[i])->result = bits;
  });
  return vote.result;
}

}  // namespace arraynn::emulate

inline void __syncwarp(unsigned mask = 0xFFFFFFFF) { ::arraynn::emulate::ballot(mask, "__syncwarp", false); }
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return ::arraynn::emulate::ballot(mask, "__ballot_sync", predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate) {
  return ::arraynn::emulate::ballot(mask, "__any_sync", predicate != 0) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return ::arraynn::emulate::ballot(mask, "__all_sync", predicate == 0) == 0;
}
// width: a power of two; lanes look at their own group of so many.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  int lane = ::arraynn::emulate::lane(), group = lane & ~(width - 1);
  return ::arraynn::emulate::shuffle(mask, "__shfl_sync", value, group + (source & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  int lane = ::arraynn::emulate::lane(), source = lane ^ lanes;
  if (source / width > lane / width) source = lane;
  return ::arraynn::emulate::shuffle(mask, "__shfl_xor_sync", value, source);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  int lane = ::arraynn::emulate::lane(), source = lane + static_cast<int>(delta);
  if (source / width != lane / width) source = lane;
  return ::arraynn::emulate::shuffle(mask, "__shfl_down_sync", value, source);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  int lane = ::arraynn::emulate::lane(), source = lane - static_cast<int>(delta);
  if (source < 0 || source / width != lane / width) source = lane;
  return ::arraynn::emulate::shuffle(mask, "__shfl_up_sync", value, source);
}

// ---- arithmetic ----

using std::max;
using std::min;
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float x, float y) { return x / y; }
// The distribution function of the normal distribution, accurate in its tail.
inline float normcdff(float x) { return static_cast<float>(0.5 * std::erfc(-x * 0.70710678118654752)); }
inline double normcdf(double x) { return static_cast<double>(0.5L * std::erfc(-x * 0.707106781186547524401L)); }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }
inline uint64_t __umul64hi(uint64_t a, uint64_t b) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __float_as_int(float x) {
  int bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline unsigned __float_as_uint(float x) { return static_cast<unsigned>(__float_as_int(x)); }
inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, T value) {
  *p = value;
}
template <class T>
void __stcg(T* p, T value) {
  *p = value;
}

inline void __threadfence() {}
// Fibers of one host thread never interrupt each other.
inline int atomicAdd(int* p, int value) { return (*p += value) - value; }
inline unsigned atomicAdd(unsigned* p, unsigned value) { return (*p += value) - value; }
inline unsigned long long atomicMin(unsigned long long* p, unsigned long long value) {
  unsigned long long before = *p;
  if (value < before) *p = value;
  return before;
}
