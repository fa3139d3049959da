// Channels as planes of adjacent elements: a task takes all that one statistic is of, reads it for the moments or the
// sums and, from cache where it fits, for the result.
#pragma once
#include "cpu/channel_norm/units.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

struct Planes {
  const ChannelNormParams& p;
  int64_t runs, per;  // planes of a unit, units of a statistic

  explicit Planes(const ChannelNormParams& params)
      : p(params), runs(params.groups ? 1 : params.images), per(params.units_per_statistic()) {}
  int64_t at(int64_t unit, int64_t run) const { return (run * p.units() + unit) * p.inner; }

  // f(statistic) for all.
  template <class F>
  void for_statistics(const F& f) const {
    int64_t elements = per * p.elements_per_unit();
    parallel_chunks(p.statistics(), grain / (elements + 1) + 1, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; ++s) f(s);
      stream_end();  // of those who stream
    });
  }
};

template <class T>
void normalize_plane(bool streamed, const T* x, T* y, int64_t n, const Affine<T>& f) {
  fill(streamed, 0, n, y, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    return ((load_count(x + i, count) - f.high) - f.low) * f.scale + f.shift;
  });
}

// Of the units of a statistic from `first` on. Runs too short to be worth reading twice are added up in double.
template <class T>
Moments moments_of_runs(const Planes& planes, int64_t first, const T* x) {
  constexpr int64_t short_run = 256;
  int64_t length = planes.per * planes.p.inner;
  if (length <= short_run) {
    WideMoments<T> wide(x[planes.at(first, 0)]);
    for (int64_t run = 0; run < planes.runs; ++run) wide.add(x + planes.at(first, run), length);
    return wide.moments();
  }
  Moments m;
  for (int64_t run = 0; run < planes.runs; ++run) m.merge(moments_of(x + planes.at(first, run), length, planes.p.eps));
  return m;
}

template <class T>
void planes_forward(const ChannelNormParams& p, const ChannelNormForward& call) {
  Planes planes(p);
  Forward<T> a(call);
  bool streamed = is_streamed<T>(p);
  planes.for_statistics([&](int64_t s) {
    int64_t first = s * planes.per;
    if (p.fixed) {
      call.statistics[s] = running(p, call, s);
    } else {
      call.statistics[s] = settle(p, call, s, moments_of_runs(planes, first, a.x));
    }
    for (int64_t unit = first; unit < first + planes.per; ++unit) {
      Affine<T> f(a, unit % p.channels, call.statistics[s]);
      for (int64_t run = 0; run < planes.runs; ++run)
        normalize_plane(streamed, a.x + planes.at(unit, run), a.y + planes.at(unit, run), p.inner, f);
    }
  });
}

// The sums of dy and of dy z; without x, that of dy.
template <class T>
Sums plane_sums(const T* dy, const T* x, int64_t n, const Statistics& s) {
  Split<T> mean(s.mean);
  Sums sums = sums_of<T>(n, [&](int64_t i, auto count, vec<T>& d, vec<T>& product) ARRAYNN_LAMBDA {
    d = load_count(dy + i, count);
    product = x ? d * ((load_count(x + i, count) - mean.high) - mean.low) : vec<T>{};
  });
  return {sums.first, sums.second * s.rstd};
}

// x is not looked at where its share is none.
template <class T>
void plane_gradient(bool streamed, const T* dy, const T* x, T* dx, int64_t n, const Gradient<T>& f, bool fixed) {
  fill(streamed, 0, n, dx, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    vec<T> v = load_count(dy + i, count) * f.scale;
    if (!fixed) v -= f.offset + ((load_count(x + i, count) - f.high) - f.low) * f.slope;
    return v;
  });
}

template <class T>
void planes_backward(const ChannelNormParams& p, const ChannelNormBackward& call, Sums* sums) {
  Planes planes(p);
  Backward<T> a(call);
  const T* x = p.fixed && !a.d_weight ? nullptr : a.x;
  bool streamed = is_streamed<T>(p);
  planes.for_statistics([&](int64_t s) {
    const Statistics& statistics = call.statistics[s];
    int64_t first = s * planes.per, end = first + planes.per;
    for (int64_t unit = first; needs_sums(p, a) && unit < end; ++unit) {
      sums[unit] = Sums{};
      for (int64_t run = 0; run < planes.runs; ++run) {
        int64_t at = planes.at(unit, run);
        sums[unit].add(plane_sums(a.dy + at, x ? x + at : nullptr, p.inner, statistics));
      }
    }
    if (!a.dx) return;
    Sums means = gradient_means(p, a, s, sums);
    for (int64_t unit = first; unit < end; ++unit) {
      Gradient<T> f(a, unit % p.channels, statistics, means);
      for (int64_t run = 0; run < planes.runs; ++run) {
        int64_t at = planes.at(unit, run);
        plane_gradient(streamed, a.dy + at, p.fixed ? nullptr : x + at, a.dx + at, p.inner, f, p.fixed);
      }
    }
  });
  add_units(p, a, sums);
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
