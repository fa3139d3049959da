// Average pooling, ordinary and adaptive: sums over windows by the same steps as the maximum, then a
// division. Backward, the rows of the cotangent over an input row are added up, and that row is
// spread over the columns.
#include "cpu/pool/window.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

// What windows along one axis count: `inside` for those of [first, last), which is most of them.
struct Counts {
  int64_t first, last;
  double inside;
  bool pads;   // padding counts
  bool fixed;  // no window counts anything else
};

Counts counts_of(const PoolParams& p, const PoolAxis& a, double fixed) {
  if (fixed != 0) return {0, a.out, fixed, false, true};
  if (a.adaptive) return {0, 0, 1, false, false};  // the sum over no window at all is divided, too
  int64_t padding = p.count_include_pad ? a.padding : 0;
  int64_t first = p.count_include_pad ? 0 : (a.padding + a.stride - 1) / a.stride;
  int64_t last_start = a.size + padding + a.padding - a.kernel;  // of the last window with all its entries
  int64_t last = last_start < 0 ? 0 : last_start / a.stride + 1;
  if (last > a.out) last = a.out;
  return {first < last ? first : last, last, static_cast<double>(a.kernel), p.count_include_pad, false};
}

double count_at(const PoolAxis& a, const Counts& c, int64_t o) {
  if (c.fixed || (o >= c.first && o < c.last)) return c.inside;
  if (!c.pads) return static_cast<double>(span_of(a, o).count());
  int64_t start = o * a.stride - a.padding, end = start + a.kernel;
  return static_cast<double>((end < a.size + a.padding ? end : a.size + a.padding) - start);
}

// The divisor is a product of the axes' counts; an override is the rows' alone.
struct Divisors {
  Counts slices, rows, columns;
};
Divisors divisors_of(const PoolParams& p) {
  double one = p.divisor != 0 ? 1 : 0;
  return {counts_of(p, p.slices, one), counts_of(p, p.rows, p.divisor), counts_of(p, p.columns, one)};
}

// The factor that slices and rows have in the divisors of a row of windows.
template <bool deep>
double count_at(const PoolParams& p, const Divisors& d, Line<deep> o) {
  double rows = count_at(p.rows, d.rows, o.row);
  return deep ? count_at(p.slices, d.slices, o.slice) * rows : rows;
}

template <class T>
T whole_divisor(const PoolParams& p, const Divisors& d) {
  return static_cast<T>(count_at(p, d, Line<true>{0, 0}) * count_at(p.columns, d.columns, 0));
}

// values[o] /= rows times the count of window o.
template <class T>
void divide_row(const PoolAxis& a, const Counts& c, double rows, T* values) {
  for (int64_t o = 0; o < c.first; ++o) values[o] /= static_cast<T>(rows * count_at(a, c, o));
  T inside = static_cast<T>(rows * c.inside);
  for_vectors<T>(c.last - c.first, [&](int64_t i, auto n) ARRAYNN_LAMBDA {
    T* v = values + c.first + i;
    store_count(v, load_count(v, n) / inside, n);
  });
  for (int64_t o = c.last; o < a.out; ++o) values[o] /= static_cast<T>(rows * count_at(a, c, o));
}

// ---- contiguous volumes, forward -----------------------------------------------------------------

// Four runs side by side: what they hold is added up at once, and across the lanes together.
constexpr int64_t most_at_once = 2048;
template <class T>
void sums_of_four_runs(const T* x, int64_t count, T* y) {
  vec<T> total[4] = {};
  for_vectors<T>(count, [&](int64_t i, auto n) ARRAYNN_LAMBDA {
    static_for<4>([&](auto run) ARRAYNN_LAMBDA { total[run] += load_count(x + run * count + i, n); });
  });
  sums_of_four<T>(total, y);
}

// A row of the output, whose slices and rows have the factor `high` in the divisors.
template <class T>
void joined_row_divided(const PoolParams& p, const Divisors& d, const JoinedRows<Sum<T>, T>& rows, double high, T* y) {
  if (is_pairs(p.columns) && !rows.none) {
    T divisor = static_cast<T>(high * d.columns.inside);
    join_pairs<Sum<T>>(p.columns, rows, y, [=](vec<T> v) ARRAYNN_LAMBDA { return v / divisor; });
    return;
  }
  join_row(p.columns, rows, y);
  divide_row(p.columns, d.columns, high, y);
}

// ---- contiguous volumes, backward ----------------------------------------------------------------

template <class T>
void fill(T* to, int64_t count, T value) {
  for_vectors<T>(count, [&](int64_t i, auto n) ARRAYNN_LAMBDA { store_count(to + i, broadcast<T>(value), n); });
}

