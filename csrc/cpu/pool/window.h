// The steps that pooling of contiguous volumes is made of: forward, the columns of a row are brought into
// phases, one per column of a stride, so that one tap of many windows is one vector; backward, such
// vectors are interleaved to a row of the gradient.
#pragma once
#include "cpu/pool/axis.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

constexpr int64_t room = 4096;   // elements in a row's buffer on the stack
constexpr uint8_t no_tap = 255;  // of a window of nothing but padding

// Phases of `length` columns each: column c at phase[c % S][c / S].
template <class T, int S>
ARRAYNN_INLINE T* column(T* phases, int64_t length, int64_t c) {
  auto at = static_cast<uint64_t>(c);  // never negative, which saves the corrections of signed division
  return phases + at % S * static_cast<uint64_t>(length) + at / S;
}

// How many windows, at a stride of S, have their columns in a buffer of `size` elements. Whole
// vectors are stored behind the last one.
template <class T, int S>
int64_t windows_in(int64_t size, const PoolAxis& a) {
  return size / S - (a.kernel - 1) * a.dilation / S - 1 - lanes<T>;
}

// Phases of the columns [from, from + count) of a row of `width`, with `fill` outside of the row.
// values(column, n) are n columns of the row.
template <int S, class T, class Values>
ARRAYNN_INLINE void fill_phases(T* phases, int64_t length, int64_t from, int64_t count, int64_t width, T fill,
                                const Values& values) {
  int64_t left = from < 0 ? (-from < count ? -from : count) : 0;
  int64_t right = width - from < count ? width - from : count;
  int64_t c = left;
  for (; c % S && c < right; ++c) *column<T, S>(phases, length, c) = values(from + c, 1)[0];
  for (; c < right; c += S * lanes<T>) {
    vec<T> v[S];
    static_for<S>([&](auto k) ARRAYNN_LAMBDA {
      constexpr std::integral_constant<int, lanes<T>> all{};
      int64_t rest = right - c - k * lanes<T>;
      if (rest >= lanes<T>)
        v[k] = values(from + c + k * lanes<T>, all);
      else
        v[k] = rest > 0 ? values(from + c + k * lanes<T>, static_cast<int>(rest)) : vec<T>{};
    });
    T* to = phases + c / S;
    if constexpr (S == 1) {
      store(to, v[0]);
    } else if constexpr (S == 2) {
      store(to, even<T>(v[0], v[1]));
      store(to + length, odd<T>(v[0], v[1]));
    } else {
      T mixed[S * lanes<T>];
      static_for<S>([&](auto k) ARRAYNN_LAMBDA { store(mixed + k * lanes<T>, v[k]); });
      for (int k = 0; k < S; ++k)
        for (int i = 0; i < lanes<T>; ++i) to[k * length + i] = mixed[i * S + k];
    }
  }
  for (c = 0; c < left; ++c) *column<T, S>(phases, length, c) = fill;
  for (c = right > left ? right : left; c < count; ++c) *column<T, S>(phases, length, c) = fill;
}

// Streams side by side: row[S i + r] = stream r, element i.
template <int S, class T>
ARRAYNN_INLINE void store_streams(T* row, const vec<T> (&streams)[S], int64_t count) {
  vec<T> v[S];
  if constexpr (S == 1) {
    v[0] = streams[0];
  } else if constexpr (S == 2) {
    v[0] = zip_lo<T>(streams[0], streams[1]);
    v[1] = zip_hi<T>(streams[0], streams[1]);
  } else {
    T mixed[S * lanes<T>];
    for (int k = 0; k < S; ++k)
      for (int i = 0; i < lanes<T>; ++i) mixed[i * S + k] = streams[k][i];
    static_for<S>([&](auto k) ARRAYNN_LAMBDA { v[k] = load(mixed + k * lanes<T>); });
  }
  static_for<S>([&](auto k) ARRAYNN_LAMBDA {
    int64_t rest = count - k * lanes<T>;
    if (rest >= lanes<T>)
      store(row + k * lanes<T>, v[k]);
    else if (rest > 0)
      store_first(row + k * lanes<T>, v[k], static_cast<int>(rest));
  });
}

