// The gather as a direct convolution: nothing is packed but the weights.
//
// A task takes some output rows of an image. The input rows that they see are brought to lines whose lanes are
// channels, with the padding around them, so that a register tile of neighbouring pixels by NR output channels
// finds tap t of pixel i at a fixed distance: it broadcasts elements of the lines, and its sums stay in registers over
// all taps and input channels.
//   lines[block of channels][slice][row][pixel][lane]
//   weights[panel][block of channels][tap][channel][output channel]
#include "cpu/conv/lines.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int64_t most_columns = 96;  // of outputs in a task

// Vectors of output channels in a panel of weights, and pixels of a tile with so many. With 32 registers, six pixels
// by four vectors load less for as many products than twelve by two.
constexpr int most_vectors = ARRAYNN_VECTOR_BYTES == 64 ? 4 : 2;
constexpr int most_pixels(int vectors) { return std::min(MR, 2 * MR / vectors); }
template <class T>
constexpr int panel_channels = most_vectors * lanes<T>;

struct DirectTap {
  int64_t from, order;  // from a pixel to what the tap meets, and the tap's number among the weights
};

template <class T>
struct Plan {
  int64_t in_blocks, panels;
  Triple reach;           // input pixels that a pixel's taps span, less one
  int64_t rows, columns;  // outputs of a task
  int64_t most_rows;      // if threads did not ask for more tasks: what the choice of the engine may depend on
  int64_t in_rows, in_pixels, line_step, block_step;
  int64_t row_tasks, column_tasks, panel_tasks;

  explicit Plan(const Gather<T>& g) {
    constexpr int V = lanes<T>;
    in_blocks = ceil_div(g.in_c, V);
    panels = ceil_div(g.out_c, panel_channels<T>);
    reach = {g.high.d - g.low.d, g.high.h - g.low.h, g.high.w - g.low.w};
    columns = even_part(g.grid.w, most_columns);
    column_tasks = ceil_div(g.grid.w, columns);
    in_pixels = (columns - 1) * g.stride.w + reach.w + 1;
    line_step = round_up(in_pixels, V) * V;
    // as many rows as fit, the lines in a part of L2
    int64_t fitting = 192 * 1024 / (in_blocks * (reach.d + 1) * line_step * static_cast<int64_t>(sizeof(T)));
    rows = std::clamp<int64_t>((fitting - reach.h - 1) / g.stride.h + 1, 1, g.grid.h);
    most_rows = even_part(g.grid.h, rows);
    int64_t others = g.batch * g.groups * g.grid.d * column_tasks, wanted = 4 * num_threads();
    while (rows > 4 && others * ceil_div(g.grid.h, rows) < wanted) rows = ceil_div(rows, 2);
    row_tasks = ceil_div(g.grid.h, rows);
    rows = ceil_div(g.grid.h, row_tasks);
    panel_tasks = std::clamp<int64_t>(wanted / (others * row_tasks), 1, panels);
    in_rows = rows_seen(g, rows);
    block_step = (reach.d + 1) * in_rows * line_step;
  }
  int64_t rows_seen(const Gather<T>& g, int64_t outputs) const { return (outputs - 1) * g.stride.h + reach.h + 1; }
  int64_t out_step() const { return round_up(columns, lanes<T>) * lanes<T>; }  // between the rows of a vector's outputs
  int64_t lines() const { return in_blocks * block_step; }
  // lines, outputs, and taps of a row
  int64_t worker_elements(const Gather<T>& g) const {
    return round_up(lines() + most_vectors * rows * out_step(), 64) + tap_elements(g);
  }
  static int64_t tap_elements(const Gather<T>& g) {
    return round_up(g.tap_count * static_cast<int64_t>(sizeof(DirectTap) / sizeof(T)), 64);
  }
  // of the weights of a panel, and of those before it: the last one is as narrow as it may
  static int width(const Gather<T>& g, int64_t panel) {
    return static_cast<int>(
        round_up(std::min<int64_t>(g.out_c - panel * panel_channels<T>, panel_channels<T>), lanes<T>));
  }
  static int64_t weights_before(const Gather<T>& g, int64_t group, int64_t panel) {
    return (group * round_up(g.out_c, lanes<T>) + panel * panel_channels<T>)*g.tap_count * g.in_c;
  }
};

