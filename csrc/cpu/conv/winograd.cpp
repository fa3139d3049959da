// The gather of a kernel of 3 or 5 columns, and as many rows or one, with stride 1 by Winograd's algorithm, see
// winograd.h: forward and input gradient.
//
// Where the tiles are many, a task takes some of all images' through all three steps, so that what it holds stays in
// L2:
//   points of the inputs      v[point][block of channels][tile][lane]
//   products at each point    m[point][tile][channel] = v u, for a panel of output channels
//   outputs from the points
// The kernel's points u[panel][point][channel][lane] are computed once per call.
// Where they are few and the kernel is large, so that u would be what goes through memory, a task has a panel of the
// output channels instead: it computes u for some input channels, adds their products for all tiles, and goes on. The
// inputs' points are computed once per call.
#include "cpu/conv/winograd.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

// Bytes of points, of all tiles for a task by panels that of its products; and panels for it to make enough tasks.
constexpr int64_t least_kernel = 2 << 20, most_inputs = 16 << 20, most_products = 1 << 20, least_panels = 8;
constexpr int64_t chunk_bytes = 12288 * ARRAYNN_VECTOR_BYTES;  // of points of a panel: a part of the second cache

template <class T, class K>
struct Plan {
  TileGrid tiles;
  int64_t in_blocks, panels;  // vectors of input channels, and NR output channels
  int64_t per_task;           // tiles
  bool by_panel;              // tasks have a panel each, and all tiles
  int64_t chunk;              // by panel: blocks of input channels that u is there for at a time
  int64_t line_step;          // elements between the lines of a buffer for a run of tiles

  explicit Plan(const Gather<T>& g) : tiles(tile_grid<K>(g.batch, g.grid)) {
    constexpr int64_t size = K::points * lanes<T> * static_cast<int64_t>(sizeof(T));
    in_blocks = ceil_div(g.in_c, lanes<T>);
    panels = ceil_div(g.out_c, NR<T>);
    int64_t count = tiles.count(), product_bytes = size * 2 * count;
    int64_t kernel_bytes = size * in_blocks * panels * NR<T>;
    by_panel = kernel_bytes >= least_kernel && g.groups * panels >= least_panels && product_bytes <= most_products &&
               g.groups * in_blocks * count * size <= most_inputs;
    // two rounds of the micro-kernel share what they load of u, if v fits L2 all the same
    bool small = size * in_blocks * 2 * MR <= 512 * 1024;
    per_task = by_panel ? count : small && count * g.groups >= 8 * MR * num_threads() ? 2 * MR : MR;
    chunk = even_part(in_blocks, std::max<int64_t>(1, chunk_bytes / (size * NR<T>)));
    line_step = line_elements<T, K>(std::min(per_task, tiles.wide));
  }
  int columns(const Gather<T>& g, int64_t panel) const {
    return static_cast<int>(std::min<int64_t>(NR<T>, g.out_c - panel * NR<T>));
  }
  int64_t kernel_panel() const { return K::points * in_blocks * lanes<T> * NR<T>; }
  int64_t point_elements() const { return in_blocks * per_task * lanes<T>; }  // of v
  // shared by all: u, or v
  int64_t shared_elements(const Gather<T>& g) const {
    return round_up(g.groups * (by_panel ? K::points * point_elements() : panels * kernel_panel()), 64);
  }
  int64_t worker_elements() const {
    int64_t own = by_panel ? chunk * lanes<T> * NR<T> : point_elements();
    return round_up(K::points * (own + per_task * NR<T>)+tile_points * line_step, 64);
  }
};

// ---- the kernel's points -----------------------------------------------------------------------------

// Where the weights lie, row by row.
template <class T, class K>
void weight_places(const Gather<T>& g, int64_t (&at)[K::taps]) {
  for (int t = 0; t < K::taps; ++t) {
    const Triple& o = g.taps[t].offset;
    at[(o.h - g.low.h) * K::size + (o.w - g.low.w)] = g.taps[t].weight;
  }
}

// flat[input channel][tap][lane] of `count` input channels from i0 on, and a vector of output channels from `first` on,
// of which `channels` are there. Returns whether taps are in the order of memory.
template <class T, class K>
bool weights_by_tap(const Gather<T>& g, const int64_t (&at)[K::taps], const T* from, int channels, int count, T* flat) {
  constexpr int V = lanes<T>;
  auto [least, most] = std::minmax_element(at, at + K::taps);
  if (g.w_in == K::taps && *least == 0 && *most == K::taps - 1) {
    pack_panel(from, g.w_out, 1, channels, int64_t{count} * K::taps, flat, V, V);
    return true;
  }
  std::fill_n(flat, count * K::taps * V, T(0));
  for (int i = 0; i < count; ++i)
    for (int o = 0; o < channels; ++o)
      for (int t = 0; t < K::taps; ++t) flat[(i * K::taps + t) * V + o] = from[o * g.w_out + i * g.w_in + at[t]];
  return false;
}

