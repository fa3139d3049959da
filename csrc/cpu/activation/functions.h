// The pointwise activations on vectors: forward of the input, backward of what the op saves and the cotangent
// (ops/activation.h). NaN is false in every comparison, which is how it stays NaN.
#pragma once
#include "cpu/simd/normal.h"
#include "ops/activation.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

template <class T>
struct Relu {
  using V = vec<T>;
  explicit Relu(const ActivationParams&) {}
  ARRAYNN_INLINE V forward(V x) const { return x < T(0) ? V{} : x; }
  ARRAYNN_INLINE V backward(V y, V dy) const { return y <= T(0) ? V{} : dy; }
};

template <class T>
struct LeakyRelu {
  using V = vec<T>;
  T slope;
  explicit LeakyRelu(const ActivationParams& p) : slope(static_cast<T>(p.negative_slope)) {}
  ARRAYNN_INLINE V forward(V x) const { return x > T(0) ? x : x * slope; }
  ARRAYNN_INLINE V backward(V x, V dy) const { return x > T(0) ? dy : dy * slope; }
};

template <class T>
struct Elu {
  using V = vec<T>;
  T alpha;
  explicit Elu(const ActivationParams& p) : alpha(static_cast<T>(p.alpha)) {}
  ARRAYNN_INLINE V forward(V x) const { return x >= T(0) ? x : expm1_nonpositive<T>(min(V{}, x)) * alpha; }
  ARRAYNN_INLINE V backward(V x, V dy) const {
    return x > T(0) ? dy : dy * (exp_nonpositive_gradual<T>(min(V{}, x)) * alpha);
  }
};

template <class T>
struct Sigmoid {
  using V = vec<T>;
  explicit Sigmoid(const ActivationParams&) {}
  // Of what is so small it is 1/2; subnormal numbers would take some CPUs forty times as long.
  static constexpr T nothing = sizeof(T) == 4 ? T(0x1p-30) : T(0x1p-60);
  ARRAYNN_INLINE V forward(V x) const { return sigmoid<T>(magnitude<T>(x) < nothing ? V{} : x); }
  ARRAYNN_INLINE V backward(V y, V dy) const { return dy * (y * (T(1) - y)); }
};

template <class T>
struct Tanh {
  using V = vec<T>;
  explicit Tanh(const ActivationParams&) {}
  ARRAYNN_INLINE V forward(V x) const { return tanh<T>(x); }
  ARRAYNN_INLINE V backward(V y, V dy) const { return dy * (T(1) - y * y); }
};

// x s for a gate s(g), the sigmoid: dx = dy (s + x s' g'), s' = s (1 - s), both factors of which are exact to
// rounding for either sign of g.
template <class T>
ARRAYNN_INLINE vec<T> gated_gradient(vec<T> x, vec<T> g, vec<T> dg, vec<T> dy) {
  vec<T> e = exp_nonpositive_gradual<T>(-magnitude<T>(g)), larger = T(1) / (e + T(1)), smaller = e * larger;
  auto negative = g < T(0);
  vec<T> s = negative ? smaller : larger, rest = negative ? larger : smaller;
  return dy * fma(s * rest * dg, x, s);
}

template <class T>
struct Silu {
  using V = vec<T>;
  explicit Silu(const ActivationParams&) {}
  ARRAYNN_INLINE V forward(V x) const { return x * sigmoid<T>(x); }
  ARRAYNN_INLINE V backward(V x, V dy) const { return gated_gradient<T>(x, x, broadcast<T>(T(1)), dy); }
};

template <class T>
struct Gelu {
  using V = vec<T>;
  explicit Gelu(const ActivationParams&) {}
  ARRAYNN_INLINE V forward(V x) const { return x * normal<T>(x).cdf; }
  ARRAYNN_INLINE V backward(V x, V dy) const {
    Normal<T> n = normal<T>(x);
    return dy * fma(x, n.density, n.cdf);
  }
};

// (1 + tanh(a)) / 2 is the sigmoid of 2 a, which stays accurate where the sum cancels.
template <class T>
struct GeluTanh {
  using V = vec<T>;
  static constexpr T linear = T(1.5957691216057308), cubic = linear * T(0.044715);  // 2 sqrt(2 / pi)
  static constexpr T settled = 50;  // from here on the gate is 0 or 1; the cube of x may overflow
  explicit GeluTanh(const ActivationParams&) {}
  ARRAYNN_INLINE V forward(V x) const {
    V x2 = x * x;
    return x * sigmoid<T>(x * fma(x2, broadcast<T>(cubic), broadcast<T>(linear)));
  }
  ARRAYNN_INLINE V backward(V x, V dy) const {
    V near = max(broadcast<T>(-settled), min(broadcast<T>(settled), x)), x2 = near * near;
    V g = near * fma(x2, broadcast<T>(cubic), broadcast<T>(linear));
    return gated_gradient<T>(x, g, fma(x2, broadcast<T>(T(3) * cubic), broadcast<T>(linear)), dy);
  }
};

// log(1 + exp(z)) / beta with z = beta x, and x itself where z is beyond the threshold.
template <class T>
struct Softplus {
  using V = vec<T>;
  T beta, threshold;
  explicit Softplus(const ActivationParams& p) : beta(static_cast<T>(p.beta)), threshold(static_cast<T>(p.threshold)) {}
  ARRAYNN_INLINE V forward(V x) const {
    V z = x * beta, e = exp_nonpositive_gradual<T>(-magnitude<T>(z));
    V y = (max(z, V{}) + log1p_of_fraction<T>(e)) / beta;
    return z > threshold ? x : y;
  }
  ARRAYNN_INLINE V backward(V x, V dy) const {
    V z = x * beta;
    return z > threshold ? dy : dy * sigmoid<T>(z);
  }
};

// f(the function of p)
template <class T, class F>
void with_function(const ActivationParams& p, const F& f) {
  switch (p.function) {
    case Activation::relu: return f(Relu<T>(p));
    case Activation::leaky_relu: return f(LeakyRelu<T>(p));
    case Activation::elu: return f(Elu<T>(p));
    case Activation::sigmoid: return f(Sigmoid<T>(p));
    case Activation::tanh: return f(Tanh<T>(p));
    case Activation::gelu: return f(Gelu<T>(p));
    case Activation::gelu_tanh: return f(GeluTanh<T>(p));
    case Activation::silu: return f(Silu<T>(p));
    case Activation::softplus: return f(Softplus<T>(p));
  }
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