// ---- weights ------------------------------------------------------------------------------------------

template <class T>
void pack_weights(const Gather<T>& g, const Plan<T>& plan, T* packed) {
  constexpr int V = lanes<T>;
  parallel_for(g.groups * plan.panels * plan.in_blocks, [&](int64_t index, int) {
    int64_t panel = index / plan.in_blocks, i0 = index % plan.in_blocks * V;
    int64_t group = panel / plan.panels, first = panel % plan.panels * panel_channels<T>;
    int outputs = static_cast<int>(std::min<int64_t>(panel_channels<T>, g.out_c - first));
    int width = plan.width(g, panel % plan.panels);
    int64_t count = std::min<int64_t>(V, g.in_c - i0);
    const T* from = g.weight + group * g.w_group + first * g.w_out + i0 * g.w_in;
    T* to = packed + plan.weights_before(g, group, panel % plan.panels) + i0 * g.tap_count * width;
    for (int part = 0; part < width; part += NR<T>, to += NR<T>, from += NR<T> * g.w_out) {
      int rows = std::min(NR<T>, outputs - part), padded = std::min(NR<T>, width - part);
      if (g.taps_adjacent && g.tap_count > 1 && g.w_in != 1) {
        for (int64_t i = 0; i < count; ++i)
          pack_panel(from + g.taps[0].weight + i * g.w_in, g.w_out, 1, rows, g.tap_count, to + i * width, padded,
                     count * width);
      } else {
        for (int64_t t = 0; t < g.tap_count; ++t)
          pack_panel(from + g.taps[t].weight, g.w_out, g.w_in, rows, count, to + t * count * width, padded, width);
      }
    }
  });
}

// ---- the register tile --------------------------------------------------------------------------------

template <class T>
struct Pixels {
  int64_t in_blocks, last;   // channels of the last block
  const T* in;               // the first pixel's lane 0
  int64_t block_step, step;  // between blocks of channels, and between pixels
  const DirectTap* taps;     // that meet something
  int64_t met, tap_count;    // how many, and of all
  const T* weights;
  const T* bias;
  T* out;  // [vector of channels][pixel][lane]
  int64_t out_step;
};

template <class T, int Rows, int NV, int Stride>
void direct_tile(const Pixels<T>& p) {
  constexpr int V = lanes<T>;
  const int64_t step = Stride ? Stride * V : p.step;
  vec<T> acc[Rows][NV];
  static_for<NV>([&](auto j) ARRAYNN_LAMBDA {
    vec<T> bias = load(p.bias + j * V);
    static_for<Rows>([&](auto i) ARRAYNN_LAMBDA { acc[i][j] = bias; });
  });
  for (int64_t block = 0; block < p.in_blocks; ++block) {
    int64_t count = block + 1 == p.in_blocks ? p.last : V;
    for (int64_t t = 0; t < p.met; ++t) {
      const T* a = p.in + block * p.block_step + p.taps[t].from;
      const T* w = p.weights + (block * V * p.tap_count + p.taps[t].order * count) * NV * V;
      auto add = [&](int k) ARRAYNN_LAMBDA {
        vec<T> column[NV];
        static_for<NV>([&](auto j) ARRAYNN_LAMBDA { column[j] = load(w + (k * NV + j) * V); });
        static_for<Rows>([&](auto i) ARRAYNN_LAMBDA {
          vec<T> value = broadcast<T>(a[i * step + k]);
          static_for<NV>([&](auto j) ARRAYNN_LAMBDA { acc[i][j] = fma(value, column[j], acc[i][j]); });
        });
      };
      auto advance = [&](int64_t steps) ARRAYNN_LAMBDA { a += steps, w += steps * NV * V; };
      if (count == V)
        for_steps(V, add, advance);
      else
        for (int64_t k = 0; k < count; ++k) add(0), advance(1);
    }
  }
  static_for<Rows>([&](auto i) ARRAYNN_LAMBDA {
    static_for<NV>([&](auto j) ARRAYNN_LAMBDA { store(p.out + j * p.out_step + i * V, acc[i][j]); });
  });
}

