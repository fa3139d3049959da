// The pointwise losses: the loss of input and target, and its derivative by the input (ops/loss.h), in the type that an
// element is computed in. `p` is bce_with_logits' weight of t = 1.
#pragma once
#include "device/softmax.h"
#include "ops/loss.h"

namespace arraynn::cuda {
namespace {

template <class T>
struct Mse {
  using C = compute_t<T>;
  static constexpr bool has_positive = false;
  explicit Mse(const LossParams&) {}
  __device__ __forceinline__ C loss(C x, C t, C) const { return (x - t) * (x - t); }
  __device__ __forceinline__ C slope(C x, C t, C) const { return (x - t) * 2; }
};

template <class T>
struct L1 {
  using C = compute_t<T>;
  static constexpr bool has_positive = false;
  explicit L1(const LossParams&) {}
  __device__ __forceinline__ C loss(C x, C t, C) const {
    C d = x - t;
    return d < 0 ? -d : d;
  }
  __device__ __forceinline__ C slope(C x, C t, C) const {
    C d = x - t;
    return d > 0 ? C(1) : d < 0 ? C(-1) : C(0);
  }
};

template <class T>
struct Huber {
  using C = compute_t<T>;
  static constexpr bool has_positive = false;
  C delta;
  explicit Huber(const LossParams& p) : delta(static_cast<C>(p.delta)) {}
  __device__ __forceinline__ C loss(C x, C t, C) const {
    C d = x - t, z = d < 0 ? -d : d;
    return z <= delta ? z * z * C(0.5) : (z - delta * C(0.5)) * delta;
  }
  __device__ __forceinline__ C slope(C x, C t, C) const {
    C d = x - t;
    return d > delta ? delta : d < -delta ? -delta : d;
  }
};

template <class T>
struct KlDiv {
  using C = compute_t<T>;
  static constexpr bool has_positive = false;
  explicit KlDiv(const LossParams&) {}
  __device__ __forceinline__ C loss(C x, C t, C) const { return (t == 0 ? 0 : t * log_of(t)) - t * x; }
  __device__ __forceinline__ C slope(C, C t, C) const { return -t; }
};

template <class T>
struct KlDivOfLogs {
  using C = compute_t<T>;
  static constexpr bool has_positive = false;
  explicit KlDivOfLogs(const LossParams&) {}
  __device__ __forceinline__ C loss(C x, C t, C) const { return exp_of<T>(t) * (t - x); }
  __device__ __forceinline__ C slope(C, C t, C) const { return -exp_of<T>(t); }
};

// With e = exp(-|x|), of which neither sign of x makes differences of large terms.
template <class T>
struct BceWithLogits {
  using C = compute_t<T>;
  static constexpr bool has_positive = true;
  explicit BceWithLogits(const LossParams&) {}
  __device__ __forceinline__ C loss(C x, C t, C p) const {
    C rest = 1 - t, hit = p * t, e = exp_of<T>(x < 0 ? x : -x);
    return (x < 0 ? -hit : rest) * x + (rest + hit) * log1p_of(e);
  }
  __device__ __forceinline__ C slope(C x, C t, C p) const {
    C e = exp_of<T>(x < 0 ? x : -x), larger = 1 / (1 + e), smaller = e * larger;
    return (1 - t) * (x < 0 ? smaller : larger) - p * t * (x < 0 ? larger : smaller);
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
}  // namespace arraynn::cuda
