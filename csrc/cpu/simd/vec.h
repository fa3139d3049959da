// One vector type per scalar type, and the same small functions for every instruction set.
// `vec<float>` is a compiler vector: + - * / and comparisons work lane by lane, a comparison gives
// a mask of integers (all bits set where true) and `m ? a : b` selects. What the compiler has no
// operator for is in vec_<isa>.h: fma, max, min, sqrt, nearest, 32-bit products, bytes in lanes, and loads
// and stores of part of a vector, which touch no memory outside that part.
#pragma once
#include <cstdint>
#include <type_traits>
#include <utility>

#if defined(ARRAYNN_ISA_avx512) || defined(ARRAYNN_ISA_avx2) || defined(__x86_64__)
#include <immintrin.h>
#endif

#define ARRAYNN_INLINE inline __attribute__((always_inline))

#if defined(ARRAYNN_ISA_avx512)
#define ARRAYNN_VECTOR_BYTES 64
#elif defined(ARRAYNN_ISA_avx2)
#define ARRAYNN_VECTOR_BYTES 32
#else
#define ARRAYNN_VECTOR_BYTES 16
#endif

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

typedef float vf32 __attribute__((vector_size(ARRAYNN_VECTOR_BYTES)));
typedef double vf64 __attribute__((vector_size(ARRAYNN_VECTOR_BYTES)));
typedef int32_t vi32 __attribute__((vector_size(ARRAYNN_VECTOR_BYTES)));
typedef uint32_t vu32 __attribute__((vector_size(ARRAYNN_VECTOR_BYTES)));
typedef int64_t vi64 __attribute__((vector_size(ARRAYNN_VECTOR_BYTES)));
typedef uint64_t vu64 __attribute__((vector_size(ARRAYNN_VECTOR_BYTES)));

template <class T>
struct vec_of;
template <>
struct vec_of<float> {
  using type = vf32;
  using mask = vi32;  // integers of the scalar's size: masks, and bit patterns
};
template <>
struct vec_of<double> {
  using type = vf64;
  using mask = vi64;
};
template <class T>
using vec = typename vec_of<T>::type;
template <class T>
using mask = typename vec_of<T>::mask;

template <class T>
constexpr int lanes = ARRAYNN_VECTOR_BYTES / sizeof(T);

// f(0), f(1), ..., f(N - 1) with the index as a constant: the compiler keeps arrays of vectors that
// are indexed so in registers, which it does not do reliably for unrolled loops.
template <class F, int... I>
ARRAYNN_INLINE void static_for_(F&& f, std::integer_sequence<int, I...>) {
  (f(std::integral_constant<int, I>{}), ...);
}
template <int N, class F>
ARRAYNN_INLINE void static_for(F&& f) {
  static_for_(f, std::make_integer_sequence<int, N>{});
}
#define ARRAYNN_LAMBDA __attribute__((always_inline))

// f(n) for 1 <= n <= N with n as a constant.
template <int N, class F>
void call_with_(const F& f) {
  f(std::integral_constant<int, N>{});
}
template <class F, int... I>
ARRAYNN_INLINE void with_constant_(int n, const F& f, std::integer_sequence<int, I...>) {
  static constexpr void (*calls[])(const F&) = {call_with_<I + 1, F>...};
  calls[n - 1](f);
}
template <int N, class F>
ARRAYNN_INLINE void with_constant(int n, const F& f) {
  with_constant_(n, f, std::make_integer_sequence<int, N>{});
}

