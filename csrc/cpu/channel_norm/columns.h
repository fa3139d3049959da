// Channels innermost: columns of a table of rows, one table for all images or, for groups, one for each. Lanes are
// channels. Chunks of rows give moments or sums of their columns, these make what each column is multiplied and
// shifted by, and a second walk over the chunks applies it. Where there are tables enough for all workers, each takes
// one through all of this while a cache still holds it.
#pragma once
#include "cpu/channel_norm/units.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

// Rows that a vector of columns is walked along before the next one: they stay in the first cache, and what is added up
// in T keeps its digits.
constexpr int64_t strip = 4 << 10, most_strip_rows = 64;  // elements

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

  // The pair of sums over a chunk of a unit's column.
  double* part(double* parts, int64_t table, int64_t chunk) const {
    return parts + 2 * (table * chunks + chunk) * room;
  }
  Sums part_of(double* parts, int64_t unit, int64_t chunk) const {
    const double* first = part(parts, unit / p.channels, chunk) + unit % p.channels;
    return {first[0], first[room]};
  }
};

// Walks over some of the tables, by all workers or by the one that calls.
struct Walk {
  const Columns& t;
  int64_t first, tables;
  bool all;

  template <class F>
  void over(int64_t per_table, int64_t least, const F& f) const {
    int64_t begin = first * per_table, count = tables * per_table;
    if (!all)
      for (int64_t i = begin; i < begin + count; ++i) f(i);
    else
      parallel_chunks(count, least, [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) f(begin + i);
      });
  }
  // f(table, chunk, the element that the chunk begins with)
  template <class F>
  void over_chunks(const F& f) const {
    over(t.chunks, 1, [&](int64_t i) {
      int64_t table = i / t.chunks, chunk = i % t.chunks;
      f(table, chunk, (table * t.rows + chunk * t.each) * t.p.channels);
    });
  }
  template <class F>
  void over_units(const F& f) const {
    over(t.p.channels, grain / 8, f);
  }
  template <class F>
  void over_statistics(const F& f) const {
    over(t.p.statistics() / t.tables, grain / (8 * t.p.units_per_statistic() * t.chunks) + 1, f);
  }
};

// stages(walk) once for all tables, or for each.
template <class F>
void walk_tables(const Columns& t, const F& stages) {
  if (t.tables > 1 && t.tables >= num_threads())
    parallel_for(t.tables, [&](int64_t table, int) { stages(Walk{t, table, 1, false}); });
  else
    stages(Walk{t, 0, t.tables, true});
}

// What a vector of columns has been added up to: lanes of T as one or two vectors of doubles.
struct Pairs {
  vec<double> first[2], second[2];

  template <class T>
  ARRAYNN_INLINE void add(vec<T> a, vec<T> b) {
    int half = 0;
    as_doubles(a, [&](vec<double> v) ARRAYNN_LAMBDA { first[half++] += v; });
    half = 0;
    as_doubles(b, [&](vec<double> v) ARRAYNN_LAMBDA { second[half++] += v; });
  }
};

