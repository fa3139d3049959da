// 16-bit floats and float32, in integer steps that every instruction set has. Subnormal halves are scaled by an
// addition to 0.5, whose last bit is the least float16, so that no operand or result is a subnormal float32.
#pragma once
#include "cpu/simd/vec.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

typedef uint16_t vu16 __attribute__((vector_size(ARRAYNN_VECTOR_BYTES / 2)));  // as many as floats in a vector

// widen(half) is the float's bits, round(bits) the nearest half, ties to even.
struct BFloat16 {
  static ARRAYNN_INLINE vu32 widen(vu32 half) { return half << 16; }
  static ARRAYNN_INLINE vu32 round(vu32 bits) {
    vu32 half = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : half;  // a NaN stays one, and is quiet
  }
};

struct Float16 {
  static constexpr uint32_t bias = (127 - 15) << 23;  // between the exponents, where float32 has its own
  static constexpr uint32_t one_half = 0x3f000000;    // the bits of 0.5
  static ARRAYNN_INLINE vu32 widen(vu32 half) {
    vu32 magnitude = half & 0x7fff, sign = (half & 0x8000) << 16;
    vu32 normal = (magnitude << 13) + bias;
    vf32 scaled = (vf32)(magnitude | one_half) - 0.5f;
    vu32 finite = magnitude < 0x400 ? (vu32)scaled : normal;
    return sign | (magnitude >= 0x7c00 ? normal + bias : finite);
  }
  static ARRAYNN_INLINE vu32 round(vu32 bits) {
    vu32 magnitude = bits & 0x7fffffff, sign = bits >> 16 & 0x8000;
    vu32 normal = (magnitude + 0xfff + (magnitude >> 13 & 1) - bias) >> 13;  // 65520 and more become inf
    vu32 scaled = (vu32)((vf32)magnitude + 0.5f) - one_half;
    vu32 half = magnitude < bias + (1u << 23) ? scaled : normal;
    half = half > 0x7c00 ? (vu32{} + 0x7c00) : half;
    return sign | (magnitude > 0x7f800000 ? (vu32{} + 0x7e00) : half);
  }
};

// The first `count` halves as the bits of a vector's lanes, the others zero; count is what for_vectors gives.
template <class Count>
ARRAYNN_INLINE vu32 load_halves(const uint16_t* from, Count count) {
  vu16 v{};
  __builtin_memcpy(&v, from, static_cast<size_t>(count) * sizeof *from);
  return __builtin_convertvector(v, vu32);
}
template <class Count>
ARRAYNN_INLINE void store_halves(uint16_t* to, vu32 v, Count count) {
  vu16 narrow = __builtin_convertvector(v, vu16);
  __builtin_memcpy(to, &narrow, static_cast<size_t>(count) * sizeof *to);
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
