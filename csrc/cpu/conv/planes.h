// Input rows of contiguous images as planes with the padding around them: lanes are pixels. With a stride there is one
// plane for each remainder of the row and the column. Seen as one long row, every pixel of the grid finds tap t at the
// same distance.
//   planes[input channel][slice][row's remainder][column's remainder][row][pixel]
#pragma once
#include "cpu/conv/taps.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

constexpr int most_outputs = 4;  // of a pass

template <int Outputs>
constexpr int tile_vectors = Outputs == 1 ? 8 : 4;

template <class T>
struct Plan {
  Triple reach;                // input pixels that a pixel's taps span, less one
  int64_t phases_h, phases_w;  // remainders of the stride that some tap may meet
  int64_t rows, row_tasks, pitch, in_rows, plane_step, passes;
  int64_t together;   // tasks that one worker takes at a time
  int64_t most_rows;  // if threads did not ask for more tasks: what the choice of the engine may depend on

  explicit Plan(const Gather<T>& g) : reach{g.high.d - g.low.d, g.high.h - g.low.h, g.high.w - g.low.w} {
    phases_h = std::min(g.stride.h, reach.h + 1);
    phases_w = std::min(g.stride.w, reach.w + 1);
    pitch = g.grid.w + reach.w / g.stride.w;
    int64_t row_bytes = g.in_c * planes_per_channel() * pitch * static_cast<int64_t>(sizeof(T));
    int64_t more_rows = reach.h / g.stride.h, bytes = (is_thin(g) ? 24 : 256) * 1024;
    rows = std::clamp<int64_t>(bytes / row_bytes - more_rows, 1, g.grid.h);
    most_rows = even_part(g.grid.h, rows);
    int64_t others = g.batch * g.groups * g.grid.d;
    while (rows >= 16 && others * ceil_div(g.grid.h, rows) < 4 * num_threads()) rows = ceil_div(rows, 2);
    row_tasks = ceil_div(g.grid.h, rows);
    rows = ceil_div(g.grid.h, row_tasks);
    in_rows = rows + more_rows;
    plane_step = planes_per_channel() * in_rows * pitch;
    passes = ceil_div(g.out_c, most_outputs);
    together = std::clamp<int64_t>(4096 / (rows * pitch), 1, std::max<int64_t>(1, others / (4 * num_threads())));
  }
  // Where tap t of a gather lies behind the pixel.
  int64_t distance(const Gather<T>& g, const Triple& offset) const {
    int64_t h = offset.h - g.low.h, w = offset.w - g.low.w;
    int64_t plane = ((offset.d - g.low.d) * phases_h + h % g.stride.h) * phases_w + w % g.stride.w;
    return (plane * in_rows + h / g.stride.h) * pitch + w / g.stride.w;
  }
  int64_t planes_per_channel() const { return (reach.d + 1) * phases_h * phases_w; }
  // A tile reads and writes beyond the end of its rows, by less than its own length.
  static constexpr int64_t slack = tile_vectors<1> * lanes<T>;
  int64_t planes(int64_t in_c) const { return round_up(in_c * plane_step + slack, 64); }
  int64_t outputs() const { return round_up(rows * pitch + slack, 64); }  // of a channel
  int64_t worker_elements(int64_t in_c) const { return planes(in_c) + most_outputs * outputs(); }
};

struct Place {
  int64_t group, image, slice, row, rows;
};

// Contiguous memory that a place's first input or output channel has, as far as there is nothing between.
template <class T>
struct Region {
  const T* data = nullptr;
  int64_t bytes = 0;
};
template <class T>
Region<T> input_region(const Gather<T>& g, const Plan<T>& plan, const Place& at) {
  int64_t z = at.slice * g.stride.d + g.low.d, y = at.row * g.stride.h + g.low.h;
  if (z < 0 || z >= g.size.d) return {};
  int64_t first = std::max<int64_t>(y, 0) / g.spread.h, end = std::min(y + plan.in_rows * g.stride.h, g.size.h);
  const T* from = g.in + at.image * g.in_strides.n + at.group * g.in_c * g.in_strides.c +
                  z / g.spread.d * g.in_strides.d + first * g.in_strides.h;
  int64_t rows = std::max<int64_t>(0, ceil_div(end, g.spread.h) - first);
  return {from, rows * g.in_strides.h * static_cast<int64_t>(sizeof(T))};
}
template <class T>
Region<T> output_region(const Gather<T>& g, const Place& at) {
  const T* to = g.out + at.image * g.out_strides.n + at.group * g.out_c * g.out_strides.c + at.slice * g.out_strides.d +
                at.row * g.out_strides.h;
  return {to, at.rows * g.out_strides.h * static_cast<int64_t>(sizeof(T))};
}

