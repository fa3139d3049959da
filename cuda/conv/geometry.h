// The axes of a convolution's walks, from its parameters, and the sizes that plans are made of.
#pragma once
#include <algorithm>

#include "conv/axis.h"
#include "core/errors.h"
#include "ops/conv.h"

namespace arraynn::cuda {

namespace {

// Positions along an axis, of pixels and of what their taps meet, are less than this away from zero.
inline int64_t reach_of(const ConvAxis& a) { return a.in + 2 * a.before + 2; }

// Positions on the device are of 32 bits. A single output takes any stride, a single tap any dilation.
inline ConvAxis plain(ConvAxis a) {
  if (a.out == 1) a.stride = 1;
  if (a.kernel == 1) a.dilation = 1;
  constexpr int64_t most = int64_t{1} << 30;
  if (a.before >= most || reach_of(a) >= most || a.out >= most || a.kernel >= most || a.stride >= most ||
      a.dilation >= most)
    value_error("conv: on CUDA, an axis has fewer than 2^30 elements with its padding, got %lld",
                static_cast<long long>(a.in + a.before));
  return a;
}
inline ConvParams plain(ConvParams p) {
  p.d = plain(p.d);
  p.h = plain(p.h);
  p.w = plain(p.w);
  return p;
}

inline Axis forward_axis(const ConvAxis& a) {
  auto as_int = [](int64_t x) { return static_cast<int>(x); };
  return {as_int(a.in),
          as_int(a.out),
          as_int(a.kernel),
          as_int(a.stride),
          as_int(-a.before),
          as_int(a.dilation),
          1,
          1,
          a.before,
          1,
          0,
          a.dilation};
}

inline int64_t gcd_of(int64_t a, int64_t b) { return b ? gcd_of(b, a % b) : a; }

// x with a x = 1 (mod m).
inline int64_t inverse_of(int64_t a, int64_t m) {
  int64_t r0 = m, r1 = a % m, t0 = 0, t1 = 1;
  while (r1 != 0) {
    int64_t q = r0 / r1, r = r0 - q * r1, t = t0 - q * t1;
    r0 = r1;
    r1 = r;
    t0 = t1;
    t1 = t;
  }
  return (t0 % m + m) % m;
}

inline Axis backward_axis(const ConvAxis& a) {
  auto as_int = [](int64_t x) { return static_cast<int>(x); };
  int64_t gcd = gcd_of(a.stride, a.dilation), period = a.stride / gcd;
  return {as_int(a.out),
          as_int(a.in),
          as_int(a.kernel),
          1,
          as_int(a.before),
          as_int(-a.dilation / gcd),
          as_int(a.stride),
          as_int(period),
          a.before,
          gcd,
          inverse_of(a.dilation / gcd, period),
          a.dilation};
}

inline Axes axes_of(const ConvParams& p, bool backward) {
  auto axis = backward ? backward_axis : forward_axis;
  return {axis(p.d), axis(p.h), axis(p.w)};
}

// Of a Spot: without depth, which all but 3-D convolutions are, lines are as many as 31 bits count.
inline unsigned pitch_of(const ConvParams& p) {
  const ConvAxis& d = p.d;
  if (d.in == 1 && d.out == 1 && d.kernel == 1 && d.before == 0) return 0x80000000u;
  int64_t pitch = 1;
  while (pitch < 2 * reach_of(p.h)) pitch *= 2;
  if (reach_of(d) * pitch > int64_t{1} << 30)
    value_error("conv: on CUDA, depth and height with their padding have fewer than 2^28 elements, got %lld x %lld",
                static_cast<long long>(d.in + 2 * d.before), static_cast<long long>(p.h.in + 2 * p.h.before));
  return static_cast<unsigned>(pitch);
}

inline int64_t input_pixels(const ConvParams& p) { return p.d.in * p.h.in * p.w.in; }
inline int64_t output_pixels(const ConvParams& p) { return p.d.out * p.h.out * p.w.out; }
inline int64_t in_group(const ConvParams& p) { return p.in_channels / p.groups; }
inline int64_t out_group(const ConvParams& p) { return p.out_channels / p.groups; }
inline int64_t taps(const ConvParams& p) { return p.d.kernel * p.h.kernel * p.w.kernel; }

}  // namespace

}  // namespace arraynn::cuda
