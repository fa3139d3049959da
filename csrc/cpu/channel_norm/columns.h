// Channels innermost: columns of a table of rows, one table for all images or, for groups, one for each. Lanes are
// channels. Chunks of rows give moments or sums of their columns, these make what each column is multiplied and
// shifted by, and a second walk over the chunks applies it.
#pragma once
#include "cpu/channel_norm/units.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

// Rows that a vector of columns is walked along before the next one: they stay in the first cache.
constexpr int64_t strip = 8 << 10;  // elements

struct Columns {
  const ChannelNormParams& p;
  int64_t tables, rows, each, chunks;  // rows and chunks of a table; rows of a chunk
  int64_t room;                        // for a number of each column, in whole vectors

  explicit Columns(const ChannelNormParams& params)
      : p(params), tables(params.groups ? params.images : 1), rows(params.elements_per_unit()) {
    each = chunk_size(tables * rows, 4 * grain / (p.channels + 1) + 1);
    chunks = (rows + each - 1) / each;
    room = (p.channels + 15) / 16 * 16;
  }
  int64_t rows_of(int64_t chunk) const { return rows - chunk * each < each ? rows - chunk * each : each; }
  int64_t parts() const { return 2 * tables * chunks * room; }

  // f(table, chunk, element): the element that the chunk begins with.
  template <class F>
  void for_chunks(const F& f) const {
    parallel_for(tables * chunks, [&](int64_t i, int) {
      int64_t table = i / chunks, chunk = i % chunks;
      f(table, chunk, (table * rows + chunk * each) * p.channels);
    });
  }
  // f(unit) for each, in tasks.
  template <class F>
  void for_units(const F& f) const {
    parallel_chunks(p.units(), grain / 8, [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) f(unit);
    });
  }
  // The pair of sums over a chunk of a unit's column.
  double* part(double* parts, int64_t table, int64_t chunk) const {
    return parts + 2 * (table * chunks + chunk) * room;
  }
  Sums part_of(double* parts, int64_t unit, int64_t chunk) const {
    const double* first = part(parts, unit / p.channels, chunk) + unit % p.channels;
    return {first[0], first[room]};
  }
};

// What a vector of columns has been added up to: lanes of T as one or two vectors of doubles.
struct Pairs {
  vec<double> first[2], second[2];
};

// The pairs of sums of a chunk's columns: add(c, count, begin, end, pairs) adds rows to those of the columns from c.
template <class T, class F>
void add_chunk(const Columns& t, int64_t chunk, double* part, const F& add) {
  constexpr int halves = lanes<T> / lanes<double>;
  int64_t rows = t.rows_of(chunk), step = strip / (t.p.channels + 1) + 1;
  for (int64_t i = 0; i < 2 * t.room; ++i) part[i] = 0;
  for (int64_t begin = 0; begin < rows; begin += step) {
    int64_t end = begin + step < rows ? begin + step : rows;
    for_vectors<T>(t.p.channels, [&](int64_t c, auto count) ARRAYNN_LAMBDA {
      Pairs pairs{};
      for (int h = 0; h < halves; ++h) {
        pairs.first[h] = load(part + c + h * lanes<double>);
        pairs.second[h] = load(part + t.room + c + h * lanes<double>);
      }
      add(c, count, begin, end, pairs);
      for (int h = 0; h < halves; ++h) {
        store(part + c + h * lanes<double>, pairs.first[h]);
        store(part + t.room + c + h * lanes<double>, pairs.second[h]);
      }
    });
  }
}

// The sums of a chunk's deviations from its first row.
template <class T>
void chunk_moments(const Columns& t, int64_t chunk, const T* x, double* part) {
  add_chunk<T>(t, chunk, part, [&](int64_t c, auto count, int64_t begin, int64_t end, Pairs& pairs) ARRAYNN_LAMBDA {
    vec<double> shift[2] = {};
    int half = 0;
    as_doubles(load_count(x + c, count), [&](vec<double> v) ARRAYNN_LAMBDA { shift[half++] = v; });
    for (int64_t row = begin; row < end; ++row) {
      half = 0;
      as_doubles(load_count(x + row * t.p.channels + c, count), [&](vec<double> v) ARRAYNN_LAMBDA {
        vec<double> d = v - shift[half];
        pairs.first[half] += d;
        pairs.second[half] = fma(d, d, pairs.second[half]);
        ++half;
      });
    }
  });
}

template <class T>
void columns_statistics(const Columns& t, const ChannelNormForward& call, const T* x, double* parts) {
  const ChannelNormParams& p = t.p;
  t.for_chunks(
      [&](int64_t table, int64_t chunk, int64_t at) { chunk_moments(t, chunk, x + at, t.part(parts, table, chunk)); });
  int64_t per = p.units_per_statistic();
  parallel_chunks(p.statistics(), grain / (8 * per * t.chunks) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      Moments m;
      for (int64_t chunk = 0; chunk < t.chunks; ++chunk)
        for (int64_t unit = s * per; unit < (s + 1) * per; ++unit) {
          int64_t first = (unit / p.channels * t.rows + chunk * t.each) * p.channels + unit % p.channels;
          Sums sums = t.part_of(parts, unit, chunk);
          m.merge(moments_of_sums(static_cast<double>(t.rows_of(chunk)), static_cast<double>(x[first]), sums.first,
                                  sums.second));
        }
      call.statistics[s] = settle(p, call, s, m);
    }
  });
}

