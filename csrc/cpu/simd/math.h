// exp, expm1, log, log1p, sigmoid and tanh on vectors, float and double, over the whole range (subnormals, inf, NaN)
// unless said otherwise. The largest errors found, in ulp (float: every 251st bit pattern; double: 2 million points):
//            float, with FMA and without    double
//   exp           0.97  0.93
//   expm1, log1p  1.37  1.38                 1.35
//   sigmoid       1.54  1.72                 1.64
//   tanh          1.83  2.01                 2.15
//
// exp(x) = 2^n exp(r), n = nearest(x / ln 2), |r| <= ln(2)/2, and r is exact but for its last
// rounding because n * ln2_hi is exact (Cody and Waite, Software Manual for the Elementary
// Functions, 1980). exp(r) = 1 + r + r^2 q(r), q interpolated at Chebyshev nodes; the truncation
// error is 0.009 ulp (float, degree 5) and 0.005 ulp (double, degree 10).
#pragma once
#include "cpu/simd/vec.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

template <class T>
struct Exp;

template <>
struct Exp<float> {
  static constexpr float log2e = 1.44269504f, ln2_hi = 0.693359375f, ln2_lo = -2.12194440e-4f;
  static constexpr float lowest = -104.0f, highest = 89.0f;  // exp is 0 below and inf above
  static constexpr float tanh_one = 9.1f;                    // tanh rounds to 1 from here
  static constexpr float magic = 12582912.0f;                // 1.5 * 2^23: adding it rounds to an integer
  static constexpr int mantissa = 23, bias = 127;
  static constexpr float q[] = {0.50000000135f,    0.166666666817f,   0.041666464602f,
                                0.00833331088958f, 0.00139336858626f, 0.000198910306544f};
  // for the least error relative to exp(r): 0.03 ulp
  static constexpr float sum_q[] = {0.49999994f, 0.166665211f, 0.0416682661f, 0.00836867746f, 0.00138207304f};
};

template <>
struct Exp<double> {
  static constexpr double log2e = 1.442695040888963407, ln2_hi = 0.693147180558298714458942413330078125,
                          ln2_lo = 1.6465949582897081281e-12;
  static constexpr double lowest = -746.0, highest = 710.0;
  static constexpr double tanh_one = 19.1;
  static constexpr double magic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr double q[] = {0.5,
                                 0.16666666666666671008,
                                 0.041666666666666669767,
                                 0.0083333333333261120526,
                                 0.0013888888888883731828,
                                 0.00019841269874901259234,
                                 0.000024801587325605322782,
                                 2.7557255297969644392e-6,
                                 2.7557273570102139673e-7,
                                 2.5105259538448493419e-8,
                                 2.0914717341716375952e-9};
  static constexpr const double (&sum_q)[11] = q;
};

// x + low = n ln 2 + r; gives n, as integers and as floats, and exp(r) - 1. `low` is what x lacks of its value: little.
template <class T>
ARRAYNN_INLINE vec<T> reduce(vec<T> x, mask<T>& n, vec<T>& whole, vec<T> low) {
  using C = Exp<T>;
  vec<T> shifted = fma(x, broadcast<T>(C::log2e), broadcast<T>(C::magic));
  n = float_to_bits<T>(shifted) - float_to_bits<T>(broadcast<T>(C::magic));
  whole = shifted - C::magic;
  vec<T> r = fma(whole, broadcast<T>(-C::ln2_hi), x);
  r = fma(whole, broadcast<T>(-C::ln2_lo), r) + low;
  constexpr int degree = sizeof(C::q) / sizeof(T) - 1;
  vec<T> q = broadcast<T>(C::q[degree]);
  static_for<degree>([&](auto i) ARRAYNN_LAMBDA { q = fma(q, r, broadcast<T>(C::q[degree - 1 - i])); });
  return fma(r * r, q, r);
}
template <class T>
ARRAYNN_INLINE vec<T> reduce(vec<T> x, mask<T>& n, vec<T>& whole) {
  return reduce<T>(x, n, whole, broadcast<T>(T(-0.0)));  // which adding does not change, so that it goes away
}

// 2^n for n in the range of normal numbers.
template <class T>
ARRAYNN_INLINE vec<T> power_of_two(mask<T> n) {
  return bits_to_float<T>((n + Exp<T>::bias) << Exp<T>::mantissa);
}

