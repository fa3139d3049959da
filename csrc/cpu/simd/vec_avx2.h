// AVX2 and FMA: 16 registers of 8 floats or 4 doubles. Masked stores are microcoded on some AMD
// cores, so tails are stored by halves.
#pragma once

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

#define ARRAYNN_HAS_FMA
ARRAYNN_INLINE vf32 fma(vf32 a, vf32 b, vf32 c) { return _mm256_fmadd_ps(a, b, c); }
ARRAYNN_INLINE vf64 fma(vf64 a, vf64 b, vf64 c) { return _mm256_fmadd_pd(a, b, c); }
ARRAYNN_INLINE vf32 max(vf32 a, vf32 b) { return _mm256_max_ps(a, b); }
ARRAYNN_INLINE vf64 max(vf64 a, vf64 b) { return _mm256_max_pd(a, b); }
ARRAYNN_INLINE vf32 min(vf32 a, vf32 b) { return _mm256_min_ps(a, b); }
ARRAYNN_INLINE vf64 min(vf64 a, vf64 b) { return _mm256_min_pd(a, b); }
ARRAYNN_INLINE vf32 sqrt(vf32 a) { return _mm256_sqrt_ps(a); }
ARRAYNN_INLINE vf64 sqrt(vf64 a) { return _mm256_sqrt_pd(a); }
ARRAYNN_INLINE vf32 nearest(vf32 a) { return _mm256_round_ps(a, 8); }
ARRAYNN_INLINE vf64 nearest(vf64 a) { return _mm256_round_pd(a, 8); }
// As many bytes as the vector has lanes, each in the lane's low bits; and back.
ARRAYNN_INLINE void load_bytes(const uint8_t* p, vi32& v) {
  v = (vi32)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
ARRAYNN_INLINE void load_bytes(const uint8_t* p, vi64& v) {
  int bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  v = (vi64)_mm256_cvtepu8_epi64(_mm_cvtsi32_si128(bytes));
}
ARRAYNN_INLINE void store_bytes(uint8_t* p, vi32 v) {
  __m128i words = _mm_packus_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
}
ARRAYNN_INLINE void store_bytes(uint8_t* p, vi64 v) {
  for (int i = 0; i < 4; ++i) p[i] = static_cast<uint8_t>(v[i]);
}
// The products of the low halves of the lanes.
ARRAYNN_INLINE vu64 multiply_low(vu64 a, vu64 b) { return (vu64)_mm256_mul_epu32((__m256i)a, (__m256i)b); }

// Lanes lo <= i < hi of p[0..lanes); the others are zero and their memory is not touched.
ARRAYNN_INLINE vf32 load_range(const float* p, int lo, int hi) {
  const vi32 index = {0, 1, 2, 3, 4, 5, 6, 7};
  vi32 keep = (index >= lo) & (index < hi);
  return _mm256_maskload_ps(p, (__m256i)keep);
}
ARRAYNN_INLINE vf64 load_range(const double* p, int lo, int hi) {
  const vi64 index = {0, 1, 2, 3};
  vi64 keep = (index >= lo) & (index < hi);
  return _mm256_maskload_pd(p, (__m256i)keep);
}
ARRAYNN_INLINE vf32 load_first(const float* p, int n) { return load_range(p, 0, n); }
ARRAYNN_INLINE vf64 load_first(const double* p, int n) { return load_range(p, 0, n); }
ARRAYNN_INLINE void store_first(float* p, vf32 v, int n) {
  if (n <= 0) return;
  if (n >= 8) return _mm256_storeu_ps(p, v);
  __m128 part = _mm256_castps256_ps128(v);
  if (n & 4) {
    _mm_storeu_ps(p, part);
    part = _mm256_extractf128_ps(v, 1);
    p += 4;
  }
  if (n & 2) {
    _mm_storel_pi(reinterpret_cast<__m64*>(p), part);
    part = _mm_movehl_ps(part, part);
    p += 2;
  }
  if (n & 1) _mm_store_ss(p, part);
}
ARRAYNN_INLINE void store_first(double* p, vf64 v, int n) {
  if (n <= 0) return;
  if (n >= 4) return _mm256_storeu_pd(p, v);
  __m128d part = _mm256_castpd256_pd128(v);
  if (n & 2) {
    _mm_storeu_pd(p, part);
    part = _mm256_extractf128_pd(v, 1);
    p += 2;
  }
  if (n & 1) _mm_store_sd(p, part);
}
// A store that leaves the cache alone, to an aligned address: for results larger than the cache.
ARRAYNN_INLINE void stream(float* p, vf32 v) { _mm256_stream_ps(p, v); }
ARRAYNN_INLINE void stream(double* p, vf64 v) { _mm256_stream_pd(p, v); }
ARRAYNN_INLINE void stream_end() { _mm_sfence(); }

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
