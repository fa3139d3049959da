// batch_norm and group_norm: sums over units (channels, or channels of an image) in parts, a warp for each statistic
// that makes of them what its units are multiplied and shifted by, and a pass that applies it. Sums are those of
// deviations from a few of the unit's numbers, so that a mean far from zero costs nothing; from there on they are
// merged in double.
#include "device/center.h"
#include "device/units.h"
#include "kernels.h"

namespace arraynn::cuda {

namespace {

UnitShape shape_of(const ChannelNormParams& p) {
  if (p.layout == Layout::channels_last)
    return column_units(p.groups ? p.images : 1, p.elements_per_unit(), p.channels);
  return plane_units(p.groups ? 1 : p.images, p.units(), p.inner);
}

// What kernels ask of the call.
struct Call {
  int64_t channels, statistics, units, per;  // per: units of a statistic
  double elements;                           // that a statistic is of
  bool fixed, running;
  double eps, momentum;
  DType running_dtype;

  explicit Call(const ChannelNormParams& p)
      : channels(p.channels),
        statistics(p.statistics()),
        units(p.units()),
        per(p.units_per_statistic()),
        elements(static_cast<double>(per * p.elements_per_unit())),
        fixed(p.fixed),
        running(!p.groups),
        eps(p.eps),
        momentum(p.momentum),
        running_dtype(p.running_dtype) {}
};

// ---- forward ----

// What the numbers of a unit are shifted by.
template <class T>
struct Pilot {
  const T* x;
  UnitShape shape;

  __device__ compute_t<T> of(int64_t unit) const {
    compute_t<T> sum = 0;
    int64_t table = shape.columns ? unit / shape.across : 0, column = shape.columns ? unit - table * shape.across : 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      int64_t row = shape.columns ? table * shape.rows + j * shape.rows / 4 : 0;
      int64_t plane = (j * shape.runs / 4 * shape.units + unit) * shape.inner + j * shape.inner / 4;
      sum += widen(x[shape.columns ? row * shape.across + column : plane]);
    }
    return sum / 4;
  }
};

template <class T, int N, int S>
struct MomentTerm {
  const T* x;
  compute_t<T> shift[S];

  __device__ __forceinline__ Raw<T, N> load(int64_t at, int64_t) const { return load_raw<N>(x + at); }
  __device__ __forceinline__ void add(const Raw<T, N>& raw, compute_t<T> (&a)[S], compute_t<T> (&b)[S]) const {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      compute_t<T> d = raw.get(j) - shift[S == 1 ? 0 : j];
      a[S == 1 ? 0 : j] += d;
      b[S == 1 ? 0 : j] += d * d;
    }
  }
};

template <class T>
struct MomentTerms {
  Pilot<T> pilot;

  template <int N, int S>
  __device__ MomentTerm<T, N, S> of(Elements<N>, Elements<S>, int64_t unit) const {
    MomentTerm<T, N, S> term{pilot.x, {}};
#pragma unroll
    for (int s = 0; s < S; ++s) term.shift[s] = pilot.of(unit + s);
    return term;
  }
};

// Mean and squared deviations, merged as csrc/cpu/moments.h does.
struct Moments {
  double count = 0, mean = 0, squares = 0;

  __device__ void merge(const Moments& m) {
    if (m.count == 0) return;
    double total = count + m.count, difference = m.mean - mean, share = m.count / total;
    squares += m.squares + difference * difference * (count * share);
    mean += difference * share;
    count = total;
  }
};

// Those of all lanes, in the first one.
__device__ Moments merge_warp(Moments m) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2)
    m.merge({__shfl_xor_sync(full_warp, m.count, lanes), __shfl_xor_sync(full_warp, m.mean, lanes),
             __shfl_xor_sync(full_warp, m.squares, lanes)});
  return m;
}

__device__ double read(const void* array, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::float64: return static_cast<const double*>(array)[i];
    case DType::float16: return static_cast<double>(widen(static_cast<const float16*>(array)[i]));
    case DType::bfloat16: return static_cast<double>(widen(static_cast<const bfloat16*>(array)[i]));
    default: return static_cast<double>(static_cast<const float*>(array)[i]);
  }
}

__device__ void write(void* array, DType dtype, int64_t i, double value) {
  switch (dtype) {
    case DType::float64: static_cast<double*>(array)[i] = value; break;
    case DType::float16: static_cast<float16*>(array)[i] = narrow<float16>(static_cast<float>(value)); break;
    case DType::bfloat16: static_cast<bfloat16*>(array)[i] = narrow<bfloat16>(static_cast<float>(value)); break;
    default: static_cast<float*>(array)[i] = static_cast<float>(value);
  }
}

