// AVX-512 (F, BW, DQ, VL): 32 registers of 16 floats or 8 doubles, masks for every tail.
#pragma once

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

#define ARRAYNN_HAS_FMA
ARRAYNN_INLINE vf32 fma(vf32 a, vf32 b, vf32 c) { return _mm512_fmadd_ps(a, b, c); }
ARRAYNN_INLINE vf64 fma(vf64 a, vf64 b, vf64 c) { return _mm512_fmadd_pd(a, b, c); }
ARRAYNN_INLINE vf32 max(vf32 a, vf32 b) { return _mm512_max_ps(a, b); }
ARRAYNN_INLINE vf64 max(vf64 a, vf64 b) { return _mm512_max_pd(a, b); }
ARRAYNN_INLINE vf32 min(vf32 a, vf32 b) { return _mm512_min_ps(a, b); }
ARRAYNN_INLINE vf64 min(vf64 a, vf64 b) { return _mm512_min_pd(a, b); }
ARRAYNN_INLINE vf32 sqrt(vf32 a) { return _mm512_sqrt_ps(a); }
ARRAYNN_INLINE vf64 sqrt(vf64 a) { return _mm512_sqrt_pd(a); }
ARRAYNN_INLINE vf32 nearest(vf32 a) { return _mm512_roundscale_ps(a, 0); }
ARRAYNN_INLINE vf64 nearest(vf64 a) { return _mm512_roundscale_pd(a, 0); }
// As many bytes as the vector has lanes, each in the lane's low bits; and back.
ARRAYNN_INLINE void load_bytes(const uint8_t* p, vi32& v) {
  v = (vi32)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
ARRAYNN_INLINE void load_bytes(const uint8_t* p, vi64& v) {
  v = (vi64)_mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
ARRAYNN_INLINE void store_bytes(uint8_t* p, vi32 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8((__m512i)v));
}
ARRAYNN_INLINE void store_bytes(uint8_t* p, vi64 v) {
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm512_cvtepi64_epi8((__m512i)v));
}
// The products of the low halves of the lanes.
ARRAYNN_INLINE vu64 multiply_low(vu64 a, vu64 b) { return (vu64)_mm512_mul_epu32((__m512i)a, (__m512i)b); }

// The first n lanes, 0 <= n <= lanes; the others are zero.
ARRAYNN_INLINE vf32 load_first(const float* p, int n) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
}
ARRAYNN_INLINE vf64 load_first(const double* p, int n) {
  return _mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1), p);
}
ARRAYNN_INLINE void store_first(float* p, vf32 v, int n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), v);
}
ARRAYNN_INLINE void store_first(double* p, vf64 v, int n) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1), v);
}
// Lanes lo <= i < hi of p[0..lanes); the others are zero and their memory is not touched.
ARRAYNN_INLINE vf32 load_range(const float* p, int lo, int hi) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>(((1u << hi) - 1) & ~((1u << lo) - 1)), p);
}
ARRAYNN_INLINE vf64 load_range(const double* p, int lo, int hi) {
  return _mm512_maskz_loadu_pd(static_cast<__mmask8>(((1u << hi) - 1) & ~((1u << lo) - 1)), p);
}
// A store that leaves the cache alone, to an aligned address: for results larger than the cache.
ARRAYNN_INLINE void stream(float* p, vf32 v) { _mm512_stream_ps(p, v); }
ARRAYNN_INLINE void stream(double* p, vf64 v) { _mm512_stream_pd(p, v); }
ARRAYNN_INLINE void stream_end() { _mm_sfence(); }
// The entry of 32 that a lane's low five bits name.
ARRAYNN_INLINE vf32 lookup(const float* entries, vi32 index) {
  return _mm512_permutex2var_ps(_mm512_loadu_ps(entries), (__m512i)index, _mm512_loadu_ps(entries + 16));
}
#define ARRAYNN_HAS_LOOKUP
// sum + a b over the two bfloat16 numbers in a lane's bits, subnormal ones as zero. Only for machines with
// AVX512_BF16, which this file's other instructions do not ask for.
ARRAYNN_INLINE vf32 dot_pairs(vf32 a, vf32 b, vf32 sum) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}
#define ARRAYNN_HAS_PAIRS
// p 2^n for an integral n, rounded once, subnormal or inf where it must be.
ARRAYNN_INLINE vf32 scale(vf32 p, vf32 n) { return _mm512_scalef_ps(p, n); }
ARRAYNN_INLINE vf64 scale(vf64 p, vf64 n) { return _mm512_scalef_pd(p, n); }
#define ARRAYNN_HAS_SCALE

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
