// Mean and squared deviations of numbers, in double. A block is shifted by its first number, so that a mean far from
// zero costs nothing, and blocks are merged by Chan's formula (Chan, Golub and LeVeque, "Updating Formulae and a
// Pairwise Algorithm for Computing Sample Variances", 1979).
#pragma once
#include "cpu/simd/vec.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

struct Moments {
  double count = 0, mean = 0, squares = 0;  // squares: the sum of squared deviations from the mean

  void merge(const Moments& m) {
    if (m.count == 0) return;
    double total = count + m.count, difference = m.mean - mean, share = m.count / total;
    squares += m.squares + difference * difference * (count * share);
    mean += difference * share;
    count = total;
  }
  double variance() const { return squares / count; }
};

// From the sums of d and d^2 of `count` numbers d = x - shift.
inline Moments moments_of_sums(double count, double shift, double sum, double squares) {
  return {count, shift + sum / count, squares - sum * (sum / count)};
}

template <class T>
Moments moments_of_block(const T* x, int64_t n) {
  vec<T> first = broadcast<T>(x[0]);
  vec<double> shift = broadcast<double>(static_cast<double>(x[0])), sums[2] = {}, squares[2] = {};
  for_vectors<T>(n, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    int half = 0;
    as_doubles(keep_count<T>(load_count(x + i, count), count, first), [&](vec<double> v) ARRAYNN_LAMBDA {
      vec<double> d = v - shift;
      sums[half] += d;
      squares[half] = fma(d, d, squares[half]);
      ++half;
    });
  });
  return moments_of_sums(static_cast<double>(n), static_cast<double>(x[0]), sum<double>(sums[0] + sums[1]),
                         sum<double>(squares[0] + squares[1]));
}

template <class T>
Moments moments_of(const T* x, int64_t n) {
  constexpr int64_t block = 2048;
  Moments m;
  for (int64_t i = 0; i < n; i += block) m.merge(moments_of_block(x + i, n - i < block ? n - i : block));
  return m;
}

// A number in double as one of T and what is left of it: x - number = (x - high) - low to the last bit of T, where
// that alone has the number's size and the difference has not.
template <class T>
struct Split {
  T high, low;
  explicit Split(double number)
      : high(static_cast<T>(number)), low(static_cast<T>(number - static_cast<double>(high))) {
    if (!(high - high == 0)) low = 0;  // infinite, or NaN
  }
};

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