// p 2^n for p near 1, where that may be inf or subnormal.
template <class T>
ARRAYNN_INLINE vec<T> scaled(vec<T> p, [[maybe_unused]] mask<T> n, [[maybe_unused]] vec<T> whole) {
#ifdef ARRAYNN_HAS_SCALE
  return scale(p, whole);
#else
  mask<T> half = n >> 1;  // two steps: 2^n itself may be inf or subnormal while the result is neither
  return p * power_of_two<T>(half) * power_of_two<T>(n - half);
#endif
}

template <class T>
ARRAYNN_INLINE vec<T> exp(vec<T> x) {
  using C = Exp<T>;
  x = min(broadcast<T>(C::highest), max(broadcast<T>(C::lowest), x));  // NaN, as second operand, stays
  mask<T> n;
  vec<T> whole, p = reduce<T>(x, n, whole) + T(1);
  return scaled<T>(p, n, whole);
}

// exp(x + low) for x down to twice what gives the smallest normal number, and low of at most 1/4.
template <class T>
ARRAYNN_INLINE vec<T> exp_of_sum(vec<T> x, vec<T> low) {
  mask<T> n;
  vec<T> whole, p = reduce<T>(x, n, whole, low) + T(1);
  return scaled<T>(p, n, whole);
}

// exp for x <= 0 where a result below the normal range may be 0. For sums that hold an exp(0) as well: the polynomial
// is one degree shorter than reduce's, which keeps the digits of exp(r) - 1 too.
template <class T>
ARRAYNN_INLINE vec<T> exp_nonpositive(vec<T> x) {
  using C = Exp<T>;
#ifdef ARRAYNN_HAS_SCALE
  constexpr int least = -2 * C::bias;  // 2^least rounds to 0
#else
  constexpr int least = -C::bias;  // its exponent's bits are 0, and so it is
#endif
  constexpr T lowest = T(least) * T(0.6931471805599453);
  vec<T> near = max(broadcast<T>(lowest), x);  // NaN, as second operand, stays
  vec<T> shifted = fma(near, broadcast<T>(C::log2e), broadcast<T>(C::magic)), whole = shifted - C::magic;
  vec<T> r = fma(whole, broadcast<T>(-C::ln2_lo), fma(whole, broadcast<T>(-C::ln2_hi), near));
  constexpr int degree = sizeof(C::sum_q) / sizeof(T) - 1;
  vec<T> p = broadcast<T>(C::sum_q[degree]);
  static_for<degree>([&](auto i) ARRAYNN_LAMBDA { p = fma(p, r, broadcast<T>(C::sum_q[degree - 1 - i])); });
  p = fma(fma(p, r, broadcast<T>(T(1))), r, broadcast<T>(T(1)));
#ifdef ARRAYNN_HAS_SCALE
  return scale(p, whole);
#else
  return p * power_of_two<T>(float_to_bits<T>(shifted) - float_to_bits<T>(broadcast<T>(C::magic)));
#endif
}

template <class T>
struct Log;
template <>
struct Log<float> {
  static constexpr float ln2_hi = 6.9313812256e-01f, ln2_lo = 9.0580006145e-06f;
  static constexpr int32_t sqrt_half = 0x3f3504f3, fraction = 0x007fffff;
  static constexpr float q[] = {0.66666662693f, 0.40000972152f, 0.28498786688f, 0.24279078841f};
};
template <>
struct Log<double> {
  static constexpr double ln2_hi = 6.93147180369123816490e-01, ln2_lo = 1.90821492927058770002e-10;
  static constexpr int64_t sqrt_half = 0x3fe6a09e667f3bcc, fraction = 0x000fffffffffffff;
  static constexpr double q[] = {6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01,
                                 2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01,
                                 1.479819860511658591e-01};
};

// n ln 2 + log(1 + f) for 1 + f between sqrt(1/2) and sqrt(2), from s = f / (2 + f) as FreeBSD's e_log.c does it.
template <class T>
ARRAYNN_INLINE vec<T> log_of(vec<T> n, vec<T> f) {
  using C = Log<T>;
  vec<T> s = f / (f + T(2)), z = s * s, half = f * f * T(0.5);
  constexpr int degree = sizeof(C::q) / sizeof(T) - 1;
  vec<T> r = broadcast<T>(C::q[degree]);
  static_for<degree>([&](auto i) ARRAYNN_LAMBDA { r = fma(r, z, broadcast<T>(C::q[degree - 1 - i])); });
  return n * C::ln2_hi - ((half - fma(s, fma(z, r, half), n * C::ln2_lo)) - f);
}

