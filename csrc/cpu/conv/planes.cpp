// The gather with stride 1 to few output channels, for contiguous images: lanes are pixels.
//
// A task takes some output rows of an image. The input rows that they see are copied to planes with the padding
// around them; seen as one long row, every pixel finds tap t at the same distance, so a register tile of some vectors
// of pixels by up to four output channels loads each of them once and multiplies it with a broadcast weight. The
// pixels in the padding between two rows are computed for nothing.
//   planes[input channel][slice][row][pixel], weights[pass][input channel][tap][output channel]
#include "cpu/conv/taps.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int most_outputs = 4;  // of a pass

template <int Outputs>
constexpr int tile_vectors = Outputs == 1 ? 8 : 4;

template <class T>
struct Plan {
  Triple reach;  // input pixels that a pixel's taps span, less one
  int64_t rows, row_tasks, pitch, in_rows, plane_step, passes;

  explicit Plan(const Gather<T>& g) : reach{g.high.d - g.low.d, g.high.h - g.low.h, g.high.w - g.low.w} {
    pitch = g.grid.w + reach.w;
    int64_t row_bytes = g.in_c * (reach.d + 1) * pitch * static_cast<int64_t>(sizeof(T));
    rows = std::clamp<int64_t>(256 * 1024 / row_bytes - reach.h, 1, g.grid.h);
    int64_t others = g.batch * g.groups * g.grid.d;
    while (rows > 8 && others * ceil_div(g.grid.h, rows) < 4 * num_threads()) rows = ceil_div(rows, 2);
    row_tasks = ceil_div(g.grid.h, rows);
    rows = ceil_div(g.grid.h, row_tasks);
    in_rows = rows + reach.h;
    plane_step = (reach.d + 1) * in_rows * pitch;
    passes = ceil_div(g.out_c, most_outputs);
  }
  // A tile reads and writes beyond the end of its rows, by less than its own length.
  static constexpr int64_t slack = tile_vectors<1> * lanes<T>;
  int64_t planes(int64_t in_c) const { return round_up(in_c * plane_step + slack, 64); }
  int64_t outputs() const { return round_up(rows * pitch + slack, 64); }  // of a channel
  int64_t worker_elements(int64_t in_c) const { return planes(in_c) + most_outputs * outputs(); }
};

struct Place {
  int64_t group, image, slice, row, rows;
};

template <class T>
void copy_planes(const Gather<T>& g, const Plan<T>& plan, const Place& at, T* to) {
  constexpr int V = lanes<T>;
  for (int64_t i = 0; i < g.in_c; ++i)
    for (int64_t s = 0; s <= plan.reach.d; ++s)
      for (int64_t r = 0; r < plan.in_rows; ++r, to += plan.pitch) {
        int64_t z = at.slice + g.low.d + s, y = at.row + g.low.h + r;
        bool inside = z >= 0 && z < g.size.d && y >= 0 && y < g.size.h;
        const T* from = g.in + at.image * g.in_strides.n + (at.group * g.in_c + i) * g.in_strides.c +
                        (inside ? z * g.in_strides.d + y * g.in_strides.h : 0);
        // a whole vector at the end of a row falls on what the next one overwrites
        for (int64_t x = 0; x < plan.pitch; x += V) {
          Window w = row_window(static_cast<int>(std::min<int64_t>(V, plan.pitch - x)), x + g.low.w, 1, g.size.w);
          store(to + x, inside ? load_stepped(from + x + g.low.w, 1, w.lo, w.hi) : vec<T>{});
        }
      }
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
};

template <class T, int Outputs>
void pixels(const Flat<T>& run) {
  constexpr int V = lanes<T>, NV = tile_vectors<Outputs>;
  for (int64_t at = 0; at < run.count; at += NV * V) {
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
}

template <class T>
void copy_outputs(const Gather<T>& g, const Place& at, int64_t channel, const T* from, int64_t pitch) {
  const Strides& s = g.out_strides;
  T* to = g.out + at.image * s.n + channel * s.c + at.slice * s.d + at.row * s.h;
  for (int64_t r = 0; r < at.rows; ++r, from += pitch, to += s.h) {
    if (s.w == 1)
      std::copy_n(from, g.grid.w, to);
    else
      for (int64_t x = 0; x < g.grid.w; ++x) to[x * s.w] = from[x];
  }
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
  return round_up(g.groups * g.out_c * g.in_c * g.tap_count, 64);
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
  for (int64_t t = 0; t < g.tap_count; ++t) {
    const Triple& o = g.taps[t].offset;
    taps[t] = ((o.d - g.low.d) * plan.in_rows + (o.h - g.low.h)) * plan.pitch + (o.w - g.low.w);
  }
  T* weights = scratch + round_up(g.tap_count, 64) * 2;
  pack_weights(g, plan.passes, weights);
  T* rest = weights + weight_elements(g);
  parallel_for(g.batch * g.groups * g.grid.d * plan.row_tasks, [&](int64_t index, int worker) {
    Place at{};
    at.row = index % plan.row_tasks * plan.rows;
    at.slice = index / plan.row_tasks % g.grid.d;
    at.group = index / plan.row_tasks / g.grid.d % g.groups;
    at.image = index / plan.row_tasks / g.grid.d / g.groups;
    at.rows = std::min(plan.rows, g.grid.h - at.row);
    T *planes = rest + worker * plan.worker_elements(g.in_c), *out = planes + plan.planes(g.in_c);
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
                  weights + first * step,
                  {},
                  out,
                  plan.outputs()};
      if (g.bias) std::copy_n(g.bias + first, outputs, run.bias);
      with_constant<most_outputs>(outputs, [&](auto count) { pixels<T, count>(run); });
      for (int o = 0; o < outputs; ++o) copy_outputs(g, at, first + o, out + o * plan.outputs(), plan.pitch);
    }
  });
}
template void gather_planes(const Gather<float>&, float*);
template void gather_planes(const Gather<double>&, double*);

template <class T>
bool takes_planes(const Gather<T>& g) {
  auto all_ones = [](const Triple& t) { return t.d == 1 && t.h == 1 && t.w == 1; };
  if (g.batch * product(g.grid) == 0 || g.in_c == 0 || g.tap_count < 2) return false;
  if (g.layout != Layout::contiguous || !all_ones(g.stride) || 2 * g.out_c > lanes<T>) return false;
  if (!is_near({g.high.d - g.low.d, g.high.h - g.low.h, g.high.w - g.low.w})) return false;
  Plan<T> plan(g);
  // not where pixels are mostly padding, or planes mostly what no tap meets
  int64_t seen = g.tap_count * plan.rows * g.grid.w, there = (plan.reach.d + 1) * plan.in_rows * plan.pitch;
  return 2 * g.grid.w >= plan.pitch && there <= 2 * seen &&
         plan.planes(g.in_c) * static_cast<int64_t>(sizeof(T)) <= 1024 * 1024;
}
template bool takes_planes(const Gather<float>&);
template bool takes_planes(const Gather<double>&);

}  // namespace arraynn::cpu::ARRAYNN_ISA
