// The normal distribution on vectors: its distribution function, to 5.6 ulp of itself (float, 3.2 with lookups in
// registers; double 11), and its density, to 2.0 (2.3), however far in the tail: the largest errors found on every
// 251st bit pattern.
#pragma once
#include "cpu/simd/math.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

// exp(u^2 / 2) (1 - Phi(u)) (1 + sqrt(2) u) for u >= 0 as a polynomial in t = (u - k) / (u + k), which maps
// [0, inf) to [-1, 1) (Shepherd and Laframboise, "Chebyshev approximation of (1 + 2x) exp(x^2) erfc x in
// 0 <= x < inf", 1981), interpolated at Chebyshev nodes up to `end`, beyond which the tail is zero. The
// interpolation errs by 0.06 ulp (float) and 0.13 ulp (double).
template <class T>
struct Tail;
template <>
struct Tail<float> {
  static constexpr float end = 14.5f, k = 4.0f;
  static constexpr int32_t upper_half = ~0xFFF;  // of a mantissa: its square is exact
  static constexpr float q[] = {0.628477879f,   -0.0661783051f,  -0.0317211053f,  0.070148605f,
                                -0.0583191684f, 0.0288890711f,   -0.00728373446f, -0.000693762902f,
                                0.00104960815f, -6.96228201e-5f, -0.000107495388f};
};
template <>
struct Tail<double> {
  static constexpr double end = 39, k = 5;
  static constexpr int64_t upper_half = ~0x7FFFFFF;
  static constexpr double q[] = {
      0.62082092649483722799,      -0.070052413620617645643,    -0.0041937081782829940807, 0.047648661338914303389,
      -0.057159048971974590114,    0.044398861329821387398,     -0.025178554835406765716,  0.010208851377182700876,
      -0.0024612651404044572274,   -0.000044600174277064438501, 0.00028288938492759171061, -0.000076211400566683022804,
      -0.000016747929684034939981, 0.000013340562794213776363,  1.8210659264534360274e-7,  -1.9534306600975587993e-6,
      1.4443386998161167395e-7,    2.9760072935664729341e-7,    -2.6498761771998558782e-8, -4.7734247436733619183e-8,
      -2.5804501340499307825e-10,  5.9466712776670613679e-9,    1.1880761910700081983e-9};
};

// exp(-u^2 / 2) for 0 <= u <= Tail::end and NaN. The square is taken in two parts, of which the second is what the
// first lacks: half an ulp of u^2 would be up to 53 ulp of the result (float; 380 in double).
template <class T>
ARRAYNN_INLINE vec<T> bell(vec<T> u) {
#ifdef ARRAYNN_HAS_FMA
  vec<T> square = u * u;
  return exp_of_sum<T>(square * T(-0.5), fma(u, u, -square) * T(-0.5));
#else
  vec<T> hi = bits_to_float<T>(float_to_bits<T>(u) & Tail<T>::upper_half);
  return exp_of_sum<T>(hi * hi * T(-0.5), (hi - u) * (hi + u) * T(0.5));
#endif
}

// exp(u^2 / 2) (1 - Phi(u)) for 0 <= u <= Tail::end and NaN.
template <class T>
ARRAYNN_INLINE vec<T> scaled_tail(vec<T> u) {
#ifdef ARRAYNN_HAS_LOOKUP
  if constexpr (std::is_same_v<T, float>) return piecewise<TailPieces>(u);
#endif
  using C = Tail<T>;
  vec<T> a = u + C::k, b = fma(u, broadcast<T>(T(1.4142135623730951)), broadcast<T>(T(1))), both = T(1) / (a * b);
  vec<T> r = b * both, t = (u - C::k) * r;
  t = fma(r, fma(-t, u, fma(t + T(1), broadcast<T>(-C::k), u)), t);  // less what t (u + k) lacks of u - k
  return long_polynomial(C::q, t) * (a * both);
}

template <class T>
struct Normal {
  vec<T> cdf, density;
};

// Phi(x) and exp(-x^2 / 2) / sqrt(2 pi).
template <class T>
ARRAYNN_INLINE Normal<T> normal(vec<T> x) {
  vec<T> u = min(broadcast<T>(Tail<T>::end), magnitude<T>(x));  // NaN, as second operand, stays
  vec<T> e = bell<T>(u), tail = e * scaled_tail<T>(u);
  return {x < T(0) ? tail : T(1) - tail, e * T(0.3989422804014327)};
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
