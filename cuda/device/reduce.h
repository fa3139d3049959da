// Sums and maxima over a warp and over a block, always in the same order. All threads get the result.
#pragma once
#include "device/types.h"

namespace arraynn::cuda {

inline constexpr unsigned full_warp = 0xFFFFFFFFu;

struct Add {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

// NaN wins.
struct Max {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a > b || a != a ? a : b;
  }
};

// NaN is passed over.
struct MaxNumber {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
  __device__ double operator()(double a, double b) const { return fmax(a, b); }
};

// Over groups of `Width` lanes; every lane of the warp takes part.
template <int Width = 32, class T, class F>
__device__ __forceinline__ T warp_reduce(T value, F f) {
#pragma unroll
  for (int lanes = Width / 2; lanes > 0; lanes /= 2) value = f(value, __shfl_xor_sync(full_warp, value, lanes));
  return value;
}

// Over a block of whole warps. `room`: 32 elements of shared memory, which the next call may use again.
template <class T, class F>
__device__ __forceinline__ T block_reduce(T value, F f, T* room) {
  int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  int warps = static_cast<int>(blockDim.x / 32);
  value = warp_reduce(value, f);
  if (lane == 0) room[warp] = value;
  __syncthreads();
  T total = room[0];
  for (int i = 1; i < warps; ++i) total = f(total, room[i]);
  __syncthreads();
  return total;
}

// The sum of numbers that other blocks left, by a block.
__device__ __forceinline__ double block_sum(const double* numbers, int count, double* room) {
  double sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) sum += numbers[i];
  return block_reduce(sum, Add{}, room);
}

}  // namespace arraynn::cuda
