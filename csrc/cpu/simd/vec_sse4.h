// The x86-64-v2 baseline (SSE4.2): 16 registers of 4 floats or 2 doubles and no FMA, so fma rounds twice.
#pragma once

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

ARRAYNN_INLINE vf32 fma(vf32 a, vf32 b, vf32 c) { return a * b + c; }
ARRAYNN_INLINE vf64 fma(vf64 a, vf64 b, vf64 c) { return a * b + c; }
ARRAYNN_INLINE vf32 max(vf32 a, vf32 b) { return _mm_max_ps(a, b); }
ARRAYNN_INLINE vf64 max(vf64 a, vf64 b) { return _mm_max_pd(a, b); }
ARRAYNN_INLINE vf32 min(vf32 a, vf32 b) { return _mm_min_ps(a, b); }
ARRAYNN_INLINE vf64 min(vf64 a, vf64 b) { return _mm_min_pd(a, b); }
ARRAYNN_INLINE vf32 sqrt(vf32 a) { return _mm_sqrt_ps(a); }
ARRAYNN_INLINE vf64 sqrt(vf64 a) { return _mm_sqrt_pd(a); }
ARRAYNN_INLINE vf32 nearest(vf32 a) { return _mm_round_ps(a, 8); }
ARRAYNN_INLINE vf64 nearest(vf64 a) { return _mm_round_pd(a, 8); }
// As many bytes as the vector has lanes, each in the lane's low bits; and back.
ARRAYNN_INLINE void load_bytes(const uint8_t* p, vi32& v) {
  int bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  v = (vi32)_mm_cvtepu8_epi32(_mm_cvtsi32_si128(bytes));
}
ARRAYNN_INLINE void load_bytes(const uint8_t* p, vi64& v) { v = vi64{p[0], p[1]}; }
ARRAYNN_INLINE void store_bytes(uint8_t* p, vi32 v) {
  __m128i words = _mm_packus_epi32((__m128i)v, (__m128i)v);
  int bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
  __builtin_memcpy(p, &bytes, sizeof bytes);
}
ARRAYNN_INLINE void store_bytes(uint8_t* p, vi64 v) {
  for (int i = 0; i < 2; ++i) p[i] = static_cast<uint8_t>(v[i]);
}
// The products of the low halves of the lanes.
ARRAYNN_INLINE vu64 multiply_low(vu64 a, vu64 b) { return (vu64)_mm_mul_epu32((__m128i)a, (__m128i)b); }
// A store that leaves the cache alone, to an aligned address: for results larger than the cache.
ARRAYNN_INLINE void stream(float* p, vf32 v) { _mm_stream_ps(p, v); }
ARRAYNN_INLINE void stream(double* p, vf64 v) { _mm_stream_pd(p, v); }
ARRAYNN_INLINE void stream_end() { _mm_sfence(); }

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA

#include "cpu/simd/vec_partial.h"
