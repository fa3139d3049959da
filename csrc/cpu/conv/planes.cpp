// The gather to few output channels, for contiguous images: lanes are pixels. Depthwise convolution is one of
// one input and one output channel.
//
// A task takes some output rows of an image and copies the input rows that they see to planes (planes.h). A register
// tile of some vectors of pixels by up to four output channels loads each of them once and multiplies it with a
// broadcast weight. The pixels in the padding between two rows are computed for nothing.
//   weights[pass][input channel][tap][output channel]
#include "cpu/conv/planes.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

// A kernel whose rows meet neighbouring rows of a plane at the same columns: tap (r, s) is number first + r step + s
// and lies r pitches behind tap (0, s). rows is 0 for other kernels.
struct KernelGrid {
  int rows = 0, columns = 0;
  int64_t first = 0, step = 0;
};

inline KernelGrid kernel_grid(const int64_t* taps, int64_t count, int64_t columns, int64_t pitch) {
  int64_t rows = count / columns;
  if (rows * columns != count || (rows != 3 && rows != 5 && rows != 7)) return {};
  bool upwards = taps[0] > taps[columns];  // as in an input's gradient
  KernelGrid grid{static_cast<int>(rows), static_cast<int>(columns), upwards ? count - columns : 0,
                  upwards ? -columns : columns};
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t s = 0; s < columns; ++s)
      if (taps[grid.first + r * grid.step + s] != taps[grid.first + s] + r * pitch) return {};
  return grid;
}

template <class T>
struct Flat {
  int64_t in_c, plane_step, tap_count, count;  // count: pixels, those between the rows among them
  const T* planes;
  const int64_t* taps;
  const T* weights;
  T bias[most_outputs];
  T* out;
  int64_t out_step;
  KernelGrid grid;
  int64_t pitch, rows, columns;
  Region<T> next_in, next_out;  // of the next task: memory is slow to answer, and this one computes meanwhile
};

template <class T, int Outputs, int NV>
void tile(const Flat<T>& run, int64_t at) {
  constexpr int V = lanes<T>;
  vec<T> acc[Outputs][NV];
  static_for<Outputs>([&](auto o) ARRAYNN_LAMBDA {
    static_for<NV>([&](auto v) ARRAYNN_LAMBDA { acc[o][v] = broadcast<T>(run.bias[o]); });
  });
  const T* w = run.weights;
  for (int64_t i = 0; i < run.in_c; ++i) {
    const T* plane = run.planes + i * run.plane_step + at;
    for (int64_t t = 0; t < run.tap_count; ++t, w += Outputs) {
      const T* from = plane + run.taps[t];
      static_for<NV>([&](auto v) ARRAYNN_LAMBDA {
        vec<T> x = load(from + v * V);
        static_for<Outputs>([&](auto o) ARRAYNN_LAMBDA { acc[o][v] = fma(broadcast<T>(w[o]), x, acc[o][v]); });
      });
    }
  }
  static_for<Outputs>([&](auto o) ARRAYNN_LAMBDA {
    static_for<NV>([&](auto v) ARRAYNN_LAMBDA { store(run.out + o * run.out_step + at + v * V, acc[o][v]); });
  });
}

// Rows of one output channel of one input channel: a vector of the input serves all of them that it is a tap of.
constexpr int tile_rows = 4;

template <class T, int KernelRows, int NV>
void rows_tile(const Flat<T>& run, int64_t at) {
  constexpr int V = lanes<T>;
  const KernelGrid& grid = run.grid;
  vec<T> acc[tile_rows][NV];
  static_for<tile_rows>([&](auto j) ARRAYNN_LAMBDA {
    static_for<NV>([&](auto v) ARRAYNN_LAMBDA { acc[j][v] = broadcast<T>(run.bias[0]); });
  });
  for (int64_t s = 0; s < grid.columns; ++s) {
    const T* from = run.planes + at + run.taps[grid.first + s];
    vec<T> weight[KernelRows];
    static_for<KernelRows>(
        [&](auto r) ARRAYNN_LAMBDA { weight[r] = broadcast<T>(run.weights[grid.first + r * grid.step + s]); });
    static_for<tile_rows + KernelRows - 1>([&](auto i) ARRAYNN_LAMBDA {
      static_for<NV>([&](auto v) ARRAYNN_LAMBDA {
        vec<T> x = load(from + i * run.pitch + v * V);
        static_for<tile_rows>([&](auto j) ARRAYNN_LAMBDA {
          constexpr int r = i - j;
          if constexpr (r >= 0 && r < KernelRows) acc[j][v] = fma(weight[r], x, acc[j][v]);
        });
      });
    });
  }
  static_for<tile_rows>([&](auto j) ARRAYNN_LAMBDA {
    static_for<NV>([&](auto v) ARRAYNN_LAMBDA { store(run.out + at + j * run.pitch + v * V, acc[j][v]); });
  });
}