template <class T>
void columns_forward(const ChannelNormParams& p, const ChannelNormForward& call, double* parts, T* factors) {
  Columns t(p);
  Forward<T> a(call);
  if (!p.fixed) columns_statistics(t, call, a.x, parts);
  int64_t units = p.units(), per = p.units_per_statistic();
  T *high = factors, *low = high + units, *scale = low + units, *shift = scale + units;
  t.for_units([&](int64_t unit) {
    if (p.fixed) call.statistics[unit] = running(p, call, unit);
    Affine<T> f(a, unit % p.channels, call.statistics[unit / per]);
    high[unit] = f.high, low[unit] = f.low, scale[unit] = f.scale, shift[unit] = f.shift;
  });
  t.for_chunks([&](int64_t table, int64_t chunk, int64_t at) {
    int64_t first = table * p.channels;
    for (int64_t row = 0; row < t.rows_of(chunk); ++row, at += p.channels)
      for_vectors<T>(p.channels, [&](int64_t c, auto count) ARRAYNN_LAMBDA {
        int64_t u = first + c;
        vec<T> v = (load_count(a.x + at + c, count) - load_count(high + u, count)) - load_count(low + u, count);
        store_count(a.y + at + c, v * load_count(scale + u, count) + load_count(shift + u, count), count);
      });
  });
}

// The sums of dy and of dy (x - mean) over a chunk's columns; without x, that of dy.
template <class T>
void chunk_sums(const Columns& t, int64_t chunk, const T* dy, const T* x, const T* high, const T* low, double* part) {
  add_chunk<T>(t, chunk, part, [&](int64_t c, auto count, int64_t begin, int64_t end, Pairs& pairs) ARRAYNN_LAMBDA {
    vec<T> top = load_count(high + c, count), rest = load_count(low + c, count);
    for (int64_t row = begin; row < end; ++row) {
      int64_t at = row * t.p.channels + c;
      vec<T> d = load_count(dy + at, count);
      int half = 0;
      as_doubles(d, [&](vec<double> v) ARRAYNN_LAMBDA { pairs.first[half++] += v; });
      if (!x) continue;
      half = 0;
      as_doubles(d * ((load_count(x + at, count) - top) - rest),
                 [&](vec<double> v) ARRAYNN_LAMBDA { pairs.second[half++] += v; });
    }
  });
}

template <class T>
void columns_sums(const Columns& t, const ChannelNormBackward& call, const T* x, const T* high, const T* low,
                  double* parts, Sums* sums) {
  const ChannelNormParams& p = t.p;
  const T* dy = static_cast<const T*>(call.dy);
  t.for_chunks([&](int64_t table, int64_t chunk, int64_t at) {
    int64_t unit = table * p.channels;
    chunk_sums(t, chunk, dy + at, x ? x + at : nullptr, high + unit, low + unit, t.part(parts, table, chunk));
  });
  t.for_units([&](int64_t unit) {
    sums[unit] = Sums{};
    for (int64_t chunk = 0; chunk < t.chunks; ++chunk) sums[unit].add(t.part_of(parts, unit, chunk));
    sums[unit].second *= call.statistics[unit / p.units_per_statistic()].rstd;
  });
}

template <class T>
void columns_backward(const ChannelNormParams& p, const ChannelNormBackward& call, Sums* sums, double* parts,
                      T* factors) {
  Columns t(p);
  Backward<T> a(call);
  int64_t units = p.units(), per = p.units_per_statistic();
  T *high = factors, *low = high + units, *scale = low + units, *offset = scale + units, *slope = offset + units;
  t.for_units([&](int64_t unit) {
    Split<T> mean(call.statistics[unit / per].mean);
    high[unit] = mean.high, low[unit] = mean.low;
  });
  if (needs_sums(p, a)) columns_sums(t, call, p.fixed && !a.d_weight ? nullptr : a.x, high, low, parts, sums);
  add_units(p, a, sums);
  if (!a.dx) return;
  parallel_chunks(p.statistics(), grain / (8 * per) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      Sums means = gradient_means(p, a, s, sums);
      for (int64_t unit = s * per; unit < (s + 1) * per; ++unit) {
        Gradient<T> f(a, unit % p.channels, call.statistics[s], means);
        scale[unit] = f.scale, offset[unit] = f.offset, slope[unit] = f.slope;
      }
    }
  });
  t.for_chunks([&](int64_t table, int64_t chunk, int64_t at) {
    int64_t first = table * p.channels;
    for (int64_t row = 0; row < t.rows_of(chunk); ++row, at += p.channels)
      for_vectors<T>(p.channels, [&](int64_t c, auto count) ARRAYNN_LAMBDA {
        int64_t u = first + c;
        vec<T> v = load_count(a.dy + at + c, count) * load_count(scale + u, count);
        if (!p.fixed) {
          vec<T> d = (load_count(a.x + at + c, count) - load_count(high + u, count)) - load_count(low + u, count);
          v -= load_count(offset + u, count) + d * load_count(slope + u, count);
        }
        store_count(a.dx + at + c, v, count);
      });
  });
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