template <class T>
void copy(const T* from, int64_t count, T* to) {
  for_vectors<T>(count, [&](int64_t i, auto n) ARRAYNN_LAMBDA { store_count(to + i, load_count(from + i, n), n); });
}

// The cotangents of the windows [begin, end) in the rows of windows `over`, each over its count.
template <class T, bool deep>
void sum_rows(const PoolParams& p, const Divisors& d, const T* dy, const Holders<deep>& over, int64_t begin,
              int64_t end, T* sums) {
  int64_t out = p.columns.out;
  for_vectors<T>(end - begin, [&](int64_t i, auto n) ARRAYNN_LAMBDA {
    vec<T> total{};
    for (int64_t od = over.slices().first; od < over.slices().last; ++od)
      for (int64_t oh = over.rows.first; oh < over.rows.last; ++oh)
        total += load_count(dy + (od * p.rows.out + oh) * out + begin + i, n) /
                 static_cast<T>(count_at(p, d, Line<deep>{od, oh}));
    store_count(sums + i, total, n);
  });
  auto each = [&](int64_t from, int64_t to) {
    for (int64_t o = from; o < to; ++o) sums[o - begin] /= static_cast<T>(count_at(p.columns, d.columns, o));
  };
  int64_t first = d.columns.first > begin ? d.columns.first : begin, last = d.columns.last < end ? d.columns.last : end;
  if (first >= last) first = last = end;
  each(begin, first);
  T inside = static_cast<T>(d.columns.inside);
  for_vectors<T>(last - first, [&](int64_t i, auto n) ARRAYNN_LAMBDA {
    T* v = sums + first - begin + i;
    store_count(v, load_count(v, n) / inside, n);
  });
  each(last, end);
}

// A row of the gradient from the sums of all windows, at a stride of S.
template <int S, class T>
void spread_row(const PoolAxis& a, const Contributions& list, const T* sums, T* dx) {
  for (int64_t i = 0; i * S < a.size; i += lanes<T>) {
    vec<T> streams[S];
    static_for<S>([&](auto s) ARRAYNN_LAMBDA {
      vec<T> total{};
      for (int m = list.begin[s]; m < list.begin[s + 1]; ++m) total += load_inside(sums, i + list.shift[m], a.out);
      streams[s] = total;
    });
    store_streams<S>(dx + i * S, streams, a.size - i * S);
  }
}

// The same at any stride, from the sums of the windows [begin, end).
template <class T>
void add_spans(const PoolAxis& a, const T* sums, int64_t begin, int64_t end, T* dx) {
  for (int64_t o = begin; o < end; ++o) {
    Span s = span_of(a, o);
    T v = sums[o - begin];
    for (int64_t i = s.begin; i < s.end; ++i) dx[i] += v;
  }
}

// A row of the gradient, which the rows of windows `over` hold. Without a list, windows lie anyhow.
template <class T, bool deep>
void row_backward(const PoolParams& p, const Divisors& d, const Contributions* list, const T* dy,
                  const Holders<deep>& over, T* dx) {
  const PoolAxis& a = p.columns;
  alignas(64) T sums[room];
  if (list) {
    sum_rows(p, d, dy, over, 0, a.out, sums);
    with_stride(a.stride, [&](auto s) { spread_row<s()>(a, *list, sums, dx); });
    return;
  }
  fill(dx, a.size, T(0));
  for (int64_t o = 0; o < a.out; o += room) {
    int64_t end = a.out - o < room ? a.out : o + room;
    sum_rows(p, d, dy, over, o, end, sums);
    add_spans(a, sums, o, end, dx);
  }
}

// ---- channels-last ------------------------------------------------------------------------------

// A row of the output; x is the image.
template <class T, bool deep>
void channels_last_row(const PoolParams& p, const Divisors& d, const T* x, Line<deep> o, T* y) {
  Span slices = deep ? span_of(p.slices, o.slice) : Span{0, 1, 1}, rows = span_of(p.rows, o.row);
  double high = count_at(p, d, o);
  for (int64_t ow = 0; ow < p.columns.out; ++ow, y += p.channels) {
    Span columns = span_of(p.columns, ow);
    T divisor = static_cast<T>(high * count_at(p.columns, d.columns, ow));
    for_vectors<T>(p.channels, [&](int64_t i, auto n) ARRAYNN_LAMBDA {
      vec<T> total{};
      for (int64_t s = slices.begin; s < slices.end; ++s)
        for (int64_t r = rows.begin; r < rows.end; ++r) {
          vec<T> row{};
          for (int64_t c = columns.begin; c < columns.end; ++c)
            row += load_count(x + ((s * p.rows.size + r) * p.columns.size + c) * p.channels + i, n);
          total += row;
        }
      store_count(y + i, total / divisor, n);
    });
  }
}