// f(stride) with a stride that the vectorised steps know, as a constant; false for any other.
constexpr int64_t longest_stride = 4;
template <class F>
ARRAYNN_INLINE bool with_stride(int64_t stride, const F& f) {
  switch (stride) {
    case 1: return f(std::integral_constant<int, 1>{}), true;
    case 2: return f(std::integral_constant<int, 2>{}), true;
    case 3: return f(std::integral_constant<int, 3>{}), true;
    case 4: return f(std::integral_constant<int, 4>{}), true;
    default: return false;
  }
}

// In the gradient's row, stream r holds entries S i + r. Its m-th contribution is what window
// i + shift[m] got, which holds the entry by tap[m]; those of stream r are begin[r] to begin[r + 1] - 1.
constexpr int most_taps = 255;
struct Contributions {
  int begin[longest_stride + 1], tap[most_taps];
  int64_t shift[most_taps];
  int64_t least, most;  // of the shifts
};
inline Contributions contributions_of(const PoolAxis& a) {
  Contributions c{};
  int count = 0;
  for (int r = 0; r < a.stride; ++r) {
    c.begin[r] = count;
    for (int k = 0; k < a.kernel; ++k) {
      int64_t distance = a.padding + r - k * a.dilation;
      if (distance % a.stride != 0) continue;
      c.tap[count] = k;
      c.shift[count] = distance / a.stride;
      if (c.shift[count] < c.least) c.least = c.shift[count];
      if (c.shift[count] > c.most) c.most = c.shift[count];
      ++count;
    }
  }
  c.begin[a.stride] = count;
  return c;
}

// Elements at, at + 1, ... of p[0..size), zeros outside of it.
template <class T>
ARRAYNN_INLINE vec<T> load_inside(const T* p, int64_t at, int64_t size) {
  if (at >= 0 && at + lanes<T> <= size) return load(p + at);
  int64_t lo = at < 0 ? -at : 0, hi = size - at < lanes<T> ? size - at : lanes<T>;
  return lo < hi ? load_range(p + at, static_cast<int>(lo), static_cast<int>(hi)) : vec<T>{};
}

// ---- forward, contiguous volumes: join the rows of a window, then its columns ---------------------
// `values`, which give joined rows, come as copies, so that what they hold stays in registers.

template <class T>
struct Sum {
  using Total = double;
  static constexpr T empty = 0;
  static ARRAYNN_INLINE vec<T> join(vec<T> a, vec<T> b) { return a + b; }
  template <class U>
  static ARRAYNN_INLINE U join(U a, U b) {
    return a + b;
  }
  static ARRAYNN_INLINE T across(vec<T> v) { return sum<T>(v); }
  static ARRAYNN_INLINE void across_four(const vec<T>* v, T* to) { sums_of_four<T>(v, to); }
};

template <class T>
struct Max {
  using Total = T;
  static constexpr T empty = -INFINITY;
  // max gives b where one is NaN: right if that is b.
  static ARRAYNN_INLINE vec<T> join(vec<T> a, vec<T> b) { return a != a ? a : max(a, b); }
  static ARRAYNN_INLINE T join(T a, T b) { return b > a || b != b ? b : a; }
  static ARRAYNN_INLINE T across(vec<T> v) { return max_lane<T>(v); }
  static ARRAYNN_INLINE void across_four(const vec<T>* v, T* to) {
    static_for<4>([&](auto i) ARRAYNN_LAMBDA { to[i] = max_lane<T>(v[i]); });
  }
};

// In blocks, whose sums are added in double.
template <class Op, class T>
T join_run(const T* x, int64_t count) {
  constexpr int64_t block = 2048;
  typename Op::Total total = Op::empty;
  for (int64_t begin = 0; begin < count; begin += block) {
    vec<T> part = broadcast<T>(Op::empty);
    for_vectors<T>(count - begin < block ? count - begin : block, [&](int64_t i, auto n) ARRAYNN_LAMBDA {
      part = Op::join(part, keep_count<T>(load_count(x + begin + i, n), n, broadcast<T>(Op::empty)));
    });
    total = Op::join(total, static_cast<typename Op::Total>(Op::across(part)));
  }
  return static_cast<T>(total);
}

