// dw of a convolution from lines whose lanes are channels (lines.h), as in direct.cpp:
//   dw[o, i, tap] = sum over pixels of dy[o, pixel] x[i, pixel stride + offset(tap)]
// A register tile of some output by NR input channels keeps its sums over the pixels of a place: some rows and
// columns of an output slice. The places are cut into a few chunks, a function of the shape, whose sums are added in
// order at the end.
//   x[slice][row][pixel][input channel], dy[row][pixel][output channel], sums[tap][output channel][input channel]
#include "cpu/conv/lines.h"
#include "cpu/conv/outer.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int64_t most_chunks = 16, most_bytes = 48 << 20, most_outputs = 64, most_columns = 96, most_pixels = 384;

template <class T>
struct Plan {
  Triple grid, stride, reach;
  int64_t taps, in_c, out_c, block, blocks;  // channels of one group; a task has a block of the output channels
  int64_t in_row, out_row;                   // elements for a pixel's channels
  int64_t rows, columns, row_places, column_places, places;
  int64_t in_rows, in_pixels;
  int64_t chunk = 0, chunks = 0;  // places; no chunks: not for this shape

  explicit Plan(const ConvParams& p) : grid(output_size(p)), stride(stride_of(p)), taps(tap_count(p)) {
    auto span = [](const ConvAxis& a) { return (a.kernel - 1) * a.dilation; };
    reach = {span(p.d), span(p.h), span(p.w)};
    in_c = p.in_channels / p.groups;
    out_c = p.out_channels / p.groups;
    if (p.batch * product(grid) * in_c * out_c * taps == 0) return;
    block = even_part(out_c, most_outputs);
    blocks = ceil_div(out_c, block);
    in_row = round_up(in_c, in_c <= lanes<T> ? lanes<T> : NR<T>);
    out_row = round_up(block, lanes<T>);
    columns = even_part(grid.w, most_columns);
    column_places = ceil_div(grid.w, columns);
    rows = std::clamp<int64_t>(most_pixels / columns, 1, grid.h);
    size();
    while (rows > 1 && buffer_elements() * static_cast<int64_t>(sizeof(T)) > 384 * 1024) {
      rows = ceil_div(rows, 2);
      size();
    }
    row_places = ceil_div(grid.h, rows);
    rows = ceil_div(grid.h, row_places);
    size();
    places = p.batch * grid.d * row_places * column_places;
    int64_t fitting = most_bytes / (p.groups * blocks * sum_elements() * static_cast<int64_t>(sizeof(T)));
    int64_t wanted = std::min({most_chunks, fitting, places});
    if (wanted == 0 || buffer_elements() * static_cast<int64_t>(sizeof(T)) > 2 << 20) return;
    if (wanted > 4) wanted = wanted / 4 * 4;
    chunk = ceil_div(places, wanted);
    chunks = ceil_div(places, chunk);
  }
  void size() {
    in_rows = (rows - 1) * stride.h + reach.h + 1;
    in_pixels = round_up((columns - 1) * stride.w + reach.w + 1, lanes<T>);
  }
  int64_t in_elements() const { return (reach.d + 1) * in_rows * in_pixels * in_row; }
  int64_t out_line() const { return round_up(columns, lanes<T>) * out_row; }
  int64_t buffer_elements() const { return round_up(in_elements() + rows * out_line(), 64); }
  int64_t sum_elements() const { return taps * block * in_row; }
};

struct Place {
  int64_t image, slice, row, column, rows, columns;
};

template <class T>
Place place_of(const Plan<T>& plan, int64_t index) {
  Place at{};
  at.column = index % plan.column_places * plan.columns;
  index /= plan.column_places;
  at.row = index % plan.row_places * plan.rows;
  index /= plan.row_places;
  at.slice = index % plan.grid.d;
  at.image = index / plan.grid.d;
  at.rows = std::min(plan.rows, plan.grid.h - at.row);
  at.columns = std::min(plan.columns, plan.grid.w - at.column);
  return at;
}

// The lines of `channels` channels from images.data on, a vector of them at a time.
template <class T>
void channel_lines(Images<T> images, int64_t channels, int64_t image, int64_t y, int64_t x, int rows, int64_t pixels,
                   T* to, int64_t line, int64_t pixel) {
  for (int64_t c = 0; c < pixel; c += lanes<T>, images.data += lanes<T> * images.strides.c) {
    images.channels = static_cast<int>(std::clamp<int64_t>(channels - c, 0, lanes<T>));
    read_lines(images, image, y, x, rows, pixels, to + c, line, pixel);
  }
}

template <class T>
void place_lines(const ConvParams& p, const Plan<T>& plan, const Place& at, int64_t group, int64_t block, const T* x,
                 const T* dy, T* x_lines, T* dy_lines) {
  Triple size = input_size(p);
  Strides in = strides_of(p.layout, p.in_channels, size), out = strides_of(p.layout, p.out_channels, plan.grid);
  int64_t z = at.slice * plan.stride.d - p.d.before;
  int rows = static_cast<int>((at.rows - 1) * plan.stride.h + plan.reach.h + 1);
  int64_t pixels = (at.columns - 1) * plan.stride.w + plan.reach.w + 1, line = plan.in_pixels * plan.in_row;
  for (int64_t s = 0; s <= plan.reach.d; ++s, x_lines += plan.in_rows * line) {
    bool inside = z + s >= 0 && z + s < size.d;
    Images<T> images{p.layout, x + group * plan.in_c * in.c + (inside ? z + s : 0) * in.d, 0, in, size.h, size.w};
    if (!inside) images.high = 0;
    channel_lines(images, plan.in_c, at.image, at.row * plan.stride.h - p.h.before,
                  at.column * plan.stride.w - p.w.before, rows, pixels, x_lines, line, plan.in_row);
  }
  int64_t channel = group * plan.out_c + block * plan.block;
  Images<T> cotangents{p.layout, dy + channel * out.c + at.slice * out.d, 0, out, plan.grid.h, plan.grid.w};
  channel_lines(cotangents, std::min(plan.block, plan.out_c - block * plan.block), at.image, at.row, at.column,
                static_cast<int>(at.rows), at.columns, dy_lines, plan.out_line(), plan.out_row);
}