bool is_inside(const Counts& c, Over over) { return over.first >= c.first && over.last <= c.last; }

// A row of the gradient, which the rows of windows `over` hold; dy is the image.
template <class T, bool deep>
void channels_last_backward(const PoolParams& p, const Divisors& d, const T* dy, const Holders<deep>& over, T* dx) {
  Over columns = windows_over(p.columns, 0), before{-1, -1};
  for (int64_t w = 0; w < p.columns.size; dx += p.channels, columns = next_windows(p.columns, columns, ++w)) {
    if (columns == before) {
      copy(dx - p.channels, p.channels, dx);
      continue;
    }
    before = columns;
    // Where all windows have the same count, it divides their sum.
    bool same = is_inside(d.slices, over.slices()) && is_inside(d.rows, over.rows) && is_inside(d.columns, columns);
    for_vectors<T>(p.channels, [&](int64_t i, auto n) ARRAYNN_LAMBDA {
      vec<T> total{};
      for (int64_t od = over.slices().first; od < over.slices().last; ++od)
        for (int64_t oh = over.rows.first; oh < over.rows.last; ++oh)
          for (int64_t ow = columns.first; ow < columns.last; ++ow) {
            vec<T> v = load_count(dy + ((od * p.rows.out + oh) * p.columns.out + ow) * p.channels + i, n);
            total +=
                same ? v : v / static_cast<T>(count_at(p, d, Line<deep>{od, oh}) * count_at(p.columns, d.columns, ow));
          }
      store_count(dx + i, same ? total / static_cast<T>(d.slices.inside * d.rows.inside * d.columns.inside) : total, n);
    });
  }
}

}  // namespace

void avg_pool_forward(const PoolParams& p, const void* input, void* output) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* x = static_cast<const T*>(input);
    T* y = static_cast<T*>(output);
    Divisors d = divisors_of(p);
    int64_t in = p.slices.size * p.rows.size * p.columns.size, out = p.columns.out;
    int64_t cost = in / (p.slices.out * p.rows.out + 1), planes = p.batch * p.channels;
    if (p.layout != Layout::channels_last && is_whole(p)) {
      parallel_chunks(planes, grain / in + 1, [&](int64_t begin, int64_t end) {
        T divisor = whole_divisor<T>(p, d);
        int64_t i = begin;
        for (; i + 4 <= end && in <= most_at_once; i += 4) sums_of_four_runs(x + i * in, in, y + i);
        for (; i < end; ++i) y[i] = join_run<Sum<T>>(x + i * in, in);
        for (i = begin; i < end; ++i) y[i] /= divisor;
      });
      return;
    }
    with_depth(p, [&](auto deep) {
      if (p.layout == Layout::channels_last)
        for_output_rows<deep()>(p, p.batch, cost * p.channels, [=, &p, &d](int64_t image, auto line, int64_t i) {
          channels_last_row(p, d, x + image * in * p.channels, line, y + i * out * p.channels);
        });
      else
        for_output_rows<deep()>(p, planes, cost, [=, &p, &d](int64_t image, auto line, int64_t i) {
          JoinedRows<Sum<T>, T> rows(p, x + image * in, line);
          joined_row_divided(p, d, rows, count_at(p, d, line), y + i * out);
        });
    });
  });
}

void avg_pool_backward(const PoolParams& p, const void* d_output, void* d_input) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* dy = static_cast<const T*>(d_output);
    T* dx = static_cast<T*>(d_input);
    Divisors d = divisors_of(p);
    int64_t lane = p.layout == Layout::channels_last ? p.channels : 1, images = p.batch * p.channels / lane;
    int64_t width = p.columns.size * lane, in = p.slices.size * p.rows.size * width;
    int64_t out = p.slices.out * p.rows.out * p.columns.out * lane;
    if (is_whole(p) && p.layout != Layout::channels_last) {
      T divisor = whole_divisor<T>(p, d);
      parallel_chunks(images, grain / in + 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) fill(dx + i * in, in, dy[i] / divisor);
      });
      return;
    }
    bool regular = !p.columns.adaptive && p.columns.out <= room && p.columns.kernel <= most_taps &&
                   p.columns.stride <= longest_stride;
    Contributions list;
    if (regular) list = contributions_of(p.columns);
    with_depth(p, [&](auto deep) {
      for_input_rows<deep()>(p, images, width,
                             [=, &p, &d, &list](int64_t image, auto, int64_t i, const auto& over, bool again) {
                               T* row = dx + i * width;
                               if (again)
                                 copy(row - width, width, row);
                               else if (p.layout == Layout::channels_last)
                                 channels_last_backward(p, d, dy + image * out, over, row);
                               else
                                 row_backward(p, d, regular ? &list : nullptr, dy + image * out, over, row);
                             });
    });
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
