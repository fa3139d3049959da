// The pointwise activations: forward of the input, backward of what the op saves and the cotangent
// (ops/activation.h), in the type that an element is computed in. NaN is false in every comparison, which is how it
// stays NaN.
#pragma once
#include "device/softmax.h"
#include "ops/activation.h"

namespace arraynn::cuda {
namespace {

__device__ __forceinline__ float tanh_of(float x) { return tanhf(x); }
__device__ __forceinline__ double tanh_of(double x) { return tanh(x); }
__device__ __forceinline__ float expm1_of(float x) { return expm1f(x); }
__device__ __forceinline__ double expm1_of(double x) { return expm1(x); }
__device__ __forceinline__ float normal_cdf(float x) { return normcdff(x); }
__device__ __forceinline__ double normal_cdf(double x) { return normcdf(x); }

// The logistic function and 1 less it, each accurate however small.
template <class T>
struct Gate {
  using C = compute_t<T>;
  C open, shut;

  __device__ __forceinline__ explicit Gate(C x) {
    C e = exp_of<T>(x < 0 ? x : -x), larger = 1 / (1 + e), smaller = e * larger;
    smaller = fma(-e, smaller, e);  // another round of y = e - e y: see csrc/cpu/simd/math.h
    open = x < 0 ? smaller : larger;
    shut = x < 0 ? larger : smaller;
  }
};

template <class T>
struct Relu {
  using C = compute_t<T>;
  explicit Relu(const ActivationParams&) {}
  __device__ __forceinline__ C forward(C x) const { return x < 0 ? 0 : x; }
  __device__ __forceinline__ C backward(C y, C dy) const { return y <= 0 ? C(0) : dy; }
};

template <class T>
struct LeakyRelu {
  using C = compute_t<T>;
  C slope;
  explicit LeakyRelu(const ActivationParams& p) : slope(static_cast<C>(p.negative_slope)) {}
  __device__ __forceinline__ C forward(C x) const { return x > 0 ? x : x * slope; }
  __device__ __forceinline__ C backward(C x, C dy) const { return x > 0 ? dy : dy * slope; }
};

template <class T>
struct Elu {
  using C = compute_t<T>;
  C alpha;
  explicit Elu(const ActivationParams& p) : alpha(static_cast<C>(p.alpha)) {}
  __device__ __forceinline__ C forward(C x) const { return x >= 0 ? x : expm1_of(x) * alpha; }
  __device__ __forceinline__ C backward(C x, C dy) const { return x > 0 ? dy : dy * (exp_of<T>(x) * alpha); }
};

template <class T>
struct Sigmoid {
  using C = compute_t<T>;
  explicit Sigmoid(const ActivationParams&) {}
  __device__ __forceinline__ C forward(C x) const { return Gate<T>(x).open; }
  __device__ __forceinline__ C backward(C y, C dy) const { return dy * (y * (1 - y)); }
};

template <class T>
struct Tanh {
  using C = compute_t<T>;
  explicit Tanh(const ActivationParams&) {}
  __device__ __forceinline__ C forward(C x) const { return tanh_of(x); }
  __device__ __forceinline__ C backward(C y, C dy) const { return dy * (1 - y * y); }
};

template <class T>
struct Silu {
  using C = compute_t<T>;
  explicit Silu(const ActivationParams&) {}
  __device__ __forceinline__ C forward(C x) const { return x * Gate<T>(x).open; }
  __device__ __forceinline__ C backward(C x, C dy) const {
    Gate<T> s(x);
    return dy * fma(s.open * s.shut, x, s.open);
  }
};

template <class T>
struct Gelu {
  using C = compute_t<T>;
  static constexpr C end = sizeof(C) == 8 ? 39 : C(14.5);  // from here on the density is 0
  explicit Gelu(const ActivationParams&) {}
  __device__ __forceinline__ C forward(C x) const { return x * normal_cdf(x); }
  __device__ __forceinline__ C backward(C x, C dy) const {
    // exp(-x^2 / 2) in two steps: half an ulp of the square would be many of the result.
    C near = x > end ? end : x < -end ? -end : x, square = near * near, rest = fma(near, near, -square);
    C e = exp_of<T>(C(-0.5) * square), density = C(0.3989422804014327) * fma(C(-0.5) * rest, e, e);
    return dy * fma(x, density, normal_cdf(x));
  }
};

// (1 + tanh(a)) / 2 is the logistic function of 2 a, which stays accurate where the sum cancels.
template <class T>
struct GeluTanh {
  using C = compute_t<T>;
  static constexpr C linear = C(1.5957691216057308), cubic = linear * C(0.044715);  // 2 sqrt(2 / pi)
  static constexpr C settled = 50;  // from here on the gate is 0 or 1; the cube of x may overflow
  explicit GeluTanh(const ActivationParams&) {}
  __device__ __forceinline__ C forward(C x) const { return x * Gate<T>(x * fma(x * x, cubic, linear)).open; }
  __device__ __forceinline__ C backward(C x, C dy) const {
    C near = x > settled ? settled : x < -settled ? -settled : x, square = near * near;
    Gate<T> s(near * fma(square, cubic, linear));
    return dy * fma(s.open * s.shut * fma(square, 3 * cubic, linear), x, s.open);
  }
};

// log(1 + exp(z)) / beta with z = beta x, and x itself where z is beyond the threshold.
template <class T>
struct Softplus {
  using C = compute_t<T>;
  C beta, threshold;
  explicit Softplus(const ActivationParams& p) : beta(static_cast<C>(p.beta)), threshold(static_cast<C>(p.threshold)) {}
  __device__ __forceinline__ C forward(C x) const {
    C z = x * beta;
    return z > threshold ? x : ((z > 0 ? z : 0) + log1p_of(exp_of<T>(z < 0 ? z : -z))) / beta;
  }
  __device__ __forceinline__ C backward(C x, C dy) const {
    C z = x * beta;
    return z > threshold ? dy : dy * Gate<T>(z).open;
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
}  // namespace arraynn::cuda