template <class T, int KernelRows>
void rows(const Flat<T>& run) {
  constexpr int V = lanes<T>, most = V * static_cast<int>(sizeof(T)) == 64 ? 4 : 2;  // vectors, for the registers
  int64_t vectors = even_part(ceil_div(run.columns, V), most), parts = ceil_div(run.rows, tile_rows);
  for (int64_t i = 0; i < parts; ++i) {
    int64_t row = std::min(i * tile_rows, run.rows - tile_rows);  // the last ones overlap
    prefetch_part(run.next_in.data, run.next_in.bytes, i, parts);
    prefetch_part<1>(run.next_out.data, run.next_out.bytes, i, parts);
    with_constant<most>(static_cast<int>(vectors), [&](auto count) {
      // from the right, for a tile that goes beyond its row's end spoils the next row's beginning
      for (int64_t col = (run.columns - 1) / (count * V) * (count * V); col >= 0; col -= count * V)
        rows_tile<T, KernelRows, count>(run, row * run.pitch + col);
    });
  }
}

// Which orders the sums in another way, so that the choice must not depend on the number of threads: it is made for
// all tasks of a plan that cuts rows for the threads' sake, since these have at least tile_rows.
template <class T>
bool by_rows(const Flat<T>& run) {
  if (run.rows < tile_rows || run.grid.rows == 0) return false;
  switch (run.grid.rows) {
    case 3: rows<T, 3>(run); break;
    case 5: rows<T, 5>(run); break;
    default: rows<T, 7>(run);
  }
  return true;
}

template <class T, int Outputs>
void pixels(const Flat<T>& run) {
  constexpr int NV = tile_vectors<Outputs>, width = NV * lanes<T>;
  int64_t at = 0, parts = std::max<int64_t>(run.count / width, 1);
  for (; at + width <= run.count; at += width) {
    prefetch_part(run.next_in.data, run.next_in.bytes, at / width, parts);
    prefetch_part<1>(run.next_out.data, run.next_out.bytes, at / width, parts);
    tile<T, Outputs, NV>(run, at);
  }
  int rest = static_cast<int>(ceil_div(run.count - at, lanes<T>));
  if (rest > 0) with_constant<NV>(rest, [&](auto vectors) { tile<T, Outputs, vectors>(run, at); });
}

template <class T>
void copy_outputs(const Gather<T>& g, const Place& at, int64_t channel, const T* from, int64_t pitch) {
  const Strides& s = g.out_strides;
  T* to = g.out + at.image * s.n + channel * s.c + at.slice * s.d + at.row * s.h;
  for (int64_t r = 0; r < at.rows; ++r, from += pitch, to += s.h) {
    if (s.w == 1)
      for_vectors<T>(g.grid.w, [&](int64_t x, auto n) ARRAYNN_LAMBDA { store_count(to + x, load(from + x), n); });
    else
      for (int64_t x = 0; x < g.grid.w; ++x) to[x * s.w] = from[x];
  }
}

// Whether a group's weights lie as the tile reads them.
template <class T>
bool in_place(const Gather<T>& g) {
  return g.taps_adjacent && g.out_c == 1 && (g.in_c == 1 || g.w_in == g.tap_count);
}

template <class T>
void pack_weights(const Gather<T>& g, int64_t passes, T* packed) {
  for (int64_t group = 0; group < g.groups; ++group)
    for (int64_t pass = 0; pass < passes; ++pass) {
      int64_t first = pass * most_outputs, outputs = std::min<int64_t>(most_outputs, g.out_c - first);
      const T* from = g.weight + group * g.w_group + first * g.w_out;
      for (int64_t i = 0; i < g.in_c; ++i)
        for (int64_t t = 0; t < g.tap_count; ++t)
          for (int64_t o = 0; o < outputs; ++o) *packed++ = from[o * g.w_out + i * g.w_in + g.taps[t].weight];
    }
}

template <class T>
int64_t weight_elements(const Gather<T>& g) {
  return in_place(g) ? 0 : round_up(g.groups * g.out_c * g.in_c * g.tap_count, 64);
}

}  // namespace

template <class T>
int64_t gather_planes_scratch(const Gather<T>& g) {
  return round_up(g.tap_count, 64) * 2 + weight_elements(g) + Plan<T>(g).worker_elements(g.in_c) * num_threads();
}
template int64_t gather_planes_scratch(const Gather<float>&);
template int64_t gather_planes_scratch(const Gather<double>&);