// The pairs of sums of a chunk's columns: add(c, count, begin, end, pairs) adds rows to those of the columns from c.
template <class T, class F>
void add_chunk(const Columns& t, int64_t chunk, double* part, const F& add) {
  constexpr int halves = lanes<T> / lanes<double>;
  int64_t rows = t.rows_of(chunk), step = strip / (t.p.channels + 1) + 1;
  step = step < most_strip_rows ? step : most_strip_rows;
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

// Brings nearer what the strip after the rows [begin, end) holds, a part with each vector of columns from c: rows
// walked column by column are too scattered for the processor to foresee.
template <class T>
ARRAYNN_INLINE void prefetch_strip(const Columns& t, const T* table, int64_t begin, int64_t end, int64_t c) {
  int64_t bytes = (end - begin) * t.p.channels * static_cast<int64_t>(sizeof(T));
  prefetch_part(table + end * t.p.channels, bytes, c / lanes<T>, (t.p.channels + lanes<T> - 1) / lanes<T>);
}

// body(row, way) over [begin, end), the way changing from row to row so that as many sums do not wait for each other.
constexpr int ways = 4;
template <class F>
ARRAYNN_INLINE void for_rows(int64_t begin, int64_t end, F&& body) {
  int64_t row = begin;
  for (; row + ways <= end; row += ways) static_for<ways>([&](auto way) ARRAYNN_LAMBDA { body(row + way, way); });
  for (; row < end; ++row) body(row, std::integral_constant<int, 0>{});
}
template <class T>
ARRAYNN_INLINE vec<T> joined(const vec<T> (&sums)[ways]) {
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// The rows' deviations from `shift` and their squares, in double.
template <class T, class Count>
ARRAYNN_INLINE void add_wide_moments(const T* x, int64_t step, int64_t rows, Count count, const vec<double> (&shift)[2],
                                     Pairs& pairs) {
  for (int64_t row = 0; row < rows; ++row) {
    int half = 0;
    as_doubles(load_count(x + row * step, count), [&](vec<double> v) ARRAYNN_LAMBDA {
      vec<double> d = v - shift[half];
      pairs.first[half] += d;
      pairs.second[half] = fma(d, d, pairs.second[half]);
      ++half;
    });
  }
}

// The same by the rows' own mean, as moments_of_block does it.
template <class T, class Count>
ARRAYNN_INLINE void add_moments(const T* x, int64_t step, int64_t rows, Count count, double eps,
                                const vec<double> (&shift)[2], Pairs& pairs) {
  vec<T> total[ways] = {}, rest[ways] = {}, squares[ways] = {};
  for_rows(0, rows, [&](int64_t row, auto way) ARRAYNN_LAMBDA { total[way] += load_count(x + row * step, count); });
  vec<T> mean = joined<T>(total) / static_cast<T>(rows);
  for_rows(0, rows, [&](int64_t row, auto way) ARRAYNN_LAMBDA {
    vec<T> d = load_count(x + row * step, count) - mean;
    rest[way] += d;
    squares[way] = fma(d, d, squares[way]);
  });
  vec<T> left = joined<T>(rest), q = joined<T>(squares);
  for (int lane = 0; lane < count; ++lane)
    if (!keeps_range(static_cast<double>(q[lane]), rows, eps))
      return add_wide_moments(x, step, rows, count, shift, pairs);
  vec<double> means[2] = {}, lefts[2] = {};
  int half = 0;
  as_doubles(mean, [&](vec<double> v) ARRAYNN_LAMBDA { means[half++] = v; });
  half = 0;
  as_doubles(left, [&](vec<double> v) ARRAYNN_LAMBDA { lefts[half++] = v; });
  half = 0;
  as_doubles(q, [&](vec<double> v) ARRAYNN_LAMBDA {
    auto n = static_cast<double>(rows);
    vec<double> d = means[half] - shift[half];
    pairs.first[half] += d * n + lefts[half];
    pairs.second[half] += v + d * (d * n + 2.0 * lefts[half]);
    ++half;
  });
}

// The sums of a chunk's deviations from its first row.
template <class T>
void chunk_moments(const Columns& t, int64_t chunk, const T* x, double* part) {
  add_chunk<T>(t, chunk, part, [&](int64_t c, auto count, int64_t begin, int64_t end, Pairs& pairs) ARRAYNN_LAMBDA {
    prefetch_strip(t, x, begin, end, c);
    vec<double> shift[2] = {};
    int half = 0;
    as_doubles(load_count(x + c, count), [&](vec<double> v) ARRAYNN_LAMBDA { shift[half++] = v; });
    add_moments(x + begin * t.p.channels + c, t.p.channels, end - begin, count, t.p.eps, shift, pairs);
  });
}

// Of the units of statistic `s`, from the sums of all their chunks.
template <class T>
Moments moments_of_statistic(const Columns& t, int64_t s, const T* x, double* parts) {
  int64_t per = t.p.units_per_statistic();
  Moments m;
  for (int64_t chunk = 0; chunk < t.chunks; ++chunk)
    for (int64_t unit = s * per; unit < (s + 1) * per; ++unit) {
      int64_t first = (unit / t.p.channels * t.rows + chunk * t.each) * t.p.channels + unit % t.p.channels;
      Sums sums = t.part_of(parts, unit, chunk);
      m.merge(moments_of_sums(static_cast<double>(t.rows_of(chunk)), static_cast<double>(x[first]), sums.first,
                              sums.second));
    }
  return m;
}

template <class T>
void columns_forward(const ChannelNormParams& p, const ChannelNormForward& call, double* parts, T* factors) {
  Columns t(p);
  Forward<T> a(call);
  bool streamed = is_streamed<T>(p);
  int64_t units = p.units(), per = p.units_per_statistic();
  T *high = factors, *low = high + units, *scale = low + units, *shift = scale + units;
  walk_tables(t, [&](const Walk& walk) {
    if (!p.fixed) {
      walk.over_chunks([&](int64_t table, int64_t chunk, int64_t at) {
        chunk_moments(t, chunk, a.x + at, t.part(parts, table, chunk));
      });
      walk.over_statistics(
          [&](int64_t s) { call.statistics[s] = settle(p, call, s, moments_of_statistic(t, s, a.x, parts)); });
    }
    walk.over_units([&](int64_t unit) {
      if (p.fixed) call.statistics[unit] = running(p, call, unit);
      Affine<T> f(a, unit % p.channels, call.statistics[unit / per]);
      high[unit] = f.high, low[unit] = f.low, scale[unit] = f.scale, shift[unit] = f.shift;
    });
    walk.over_chunks([&](int64_t table, int64_t chunk, int64_t at) {
      int64_t first = table * p.channels;
      for (int64_t row = 0; row < t.rows_of(chunk); ++row, at += p.channels)
        fill(streamed, 0, p.channels, a.y + at, [&](int64_t c, auto count) ARRAYNN_LAMBDA {
          int64_t u = first + c;
          vec<T> v = (load_count(a.x + at + c, count) - load_count(high + u, count)) - load_count(low + u, count);
          return v * load_count(scale + u, count) + load_count(shift + u, count);
        });
      if (streamed) stream_end();
    });
  });
}

// The sums of dy and of dy (x - mean) over a chunk's columns; without x, that of dy.
template <class T>
void chunk_sums(const Columns& t, int64_t chunk, const T* dy, const T* x, const T* high, const T* low, double* part) {
  add_chunk<T>(t, chunk, part, [&](int64_t c, auto count, int64_t begin, int64_t end, Pairs& pairs) ARRAYNN_LAMBDA {
    prefetch_strip(t, dy, begin, end, c);
    if (x) prefetch_strip(t, x, begin, end, c);
    vec<T> top = load_count(high + c, count), below = load_count(low + c, count), first[ways] = {}, second[ways] = {};
    for_rows(begin, end, [&](int64_t row, auto way) ARRAYNN_LAMBDA {
      int64_t at = row * t.p.channels + c;
      vec<T> d = load_count(dy + at, count);
      first[way] += d;
      if (x) second[way] += d * ((load_count(x + at, count) - top) - below);
    });
    pairs.add<T>(joined<T>(first), joined<T>(second));
  });
}

template <class T>
void columns_backward(const ChannelNormParams& p, const ChannelNormBackward& call, Sums* sums, double* parts,
                      T* factors) {
  Columns t(p);
  Backward<T> a(call);
  bool streamed = is_streamed<T>(p);
  const T* x = p.fixed && !a.d_weight ? nullptr : a.x;
  int64_t units = p.units(), per = p.units_per_statistic();
  T *high = factors, *low = high + units, *scale = low + units, *offset = scale + units, *slope = offset + units;
  walk_tables(t, [&](const Walk& walk) {
    walk.over_units([&](int64_t unit) {
      Split<T> mean(call.statistics[unit / per].mean);
      high[unit] = mean.high, low[unit] = mean.low;
    });
    if (needs_sums(p, a)) {
      walk.over_chunks([&](int64_t table, int64_t chunk, int64_t at) {
        int64_t unit = table * p.channels;
        chunk_sums(t, chunk, a.dy + at, x ? x + at : nullptr, high + unit, low + unit, t.part(parts, table, chunk));
      });
      walk.over_units([&](int64_t unit) {
        sums[unit] = Sums{};
        for (int64_t chunk = 0; chunk < t.chunks; ++chunk) sums[unit].add(t.part_of(parts, unit, chunk));
        sums[unit].second *= call.statistics[unit / per].rstd;
      });
    }
    if (!a.dx) return;
    walk.over_statistics([&](int64_t s) {
      Sums means = gradient_means(p, a, s, sums);
      for (int64_t unit = s * per; unit < (s + 1) * per; ++unit) {
        Gradient<T> f(a, unit % p.channels, call.statistics[s], means);
        scale[unit] = f.scale, offset[unit] = f.offset, slope[unit] = f.slope;
      }
    });
    walk.over_chunks([&](int64_t table, int64_t chunk, int64_t at) {
      int64_t first = table * p.channels;
      for (int64_t row = 0; row < t.rows_of(chunk); ++row, at += p.channels)
        fill(streamed, 0, p.channels, a.dx + at, [&](int64_t c, auto count) ARRAYNN_LAMBDA {
          int64_t u = first + c;
          vec<T> v = load_count(a.dy + at + c, count) * load_count(scale + u, count);
          if (!p.fixed) {
            vec<T> d = (load_count(x + at + c, count) - load_count(high + u, count)) - load_count(low + u, count);
            v -= load_count(offset + u, count) + d * load_count(slope + u, count);
          }
          return v;
        });
      if (streamed) stream_end();
    });
  });
  add_units(p, a, sums);
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
