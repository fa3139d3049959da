// Pointwise losses: one pass over input, target and weights, which writes the gradient too where it is wanted. Sums
// are taken in double: most of these wait for memory anyway.
#include "cpu/kernels.h"
#include "cpu/loss/functions.h"
#include "cpu/parallel.h"

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

// The losses and derivatives of elements, weighted.
template <class T, class F>
struct Elements {
  F f;
  const T *x, *t, *w, *p;  // w and p may be null: ones

  Elements(const F& function, const LossInputs& in)
      : f(function),
        x(static_cast<const T*>(in.input)),
        t(static_cast<const T*>(in.target)),
        w(static_cast<const T*>(in.weight)),
        p(static_cast<const T*>(in.pos_weight)) {}

  template <class Count>
  ARRAYNN_INLINE vec<T> loss(int64_t i, Count count) const {
    return weighted(f.loss(load_count(x + i, count), load_count(t + i, count), positive(i, count)), i, count);
  }
  template <class Count>
  ARRAYNN_INLINE vec<T> slope(int64_t i, Count count) const {
    return weighted(f.slope(load_count(x + i, count), load_count(t + i, count), positive(i, count)), i, count);
  }

 private:
  template <class Count>
  ARRAYNN_INLINE vec<T> positive(int64_t i, Count count) const {
    return p ? load_count(p + i, count) : broadcast<T>(T(1));
  }
  template <class Count>
  ARRAYNN_INLINE vec<T> weighted(vec<T> v, int64_t i, Count count) const {
    return w ? v * load_count(w + i, count) : v;
  }
};

// f(Elements) of the call's function and dtype.
template <class F>
void with_elements(const LossParams& p, const LossInputs& in, const F& f) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    with_function<T>(p, [&](auto function) { f(Elements<T, decltype(function)>(function, in), zero); });
  });
}

// y[i] = value(i, count) over [0, n).
template <class T, class F>
void for_each(int64_t n, T* y, const F& value) {
  parallel_chunks(n, grain, [&](int64_t begin, int64_t end) {
    for_vectors<T>(end - begin, [&](int64_t k, auto count)
                                    ARRAYNN_LAMBDA { store_count(y + begin + k, value(begin + k, count), count); });
  });
}

}  // namespace

double loss_divisor(const LossParams& p, const void* weight) {
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

void loss_forward(const LossParams& p, const LossInputs& in, void* output, void* d_input, void*) {
  with_elements(p, in, [&](const auto& e, auto zero) {
    using T = decltype(zero);
    T *y = static_cast<T*>(output), *dx = static_cast<T*>(d_input);
    if (p.reduction == Reduction::none)
      return for_each(p.count, y, [&](int64_t i, auto count) ARRAYNN_LAMBDA { return e.loss(i, count); });
    double divisor = p.reduction == Reduction::mean ? p.divisor : 1;
    T factor = static_cast<T>(1 / divisor);
    double total = parallel_sum(p.count, grain, [&](int64_t begin, int64_t end) {
      return sum_of<T>(begin, end, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
        if (dx) store_count(dx + i, e.slope(i, count) * factor, count);
        return e.loss(i, count);
      });
    });
    *y = static_cast<T>(total / divisor);
  });
}

void loss_backward(const LossParams& p, const LossInputs& in, const void* cotangent, void* d_input, bool unit, void*) {
  with_elements(p, in, [&](const auto& e, auto zero) {
    using T = decltype(zero);
    const T* dl = static_cast<const T*>(cotangent);
    T* dx = static_cast<T*>(d_input);
    if (p.reduction == Reduction::none)
      return for_each(p.count, dx, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
        return e.slope(i, count) * load_count(dl + i, count);
      });
    if (unit && *dl == T(1)) return;
    T factor = static_cast<T>(static_cast<double>(*dl) / (p.reduction == Reduction::mean ? p.divisor : 1));
    for_each(p.count, dx, [&](int64_t i, auto count) ARRAYNN_LAMBDA { return e.slope(i, count) * factor; });
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
