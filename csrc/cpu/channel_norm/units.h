// What both memory orders share: how a unit (a channel, or a channel of an image) is normalized and its gradient made,
// and how statistics follow from moments.
#pragma once
#include <cmath>

#include "cpu/kernels.h"
#include "cpu/moments.h"
#include "cpu/parallel.h"
#include "cpu/simd/fill.h"
#include "cpu/sums.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

constexpr int64_t grain = 8 << 10;  // elements per task

template <class T>
bool is_streamed(const ChannelNormParams& p) {
  return is_streamed<T>(p.images * p.channels * p.inner);
}

// The arrays of a call with their type.
template <class T>
struct Forward {
  const T *x, *weight, *bias;
  T* y;
  explicit Forward(const ChannelNormForward& a)
      : x(static_cast<const T*>(a.x)),
        weight(static_cast<const T*>(a.weight)),
        bias(static_cast<const T*>(a.bias)),
        y(static_cast<T*>(a.y)) {}
};

template <class T>
struct Backward {
  const T *dy, *x, *weight;
  T *dx, *d_weight, *d_bias;
  explicit Backward(const ChannelNormBackward& a)
      : dy(static_cast<const T*>(a.dy)),
        x(static_cast<const T*>(a.x)),
        weight(static_cast<const T*>(a.weight)),
        dx(static_cast<T*>(a.dx)),
        d_weight(static_cast<T*>(a.d_weight)),
        d_bias(static_cast<T*>(a.d_bias)) {}
};

// y = ((x - high) - low) scale + shift
template <class T>
struct Affine {
  T high, low, scale, shift;

  Affine(const Forward<T>& a, int64_t channel, const Statistics& s) {
    Split<T> mean(s.mean);
    high = mean.high, low = mean.low;
    scale = static_cast<T>(s.rstd * (a.weight ? static_cast<double>(a.weight[channel]) : 1));
    shift = a.bias ? a.bias[channel] : T(0);
  }
};

// dx = dy scale - offset - ((x - high) - low) slope, from the means of g and g z.
template <class T>
struct Gradient {
  T high, low, scale, offset, slope;

  Gradient(const Backward<T>& a, int64_t channel, const Statistics& s, const Sums& means) {
    Split<T> mean(s.mean);
    high = mean.high, low = mean.low;
    scale = static_cast<T>(s.rstd * (a.weight ? static_cast<double>(a.weight[channel]) : 1));
    offset = static_cast<T>(s.rstd * means.first);
    slope = static_cast<T>(s.rstd * s.rstd * means.second);
  }
};

template <class R>
void move_running(const ChannelNormParams& p, const ChannelNormForward& a, int64_t channel, const Moments& m) {
  auto moved = [&](R old, double to) {
    return static_cast<R>((1 - p.momentum) * static_cast<double>(old) + p.momentum * to);
  };
  auto *mean = static_cast<R*>(a.running_mean), *variance = static_cast<R*>(a.running_var);
  if (mean) mean[channel] = moved(mean[channel], m.mean);
  if (variance) variance[channel] = moved(variance[channel], m.squares / (m.count - 1));
}

// Statistic `s` from its moments; those of batch_norm move the running ones.
inline Statistics settle(const ChannelNormParams& p, const ChannelNormForward& a, int64_t s, const Moments& m) {
  if (!p.groups && p.running_dtype == DType::float32) move_running<float>(p, a, s, m);
  if (!p.groups && p.running_dtype == DType::float64) move_running<double>(p, a, s, m);
  return {m.mean, 1 / std::sqrt(m.variance() + p.eps)};
}

template <class R>
Statistics running(const ChannelNormParams& p, const ChannelNormForward& a, int64_t channel) {
  double variance = static_cast<double>(static_cast<const R*>(a.running_var)[channel]);
  return {static_cast<double>(static_cast<const R*>(a.running_mean)[channel]), 1 / std::sqrt(variance + p.eps)};
}
inline Statistics running(const ChannelNormParams& p, const ChannelNormForward& a, int64_t channel) {
  return p.running_dtype == DType::float64 ? running<double>(p, a, channel) : running<float>(p, a, channel);
}

// The means of g and g z over statistic `s`, from the sums of dy and dy z over its units.
template <class T>
Sums gradient_means(const ChannelNormParams& p, const Backward<T>& a, int64_t s, const Sums* sums) {
  Sums means;
  if (p.fixed) return means;
  int64_t per = p.units_per_statistic();
  for (int64_t unit = s * per; unit < (s + 1) * per; ++unit) {
    double w = a.weight ? static_cast<double>(a.weight[unit % p.channels]) : 1;
    means.add({w * sums[unit].first, w * sums[unit].second});
  }
  auto count = static_cast<double>(per * p.elements_per_unit());
  return {means.first / count, means.second / count};
}

// Whether the sums over units are needed.
template <class T>
bool needs_sums(const ChannelNormParams& p, const Backward<T>& a) {
  return a.d_weight || a.d_bias || !p.fixed;
}

// d_weight and d_bias from the sums over units.
template <class T>
void add_units(const ChannelNormParams& p, const Backward<T>& a, const Sums* sums) {
  if (!a.d_weight && !a.d_bias) return;
  int64_t images = p.groups ? p.images : 1;
  parallel_chunks(p.channels, grain / (images + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      Sums total;
      for (int64_t n = 0; n < images; ++n) total.add(sums[n * p.channels + c]);
      if (a.d_bias) a.d_bias[c] = static_cast<T>(total.first);
      if (a.d_weight) a.d_weight[c] = static_cast<T>(total.second);
    }
  });
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