template <class T>
void run_tile(int pixels, int vectors, int64_t stride, const Pixels<T>& p) {
  with_constant<most_vectors>(vectors, [&](auto width) {
    with_constant<most_pixels(width)>(pixels, [&](auto count) {
      if (stride == 1)
        direct_tile<T, count, width, 1>(p);
      else if (stride == 2)
        direct_tile<T, count, width, 2>(p);
      else
        direct_tile<T, count, width, 0>(p);
    });
  });
}

// ---- a task -------------------------------------------------------------------------------------------

struct Place {  // of a task's outputs
  int64_t group, image, slice, row, column, rows, columns;
};

// The lines that the outputs see.
template <class T>
void task_lines(const Gather<T>& g, const Plan<T>& plan, const Place& at, T* to) {
  constexpr int V = lanes<T>;
  int64_t z = at.slice * g.stride.d + g.low.d, y = at.row * g.stride.h + g.low.h, x = at.column * g.stride.w + g.low.w;
  int in_rows = static_cast<int>((at.rows - 1) * g.stride.h + plan.reach.h + 1);
  int64_t pixels = (at.columns - 1) * g.stride.w + plan.reach.w + 1;
  for (int64_t block = 0; block < plan.in_blocks; ++block, to += plan.block_step) {
    int64_t channel = at.group * g.in_c + block * V;
    int channels = static_cast<int>(std::min<int64_t>(V, g.in_c - block * V));
    Images<T> images{g.layout, g.in + channel * g.in_strides.c, channels, g.in_strides, g.size.h, g.size.w};
    for (int64_t s = 0; s <= plan.reach.d; ++s) {
      T* slice = to + s * plan.in_rows * plan.line_step;
      if (z + s < 0 || z + s >= g.size.d) {
        for (int64_t i = 0; i < in_rows * plan.line_step; i += V) store(slice + i, vec<T>{});
        continue;
      }
      Images<T> here = images;
      here.data += (z + s) * g.in_strides.d;
      read_lines(here, at.image, y, x, in_rows, pixels, slice, plan.line_step);
    }
  }
}

// The taps that meet the image in an output row: all, or those copied to `some`. What lies in the padding above or
// below is nothing but zeros.
template <class T>
const DirectTap* taps_of_row(const Gather<T>& g, int64_t slice, int64_t row, const DirectTap* all, DirectTap* some,
                             int64_t& met) {
  int64_t z = slice * g.stride.d, y = row * g.stride.h;
  met = g.tap_count;
  if (z + g.low.d >= 0 && z + g.high.d < g.size.d && y + g.low.h >= 0 && y + g.high.h < g.size.h) return all;
  met = 0;
  for (int64_t t = 0; t < g.tap_count; ++t) {
    int64_t d = z + g.taps[t].offset.d, h = y + g.taps[t].offset.h;
    if (d >= 0 && d < g.size.d && h >= 0 && h < g.size.h) some[met++] = all[t];
  }
  return some;
}

// The outputs of a panel of channels.
template <class T>
void task_panel(const Gather<T>& g, const Plan<T>& plan, const Place& at, int64_t panel, const DirectTap* taps,
                DirectTap* some, const T* weights, const T* lines, T* out) {
  constexpr int V = lanes<T>;
  int64_t first = panel * panel_channels<T>, channel = at.group * g.out_c + first;
  int columns = static_cast<int>(std::min<int64_t>(panel_channels<T>, g.out_c - first));
  int vectors = plan.width(g, panel) / V;
  T bias[panel_channels<T>] = {};
  if (g.bias) std::copy_n(g.bias + channel, columns, bias);
  int64_t vector_step = plan.rows * plan.out_step();
  Pixels<T> p{};
  p.in_blocks = plan.in_blocks;
  p.last = g.in_c - (plan.in_blocks - 1) * V;
  p.block_step = plan.block_step;
  p.step = g.stride.w * V;
  p.tap_count = g.tap_count;
  p.weights = weights + plan.weights_before(g, at.group, panel);
  p.bias = bias;
  p.out_step = vector_step;
  int64_t most = even_part(at.columns, most_pixels(vectors));
  for (int64_t row = 0; row < at.rows; ++row) {
    p.taps = taps_of_row(g, at.slice, at.row + row, taps, some, p.met);
    for (int64_t col = 0; col < at.columns; col += most) {
      p.in = lines + row * g.stride.h * plan.line_step + col * g.stride.w * V;
      p.out = out + row * plan.out_step() + col * V;
      run_tile(static_cast<int>(std::min(most, at.columns - col)), vectors, g.stride.w, p);
    }
  }
  const Strides& s = g.out_strides;
  T* to = g.out + at.image * s.n + channel * s.c + at.slice * s.d + at.row * s.h + at.column * s.w;
  for (int j = 0; j < columns; j += V)
    write_lines(out + j / V * vector_step, plan.out_step(), g.layout, s, std::min(V, columns - j),
                static_cast<int>(at.rows), at.columns, to + j * s.c);
}

}  // namespace