// u[point][channel][lane] of a vector of output channels and a block of input channels from i0 on.
template <class T, class K>
void kernel_points(const Gather<T>& g, const int64_t (&at)[K::taps], int64_t group, int64_t first, int64_t i0, T* to,
                   int64_t point_step) {
  constexpr int V = lanes<T>;
  int channels = static_cast<int>(std::clamp<int64_t>(g.out_c - first, 0, V));
  int count = channels > 0 ? static_cast<int>(std::min<int64_t>(V, g.in_c - i0)) : 0;
  T flat[V * K::taps * V];
  const T* from = g.weight + group * g.w_group + first * g.w_out + i0 * g.w_in;
  bool by_memory = count > 0 && weights_by_tap<T, K>(g, at, from, channels, count, flat);
  for (int i = 0; i < V; ++i, to += NR<T>) {
    if (i >= count) {
      for (int64_t point = 0; point < K::points; ++point) store(to + point * point_step, vec<T>{});
      continue;
    }
    const T* taps = flat + i * K::taps * V;
    transformed<T, KernelPoints<T, K::size>, K::axes>(
        [&](auto row, auto col) ARRAYNN_LAMBDA {
          constexpr int t = row * K::size + col;
          return load(taps + (by_memory ? at[t] : t) * V);
        },
        [&](auto row, auto col, vec<T> v) ARRAYNN_LAMBDA { store(to + (row * tile_points + col) * point_step, v); });
  }
}

// u[point][channel][lane] of a panel and `count` blocks of input channels from `block` on.
template <class T, class K>
void panel_points(const Gather<T>& g, const int64_t (&at)[K::taps], int64_t group, int64_t panel, int64_t block,
                  int64_t count, T* u, int64_t point_step) {
  constexpr int V = lanes<T>;
  for (int64_t b = 0; b < count; ++b)
    for (int half = 0; half < NR<T>; half += V)
      kernel_points<T, K>(g, at, group, panel * NR<T> + half, (block + b) * V, u + b * V * NR<T> + half, point_step);
}

template <class T, class K>
void all_kernel_points(const Gather<T>& g, const Plan<T, K>& plan, T* u) {
  int64_t at[K::taps];
  weight_places<T, K>(g, at);
  parallel_for(g.groups * plan.panels * plan.in_blocks, [&](int64_t index, int) {
    int64_t panel = index / plan.in_blocks, block = index % plan.in_blocks;
    panel_points<T, K>(g, at, panel / plan.panels, panel % plan.panels, block, 1,
                       u + panel * plan.kernel_panel() + block * lanes<T> * NR<T>, plan.in_blocks * lanes<T> * NR<T>);
  });
}

// ---- the products -------------------------------------------------------------------------------------

// c[row][column] (+)= sum over blocks and lanes of a[block][row][lane] b[block][lane][column].
template <class T, int Rows, int NV>
void product(int64_t blocks, const T* a, int64_t a_step, const T* b, T* c, bool accumulate) {
  constexpr int V = lanes<T>;
  vec<T> acc[Rows][NV] = {};
  for (int64_t block = 0; block < blocks; ++block, a += a_step) {
    const T* lane = a;
    for_steps(
        V,
        [&](auto k) ARRAYNN_LAMBDA {
          vec<T> column[NV];
          static_for<NV>([&](auto j) ARRAYNN_LAMBDA { column[j] = load(b + k * NR<T> + j * V); });
          static_for<Rows>([&](auto i) ARRAYNN_LAMBDA {
            vec<T> value = broadcast<T>(lane[i * V + k]);
            static_for<NV>([&](auto j) ARRAYNN_LAMBDA { acc[i][j] = fma(value, column[j], acc[i][j]); });
          });
        },
        [&](int64_t count) ARRAYNN_LAMBDA { lane += count, b += count * NR<T>; });
  }
  static_for<Rows>([&](auto i) ARRAYNN_LAMBDA {
    static_for<NV>([&](auto j) ARRAYNN_LAMBDA {
      T* to = c + i * NR<T> + j * V;
      store(to, accumulate ? load(to) + acc[i][j] : acc[i][j]);
    });
  });
}