template <class T>
ARRAYNN_INLINE vec<T> load(const T* p) {
  vec<T> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
ARRAYNN_INLINE void store(T* p, vec<T> v) {
  __builtin_memcpy(p, &v, sizeof v);
}
template <class T>
ARRAYNN_INLINE vec<T> broadcast(T x) {
  return x - vec<T>{};
}
template <class T>
ARRAYNN_INLINE vec<T> bits_to_float(mask<T> m) {
  return (vec<T>)m;
}
template <class T>
ARRAYNN_INLINE mask<T> float_to_bits(vec<T> v) {
  return (mask<T>)v;
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA

#if defined(ARRAYNN_ISA_avx512)
#include "cpu/simd/vec_avx512.h"
#elif defined(ARRAYNN_ISA_avx2)
#include "cpu/simd/vec_avx2.h"
#elif defined(__x86_64__)
#include "cpu/simd/vec_sse4.h"
#else
#include "cpu/simd/vec_neon.h"
#endif

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

// Lanes 0, 1, 2, ...
template <class T, int... I>
ARRAYNN_INLINE mask<T> iota_(std::integer_sequence<int, I...>) {
  return mask<T>{I...};
}
template <class T>
ARRAYNN_INLINE mask<T> iota() {
  return iota_<T>(std::make_integer_sequence<int, lanes<T>>{});
}

// zip_lo(a, b) = a0 b0 a1 b1 ..., zip_hi the upper halves; even(a, b) = a0 a2 ... b0 b2 ...
template <class V, int... I>
ARRAYNN_INLINE V zip_lo_(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  return __builtin_shufflevector(a, b, (I % 2 ? n + I / 2 : I / 2)...);
}
template <class V, int... I>
ARRAYNN_INLINE V zip_hi_(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  return __builtin_shufflevector(a, b, (n / 2 + (I % 2 ? n + I / 2 : I / 2))...);
}
template <class V, int... I>
ARRAYNN_INLINE V even_(V a, V b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (2 * I)...);
}
template <class V, int... I>
ARRAYNN_INLINE V odd_(V a, V b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (2 * I + 1)...);
}
template <class T>
using lane_sequence = std::make_integer_sequence<int, lanes<T>>;
template <class T>
ARRAYNN_INLINE vec<T> zip_lo(vec<T> a, vec<T> b) {
  return zip_lo_(a, b, lane_sequence<T>{});
}
template <class T>
ARRAYNN_INLINE vec<T> zip_hi(vec<T> a, vec<T> b) {
  return zip_hi_(a, b, lane_sequence<T>{});
}
template <class T>
ARRAYNN_INLINE vec<T> even(vec<T> a, vec<T> b) {
  return even_(a, b, lane_sequence<T>{});
}
template <class T>
ARRAYNN_INLINE vec<T> odd(vec<T> a, vec<T> b) {
  return odd_(a, b, lane_sequence<T>{});
}

// Transposes a square block of vectors: log2(lanes) perfect shuffles.
template <class T>
ARRAYNN_INLINE void transpose(vec<T> (&rows)[lanes<T>]) {
  constexpr int n = lanes<T>;
  constexpr int rounds = n == 16 ? 4 : n == 8 ? 3 : n == 4 ? 2 : 1;
  static_for<rounds>([&](auto) ARRAYNN_LAMBDA {
    vec<T> zipped[n];
    static_for<n / 2>([&](auto i) ARRAYNN_LAMBDA {
      zipped[2 * i] = zip_lo<T>(rows[i], rows[i + n / 2]);
      zipped[2 * i + 1] = zip_hi<T>(rows[i], rows[i + n / 2]);
    });
    static_for<n>([&](auto i) ARRAYNN_LAMBDA { rows[i] = zipped[i]; });
  });
}

// Sum and maximum over the lanes, halves first: the order is part of the result.
template <int Offset, class V, int... I>
ARRAYNN_INLINE V rotate_(V v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, ((I + Offset) % static_cast<int>(sizeof...(I)))...);
}
template <class T, int Offset, int Least = 1, class F>
ARRAYNN_INLINE vec<T> fold(vec<T> v, F&& f) {
  if constexpr (Offset >= Least)
    return fold<T, Offset / 2, Least>(f(v, rotate_<Offset>(v, lane_sequence<T>{})), f);
  else
    return v;
}
template <class T>
ARRAYNN_INLINE T sum(vec<T> v) {
  return fold<T, lanes<T> / 2>(v, [](auto a, auto b) ARRAYNN_LAMBDA { return a + b; })[0];
}
// The sums of four vectors.
template <class T>
ARRAYNN_INLINE void sums_of_four(const vec<T>* v, T* to) {
  if constexpr (lanes<T> < 4) {
    static_for<4>([&](auto j) ARRAYNN_LAMBDA { to[j] = sum<T>(v[j]); });
  } else {
    vec<T> even = zip_lo<T>(v[0], v[2]) + zip_hi<T>(v[0], v[2]), odd = zip_lo<T>(v[1], v[3]) + zip_hi<T>(v[1], v[3]);
    vec<T> all = zip_lo<T>(even, odd) + zip_hi<T>(even, odd);  // one of each, over and over
    all = fold<T, lanes<T> / 2, 4>(all, [](auto a, auto b) ARRAYNN_LAMBDA { return a + b; });
    __builtin_memcpy(to, &all, 4 * sizeof(T));
  }
}
// A vector of doubles as it is, or the halves of a vector of floats as doubles: f(vec<double>) for each.
template <int Offset, int... I>
ARRAYNN_INLINE vf64 widen_(vf32 v, std::integer_sequence<int, I...>) {
  return __builtin_convertvector(__builtin_shufflevector(v, v, (Offset + I)...), vf64);
}
template <class F>
ARRAYNN_INLINE void as_doubles(vf32 v, F&& f) {
  f(widen_<0>(v, lane_sequence<double>{}));
  f(widen_<lanes<double>>(v, lane_sequence<double>{}));
}
template <class F>
ARRAYNN_INLINE void as_doubles(vf64 v, F&& f) {
  f(v);
}
// NaN wins if `maximum` is used to fill the lanes.
template <class T>
ARRAYNN_INLINE vec<T> maximum(vec<T> a, vec<T> b) {
  auto takes_b = (b > a) | (b != b);
  return takes_b ? b : a;
}
template <class T>
ARRAYNN_INLINE T max_lane(vec<T> v) {
  return fold<T, lanes<T> / 2>(v, [](auto a, auto b) ARRAYNN_LAMBDA { return maximum<T>(a, b); })[0];
}