// log x for positive, normal, finite x and NaN, to 1 ulp: x = 2^n (1 + f).
template <class T>
ARRAYNN_INLINE vec<T> log(vec<T> x) {
  using C = Log<T>;
  mask<T> bits = float_to_bits<T>(x) - C::sqrt_half;
  vec<T> n = __builtin_convertvector(bits >> Exp<T>::mantissa, vec<T>);
  vec<T> f = bits_to_float<T>((bits & C::fraction) + C::sqrt_half) - T(1);
  vec<T> y = log_of<T>(n, f);
  return x == x ? y : x;
}

// log(1 + x) for 0 <= x <= 1 and NaN: 1 + x = 2 (1 + f) where that is beyond sqrt(2), with f = (x - 1) / 2.
template <class T>
ARRAYNN_INLINE vec<T> log1p_of_fraction(vec<T> x) {
  auto beyond = x > T(0.41421356237309505);
  return log_of<T>(beyond ? broadcast<T>(T(1)) : vec<T>{}, beyond ? (x - T(1)) * T(0.5) : x);
}

// x log x with 0 for 0, over the whole range: NaN for x < 0.
template <class T>
ARRAYNN_INLINE vec<T> x_log_x(vec<T> x) {
  constexpr T up = sizeof(T) == 4 ? T(16777216.0) : T(18014398509481984.0);  // 2^24, 2^54: from any subnormal number
  constexpr T log_up = sizeof(T) == 4 ? T(16.635532333438687) : T(37.429947750237048);
  auto small = x < (sizeof(T) == 4 ? T(__FLT_MIN__) : T(__DBL_MIN__));
  vec<T> y = x * (log<T>(small ? x * up : x) - (small ? broadcast<T>(log_up) : vec<T>{}));
  return x > T(0) ? y : x == T(0) ? vec<T>{} : broadcast<T>(T(__builtin_nanf("")));
}

template <class T>
ARRAYNN_INLINE vec<T> magnitude(vec<T> x) {
  return bits_to_float<T>(float_to_bits<T>(x) & ~float_to_bits<T>(broadcast<T>(T(-0.0))));
}
template <class T>
ARRAYNN_INLINE vec<T> with_sign_of(vec<T> magnitude, vec<T> x) {
  return bits_to_float<T>(float_to_bits<T>(magnitude) |
                          (float_to_bits<T>(x) & float_to_bits<T>(broadcast<T>(T(-0.0)))));
}

// 1 / (1 + exp(-x)), written with e = exp(-|x|) so that small results keep their accuracy: e / (1 + e) for x < 0. As
// that is y = e - e y too, another round leaves of its errors what e is, which is little where they are large.
template <class T>
ARRAYNN_INLINE vec<T> sigmoid(vec<T> x) {
  auto negative = x < T(0);
  vec<T> e = exp<T>(-magnitude<T>(x));
  vec<T> y = (negative ? e : broadcast<T>(T(1))) / (e + T(1));
  return negative ? fma(-e, y, e) : y;
}

// exp(x) - 1 for x <= 0 and NaN.
template <class T>
ARRAYNN_INLINE vec<T> expm1_nonpositive(vec<T> x) {
  mask<T> n;
  vec<T> whole, part = reduce<T>(max(broadcast<T>(T(-2) * Exp<T>::tanh_one), x), n, whole);  // below it rounds to -1
  vec<T> power = power_of_two<T>(n);
  return fma(power, part, power - T(1));
}

// With e = exp(-2|x|) and h = (1 - e) / 2: tanh|x| is y = h / (1 - h), which is accurate for small |x|, and
// 1 - e / (1 - h), which is where it is beyond 1/2. The former is h + h y too: another round leaves a third of the
// errors of y at most.
template <class T>
ARRAYNN_INLINE vec<T> tanh(vec<T> x) {
  mask<T> n;
  vec<T> whole, part = reduce<T>(min(broadcast<T>(Exp<T>::tanh_one), magnitude<T>(x)) * T(-2), n, whole);
  vec<T> half = power_of_two<T>(n - 1);
  vec<T> h = fma(-half, part, T(0.5) - half);
  auto large = h > T(1.0 / 3.0);
  vec<T> y = (large ? fma(half, part, half) : h) / (T(1) - h);
  y = fma(large ? broadcast<T>(T(-2)) : h, y, large ? broadcast<T>(T(1)) : h);
  return with_sign_of<T>(y, x);
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