// m at all points for a panel with `columns` output channels, of `blocks` blocks of input channels; or m += it.
template <class T, class K>
void products(const Plan<T, K>& plan, int64_t blocks, int64_t tiles, int columns, const T* v, const T* u, T* m,
              bool accumulate) {
  constexpr int V = lanes<T>;
  for (int64_t point = 0; point < K::points; ++point)
    for (int64_t tile = 0; tile < tiles; tile += MR) {
      int rows = static_cast<int>(std::min<int64_t>(MR, tiles - tile));
      const T* a = v + point * plan.point_elements() + tile * V;
      T* c = m + (point * plan.per_task + tile) * NR<T>;
      const T* b = u + point * blocks * V * NR<T>;
      with_constant<MR>(rows, [&](auto count) {
        if (columns <= V)
          product<T, count, 1>(blocks, a, plan.per_task * V, b, c, accumulate);
        else
          product<T, count, 2>(blocks, a, plan.per_task * V, b, c, accumulate);
      });
    }
}

// ---- tasks --------------------------------------------------------------------------------------------

template <class T, class K>
void input_points(const Gather<T>& g, const Plan<T, K>& plan, int64_t group, int64_t begin, int64_t end, T* lines,
                  T* v) {
  constexpr int V = lanes<T>;
  for (int64_t block = 0; block < plan.in_blocks; ++block, v += plan.per_task * V) {
    int64_t channel = group * g.in_c + block * V;
    int channels = static_cast<int>(std::min<int64_t>(V, g.in_c - block * V));
    Images<T> images{g.layout, g.in + channel * g.in_strides.c, channels, g.in_strides, g.size.h, g.size.w};
    points_of<T, K, InputPoints<T>>(images, plan.tiles, begin, end, g.low.h, g.low.w, lines, plan.line_step, v, V,
                                    plan.point_elements());
  }
}

// The outputs of one vector of channels; m is at its first lane.
template <class T, class K>
void outputs(const Gather<T>& g, const Plan<T, K>& plan, int64_t channel, int channels, int64_t begin, int64_t end,
             const T* m, T* lines) {
  constexpr int V = lanes<T>, size = K::outputs, high = K::output_rows;
  vec<T> bias = g.bias ? load_first(g.bias + channel, channels) : vec<T>{};
  for_tile_runs(plan.tiles, begin, end, [&](int64_t at, const TileRun& run) {
    for (int64_t i = 0; i < run.count; ++i) {
      const T* from = m + (at + i) * NR<T>;
      T* to = lines + i * size * V;
      transformed<T, Outputs<T, K::size>, K::axes>(
          [&](auto row, auto col)
              ARRAYNN_LAMBDA { return load(from + (row * tile_points + col) * plan.per_task * NR<T>); },
          [&](auto row, auto col, vec<T> value)
              ARRAYNN_LAMBDA { store(to + row * plan.line_step + col * V, value + bias); });
    }
    int64_t y = run.row * high, x = run.col * size;
    const Strides& s = g.out_strides;
    write_lines(lines, plan.line_step, g.layout, s, channels, static_cast<int>(std::min<int64_t>(high, g.grid.h - y)),
                std::min(run.count * size, g.grid.w - x), g.out + run.image * s.n + channel * s.c + y * s.h + x * s.w);
  });
}

// The outputs of a panel.
template <class T, class K>
void panel_outputs(const Gather<T>& g, const Plan<T, K>& plan, int64_t group, int64_t panel, int64_t begin, int64_t end,
                   const T* m, T* lines) {
  constexpr int V = lanes<T>;
  int64_t first = panel * NR<T>, columns = plan.columns(g, panel);
  for (int64_t half = 0; half < columns; half += V)
    outputs(g, plan, group * g.out_c + first + half, static_cast<int>(std::min<int64_t>(V, columns - half)), begin, end,
            m + half, lines);
}

template <class T, class K>
void gather_by_tiles(const Gather<T>& g, const Plan<T, K>& plan, T* u, T* rest) {
  all_kernel_points(g, plan, u);
  int64_t count = plan.tiles.count(), tasks = ceil_div(count, plan.per_task);
  parallel_for(g.groups * tasks, [&](int64_t index, int worker) {
    int64_t group = index / tasks, begin = index % tasks * plan.per_task;
    int64_t end = std::min(begin + plan.per_task, count);
    T* v = rest + worker * plan.worker_elements();
    T* m = v + K::points * plan.point_elements();
    T* lines = m + K::points * plan.per_task * NR<T>;
    input_points(g, plan, group, begin, end, lines, v);
    for (int64_t panel = 0; panel < plan.panels; ++panel) {
      products(plan, plan.in_blocks, end - begin, plan.columns(g, panel), v,
               u + (group * plan.panels + panel) * plan.kernel_panel(), m, false);
      panel_outputs(g, plan, group, panel, begin, end, m, lines);
    }
  });
}

