// exp, expm1, log, log1p, sigmoid and tanh on vectors, float and double, over the whole range (subnormals, inf, NaN)
// unless said otherwise. The largest errors found, in ulp (float: every 251st bit pattern; double: 2 million points):
//            float, with FMA and without    double
//   exp           0.97  0.93
//   expm1, log1p  1.37  1.38                 1.35
//   sigmoid       1.62  1.87                 1.79
//   tanh          1.83  2.01                 2.15    (float with lookups in registers: 1.40)
//
// exp(x) = 2^n exp(r), n = nearest(x / ln 2), |r| <= ln(2)/2, and r is exact but for its last
// rounding because n * ln2_hi is exact (Cody and Waite, Software Manual for the Elementary
// Functions, 1980). exp(r) = 1 + r + r^2 q(r), q interpolated at Chebyshev nodes; the truncation
// error is 0.009 ulp (float, degree 5) and 0.005 ulp (double, degree 10).
#pragma once
#include "cpu/simd/pieces.h"

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
  static constexpr int up = 34;  // 2^(n + up) is a normal number for every n of a result, subnormal ones too
  static constexpr float down = 0x1p-34f;
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
  static constexpr int up = 78;
  static constexpr double down = 0x1p-78;
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

// x = n ln 2 + r for n = shifted - magic, as floats `whole`.
template <class T>
ARRAYNN_INLINE vec<T> remainder(vec<T> x, vec<T>& shifted, vec<T>& whole) {
  using C = Exp<T>;
  shifted = fma(x, broadcast<T>(C::log2e), broadcast<T>(C::magic));
  whole = shifted - C::magic;
  return fma(whole, broadcast<T>(-C::ln2_lo), fma(whole, broadcast<T>(-C::ln2_hi), x));
}

template <class T, int N>
ARRAYNN_INLINE vec<T> polynomial(const T (&c)[N], vec<T> x) {
  vec<T> y = broadcast<T>(c[N - 1]);
  static_for<N - 1>([&](auto i) ARRAYNN_LAMBDA { y = fma(y, x, broadcast<T>(c[N - 2 - i])); });
  return y;
}

// The same for many coefficients, even and odd ones side by side: half as long to wait for.
template <class T, int N>
ARRAYNN_INLINE vec<T> long_polynomial(const T (&c)[N], vec<T> x) {
  vec<T> z = x * x, y[2];
  static_for<2>([&](auto side) ARRAYNN_LAMBDA {
    constexpr int last = (N - 1 - side) / 2;
    y[side] = broadcast<T>(c[2 * last + side]);
    static_for<last>([&](auto i)
                         ARRAYNN_LAMBDA { y[side] = fma(y[side], z, broadcast<T>(c[2 * (last - 1 - i) + side])); });
  });
  return fma(y[1], x, y[0]);
}

// exp(r) - 1 for x = n ln 2 + r.
template <class T>
ARRAYNN_INLINE vec<T> reduce(vec<T> x, vec<T>& shifted, vec<T>& whole) {
  vec<T> r = remainder<T>(x, shifted, whole);
  return fma(r * r, polynomial(Exp<T>::q, r), r);
}

// exp(r) for x + low = n ln 2 + r, with a polynomial one degree shorter, which does not keep the digits of exp(r) - 1.
// `low` is what x lacks of its value: little.
template <class T>
ARRAYNN_INLINE vec<T> reduce_short(vec<T> x, vec<T>& shifted, vec<T>& whole, vec<T> low) {
  vec<T> r = remainder<T>(x, shifted, whole) + low;
  return fma(fma(polynomial(Exp<T>::sum_q, r), r, broadcast<T>(T(1))), r, broadcast<T>(T(1)));
}

template <class T>
ARRAYNN_INLINE vec<T> reduce_short(vec<T> x, vec<T>& shifted, vec<T>& whole) {
  return reduce_short<T>(x, shifted, whole, broadcast<T>(T(-0.0)));  // which adding does not change, so it goes away
}

// 2^(n + more) where that is a normal number. The bits of magic that are shifted in are 0.
template <class T>
ARRAYNN_INLINE vec<T> power_of_two(vec<T> shifted, int more = 0) {
  return bits_to_float<T>((float_to_bits<T>(shifted) + (Exp<T>::bias + more)) << Exp<T>::mantissa);
}

