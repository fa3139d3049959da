// Where windows lie along the axes, and the walks over the rows of a volume that pooling is made of.
#pragma once
#include <cmath>
#include <type_traits>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/simd/vec.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

constexpr int64_t grain = 16 << 10;  // input elements per task

// Taps [first, last) of a window lie in the input, tap k at entry start + k dilation.
struct Taps {
  int64_t start, first, last;
  bool none() const { return first == last; }
};
inline Taps taps_of(const PoolAxis& a, int64_t o) {
  if (a.adaptive) {
    int64_t begin = o * a.size / a.out;
    return {begin, 0, ((o + 1) * a.size + a.out - 1) / a.out - begin};
  }
  int64_t start = o * a.stride - a.padding, d = a.dilation;
  if (start >= 0 && start + (a.kernel - 1) * d < a.size) return {start, 0, a.kernel};
  int64_t first = start < 0 ? (d - 1 - start) / d : 0;
  int64_t last = start < a.size ? (a.size - start + d - 1) / d : 0;
  if (last > a.kernel) last = a.kernel;
  return {start, first < last ? first : last, last};
}

// The entries begin, begin + step, ... before end of the input are in window o.
struct Span {
  int64_t begin, end, step;
  int64_t count() const { return end - begin; }  // with a step of 1
};
inline Span span_of(const PoolAxis& a, int64_t o) {
  if (a.adaptive) return {o * a.size / a.out, ((o + 1) * a.size + a.out - 1) / a.out, 1};
  Taps t = taps_of(a, o);
  int64_t begin = t.start + t.first * a.dilation;
  return {begin, t.first < t.last ? t.start + (t.last - 1) * a.dilation + 1 : begin, a.dilation};
}

// Where entries of window o may lie. Unlike those of its span, the ends never go back from one window
// to the next.
inline Span reach_of(const PoolAxis& a, int64_t o) {
  if (a.adaptive) return span_of(a, o);
  int64_t start = o * a.stride - a.padding, end = start + (a.kernel - 1) * a.dilation + 1;
  return {start < 0 ? 0 : start, end < a.size ? end : a.size, 1};
}

// Windows [first, last) may hold entry i (with dilation, not all of them do).
struct Over {
  int64_t first, last;
  bool operator==(const Over& o) const { return first == o.first && last == o.last; }
};
inline Over windows_over(const PoolAxis& a, int64_t i) {
  if (a.adaptive) return {i * a.out / a.size, ((i + 1) * a.out + a.size - 1) / a.size};
  int64_t at = i + a.padding, early = at - (a.kernel - 1) * a.dilation;
  int64_t first = early <= 0 ? 0 : (early - 1) / a.stride + 1, last = at / a.stride + 1;
  return {first, last < a.out ? last : a.out};
}
// The same for the entry behind the one that `over` is for.
inline Over next_windows(const PoolAxis& a, Over over, int64_t i) {
  if (a.adaptive) return windows_over(a, i);
  while (over.last < a.out && over.last * a.stride - a.padding <= i) ++over.last;
  while (over.first < over.last && over.first * a.stride - a.padding + (a.kernel - 1) * a.dilation < i) ++over.first;
  return over;
}
// The tap by which window o holds entry i, or -1.
inline int64_t tap_at(const PoolAxis& a, int64_t o, int64_t i) {
  if (a.adaptive) return i - o * a.size / a.out;
  int64_t distance = i + a.padding - o * a.stride;
  if (a.dilation == 1) return distance;
  return distance % a.dilation == 0 ? distance / a.dilation : -1;
}

// What follows is made for volumes (deep) and for planes, whose one slice is known and so costs nothing.

// A row of the output or of the input.
template <bool deep>
struct Line {
  int64_t slice, row;
};

// The taps of a row's windows in the slices and rows of the input.
template <bool deep>
struct Lines {
  Taps deep_slices, rows;
  Taps slices() const { return deep ? deep_slices : Taps{0, 0, 1}; }
  bool none() const { return slices().none() || rows.none(); }
};
template <bool deep>
Lines<deep> lines_of(const PoolParams& p, Line<deep> o) {
  return {deep ? taps_of(p.slices, o.slice) : Taps{}, taps_of(p.rows, o.row)};
}

// The first tap of row r, of slice s, of a window.
inline int64_t tap_number(const PoolParams& p, int64_t s, int64_t r) {
  return (s * p.rows.kernel + r) * p.columns.kernel;
}

