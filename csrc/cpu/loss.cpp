// Mean squared error. Sums are taken in double: the op waits for memory anyway.
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/simd/vec.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int64_t grain = 16 << 10;

// The sum over [begin, end) of value(i, count), vectors of T with zeros behind the end.
template <class T, class F>
double sum_of(int64_t begin, int64_t end, const F& value) {
  vec<double> total[4] = {};
  int turn = 0;
  for_vectors<T>(end - begin, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    as_doubles(keep_count<T>(value(begin + i, count), count, vec<T>{}),
               [&](vec<double> v) ARRAYNN_LAMBDA { total[turn & 3] += v, ++turn; });
  });
  return sum<double>((total[0] + total[1]) + (total[2] + total[3]));
}

template <class T>
struct Errors {
  const T *x, *t, *w;  // w may be null
  template <class Count>
  ARRAYNN_INLINE vec<T> error(int64_t i, Count count) const {
    return load_count(x + i, count) - load_count(t + i, count);
  }
  template <class Count>
  ARRAYNN_INLINE vec<T> weighted(vec<T> v, int64_t i, Count count) const {
    return w ? v * load_count(w + i, count) : v;
  }
};

template <class T>
Errors<T> errors_of(const void* input, const void* target, const void* weight) {
  return {static_cast<const T*>(input), static_cast<const T*>(target), static_cast<const T*>(weight)};
}

// What the loss counts in the gradient, but for the cotangent.
double factor_of(const MseParams& p) { return p.reduction == Reduction::mean ? 2 / p.divisor : 2; }

}  // namespace

double mse_divisor(const MseParams& p, const void* weight) {
  double total = 0;
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* w = static_cast<const T*>(weight);
    total = parallel_sum(p.weights, grain, [&](int64_t begin, int64_t end) {
      return sum_of<T>(begin, end, [&](int64_t i, auto count) ARRAYNN_LAMBDA { return load_count(w + i, count); });
    });
  });
  return total;
}

void mse_forward(const MseParams& p, const void* input, const void* target, const void* weight, void* output,
                 void* d_input, void*) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto e = errors_of<T>(input, target, weight);
    T *y = static_cast<T*>(output), *dx = static_cast<T*>(d_input);
    if (p.reduction == Reduction::none) {
      parallel_chunks(p.count, grain, [&](int64_t begin, int64_t end) {
        for_vectors<T>(end - begin, [&](int64_t k, auto count) ARRAYNN_LAMBDA {
          vec<T> d = e.error(begin + k, count);
          store_count(y + begin + k, e.weighted(d * d, begin + k, count), count);
        });
      });
      return;
    }
    T factor = static_cast<T>(factor_of(p));
    double total = parallel_sum(p.count, grain, [&](int64_t begin, int64_t end) {
      return sum_of<T>(begin, end, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
        vec<T> d = e.error(i, count), scaled = e.weighted(d, i, count);
        if (dx) store_count(dx + i, scaled * factor, count);
        return d * scaled;
      });
    });
    *y = static_cast<T>(p.reduction == Reduction::mean ? total / p.divisor : total);
  });
}

void mse_backward(const MseParams& p, const void* input, const void* target, const void* weight, const void* cotangent,
                  void* d_input, bool unit, void*) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto e = errors_of<T>(input, target, weight);
    const T* dl = static_cast<const T*>(cotangent);
    if (unit && *dl == T(1)) return;
    T* dx = static_cast<T*>(d_input);
    bool each = p.reduction == Reduction::none;
    T factor = static_cast<T>(each ? 2 : factor_of(p) * static_cast<double>(*dl));
    parallel_chunks(p.count, grain, [&](int64_t begin, int64_t end) {
      for_vectors<T>(end - begin, [&](int64_t k, auto count) ARRAYNN_LAMBDA {
        int64_t i = begin + k;
        vec<T> d = e.weighted(e.error(i, count), i, count) * factor;
        store_count(dx + i, each ? d * load_count(dl + i, count) : d, count);
      });
    });
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