// The part of a plane's row that lies inside the image: `count` pixels from `first` on.
struct Inside {
  int64_t first, count;
};
// Pixel i lies at x0 + i step.
ARRAYNN_INLINE Inside inside_row(int64_t pitch, int64_t x0, int64_t step, int64_t size) {
  int64_t first = x0 < 0 ? std::min(ceil_div(-x0, step), pitch) : 0;
  int64_t end = x0 < size ? std::min((size - 1 - x0) / step + 1, pitch) : 0;
  return {first, std::max<int64_t>(0, end - first)};
}

// Whole vectors at the end of what is copied fall on what comes next.
template <class T>
void copy_row(const T* from, int64_t step, const Inside& inside, int64_t pitch, T* to) {
  constexpr int V = lanes<T>;
  for (int64_t x = 0; x < inside.first; x += V) store(to + x, vec<T>{});
  T* data = to + inside.first;
  int64_t x = 0;
  for (; x < inside.count; x += V) {
    int count = static_cast<int>(std::min<int64_t>(V, inside.count - x));
    store(data + x, load_stepped(from + (inside.first + x) * step, step, 0, count));
  }
  for (; x < pitch - inside.first; x += V) store(data + x, vec<T>{});
}

// A row whose pixels lie `spread` apart: pixel x of the plane's row is at x0 + x.
template <class T>
void copy_spread_row(const T* from, int64_t spread, int64_t x0, int64_t size, int64_t pitch, T* to) {
  constexpr int V = lanes<T>;
  for (int64_t x = 0; x < pitch; x += V) store(to + x, vec<T>{});
  int64_t first = x0 > 0 ? ceil_div(x0, spread) : 0, end = std::min(size, x0 + pitch);
  int64_t count = ceil_div(std::max<int64_t>(end, 0), spread);
  if (spread != 2) {
    for (int64_t k = first; k < count; ++k) to[k * spread - x0] = from[k];
    return;
  }
  for (int64_t k = first; k < count; k += V) {
    vec<T> v = load_first(from + k, static_cast<int>(std::min<int64_t>(V, count - k)));
    store(to + 2 * k - x0, zip_lo<T>(v, vec<T>{}));
    store(to + 2 * k - x0 + V, zip_hi<T>(v, vec<T>{}));
  }
}

template <class T>
void copy_planes(const Gather<T>& g, const Plan<T>& plan, const Place& at, T* to) {
  int64_t step = g.stride.w, planes = plan.planes_per_channel();
  for (int64_t i = 0; i < g.in_c * planes; ++i) {
    int64_t channel = at.group * g.in_c + i / planes, plane = i % planes;
    int64_t phase_w = plane % plan.phases_w, phase_h = plane / plan.phases_w % plan.phases_h;
    int64_t z = at.slice * g.stride.d + g.low.d + plane / plan.phases_w / plan.phases_h, x0 = g.low.w + phase_w;
    Inside inside = inside_row(plan.pitch, x0, step, g.size.w);
    const T* from = g.in + at.image * g.in_strides.n + channel * g.in_strides.c + z / g.spread.d * g.in_strides.d;
    for (int64_t r = 0; r < plan.in_rows; ++r, to += plan.pitch) {
      int64_t y = (at.row + r) * g.stride.h + g.low.h + phase_h;
      bool there = z >= 0 && z < g.size.d && z % g.spread.d == 0 && y >= 0 && y < g.size.h && y % g.spread.h == 0;
      const T* row = from + (there ? y / g.spread.h * g.in_strides.h : 0);
      if (!there || g.spread.w == 1)
        copy_row(row + x0, step, there ? inside : Inside{0, 0}, plan.pitch, to);
      else
        copy_spread_row(row, g.spread.w, x0, g.size.w, plan.pitch, to);
    }
  }
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
