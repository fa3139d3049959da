// The element types of kernels, and how they are read, computed with and written: 16-bit floats are
// stored in 16 bits and computed with in float.
#pragma once
#include "intrinsics.h"

namespace arraynn::cuda {

struct float16 {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};

template <class T>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};
template <class T>
using compute_t = typename Compute<T>::type;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(float16 x) { return half_to_float(x.bits); }
__device__ __forceinline__ float widen(bfloat16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }

__device__ __forceinline__ void assign(float& to, float x) { to = x; }
__device__ __forceinline__ void assign(double& to, double x) { to = x; }
__device__ __forceinline__ void assign(float16& to, float x) { to.bits = float_to_half(x); }
__device__ __forceinline__ void assign(bfloat16& to, float x) { to.bits = float_to_bfloat(x); }

// Rounded to T, to nearest even.
template <class T>
__device__ __forceinline__ T narrow(compute_t<T> x) {
  T result;
  assign(result, x);
  return result;
}

// N elements next to each other, read and written as one access of up to 16 bytes where they are aligned.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};
template <class T>
inline constexpr int pack_size = 16 / static_cast<int>(sizeof(T));

template <int N, class T>
__device__ __forceinline__ Pack<T, N> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, N>*>(p);
}
// The same from where elements may not be aligned as a pack.
template <int N, bool Aligned, class T>
__device__ __forceinline__ Pack<T, N> load_elements(const T* p) {
  if constexpr (Aligned) {
    return load_pack<N>(p);
  } else {
    Pack<T, N> pack;
#pragma unroll
    for (int e = 0; e < N; ++e) pack.v[e] = p[e];
    return pack;
  }
}
template <int N, class T>
__device__ __forceinline__ void store_pack(T* p, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(p) = pack;
}

}  // namespace arraynn::cuda
