// Division by a number that the host knows: a product and a shift on the device in place of some twenty
// instructions.
#pragma once
#include <cstdint>

#include "intrinsics.h"

namespace arraynn::cuda {

// divide(n) = n / divisor for 0 <= n, by one of at least 1.
template <class I>
struct Divider;

// With 2^shift the power of two from the divisor up, factor = floor(2^(31 + shift) / divisor) + 1 is below
// 2^32, and too large by a fraction of at most 1 / 2^31, which no n < 2^31 turns into a unit (Granlund and
// Montgomery, "Division by Invariant Integers using Multiplication", 1994).
template <>
struct Divider<int32_t> {
  uint32_t divisor = 1, factor = 0x80000001u, shift = 0;

  Divider() = default;
  explicit Divider(int64_t by) : divisor(static_cast<uint32_t>(by)) {
    while (static_cast<uint64_t>(by) > uint64_t{1} << shift) ++shift;
    factor = static_cast<uint32_t>((uint64_t{1} << (31 + shift)) / divisor + 1);
  }
  __device__ __forceinline__ int32_t divide(int32_t n) const {
    return static_cast<int32_t>(__umulhi(static_cast<uint32_t>(n) << 1, factor) >> shift);
  }
};

template <>
struct Divider<int64_t> {
  int64_t divisor = 1;

  Divider() = default;
  explicit Divider(int64_t by) : divisor(by) {}
  __device__ __forceinline__ int64_t divide(int64_t n) const { return n / divisor; }
};

// n = quotient * divisor + rest: n becomes the quotient.
template <class I>
__device__ __forceinline__ I divide_off(I& n, const Divider<I>& by) {
  I quotient = by.divide(n), rest = n - quotient * static_cast<I>(by.divisor);
  n = quotient;
  return rest;
}

}  // namespace arraynn::cuda