// One loop body for whole vectors and the tail: body(offset, count), count a constant lanes<T> or
// fewer at the end.
template <class T, class F>
ARRAYNN_INLINE void for_vectors(int64_t n, F&& body) {
  int64_t i = 0;
  for (; i + lanes<T> <= n; i += lanes<T>) body(i, std::integral_constant<int, lanes<T>>{});
  if (i < n) body(i, static_cast<int>(n - i));
}
// The same with Ways vectors in turns: body(offset, way, count), the way a constant, so that as many sums do not wait
// for each other.
template <class T, int Ways, class F>
ARRAYNN_INLINE void for_vectors_in_turns(int64_t n, F&& body) {
  constexpr int V = lanes<T>;
  int64_t i = 0;
  for (; i + Ways * V <= n; i += Ways * V)
    static_for<Ways>([&](auto way) ARRAYNN_LAMBDA { body(i + way * V, way, std::integral_constant<int, V>{}); });
  for_vectors<T>(n - i,
                 [&](int64_t j, auto count) ARRAYNN_LAMBDA { body(i + j, std::integral_constant<int, 0>{}, count); });
}
// The same where the body may be called twice for an element: the last vector begins early enough to be a whole one, if
// there are elements for one.
template <class T, class F>
ARRAYNN_INLINE void for_overlapping_vectors(int64_t n, F&& body) {
  constexpr std::integral_constant<int, lanes<T>> whole{};
  if (n < lanes<T>) return for_vectors<T>(n, body);
  int64_t i = 0;
  for (; i + lanes<T> <= n; i += lanes<T>) body(i, whole);
  if (i < n) body(n - lanes<T>, whole);
}
// f(k) for the steps k of a register tile's loop: k counts from where the pointers are, and advance(count) moves them.
// Several steps are between two looks at the counter: its instructions cost where threads share a core's units, most
// where a step has few others.
template <class F, class Advance>
ARRAYNN_INLINE void for_steps(int64_t n, F&& f, Advance&& advance) {
  constexpr int together = ARRAYNN_VECTOR_BYTES == 64 ? 2 : 4;
  int64_t i = 0;
  for (; i + together <= n; i += together) {
    static_for<together>(f);
    advance(together);
  }
  for (; i < n; ++i) {
    f(std::integral_constant<int, 0>{});
    advance(1);
  }
}
// v in the first `count` lanes, where count is what for_vectors gives, and `otherwise` in the rest.
template <class T, class Count>
ARRAYNN_INLINE vec<T> keep_count(vec<T> v, Count count, vec<T> otherwise) {
  if constexpr (std::is_same_v<Count, int>)
    return iota<T>() < count ? v : otherwise;
  else
    return v;
}
// Load and store `count` lanes, where count is what for_vectors gives.
template <class T, class Count>
ARRAYNN_INLINE vec<T> load_count(const T* p, Count count) {
  if constexpr (std::is_same_v<Count, int>)
    return load_first(p, count);
  else
    return load(p);
}
template <class T, class Count>
ARRAYNN_INLINE void store_count(T* p, vec<T> v, Count count) {
  if constexpr (std::is_same_v<Count, int>)
    store_first(p, v, count);
  else
    store(p, v);
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
