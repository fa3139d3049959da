// The pointwise losses on vectors: the loss of input and target, and its derivative by the input (ops/loss.h).
// `p` is bce_with_logits' weight of t = 1.
#pragma once
#include "cpu/simd/math.h"
#include "ops/loss.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

template <class T>
struct Mse {
  using V = vec<T>;
  explicit Mse(const LossParams&) {}
  ARRAYNN_INLINE V loss(V x, V t, V) const { return (x - t) * (x - t); }
  ARRAYNN_INLINE V slope(V x, V t, V) const { return (x - t) * T(2); }
};

template <class T>
struct L1 {
  using V = vec<T>;
  explicit L1(const LossParams&) {}
  ARRAYNN_INLINE V loss(V x, V t, V) const { return magnitude<T>(x - t); }
  ARRAYNN_INLINE V slope(V x, V t, V) const {
    V d = x - t;
    return d > T(0) ? broadcast<T>(T(1)) : d < T(0) ? broadcast<T>(T(-1)) : V{};
  }
};

template <class T>
struct Huber {
  using V = vec<T>;
  T delta;
  explicit Huber(const LossParams& p) : delta(static_cast<T>(p.delta)) {}
  ARRAYNN_INLINE V loss(V x, V t, V) const {
    V z = magnitude<T>(x - t);
    return z <= delta ? z * z * T(0.5) : (z - delta * T(0.5)) * delta;
  }
  ARRAYNN_INLINE V slope(V x, V t, V) const {
    return min(broadcast<T>(delta), max(broadcast<T>(-delta), x - t));  // NaN, as second operand, stays
  }
};

template <class T>
struct KlDiv {
  using V = vec<T>;
  explicit KlDiv(const LossParams&) {}
  ARRAYNN_INLINE V loss(V x, V t, V) const { return x_log_x<T>(t) - t * x; }
  ARRAYNN_INLINE V slope(V, V t, V) const { return -t; }
};

template <class T>
struct KlDivOfLogs {
  using V = vec<T>;
  explicit KlDivOfLogs(const LossParams&) {}
  ARRAYNN_INLINE V loss(V x, V t, V) const { return exp<T>(t) * (t - x); }
  ARRAYNN_INLINE V slope(V, V t, V) const { return -exp<T>(t); }
};

// With e = exp(-|x|), of which neither sign of x makes differences of large terms.
template <class T>
struct BceWithLogits {
  using V = vec<T>;
  explicit BceWithLogits(const LossParams&) {}
  ARRAYNN_INLINE V loss(V x, V t, V p) const {
    V rest = T(1) - t, hit = p * t, e = exp_nonpositive_gradual<T>(-magnitude<T>(x));
    return (x < T(0) ? -hit : rest) * x + (rest + hit) * log1p_of_fraction<T>(e);
  }
  ARRAYNN_INLINE V slope(V x, V t, V p) const {
    V e = exp_nonpositive_gradual<T>(-magnitude<T>(x)), larger = T(1) / (e + T(1)), smaller = e * larger;
    auto negative = x < T(0);
    return (T(1) - t) * (negative ? smaller : larger) - p * t * (negative ? larger : smaller);
  }
};

// f(the function of p)
template <class T, class F>
void with_function(const LossParams& p, const F& f) {
  switch (p.function) {
    case PointwiseLoss::mse: return f(Mse<T>(p));
    case PointwiseLoss::l1: return f(L1<T>(p));
    case PointwiseLoss::huber: return f(Huber<T>(p));
    case PointwiseLoss::kl_div: return p.log_target ? f(KlDivOfLogs<T>(p)) : f(KlDiv<T>(p));
    case PointwiseLoss::bce_with_logits: return f(BceWithLogits<T>(p));
  }
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