__device__ void move_running(const Call& p, void* running, int64_t channel, double to) {
  if (!running) return;
  double old = read(running, p.running_dtype, channel);
  write(running, p.running_dtype, channel, (1 - p.momentum) * old + p.momentum * to);
}

// y = ((x - high) - low) scale + shift of each unit; dx = dy scale - shift - ((x - high) - low) slope.
template <class C>
struct Factors {
  C *high, *low, *scale, *shift, *slope;

  Factors(void* room, int64_t units)
      : high(static_cast<C*>(room)),
        low(high + units),
        scale(low + units),
        shift(scale + units),
        slope(shift + units) {}
  static size_t bytes(int64_t units) { return static_cast<size_t>(5 * units) * sizeof(C); }

  __device__ void put(int64_t unit, double mean, double scale_, double shift_, double slope_) const {
    auto center = Center<C>::of(mean);
    high[unit] = center.high;
    low[unit] = center.low;
    scale[unit] = static_cast<C>(scale_);
    shift[unit] = static_cast<C>(shift_);
    slope[unit] = static_cast<C>(slope_);
  }
};

template <class T>
__device__ double weight_of(const void* weight, int64_t unit, int64_t channels) {
  return weight ? static_cast<double>(widen(static_cast<const T*>(weight)[unit % channels])) : 1;
}

__device__ int64_t warp_number() { return static_cast<int64_t>(blockIdx.x) * (unit_threads / 32) + threadIdx.x / 32; }

// The moments of a statistic's units, by a warp; complete in its first lane.
template <class T, class Way>
__device__ Moments moments_of(const Way& way, const Call& p, const Pilot<T>& pilot, int64_t statistic,
                              const compute_t<T>* partials) {
  Moments mine;
  int64_t per = p.per, units = p.units;
  for (int64_t i = threadIdx.x % 32; i < per * way.parts; i += 32) {
    int64_t unit = statistic * per + i / way.parts, part = i % way.parts, at = unit * way.parts + part;
    double count = static_cast<double>(way.elements_of(part)), sum = static_cast<double>(partials[at]);
    double squares = static_cast<double>(partials[units * way.parts + at]), rest = sum / count;
    mine.merge({count, static_cast<double>(pilot.of(unit)) + rest, squares - sum * rest});
  }
  return merge_warp(mine);
}

template <class T, class Way>
__global__ void __launch_bounds__(unit_threads)
    settle_kernel(Way way, Call p, ChannelNormForward a, Pilot<T> pilot, const compute_t<T>* partials,
                  Factors<compute_t<T>> factors) {
  int64_t s = warp_number(), per = p.per;
  if (s >= p.statistics) return;
  double mean = 0, rstd = 0;
  if (p.fixed) {
    mean = read(a.running_mean, p.running_dtype, s);
    rstd = 1 / sqrt(read(a.running_var, p.running_dtype, s) + p.eps);
  } else {
    Moments m = moments_of(way, p, pilot, s, partials);
    mean = __shfl_sync(full_warp, m.mean, 0);
    rstd = __shfl_sync(full_warp, 1 / sqrt(m.squares / m.count + p.eps), 0);
    if (threadIdx.x % 32 == 0 && p.running) {
      move_running(p, a.running_mean, s, m.mean);
      move_running(p, a.running_var, s, m.squares / (m.count - 1));
    }
  }
  if (threadIdx.x % 32 == 0) a.statistics[s] = {mean, rstd};
  for (int64_t unit = s * per + threadIdx.x % 32; unit < (s + 1) * per; unit += 32) {
    double shift = a.bias ? static_cast<double>(widen(static_cast<const T*>(a.bias)[unit % p.channels])) : 0;
    factors.put(unit, mean, rstd * weight_of<T>(a.weight, unit, p.channels), shift, 0);
  }
}

// The factors of a thread's units.
template <class C, int S>
struct Held {
  Center<C> center[S];
  C scale[S], shift[S], slope[S];

  __device__ Held(const Factors<C>& f, int64_t unit) {
#pragma unroll
    for (int s = 0; s < S; ++s) {
      center[s] = {f.high[unit + s], f.low[unit + s]};
      scale[s] = f.scale[unit + s];
      shift[s] = f.shift[unit + s];
      slope[s] = f.slope[unit + s];
    }
  }
};