// Windows at a stride of S, vectorised over the windows.
template <class Op, int S, class T, class Values>
void join_windows(const PoolAxis& a, Values values, T* y) {
  alignas(64) T phases[room];
  int64_t reach = (a.kernel - 1) * a.dilation, length = room / S, tile = windows_in<T, S>(room, a);
  for (int64_t o = 0; o < a.out; o += tile) {
    int64_t n = a.out - o < tile ? a.out - o : tile;
    fill_phases<S>(phases, length, o * S - a.padding, (n - 1) * S + reach + 1, a.size, Op::empty, values);
    for_vectors<T>(n, [&](int64_t j, auto count) ARRAYNN_LAMBDA {
      vec<T> v = load(phases + j);
      for (int64_t c = a.dilation; c <= reach; c += a.dilation)
        v = Op::join(v, load(column<T, S>(phases, length, c) + j));
      store_count(y + o + j, v, count);
    });
  }
}

// Windows of two columns at a stride of two, none of them in the padding: no buffer.
inline bool is_pairs(const PoolAxis& a) {
  return !a.adaptive && a.kernel == 2 && a.stride == 2 && a.dilation == 1 && a.padding == 0 && 2 * a.out <= a.size;
}
// f(first, second) with the columns of `count` such windows, of values(column, n).
template <class T, class Values, class Count, class F>
ARRAYNN_INLINE void pair(const Values& values, Count count, const F& f) {
  vec<T> a, b;
  if constexpr (std::is_same_v<Count, int>) {
    int n = 2 * count < lanes<T> ? 2 * count : lanes<T>;
    a = values(0, n);
    b = 2 * count > n ? values(n, 2 * count - n) : vec<T>{};
  } else {
    a = values(0, count);
    b = values(lanes<T>, count);
  }
  f(even<T>(a, b), odd<T>(a, b));
}

// All such windows of a row: y[o] = finish(its columns joined).
template <class Op, class T, class Values, class Finish>
void join_pairs(const PoolAxis& a, Values values, T* y, const Finish& finish) {
  for_overlapping_vectors<T>(a.out, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    auto from = [&](int64_t c, auto n) ARRAYNN_LAMBDA { return values(2 * i + c, n); };
    pair<T>(from, count, [&](vec<T> first, vec<T> second) ARRAYNN_LAMBDA {
      store_count(y + i, finish(Op::join(first, second)), count);
    });
  });
}

// Neighbours x[0..count), of which there are few.
constexpr int64_t least_vector = 5;  // fewer are joined one by one
template <class Op, class T>
ARRAYNN_INLINE T join_neighbours(const T* x, int64_t count) {
  T v = Op::empty;
  if (count < least_vector) {
    for (int64_t i = 0; i < count; ++i) v = Op::join(v, x[i]);
    return v;
  }
  vec<T> empty = broadcast<T>(Op::empty), all = empty;
  for_vectors<T>(count, [&](int64_t i, auto n)
                            ARRAYNN_LAMBDA { all = Op::join(all, keep_count<T>(load_count(x + i, n), n, empty)); });
  return Op::across(all);
}

// Windows wherever they lie, one by one, over rows that are joined in a buffer where it holds them.
template <class Op, class T, class Values>
void join_spans(const PoolAxis& a, Values values, T* y) {
  alignas(64) T row[room + lanes<T>];
  for (int64_t o = 0; o < a.out;) {
    int64_t begin = reach_of(a, o).begin, end = begin, next = o;
    for (; next < a.out && reach_of(a, next).end - begin <= room; ++next) end = reach_of(a, next).end;
    if (next == o) {  // one window is more than the buffer holds
      Span s = span_of(a, o);
      T v = Op::empty;
      for (int64_t c = s.begin; c < s.end; c += s.step) v = Op::join(v, values(c, 1)[0]);
      y[o++] = v;
      continue;
    }
    values.join_to(begin, end - begin, row);
    if (a.kernel >= least_vector && a.kernel <= lanes<T> && !a.adaptive && a.dilation == 1 && a.padding == 0)
      for (; o + 4 <= next && (o + 3) * a.stride + a.kernel <= a.size; o += 4) {  // each is a part of one vector
        vec<T> v[4], empty = broadcast<T>(Op::empty);
        static_for<4>([&](auto i) ARRAYNN_LAMBDA {
          v[i] = keep_count<T>(load(row + (o + i) * a.stride - begin), static_cast<int>(a.kernel), empty);
        });
        Op::across_four(v, y + o);
      }
    for (; o < next; ++o) {
      Span s = span_of(a, o);
      if (s.step == 1) {
        y[o] = join_neighbours<Op>(row + s.begin - begin, s.end - s.begin);
        continue;
      }
      T v = Op::empty;
      for (int64_t c = s.begin; c < s.end; c += s.step) v = Op::join(v, row[c - begin]);
      y[o] = v;
    }
  }
}