template <class T>
void gather_planes(const Gather<T>& g, T* scratch) {
  Plan<T> plan(g);
  int64_t* taps = reinterpret_cast<int64_t*>(scratch);
  for (int64_t t = 0; t < g.tap_count; ++t) taps[t] = plan.distance(g, g.taps[t].offset);
  KernelGrid grid;
  if (g.in_c == 1 && g.out_c == 1) {
    int64_t columns = 1;
    while (columns < g.tap_count && g.taps[columns].offset.h == g.taps[0].offset.h) ++columns;
    grid = kernel_grid(taps, g.tap_count, columns, plan.pitch);
  }
  T* weights = scratch + round_up(g.tap_count, 64) * 2;
  if (!in_place(g)) pack_weights(g, plan.passes, weights);
  T* rest = weights + weight_elements(g);
  int64_t tasks = g.batch * g.groups * g.grid.d * plan.row_tasks;
  auto place_of = [&](int64_t index) {
    Place at{};
    auto first_row = [&](int64_t task) { return g.grid.h * task / plan.row_tasks; };
    at.row = first_row(index % plan.row_tasks);
    at.rows = first_row(index % plan.row_tasks + 1) - at.row;
    at.slice = index / plan.row_tasks % g.grid.d;
    at.group = index / plan.row_tasks / g.grid.d % g.groups;
    at.image = index / plan.row_tasks / g.grid.d / g.groups;
    return at;
  };
  auto run_task = [&](int64_t index, T* planes) {
    Place at = place_of(index), next = place_of(index + 1);
    bool ahead = is_thin(g) && index + 1 < tasks;
    T* out = planes + plan.planes(g.in_c);
    copy_planes(g, plan, at, planes);
    for (int64_t pass = 0; pass < plan.passes; ++pass) {
      int64_t first = at.group * g.out_c + pass * most_outputs, step = g.in_c * g.tap_count;
      int outputs = static_cast<int>(std::min<int64_t>(most_outputs, g.out_c - pass * most_outputs));
      Flat<T> run{g.in_c,
                  plan.plane_step,
                  g.tap_count,
                  (at.rows - 1) * plan.pitch + g.grid.w,
                  planes,
                  taps,
                  in_place(g) ? g.weight + at.group * g.w_group + g.taps[0].weight : weights + first * step,
                  {},
                  out,
                  plan.outputs(),
                  grid,
                  plan.pitch,
                  at.rows,
                  g.grid.w,
                  ahead && pass == 0 ? input_region(g, plan, next) : Region<T>{},
                  ahead && pass == 0 ? output_region(g, next) : Region<T>{}};
      if (g.bias) std::copy_n(g.bias + first, outputs, run.bias);
      if (!by_rows(run)) with_constant<most_outputs>(outputs, [&](auto count) { pixels<T, count>(run); });
      for (int o = 0; o < outputs; ++o) copy_outputs(g, at, first + o, out + o * plan.outputs(), plan.pitch);
    }
  };
  parallel_for(ceil_div(tasks, plan.together), [&](int64_t index, int worker) {
    T* planes = rest + worker * plan.worker_elements(g.in_c);
    int64_t begin = index * plan.together, end = std::min(begin + plan.together, tasks);
    for (int64_t task = begin; task < end; ++task) run_task(task, planes);
  });
}
template void gather_planes(const Gather<float>&, float*);
template void gather_planes(const Gather<double>&, double*);

template <class T>
bool takes_planes(const Gather<T>& g) {
  if (g.batch * product(g.grid) == 0 || g.in_c == 0 || g.tap_count == 0 || g.layout != Layout::contiguous) return false;
  if (!is_near({g.high.d - g.low.d, g.high.h - g.low.h, g.high.w - g.low.w})) return false;
  constexpr int64_t most_planes = 1 << 16;
  int64_t phases = std::min(g.stride.h, g.high.h - g.low.h + 1) * std::min(g.stride.w, g.high.w - g.low.w + 1);
  if (phases > most_planes / (g.high.d - g.low.d + 1)) return false;
  Plan<T> plan(g);
  int64_t in_rows = plan.most_rows + plan.reach.h / g.stride.h;
  int64_t there = plan.planes_per_channel() * in_rows * plan.pitch;  // of a channel
  if (there > 1024 * 1024 / static_cast<int64_t>(sizeof(T)) / g.in_c) return false;
  if (is_thin(g)) return true;  // nothing else is any good
  // not where pixels are mostly padding, or planes mostly what no tap meets
  int64_t seen = g.tap_count * plan.most_rows * g.grid.w;
  return g.tap_count >= 2 && 2 * g.out_c <= lanes<T> && 2 * g.grid.w >= plan.pitch && there <= 2 * seen;
}
template bool takes_planes(const Gather<float>&);
template bool takes_planes(const Gather<double>&);

}  // namespace arraynn::cpu::ARRAYNN_ISA
