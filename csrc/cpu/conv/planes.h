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

// Whether so few channels of a group meet that little is computed with a plane once it is copied.
template <class T>
bool is_thin(const Gather<T>& g) {
  return g.groups > 1 && g.in_c * g.out_c <= most_outputs;
}

template <class T>
struct Plan {
  Triple reach;                // input pixels that a pixel's taps span, less one
  int64_t phases_h, phases_w;  // remainders of the stride that some tap may meet
  int64_t rows, row_tasks, pitch, in_rows, plane_step, passes;
  int64_t together;  // tasks that one worker takes at a time

  explicit Plan(const Gather<T>& g) : reach{g.high.d - g.low.d, g.high.h - g.low.h, g.high.w - g.low.w} {
    phases_h = std::min(g.stride.h, reach.h + 1);
    phases_w = std::min(g.stride.w, reach.w + 1);
    pitch = g.grid.w + reach.w / g.stride.w;
    int64_t row_bytes = g.in_c * planes_per_channel() * pitch * static_cast<int64_t>(sizeof(T));
    int64_t more_rows = reach.h / g.stride.h, bytes = (is_thin(g) ? 24 : 256) * 1024;
    rows = std::clamp<int64_t>(bytes / row_bytes - more_rows, 1, g.grid.h);
    int64_t others = g.batch * g.groups * g.grid.d;
    while (rows > 8 && others * ceil_div(g.grid.h, rows) < 4 * num_threads()) rows = ceil_div(rows, 2);
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

template <class T>
void copy_planes(const Gather<T>& g, const Plan<T>& plan, const Place& at, T* to) {
  int64_t step = g.stride.w, planes = plan.planes_per_channel();
  for (int64_t i = 0; i < g.in_c * planes; ++i) {
    int64_t channel = at.group * g.in_c + i / planes, plane = i % planes;
    int64_t phase_w = plane % plan.phases_w, phase_h = plane / plan.phases_w % plan.phases_h;
    int64_t z = at.slice * g.stride.d + g.low.d + plane / plan.phases_w / plan.phases_h, x0 = g.low.w + phase_w;
    Inside inside = inside_row(plan.pitch, x0, step, g.size.w);
    const T* from = g.in + at.image * g.in_strides.n + channel * g.in_strides.c + z * g.in_strides.d + x0;
    for (int64_t r = 0; r < plan.in_rows; ++r, to += plan.pitch) {
      int64_t y = (at.row + r) * g.stride.h + g.low.h + phase_h;
      bool there = z >= 0 && z < g.size.d && y >= 0 && y < g.size.h;
      copy_row(from + (there ? y * g.in_strides.h : 0), step, there ? inside : Inside{0, 0}, plan.pitch, to);
    }
  }
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
