// Mean and squared deviations of numbers. A block that the nearest cache holds is read twice, for its mean and for the
// deviations from that, so that a mean far from zero costs nothing; what the rounded mean leaves is corrected. Blocks
// are merged in double by Chan's formula (Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for
// Computing Sample Variances", 1979).
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

// Whether the squares that add up to this have kept to float's range, and are not so small that they lost digits which
// count beside `eps`, what is added to their mean.
ARRAYNN_INLINE bool keeps_range(double squares, int64_t n, double eps) {
  constexpr double least = 1e-30;
  return squares < static_cast<double>(__FLT_MAX__) && (squares > least * static_cast<double>(n) || eps > 1e10 * least);
}

// In double throughout, as deviations from one of the numbers; for runs that are added one by one.
template <class T>
struct WideMoments {
  explicit WideMoments(T number) : shift_(number) {}

  void add(const T* x, int64_t n) {
    vec<double> shift = broadcast<double>(static_cast<double>(shift_));
    for_vectors<T>(n, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
      int half = 0;
      as_doubles(keep_count<T>(load_count(x + i, count), count, broadcast<T>(shift_)),
                 [&](vec<double> v) ARRAYNN_LAMBDA {
                   vec<double> d = v - shift;
                   sums_[half] += d;
                   squares_[half] = fma(d, d, squares_[half]);
                   ++half;
                 });
    });
    count_ += n;
  }
  Moments moments() const {
    return moments_of_sums(static_cast<double>(count_), static_cast<double>(shift_), sum<double>(sums_[0] + sums_[1]),
                           sum<double>(squares_[0] + squares_[1]));
  }

 private:
  T shift_;
  vec<double> sums_[2] = {}, squares_[2] = {};
  int64_t count_ = 0;
};

template <class T>
Moments wide_moments_of_block(const T* x, int64_t n) {
  WideMoments<T> m(x[0]);
  m.add(x, n);
  return m.moments();
}

template <class T>
Moments moments_of_block(const T* x, int64_t n, double eps) {
  constexpr int ways = 4;
  vec<T> total[ways] = {}, rest[ways] = {}, squares[ways] = {};
  for_vectors_in_turns<T, ways>(
      n, [&](int64_t i, auto way, auto count) ARRAYNN_LAMBDA { total[way] += load_count(x + i, count); });
  vec<T> mean = broadcast<T>(sum<T>((total[0] + total[1]) + (total[2] + total[3])) / static_cast<T>(n));
  for_vectors_in_turns<T, ways>(n, [&](int64_t i, auto way, auto count) ARRAYNN_LAMBDA {
    vec<T> d = keep_count<T>(load_count(x + i, count), count, mean) - mean;
    rest[way] += d;
    squares[way] = fma(d, d, squares[way]);
  });
  auto q = static_cast<double>(sum<T>((squares[0] + squares[1]) + (squares[2] + squares[3])));
  if (!keeps_range(q, n, eps)) return wide_moments_of_block(x, n);
  auto left = static_cast<double>(sum<T>((rest[0] + rest[1]) + (rest[2] + rest[3])));
  return moments_of_sums(static_cast<double>(n), static_cast<double>(mean[0]), left, q);
}

template <class T>
Moments moments_of(const T* x, int64_t n, double eps) {
  constexpr int64_t block = 2048;
  Moments m;
  for (int64_t i = 0; i < n; i += block) m.merge(moments_of_block(x + i, n - i < block ? n - i : block, eps));
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
