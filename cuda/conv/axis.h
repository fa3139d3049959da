// The geometry that all of convolution's kernels share. Forward, output pixel i meets tap j of the kernel at
// position i * step + origin + j * dilation of the input. The gradient of the input is the same walk over
// the output's gradient, with steps of 1: of a strided convolution, though, the input's pixels fall into
// `stride` phases along an axis, each of which meets only every so many taps. For pixel phase + stride i,
// those are the taps r = slot + period j, at position i + origin + j * dilation: with stride s, dilation d and
// g = gcd(s, d), r d = phase + padding (mod s) has the solutions r = (phase + padding) / g * (d / g)^-1
// (mod s / g), if g divides phase + padding, and none otherwise.
#pragma once
#include "device/types.h"

namespace arraynn::cuda {

struct Axis {
  int size;                    // of the image that is gathered from
  int count, taps;             // of the pixels that gather, and of the kernel, all phases together
  int step, origin, dilation;  // origin: of the only phase, if there is one
  int phases, period;
  int64_t padding, gcd, inverse, kernel_dilation;  // for more phases than one
};

// One phase of an axis.
struct AxisPhase {
  int phase, count, taps, origin, slot;
};

__host__ __device__ inline AxisPhase phase_of(const Axis& a, int phase) {
  if (a.phases == 1) return {0, a.count, a.taps, a.origin, 0};
  AxisPhase p{phase, (a.count - phase + a.phases - 1) / a.phases, 0, 0, 0};
  int64_t t = phase + a.padding;
  if (t % a.gcd != 0) return p;
  int64_t slot = t / a.gcd % a.period * a.inverse % a.period;
  if (slot >= a.taps) return p;
  p.slot = static_cast<int>(slot);
  p.taps = (a.taps - p.slot + a.period - 1) / a.period;
  p.origin = static_cast<int>((t - slot * a.kernel_dilation) / a.phases);
  return p;
}

// How many phases meet taps at all, and the most taps of one.
__host__ __device__ inline int slots_of(const Axis& a) { return a.period < a.taps ? a.period : a.taps; }
__host__ __device__ inline int most_taps_of(const Axis& a) { return (a.taps + a.period - 1) / a.period; }

// Depth, height and width; an axis that the op does not have is of one element.
struct Axes {
  Axis d, h, w;
};

__host__ __device__ inline int64_t phases_of(const Axes& a) {
  return static_cast<int64_t>(a.d.phases) * a.h.phases * a.w.phases;
}
__host__ __device__ inline int64_t taps_of(const Axes& a) {
  return static_cast<int64_t>(a.d.taps) * a.h.taps * a.w.taps;
}

// An image's strides, in elements.
struct ImageSteps {
  int64_t n, c, d, h, w;
};

// A product's unit: one group of channels and one phase of each axis.
struct Unit {
  int64_t group;
  AxisPhase d, h, w;

  __device__ int64_t pixels() const { return static_cast<int64_t>(d.count) * h.count * w.count; }
  __device__ int64_t taps() const { return static_cast<int64_t>(d.taps) * h.taps * w.taps; }
};

__host__ __device__ inline Unit unit_of(const Axes& a, int64_t unit) {
  if (a.d.phases == 1 && a.h.phases == 1 && a.w.phases == 1)
    return {unit, phase_of(a.d, 0), phase_of(a.h, 0), phase_of(a.w, 0)};
  int64_t w = unit % a.w.phases, line = unit / a.w.phases;
  int64_t h = line % a.h.phases, plane = line / a.h.phases;
  return {plane / a.d.phases, phase_of(a.d, static_cast<int>(plane % a.d.phases)), phase_of(a.h, static_cast<int>(h)),
          phase_of(a.w, static_cast<int>(w))};
}

// Weights are copied by slots: of which group's and which taps' rows a unit is the product.
__host__ __device__ inline int64_t slot_of(const Axes& a, int64_t group, int d, int h, int w) {
  return ((group * slots_of(a.d) + d) * slots_of(a.h) + h) * slots_of(a.w) + w;
}

// A number of four digits, counted in steps.
struct alignas(16) Digits {
  int top, high, middle, low;
};
struct Base {
  int high, middle, low;  // how many values the digits take

  __device__ Digits digits(int64_t x) const {
    int64_t line = x / low, plane = line / middle;
    return {static_cast<int>(plane / high), static_cast<int>(plane % high), static_cast<int>(line % middle),
            static_cast<int>(x % low)};
  }
  __device__ void add(Digits& d, const Digits& step) const {
    d.low += step.low;
    bool carry = d.low >= low;
    d.low -= carry ? low : 0;
    d.middle += step.middle + (carry ? 1 : 0);
    carry = d.middle >= middle;
    d.middle -= carry ? middle : 0;
    d.high += step.high + (carry ? 1 : 0);
    carry = d.high >= high;
    d.high -= carry ? high : 0;
    d.top += step.top + (carry ? 1 : 0);
  }
};

}  // namespace arraynn::cuda