template <class T, int N, int S>
struct Normalize {
  const T* x;
  T* y;
  Held<compute_t<T>, S> f;

  __device__ __forceinline__ Raw<T, N> load(int64_t at) const { return load_raw<N>(x + at); }
  __device__ __forceinline__ void store(int64_t at, const Raw<T, N>& raw) const {
    store_raw<N>(y + at, raw_of<T, N>([&](int j) {
                   int s = S == 1 ? 0 : j;
                   return f.center[s](raw.get(j)) * f.scale[s] + f.shift[s];
                 }));
  }
};

template <class T>
struct NormalizeMap {
  const T* x;
  T* y;
  Factors<compute_t<T>> factors;

  template <int N, int S>
  __device__ Normalize<T, N, S> of(Elements<N>, Elements<S>, int64_t unit) const {
    return {x, y, Held<compute_t<T>, S>(factors, unit)};
  }
};

// ---- backward ----

template <class T, int N>
struct Two {
  Raw<T, N> dy, x;
};

// dy and, where x is there, dy (x - mean).
template <class T, int N, int S>
struct GradientTerm {
  const T *dy, *x;
  Center<compute_t<T>> center[S];

  __device__ __forceinline__ Two<T, N> load(int64_t at, int64_t) const {
    auto d = load_raw<N>(dy + at);
    return {d, x ? load_raw<N>(x + at) : d};
  }
  __device__ __forceinline__ void add(const Two<T, N>& two, compute_t<T> (&a)[S], compute_t<T> (&b)[S]) const {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      int s = S == 1 ? 0 : j;
      a[s] += two.dy.get(j);
      if (x) b[s] += two.dy.get(j) * center[s](two.x.get(j));
    }
  }
};

template <class T>
struct GradientTerms {
  const T *dy, *x;
  const Statistics* statistics;
  int64_t per;  // units of a statistic

  template <int N, int S>
  __device__ GradientTerm<T, N, S> of(Elements<N>, Elements<S>, int64_t unit) const {
    GradientTerm<T, N, S> term{dy, x, {}};
#pragma unroll
    for (int s = 0; s < S; ++s) term.center[s] = Center<compute_t<T>>::of(statistics[(unit + s) / per].mean);
    return term;
  }
};

// From the sums of parts: those of units, dy and dy z, and the factors of dx.
template <class T>
__global__ void __launch_bounds__(unit_threads)
    settle_backward_kernel(Call p, ChannelNormBackward a, int64_t parts, const compute_t<T>* partials, double* sums,
                           Factors<compute_t<T>> factors) {
  int64_t statistic = warp_number(), per = p.per, units = p.units;
  if (statistic >= p.statistics) return;
  Statistics s = a.statistics[statistic];
  double mean_g = 0, mean_gz = 0;
  for (int64_t unit = statistic * per; sums && unit < (statistic + 1) * per; ++unit) {
    double sum = sum_of_parts(partials, unit, parts);
    double product = sum_of_parts(partials + units * parts, unit, parts) * s.rstd;
    if (threadIdx.x % 32 == 0) {
      sums[unit] = sum;
      sums[units + unit] = product;
    }
    double w = weight_of<T>(a.weight, unit, p.channels);
    mean_g += p.fixed ? 0 : w * sum / p.elements;
    mean_gz += p.fixed ? 0 : w * product / p.elements;
  }
  for (int64_t unit = statistic * per + threadIdx.x % 32; unit < (statistic + 1) * per; unit += 32)
    factors.put(unit, s.mean, s.rstd * weight_of<T>(a.weight, unit, p.channels), s.rstd * mean_g,
                s.rstd * s.rstd * mean_gz);
}

template <class T>
__global__ void __launch_bounds__(unit_threads)
    add_units_kernel(int64_t images, int64_t channels, const double* sums, T* d_weight, T* d_bias) {
  int64_t channel = static_cast<int64_t>(blockIdx.x) * unit_threads + threadIdx.x;
  if (channel >= channels) return;
  double dw = 0, db = 0;
  for (int64_t n = 0; n < images; ++n) {
    db += sums[n * channels + channel];
    dw += sums[(images + n) * channels + channel];
  }
  if (d_weight) d_weight[channel] = narrow<T>(static_cast<compute_t<T>>(dw));
  if (d_bias) d_bias[channel] = narrow<T>(static_cast<compute_t<T>>(db));
}

