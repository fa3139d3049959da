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

// A product's unit: one group of channels and one phase of each axis.
struct Unit {
  int64_t group;
  AxisPhase h, w;
};

__host__ __device__ inline Unit unit_of(const Axis& h, const Axis& w, int64_t unit) {
  if (h.phases == 1 && w.phases == 1) return {unit, phase_of(h, 0), phase_of(w, 0)};
  int64_t phases = static_cast<int64_t>(h.phases) * w.phases, phase = unit % phases;
  return {unit / phases, phase_of(h, static_cast<int>(phase / w.phases)),
          phase_of(w, static_cast<int>(phase % w.phases))};
}

// A number of three digits, counted in steps.
struct Digits {
  int high, middle, low;
};
struct Base {
  int middle, low;  // how many values the digits take

  __device__ Digits digits(int64_t x) const {
    auto pair = static_cast<int64_t>(middle) * low;
    int64_t rest = x % pair;
    return {static_cast<int>(x / pair), static_cast<int>(rest / low), static_cast<int>(rest % low)};
  }
  __device__ void add(Digits& d, const Digits& step) const {
    d.low += step.low;
    bool carry = d.low >= low;
    d.low -= carry ? low : 0;
    d.middle += step.middle + (carry ? 1 : 0);
    carry = d.middle >= middle;
    d.middle -= carry ? middle : 0;
    d.high += step.high + (carry ? 1 : 0);
  }
};

}  // namespace arraynn::cuda