template <class T, class K>
void gather_by_panels(const Gather<T>& g, const Plan<T, K>& plan, T* v, T* rest) {
  constexpr int V = lanes<T>;
  int64_t at[K::taps];
  weight_places<T, K>(g, at);
  int64_t count = plan.tiles.count(), parts = ceil_div(count, MR);
  auto lines_of = [&](int worker) {
    return rest + worker * plan.worker_elements() + K::points * (plan.chunk * V + plan.per_task) * NR<T>;
  };
  parallel_for(g.groups * parts, [&](int64_t index, int worker) {
    int64_t group = index / parts, begin = index % parts * MR;
    input_points(g, plan, group, begin, std::min(begin + MR, count), lines_of(worker),
                 v + group * K::points * plan.point_elements() + begin * V);
  });
  parallel_for(g.groups * plan.panels, [&](int64_t index, int worker) {
    int64_t group = index / plan.panels, panel = index % plan.panels;
    T* u = rest + worker * plan.worker_elements();
    T* m = u + K::points * plan.chunk * V * NR<T>;
    for (int64_t block = 0; block < plan.in_blocks; block += plan.chunk) {
      int64_t blocks = std::min(plan.chunk, plan.in_blocks - block);
      panel_points<T, K>(g, at, group, panel, block, blocks, u, blocks * V * NR<T>);
      products(plan, blocks, count, plan.columns(g, panel),
               v + group * K::points * plan.point_elements() + block * plan.per_task * V, u, m, block > 0);
    }
    panel_outputs(g, plan, group, panel, 0, count, m, lines_of(worker));
  });
}

template <class T, class K>
void gather(const Gather<T>& g, T* scratch) {
  Plan<T, K> plan(g);
  T* rest = scratch + plan.shared_elements(g);
  plan.by_panel ? gather_by_panels(g, plan, scratch, rest) : gather_by_tiles(g, plan, scratch, rest);
}

// f(Kernel) for the kernel of a gather.
template <class T, class F>
void with_kernel_of(const Gather<T>& g, const F& f) {
  with_kernel(g.high.h - g.low.h + 1, g.high.w - g.low.w + 1, f);
}

}  // namespace

template <class T>
int64_t gather_winograd_scratch(const Gather<T>& g) {
  int64_t elements = 0;
  with_kernel_of(g, [&](auto k) {
    Plan<T, decltype(k)> plan(g);
    elements = plan.shared_elements(g) + plan.worker_elements() * num_threads();
  });
  return elements;
}
template int64_t gather_winograd_scratch(const Gather<float>&);
template int64_t gather_winograd_scratch(const Gather<double>&);

template <class T>
void gather_winograd(const Gather<T>& g, T* scratch) {
  with_kernel_of(g, [&](auto k) { gather<T, decltype(k)>(g, scratch); });
}
template void gather_winograd(const Gather<float>&, float*);
template void gather_winograd(const Gather<double>&, double*);

// Counted in products of one input and one output channel, of which the micro-kernel does a vector per
// cycle: what the transforms and the kernel's own points cost was measured against it.
template <class T>
bool takes_winograd(const ConvParams& p, const Gather<T>& g) {
  if (!is_winograd<T>(p)) return false;
  bool takes = false;
  with_kernel_of(g, [&](auto k) {
    using K = decltype(k);
    Plan<T, K> plan(g);
    if (plan.shared_elements(g) * static_cast<int64_t>(sizeof(T)) > most_bytes) return;
    double in_padded = static_cast<double>(round_up(g.in_c, lanes<T>)) / static_cast<double>(g.in_c);
    double out_padded = static_cast<double>(round_up(g.out_c, lanes<T>)) / static_cast<double>(g.out_c);
    double pixels = static_cast<double>(p.batch * product(g.grid)), part = K::points / 36.0, taps = K::taps / 9.0;
    double per_tile =
        42 * in_padded * out_padded + 340 / static_cast<double>(g.out_c) + 230 / static_cast<double>(g.in_c);
    takes = static_cast<double>(plan.tiles.count()) * part * per_tile + 500 * taps < 11 * taps * pixels;
  });
  return takes;
}
template bool takes_winograd(const ConvParams&, const Gather<float>&);
template bool takes_winograd(const ConvParams&, const Gather<double>&);

}  // namespace arraynn::cpu::ARRAYNN_ISA