template <class T, int N, int S>
struct Gradient {
  const T *dy, *x;  // no x: its share is none
  T* dx;
  Held<compute_t<T>, S> f;

  __device__ __forceinline__ Two<T, N> load(int64_t at) const {
    auto d = load_raw<N>(dy + at);
    return {d, x ? load_raw<N>(x + at) : d};
  }
  __device__ __forceinline__ void store(int64_t at, const Two<T, N>& two) const {
    store_raw<N>(dx + at, raw_of<T, N>([&](int j) {
                   int s = S == 1 ? 0 : j;
                   compute_t<T> v = two.dy.get(j) * f.scale[s];
                   return x ? v - (f.shift[s] + f.center[s](two.x.get(j)) * f.slope[s]) : v;
                 }));
  }
};

template <class T>
struct GradientMap {
  const T *dy, *x;
  T* dx;
  Factors<compute_t<T>> factors;

  template <int N, int S>
  __device__ Gradient<T, N, S> of(Elements<N>, Elements<S>, int64_t unit) const {
    return {dy, x, dx, Held<compute_t<T>, S>(factors, unit)};
  }
};

bool is_empty(const ChannelNormParams& p) { return p.images * p.channels * p.inner == 0; }

}  // namespace

// The sums of units (backward), the factors of units, the partial sums.
size_t channel_norm_scratch(const ChannelNormParams& p, bool backward) {
  if (is_empty(p)) return 0;
  size_t bytes = backward ? static_cast<size_t>(2 * p.units()) * sizeof(double) : 0;
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    bytes += Factors<compute_t<T>>::bytes(p.units()) + unit_pairs_bytes<T>(shape_of(p));
  });
  return bytes;
}

void channel_norm_forward(const ChannelNormParams& p, const ChannelNormForward& a, void* scratch) {
  if (is_empty(p)) return;
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    auto x = static_cast<const T*>(a.x);
    auto y = static_cast<T*>(a.y);
    Factors<C> factors(scratch, p.units());
    auto* partials = static_cast<C*>(scratch) + 5 * p.units();
    Pilot<T> pilot{x, shape_of(p)};
    with_way<T>(shape_of(p), aligned16(x, y), [&](const auto& way) {
      using Way = std::decay_t<decltype(way)>;
      if (!p.fixed) unit_pairs<T>(way, MomentTerms<T>{pilot}, p.place, partials);
      launch(settle_kernel<T, Way>, grid_for(p.statistics(), unit_threads / 32), unit_threads, 0, p.place, way, Call(p),
             a, pilot, partials, factors);
      unit_map(way, NormalizeMap<T>{x, y, factors}, p.place);
    });
  });
}

void channel_norm_backward(const ChannelNormParams& p, const ChannelNormBackward& a, void* scratch) {
  if (is_empty(p)) {
    for (void* gradient : {a.d_weight, a.d_bias})
      if (gradient) fill_zero(p.place, gradient, static_cast<size_t>(p.channels * item_size(p.dtype)));
    return;
  }
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    auto dy = static_cast<const T*>(a.dy), x = static_cast<const T*>(a.x);
    auto dx = static_cast<T*>(a.dx);
    bool affine = a.d_weight || a.d_bias, sums_wanted = affine || !p.fixed;
    auto* sums = static_cast<double*>(scratch);
    void* rest = sums + 2 * p.units();
    Factors<C> factors(rest, p.units());
    auto* partials = static_cast<C*>(rest) + 5 * p.units();
    with_way<T>(shape_of(p), aligned16(dy, x, dx), [&](const auto& way) {
      const T* centered = p.fixed && !a.d_weight ? nullptr : x;
      if (sums_wanted)
        unit_pairs<T>(way, GradientTerms<T>{dy, centered, a.statistics, p.units_per_statistic()}, p.place, partials);
      launch(settle_backward_kernel<T>, grid_for(p.statistics(), unit_threads / 32), unit_threads, 0, p.place, Call(p),
             a, way.parts, partials, sums_wanted ? sums : nullptr, factors);
      if (affine)
        launch(add_units_kernel<T>, grid_for(p.channels, unit_threads), unit_threads, 0, p.place,
               p.groups ? p.images : 1, p.channels, sums, static_cast<T*>(a.d_weight), static_cast<T*>(a.d_bias));
      if (dx) unit_map(way, GradientMap<T>{dy, p.fixed ? nullptr : x, dx, factors}, p.place);
    });
  });
}

}  // namespace arraynn::cuda