template <class T>
void add_products(const ConvParams& p, const Plan<T>& plan, const Place& at, int64_t outputs, const T* x, const T* dy,
                  bool accumulate, T* sums) {
  int64_t line = plan.in_pixels * plan.in_row;
  for (int64_t t = 0; t < plan.taps; ++t) {
    Triple o = offset_of(p, t);
    int64_t first = ((o.d + p.d.before) * plan.in_rows + o.h + p.h.before) * plan.in_pixels + o.w + p.w.before;
    add_outer(
        Outer<T>{at.rows, at.columns, dy, plan.out_line(), plan.out_row, x + first * plan.in_row, plan.stride.h * line,
                 plan.stride.w * plan.in_row, sums + t * plan.block * plan.in_row, plan.in_row, accumulate},
        outputs, plan.in_c);
  }
}

// Adds the chunks' sums for an output channel, and puts them in dw's order.
template <class T>
void add_chunks(const Plan<T>& plan, const T* sums, int64_t chunk_step, T* dw) {
  constexpr int V = lanes<T>;
  for (int64_t t = 0; t < plan.taps; ++t)
    for (int64_t c = 0; c < plan.in_c; c += V) {
      const T* from = sums + t * plan.block * plan.in_row + c;
      vec<T> total = load(from);
      for (int64_t chunk = 1; chunk < plan.chunks; ++chunk) total += load(from + chunk * chunk_step);
      T found[V];
      store(found, total);
      int count = static_cast<int>(std::min<int64_t>(V, plan.in_c - c));
      for (int lane = 0; lane < count; ++lane) dw[(c + lane) * plan.taps + t] = found[lane];
    }
}

}  // namespace

template <class T>
int64_t weight_gradient_direct_scratch(const ConvParams& p) {
  Plan<T> plan(p);
  return round_up(plan.chunks * p.groups * plan.blocks * plan.sum_elements(), 64) +
         plan.buffer_elements() * num_threads();
}
template int64_t weight_gradient_direct_scratch<float>(const ConvParams&);
template int64_t weight_gradient_direct_scratch<double>(const ConvParams&);

template <class T>
void weight_gradient_direct(const ConvParams& p, const T* dy, const T* x, T* dw, T* scratch) {
  Plan<T> plan(p);
  int64_t size = plan.sum_elements(), tasks = p.groups * plan.blocks, chunk_step = tasks * size;
  T* rest = scratch + round_up(plan.chunks * chunk_step, 64);
  parallel_for(plan.chunks * tasks, [&](int64_t index, int worker) {
    int64_t chunk = index / tasks, group = index % tasks / plan.blocks, block = index % plan.blocks;
    int64_t outputs = std::min(plan.block, plan.out_c - block * plan.block);
    T *x_lines = rest + worker * plan.buffer_elements(), *dy_lines = x_lines + plan.in_elements();
    int64_t first = chunk * plan.chunk, last = std::min(first + plan.chunk, plan.places);
    for (int64_t i = first; i < last; ++i) {
      Place at = place_of(plan, i);
      place_lines(p, plan, at, group, block, x, dy, x_lines, dy_lines);
      add_products(p, plan, at, outputs, x_lines, dy_lines, i > first, scratch + index * size);
    }
  });
  parallel_for(p.groups * plan.out_c, [&](int64_t o, int) {
    int64_t group = o / plan.out_c, block = o % plan.out_c / plan.block, row = o % plan.out_c % plan.block;
    const T* from = scratch + (group * plan.blocks + block) * size + row * plan.in_row;
    add_chunks(plan, from, chunk_step, dw + o * plan.in_c * plan.taps);
  });
}
template void weight_gradient_direct(const ConvParams&, const float*, const float*, float*, float*);
template void weight_gradient_direct(const ConvParams&, const double*, const double*, double*, double*);

// As takes_direct: where lanes are filled, rows long enough, and lines mostly met by taps; contiguous input of one
// tap is packed faster than it is brought to lines.
template <class T>
bool takes_direct_gradient(const ConvParams& p) {
  auto span = [](const ConvAxis& a) { return (a.kernel - 1) * a.dilation; };
  if (!is_near({span(p.d), span(p.h), span(p.w)}) || !is_near(stride_of(p))) return false;
  Plan<T> plan(p);
  if (plan.chunks == 0 || plan.grid.w < 4 || 4 * plan.in_c < 3 * round_up(plan.in_c, lanes<T>)) return false;
  if (plan.taps == 1 && p.layout == Layout::contiguous) return false;
  int64_t seen = plan.taps * plan.rows * plan.columns;
  return (plan.reach.d + 1) * plan.in_rows * plan.in_pixels <= 2 * seen + 2 * plan.in_rows * lanes<T>;
}
template bool takes_direct_gradient<float>(const ConvParams&);
template bool takes_direct_gradient<double>(const ConvParams&);

}  // namespace arraynn::cpu::ARRAYNN_ISA
