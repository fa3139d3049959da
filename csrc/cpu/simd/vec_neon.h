// NEON on aarch64: 32 registers of 4 floats or 2 doubles, with FMA.
#pragma once
#include <arm_neon.h>

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

#define ARRAYNN_HAS_FMA
ARRAYNN_INLINE vf32 fma(vf32 a, vf32 b, vf32 c) {
  return (vf32)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
ARRAYNN_INLINE vf64 fma(vf64 a, vf64 b, vf64 c) {
  return (vf64)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
// As x86 does it: the second operand where either is NaN.
ARRAYNN_INLINE vf32 max(vf32 a, vf32 b) { return a > b ? a : b; }
ARRAYNN_INLINE vf64 max(vf64 a, vf64 b) { return a > b ? a : b; }
ARRAYNN_INLINE vf32 min(vf32 a, vf32 b) { return a < b ? a : b; }
ARRAYNN_INLINE vf64 min(vf64 a, vf64 b) { return a < b ? a : b; }
ARRAYNN_INLINE vf32 sqrt(vf32 a) { return (vf32)vsqrtq_f32((float32x4_t)a); }
ARRAYNN_INLINE vf64 sqrt(vf64 a) { return (vf64)vsqrtq_f64((float64x2_t)a); }
ARRAYNN_INLINE vf32 nearest(vf32 a) { return (vf32)vrndnq_f32((float32x4_t)a); }
ARRAYNN_INLINE vf64 nearest(vf64 a) { return (vf64)vrndnq_f64((float64x2_t)a); }
// As many bytes as the vector has lanes, each in the lane's low bits; and back.
ARRAYNN_INLINE void load_bytes(const uint8_t* p, vi32& v) { v = vi32{p[0], p[1], p[2], p[3]}; }
ARRAYNN_INLINE void load_bytes(const uint8_t* p, vi64& v) { v = vi64{p[0], p[1]}; }
ARRAYNN_INLINE void store_bytes(uint8_t* p, vi32 v) {
  for (int i = 0; i < 4; ++i) p[i] = static_cast<uint8_t>(v[i]);
}
ARRAYNN_INLINE void store_bytes(uint8_t* p, vi64 v) {
  for (int i = 0; i < 2; ++i) p[i] = static_cast<uint8_t>(v[i]);
}
// The products of the low halves of the lanes.
ARRAYNN_INLINE vu64 multiply_low(vu64 a, vu64 b) {
  return (vu64)vmull_u32(vmovn_u64((uint64x2_t)a), vmovn_u64((uint64x2_t)b));
}

ARRAYNN_INLINE void stream(float* p, vf32 v) { __builtin_memcpy(p, &v, sizeof v); }
ARRAYNN_INLINE void stream(double* p, vf64 v) { __builtin_memcpy(p, &v, sizeof v); }
ARRAYNN_INLINE void stream_end() {}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA

#include "cpu/simd/vec_partial.h"