// Which row of the volume tap r of the rows, of tap s of the slices, is.
template <bool deep>
int64_t line_at(const PoolParams& p, Lines<deep> lines, int64_t s, int64_t r) {
  int64_t slice = deep ? lines.deep_slices.start + s * p.slices.dilation : 0;
  return slice * p.rows.size + lines.rows.start + r * p.rows.dilation;
}

// f(row of the volume, number of its first tap) for each row of the input that is in a row's windows.
template <bool deep, class F>
ARRAYNN_INLINE void for_lines(const PoolParams& p, Lines<deep> lines, const F& f) {
  Taps slices = lines.slices();
  for (int64_t s = slices.first; s < slices.last; ++s)
    for (int64_t r = lines.rows.first; r < lines.rows.last; ++r) f(line_at(p, lines, s, r), tap_number(p, s, r));
}

// The windows whose rows may hold a row of the input.
template <bool deep>
struct Holders {
  Over deep_slices, rows;
  Over slices() const { return deep ? deep_slices : Over{0, 1}; }
  bool operator==(const Holders& o) const { return slices() == o.slices() && rows == o.rows; }
};

// f(o, tap) for each row of windows, counted through all slices, that holds a row of the input, and the
// first of its taps there.
template <bool deep, class F>
ARRAYNN_INLINE void for_holders(const PoolParams& p, Line<deep> line, Holders<deep> over, const F& f) {
  Over slices = over.slices();
  for (int64_t od = slices.first; od < slices.last; ++od) {
    int64_t s = deep ? tap_at(p.slices, od, line.slice) : 0;
    if (s < 0) continue;
    for (int64_t oh = over.rows.first; oh < over.rows.last; ++oh) {
      int64_t r = tap_at(p.rows, oh, line.row);
      if (r >= 0) f(od * p.rows.out + oh, tap_number(p, s, r));
    }
  }
}

// ---- walks --------------------------------------------------------------------------------------

// f(image, line, number) over the rows of the output of all images, numbered through, each some `cost`
// elements of work.
template <bool deep, class F>
void for_output_rows(const PoolParams& p, int64_t images, int64_t cost, const F& f) {
  int64_t slices = p.slices.out, rows = p.rows.out;
  parallel_chunks(images * slices * rows, grain / (cost + 1) + 1, [&](int64_t begin, int64_t end) {
    const F run = f;  // what it captures by value may then stay in registers
    Line<deep> line{begin / rows % slices, begin % rows};
    int64_t image = begin / rows / slices;
    for (int64_t i = begin; i < end; ++i) {
      run(image, line, i);
      if (++line.row < rows) continue;
      line.row = 0;
      if (!deep || ++line.slice == slices) line.slice = 0, ++image;
    }
  });
}

// f(image, line, number, over, again) over the rows of the input of all images, each of `cost` elements.
// `again`: the row before, in memory too, is done and lies under the same windows.
template <bool deep, class F>
void for_input_rows(const PoolParams& p, int64_t images, int64_t cost, const F& f) {
  int64_t slices = p.slices.size, rows = p.rows.size;
  parallel_chunks(images * slices * rows, grain / (cost + 1) + 1, [&](int64_t begin, int64_t end) {
    const F run = f;  // what it captures by value may then stay in registers
    Line<deep> line{begin / rows % slices, begin % rows};
    int64_t image = begin / rows / slices;
    Holders<deep> over{windows_over(p.slices, line.slice), windows_over(p.rows, line.row)};
    bool again = false;
    for (int64_t i = begin; i < end; ++i) {
      run(image, line, i, over, again);
      const Holders<deep> before = over;
      if (++line.row < rows) {
        over.rows = next_windows(p.rows, over.rows, line.row);
        again = over == before;
        continue;
      }
      line.row = 0;
      bool volume_ends = !deep || ++line.slice == slices;
      if (volume_ends) line.slice = 0, ++image;
      if (deep) over.deep_slices = windows_over(p.slices, line.slice);
      over.rows = windows_over(p.rows, 0);
      again = !volume_ends && over == before;
    }
  });
}

// f(whether there is more than one slice, as a constant).
template <class F>
void with_depth(const PoolParams& p, const F& f) {
  if (p.dims == 3)
    f(std::true_type{});
  else
    f(std::false_type{});
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