// One window over all of the volume.
inline bool is_whole(const PoolParams& p) {
  auto covers = [](const PoolAxis& a) {
    return a.out == 1 && (a.adaptive || (a.dilation == 1 && a.padding == 0 && a.kernel >= a.size));
  };
  return covers(p.slices) && covers(p.rows) && covers(p.columns);
}

// The rows that a line's windows hold, joined: called with a column and a count, it gives so many columns.
template <class Op, class T>
struct JoinedRows {
  const T* first;
  int64_t height, row_step, depth, slice_step;
  bool none;

  template <bool deep>
  JoinedRows(const PoolParams& p, const T* volume, Line<deep> o) {
    Span slices = deep ? span_of(p.slices, o.slice) : Span{0, 1, 1}, rows = span_of(p.rows, o.row);
    none = slices.begin >= slices.end || rows.begin >= rows.end;
    int64_t width = p.columns.size;
    first = volume + (slices.begin * p.rows.size + rows.begin) * width;
    height = (rows.end - rows.begin) * width, row_step = rows.step * width;
    depth = (slices.end - slices.begin) * p.rows.size * width, slice_step = slices.step * p.rows.size * width;
  }
  template <class Count>
  ARRAYNN_INLINE vec<T> operator()(int64_t c, Count count) const {
    vec<T> v = load_count(first + c, count);
    for (int64_t r = row_step; r < height; r += row_step) v = Op::join(v, load_count(first + r + c, count));
    for (int64_t s = slice_step; s < depth; s += slice_step)
      for (int64_t r = 0; r < height; r += row_step) v = Op::join(v, load_count(first + s + r + c, count));
    return v;
  }

  // row[0..count) = the columns from c on, several vectors at a time so that they share the steps from row to row. A
  // whole vector is stored at the end.
  void join_to(int64_t c, int64_t count, T* row) const {
    constexpr int V = lanes<T>, together = 4;
    int64_t i = 0;
    for (; i + together * V <= count; i += together * V) join_vectors<together>(c + i, row + i);
    if (i + 2 * V <= count) join_vectors<2>(c + i, row + i), i += 2 * V;
    for_vectors<T>(count - i, [&](int64_t j, auto n) ARRAYNN_LAMBDA { store(row + i + j, (*this)(c + i + j, n)); });
  }

 private:
  template <int N>
  ARRAYNN_INLINE void join_vectors(int64_t c, T* row) const {
    vec<T> v[N];
    static_for<N>([&](auto i) ARRAYNN_LAMBDA { v[i] = load(first + c + i * lanes<T>); });
    auto join_rows = [&](const T* from) ARRAYNN_LAMBDA {
      static_for<N>([&](auto i) ARRAYNN_LAMBDA { v[i] = Op::join(v[i], load(from + c + i * lanes<T>)); });
    };
    for (int64_t r = row_step; r < height; r += row_step) join_rows(first + r);
    for (int64_t s = slice_step; s < depth; s += slice_step)
      for (int64_t r = 0; r < height; r += row_step) join_rows(first + s + r);
    static_for<N>([&](auto i) ARRAYNN_LAMBDA { store(row + i * lanes<T>, v[i]); });
  }
};

// One row of the output.
template <class Op, class T>
void join_row(const PoolAxis& a, const JoinedRows<Op, T>& rows, T* y) {
  if (rows.none) {
    for (int64_t i = 0; i < a.out; ++i) y[i] = Op::empty;
    return;
  }
  if (is_pairs(a)) return join_pairs<Op>(a, rows, y, [](vec<T> v) ARRAYNN_LAMBDA { return v; });
  bool fits = !a.adaptive && (a.kernel - 1) * a.dilation <= room / 4;
  if (!fits || !with_stride(a.stride, [&](auto s) { join_windows<Op, s()>(a, rows, y); })) join_spans<Op>(a, rows, y);
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
