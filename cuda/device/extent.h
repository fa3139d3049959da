// Elements next to each other, walked in packs of 16 bytes from the first line of 16 bytes on; what lies
// before it and behind the last whole pack (the edges) is walked element by element.
#pragma once
#include <cstdint>
#include <type_traits>

#include "device/types.h"

namespace arraynn::cuda {

// N elements as they lie in memory. Those of 16 bits are held in whole words: taken apart only when they
// are computed with, so that no load is waited for before the next one is under way.
template <class T, int N, bool words = sizeof(T) == 2 && N % 2 == 0>
struct alignas(sizeof(T) * N) Raw {
  T v[N];

  __device__ __forceinline__ compute_t<T> get(int j) const { return widen(v[j]); }
  static __device__ __forceinline__ Raw of(const compute_t<T> (&x)[N]) {
    Raw result;
#pragma unroll
    for (int j = 0; j < N; ++j) result.v[j] = narrow<T>(x[j]);
    return result;
  }
};

template <class T, int N>
struct alignas(sizeof(T) * N) Raw<T, N, true> {
  uint32_t v[N / 2];

  __device__ __forceinline__ float get(int j) const {
    uint32_t word = v[j / 2];
    if constexpr (std::is_same_v<T, bfloat16>) return __uint_as_float(j % 2 ? word & 0xFFFF0000u : word << 16);
    return widen(T{static_cast<uint16_t>(j % 2 ? word >> 16 : word & 0xFFFFu)});
  }
  static __device__ __forceinline__ Raw of(const float (&x)[N]) {
    Raw result;
#pragma unroll
    for (int j = 0; j < N; j += 2)
      result.v[j / 2] = narrow<T>(x[j]).bits | static_cast<uint32_t>(narrow<T>(x[j + 1]).bits) << 16;
    return result;
  }
};

template <int N, class T>
__device__ __forceinline__ Raw<T, N> load_raw(const T* p) {
  return load_whole<Raw<T, N>>(p);
}
template <int N, class T>
__device__ __forceinline__ void store_raw(T* p, const Raw<T, N>& raw) {
  store_whole(p, raw);
}

// f(0), f(1), ..., each rounded to T. Loops over packs have to be unrolled by name: the compiler does it too
// late on its own to make one access of a pack's.
template <class T, int N, class F>
__device__ __forceinline__ Raw<T, N> raw_of(const F& f) {
  compute_t<T> x[N];
#pragma unroll
  for (int j = 0; j < N; ++j) x[j] = f(j);
  return Raw<T, N>::of(x);
}

// How many elements a walker is given at a time, known when it is compiled.
template <int N>
using Elements = std::integral_constant<int, N>;

template <class T>
struct Extent {
  static constexpr int width = pack_size<T>;
  int64_t size = 0, packs = 0;
  int head = 0;  // elements before the first pack

  Extent() = default;
  // phase: how many elements behind a line of 16 bytes the first one lies. Without `vector` all are edges.
  __host__ __device__ Extent(int64_t size_, int phase, bool vector) : size(size_) {
    if (!vector) return;
    head = -phase & (width - 1);
    if (head > size) head = static_cast<int>(size);
    packs = (size - head) / width;
  }
  __host__ __device__ int64_t edges() const { return size - packs * width; }
  __device__ int64_t at(int64_t pack) const { return head + pack * width; }
  __device__ int64_t edge(int64_t i) const { return i < head ? i : i + packs * width; }

  // The share of one of several threads: use(Elements, at, load(Elements, at)) for its packs and then for
  // its edges, `unroll` loads before the first use.
  template <int unroll, class Load, class Use>
  __device__ __forceinline__ void walk(int64_t thread, int64_t threads, const Load& load, const Use& use) const {
    constexpr Elements<width> whole{};
    constexpr Elements<1> one{};
#pragma unroll 1
    for (int64_t first = thread; first < packs; first += unroll * threads) {
      decltype(load(whole, int64_t{})) held[unroll];
#pragma unroll
      for (int u = 0; u < unroll; ++u)
        if (first + u * threads < packs) held[u] = load(whole, at(first + u * threads));
#pragma unroll
      for (int u = 0; u < unroll; ++u)
        if (first + u * threads < packs) use(whole, at(first + u * threads), held[u]);
    }
#pragma unroll 1
    for (int64_t i = thread; i < edges(); i += threads) use(one, edge(i), load(one, edge(i)));
  }

  // By the whole grid.
  template <int unroll, class Load, class Use>
  __device__ __forceinline__ void walk_grid(const Load& load, const Use& use) const {
    int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
    walk<unroll>(static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, threads, load, use);
  }
};

// How many elements p lies behind a line of 16 bytes.
template <class T>
int phase_of(const T* p) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(p) % 16 / sizeof(T));
}

// Whether arrays lie alike, so that the packs of one are packs of all; null pointers are left out.
template <class T, class... P>
bool alike(const T* first, const P*... others) {
  return ((!others || phase_of(others) == phase_of(first)) && ...);
}

template <class T, class... P>
Extent<T> extent_of(int64_t size, const T* first, const P*... others) {
  return Extent<T>(size, phase_of(first), alike(first, others...));
}

}  // namespace arraynn::cuda