template <class T>
int64_t gather_direct_scratch(const Gather<T>& g) {
  Plan<T> plan(g);
  return Plan<T>::tap_elements(g) + round_up(plan.weights_before(g, g.groups, 0), 64) +
         plan.worker_elements(g) * num_threads();
}
template int64_t gather_direct_scratch(const Gather<float>&);
template int64_t gather_direct_scratch(const Gather<double>&);

template <class T>
void gather_direct(const Gather<T>& g, T* scratch) {
  constexpr int V = lanes<T>;
  Plan<T> plan(g);
  DirectTap* taps = reinterpret_cast<DirectTap*>(scratch);
  for (int64_t t = 0; t < g.tap_count; ++t) {
    const Triple& o = g.taps[t].offset;
    taps[t] = {((o.d - g.low.d) * plan.in_rows + (o.h - g.low.h)) * plan.line_step + (o.w - g.low.w) * V, t};
  }
  T* weights = scratch + plan.tap_elements(g);
  pack_weights(g, plan, weights);
  T* rest = weights + round_up(plan.weights_before(g, g.groups, 0), 64);
  int64_t places = g.batch * g.groups * g.grid.d * plan.row_tasks * plan.column_tasks;
  parallel_for(places * plan.panel_tasks, [&](int64_t index, int worker) {
    int64_t part = index % plan.panel_tasks, rest_of = index / plan.panel_tasks;
    auto next = [&](int64_t size) {
      int64_t found = rest_of % size;
      rest_of /= size;
      return found;
    };
    Place at{};
    at.column = next(plan.column_tasks) * plan.columns;
    at.row = next(plan.row_tasks) * plan.rows;
    at.slice = next(g.grid.d);
    at.group = next(g.groups);
    at.image = rest_of;
    at.columns = std::min(plan.columns, g.grid.w - at.column);
    at.rows = std::min(plan.rows, g.grid.h - at.row);
    T* lines = rest + worker * plan.worker_elements(g);
    DirectTap* some = reinterpret_cast<DirectTap*>(lines + plan.worker_elements(g) - plan.tap_elements(g));
    task_lines(g, plan, at, lines);
    for (int64_t panel = plan.panels * part / plan.panel_tasks; panel < plan.panels * (part + 1) / plan.panel_tasks;
         ++panel)
      task_panel(g, plan, at, panel, taps, some, weights, lines, lines + plan.lines());
  });
}
template void gather_direct(const Gather<float>&, float*);
template void gather_direct(const Gather<double>&, double*);

// Not where lanes would be empty, rows too short for a tile, or lines mostly what no tap meets; and not for kernels
// of one tap, whose input is packed as fast as it is brought to lines.
template <class T>
bool takes_direct(const Gather<T>& g) {
  if (g.batch * product(g.grid) == 0 || g.in_c == 0) return false;
  if (g.tap_count < 2 || g.out_c < lanes<T> || g.grid.w < 4) return false;
  if (!is_near({g.high.d - g.low.d, g.high.h - g.low.h, g.high.w - g.low.w}) || !is_near(g.stride)) return false;
  Plan<T> plan(g);
  int64_t in_rows = (plan.reach.d + 1) * plan.rows_seen(g, plan.most_rows);
  int64_t seen = g.tap_count * plan.most_rows * plan.columns, there = in_rows * plan.in_pixels;
  int64_t bytes = plan.in_blocks * in_rows * plan.line_step * static_cast<int64_t>(sizeof(T));
  return there <= 2 * seen && bytes <= 1024 * 1024;
}
template bool takes_direct(const Gather<float>&);
template bool takes_direct(const Gather<double>&);

}  // namespace arraynn::cpu::ARRAYNN_ISA