// p 2^n for p near 1, where that may be inf or subnormal.
template <class T>
ARRAYNN_INLINE vec<T> scaled(vec<T> p, [[maybe_unused]] vec<T> shifted, [[maybe_unused]] vec<T> whole) {
#ifdef ARRAYNN_HAS_SCALE
  return scale(p, whole);
#else
  using C = Exp<T>;  // in two steps: 2^n itself may be inf or subnormal while the result is neither
  mask<T> n = float_to_bits<T>(shifted) - float_to_bits<T>(broadcast<T>(C::magic)), half = n >> 1;
  auto power = [](mask<T> e) ARRAYNN_LAMBDA { return bits_to_float<T>((e + C::bias) << C::mantissa); };
  return p * power(half) * power(n - half);
#endif
}

// p 2^n for n <= 0, where that may be subnormal.
template <class T>
ARRAYNN_INLINE vec<T> scaled_down(vec<T> p, [[maybe_unused]] vec<T> shifted, [[maybe_unused]] vec<T> whole) {
#ifdef ARRAYNN_HAS_SCALE
  return scale(p, whole);
#else
  return p * power_of_two<T>(shifted, Exp<T>::up) * Exp<T>::down;
#endif
}

template <class T>
ARRAYNN_INLINE vec<T> exp(vec<T> x) {
  using C = Exp<T>;
  x = min(broadcast<T>(C::highest), max(broadcast<T>(C::lowest), x));  // NaN, as second operand, stays
  vec<T> shifted, whole, p = reduce<T>(x, shifted, whole) + T(1);
  return scaled<T>(p, shifted, whole);
}

// exp(x + low) for x from what gives somewhat less than the least number up to 0, and low of at most 1/4.
template <class T>
ARRAYNN_INLINE vec<T> exp_of_sum(vec<T> x, vec<T> low) {
  vec<T> shifted, whole, p = reduce_short<T>(x, shifted, whole, low);
  return scaled_down<T>(p, shifted, whole);
}

// exp for x <= 0, with gradual underflow.
template <class T>
ARRAYNN_INLINE vec<T> exp_nonpositive_gradual(vec<T> x) {
  vec<T> shifted, whole, p = reduce_short<T>(max(broadcast<T>(Exp<T>::lowest), x), shifted, whole);
  return scaled_down<T>(p, shifted, whole);
}

// The same where a result below the normal range may be 0, as in sums that hold an exp(0) as well.
template <class T>
ARRAYNN_INLINE vec<T> exp_nonpositive(vec<T> x) {
  constexpr T lowest = T(-Exp<T>::bias) * T(0.6931471805599453);  // of 2^-bias all bits are 0
  vec<T> shifted, whole, p = reduce_short<T>(max(broadcast<T>(lowest), x), shifted, whole);
  return p * power_of_two<T>(shifted);
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
  vec<T> r = polynomial(C::q, z);
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
  vec<T> e = exp_nonpositive_gradual<T>(-magnitude<T>(x));
  vec<T> y = (negative ? e : broadcast<T>(T(1))) / (e + T(1));
  return negative ? fma(-e, y, e) : y;
}

// exp(x) - 1 for x <= 0 and NaN.
template <class T>
ARRAYNN_INLINE vec<T> expm1_nonpositive(vec<T> x) {
  vec<T> shifted, whole;
  vec<T> part = reduce<T>(max(broadcast<T>(T(-2) * Exp<T>::tanh_one), x), shifted, whole);  // below it rounds to -1
  vec<T> power = power_of_two<T>(shifted);
  return fma(power, part, power - T(1));
}

// With e = exp(-2|x|) and h = (1 - e) / 2: tanh|x| is y = h / (1 - h), which is accurate for small |x|, and
// 1 - e / (1 - h), which is where it is beyond 1/2. The former is h + h y too: another round leaves a third of the
// errors of y at most.
template <class T>
ARRAYNN_INLINE vec<T> tanh(vec<T> x) {
#ifdef ARRAYNN_HAS_LOOKUP
  if constexpr (std::is_same_v<T, float>)
    return with_sign_of<T>(piecewise<TanhPieces>(min(broadcast<T>(TanhPieces::end), magnitude<T>(x))), x);
#endif
  vec<T> shifted, whole;
  vec<T> part = reduce<T>(min(broadcast<T>(Exp<T>::tanh_one), magnitude<T>(x)) * T(-2), shifted, whole);
  vec<T> half = power_of_two<T>(shifted, -1);
  vec<T> h = fma(-half, part, T(0.5) - half);
  auto large = h > T(1.0 / 3.0);
  vec<T> y = (large ? fma(half, part, half) : h) / (T(1) - h);
  y = fma(large ? broadcast<T>(T(-2)) : h, y, large ? broadcast<T>(T(1)) : h);
  return with_sign_of<T>(y, x);
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
