// The gather of a 3x3 or 5x5 kernel with stride 1 by Winograd's algorithm, see winograd.h: forward and input gradient.
//
// A task takes some tiles of all images through all three steps, so that what it holds stays in L2:
//   points of the inputs      v[point][block of channels][tile][lane]
//   products at each point    m[point][tile][channel] = v u, for a panel of output channels
//   outputs from the points
// The kernel's points u[panel][point][channel][lane] are computed once per call.
#include "cpu/conv/winograd.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

template <class T, int K>
struct Plan {
  TileGrid tiles;
  int64_t in_blocks, panels;  // vectors of input channels, and NR output channels
  int64_t per_task;           // tiles
  int64_t line_step;          // elements between the lines of a buffer for a run of tiles

  explicit Plan(const Gather<T>& g) : tiles(tile_grid(K, g.batch, g.grid)) {
    in_blocks = ceil_div(g.in_c, lanes<T>);
    panels = ceil_div(g.out_c, NR<T>);
    // two rounds of the micro-kernel share what they load of u, if v fits L2 all the same
    bool small = all_points * in_blocks * lanes<T> * 2 * MR * static_cast<int64_t>(sizeof(T)) <= 512 * 1024;
    per_task = small && tiles.count() * g.groups >= 8 * MR * num_threads() ? 2 * MR : MR;
    line_step = line_elements<T, K>(std::min(per_task, tiles.wide));
  }
  int64_t kernel_panel() const { return all_points * in_blocks * lanes<T> * NR<T>; }
  int64_t point_elements() const { return in_blocks * per_task * lanes<T>; }  // of v
  int64_t worker_elements() const { return all_points * (point_elements() + per_task * NR<T>)+tile_points * line_step; }
};

// ---- the kernel's points -----------------------------------------------------------------------------

// Where the weights lie, row by row.
template <class T, int K>
void weight_places(const Gather<T>& g, int64_t (&at)[K * K]) {
  for (int t = 0; t < K * K; ++t) {
    const Triple& o = g.taps[t].offset;
    at[(o.h - g.low.h) * K + (o.w - g.low.w)] = g.taps[t].weight;
  }
}

// u[point][channel][lane] of one vector of output channels, `channels` of them from `first` on.
template <class T, int K>
void kernel_points(const Gather<T>& g, const int64_t (&at)[K * K], int64_t group, int64_t first, int channels,
                   int64_t i, T* to, int64_t point_step) {
  constexpr int V = lanes<T>;
  const T* from = g.weight + group * g.w_group + first * g.w_out + i * g.w_in;
  T kernel[K * K][V] = {};
  for (int o = 0; o < channels; ++o)
    for (int t = 0; t < K * K; ++t) kernel[t][o] = from[o * g.w_out + at[t]];
  along_both<T, KernelPoints<T, K>>([&](auto row, auto col) ARRAYNN_LAMBDA { return load(kernel[row * K + col]); },
                                    [&](auto row, auto col, vec<T> v)
                                        ARRAYNN_LAMBDA { store(to + (row * tile_points + col) * point_step, v); });
}

template <class T, int K>
void all_kernel_points(const Gather<T>& g, const Plan<T, K>& plan, T* u) {
  constexpr int V = lanes<T>;
  int64_t at[K * K];
  weight_places<T, K>(g, at);
  int64_t padded = plan.in_blocks * V;
  parallel_for(g.groups * plan.panels * plan.in_blocks, [&](int64_t index, int) {
    int64_t panel = index / plan.in_blocks, i0 = index % plan.in_blocks * V;
    int64_t group = panel / plan.panels, first = panel % plan.panels * NR<T>;
    T* to = u + panel * plan.kernel_panel();
    for (int64_t i = i0; i < i0 + V; ++i)
      for (int half = 0; half < NR<T>; half += V) {
        int64_t left = i < g.in_c ? g.out_c - first - half : 0;
        kernel_points<T, K>(g, at, group, first + half, static_cast<int>(std::clamp<int64_t>(left, 0, V)),
                            std::min(i, g.in_c - 1), to + i * NR<T> + half, padded * NR<T>);
      }
  });
}

// ---- the products -------------------------------------------------------------------------------------

// c[row][column] = sum over blocks and lanes of a[block][row][lane] b[block][lane][column].
template <class T, int Rows, int NV>
void product(int64_t blocks, const T* a, int64_t a_step, const T* b, T* c) {
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
    static_for<NV>([&](auto j) ARRAYNN_LAMBDA { store(c + i * NR<T> + j * V, acc[i][j]); });
  });
}

// m at all points for a panel with `columns` output channels.
template <class T, int K>
void products(const Plan<T, K>& plan, int64_t tiles, int columns, const T* v, const T* u, T* m) {
  constexpr int V = lanes<T>;
  int64_t u_step = plan.in_blocks * V * NR<T>;
  for (int64_t point = 0; point < all_points; ++point)
    for (int64_t tile = 0; tile < tiles; tile += MR) {
      int rows = static_cast<int>(std::min<int64_t>(MR, tiles - tile));
      const T* a = v + point * plan.point_elements() + tile * V;
      T* c = m + (point * plan.per_task + tile) * NR<T>;
      const T* b = u + point * u_step;
      with_constant<MR>(rows, [&](auto count) {
        if (columns <= V)
          product<T, count, 1>(plan.in_blocks, a, plan.per_task * V, b, c);
        else
          product<T, count, 2>(plan.in_blocks, a, plan.per_task * V, b, c);
      });
    }
}

// ---- a task -------------------------------------------------------------------------------------------

template <class T, int K>
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
template <class T, int K>
void outputs(const Gather<T>& g, const Plan<T, K>& plan, int64_t channel, int channels, int64_t begin, int64_t end,
             const T* m, T* lines) {
  constexpr int V = lanes<T>, size = tile_outputs<K>;
  vec<T> bias = g.bias ? load_first(g.bias + channel, channels) : vec<T>{};
  for_tile_runs(plan.tiles, begin, end, [&](int64_t at, const TileRun& run) {
    for (int64_t i = 0; i < run.count; ++i) {
      const T* from = m + (at + i) * NR<T>;
      T* to = lines + i * size * V;
      along_both<T, Outputs<T, K>>(
          [&](auto row, auto col)
              ARRAYNN_LAMBDA { return load(from + (row * tile_points + col) * plan.per_task * NR<T>); },
          [&](auto row, auto col, vec<T> value)
              ARRAYNN_LAMBDA { store(to + row * plan.line_step + col * V, value + bias); });
    }
    int64_t y = run.row * size, x = run.col * size;
    const Strides& s = g.out_strides;
    write_lines(lines, plan.line_step, g.layout, s, channels, static_cast<int>(std::min<int64_t>(size, g.grid.h - y)),
                std::min(run.count * size, g.grid.w - x), g.out + run.image * s.n + channel * s.c + y * s.h + x * s.w);
  });
}

template <class T, int K>
void gather(const Gather<T>& g, T* scratch) {
  constexpr int V = lanes<T>;
  Plan<T, K> plan(g);
  all_kernel_points(g, plan, scratch);
  T* rest = scratch + round_up(g.groups * plan.panels * plan.kernel_panel(), 64);
  int64_t count = plan.tiles.count(), tasks = ceil_div(count, plan.per_task);
  parallel_for(g.groups * tasks, [&](int64_t index, int worker) {
    int64_t group = index / tasks, begin = index % tasks * plan.per_task;
    int64_t end = std::min(begin + plan.per_task, count);
    T* v = rest + worker * round_up(plan.worker_elements(), 64);
    T* m = v + all_points * plan.point_elements();
    T* lines = m + all_points * plan.per_task * NR<T>;
    input_points(g, plan, group, begin, end, lines, v);
    for (int64_t panel = 0; panel < plan.panels; ++panel) {
      int64_t first = panel * NR<T>, columns = std::min<int64_t>(NR<T>, g.out_c - first);
      products(plan, end - begin, static_cast<int>(columns), v,
               scratch + (group * plan.panels + panel) * plan.kernel_panel(), m);
      for (int64_t half = 0; half < columns; half += V)
        outputs(g, plan, group * g.out_c + first + half, static_cast<int>(std::min<int64_t>(V, columns - half)), begin,
                end, m + half, lines);
    }
  });
}

template <class T>
int64_t kernel_of(const Gather<T>& g) {
  return g.high.h - g.low.h + 1;
}

}  // namespace

template <class T>
int64_t gather_winograd_scratch(const Gather<T>& g) {
  int64_t elements = 0;
  with_kernel(kernel_of(g), [&](auto k) {
    Plan<T, k> plan(g);
    elements = round_up(g.groups * plan.panels * plan.kernel_panel(), 64) +
               round_up(plan.worker_elements(), 64) * num_threads();
  });
  return elements;
}
template int64_t gather_winograd_scratch(const Gather<float>&);
template int64_t gather_winograd_scratch(const Gather<double>&);

template <class T>
void gather_winograd(const Gather<T>& g, T* scratch) {
  with_kernel(kernel_of(g), [&](auto k) { gather<T, k>(g, scratch); });
}
template void gather_winograd(const Gather<float>&, float*);
template void gather_winograd(const Gather<double>&, double*);

// Counted in products of one input and one output channel, of which the micro-kernel does a vector per
// cycle: what the transforms and the kernel's own points cost was measured against it.
template <class T>
bool takes_winograd(const ConvParams& p, const Gather<T>& g) {
  if (!is_winograd<T>(p)) return false;
  int64_t kernel_elements = all_points * round_up(g.in_c, lanes<T>) * round_up(g.out_c, NR<T>);
  if (p.groups * kernel_elements * static_cast<int64_t>(sizeof(T)) > most_bytes) return false;
  double in_padded = static_cast<double>(round_up(g.in_c, lanes<T>)) / static_cast<double>(g.in_c);
  double out_padded = static_cast<double>(round_up(g.out_c, lanes<T>)) / static_cast<double>(g.out_c);
  double pixels = static_cast<double>(p.batch * product(g.grid));
  double tiles = static_cast<double>(tile_grid(p.h.kernel, p.batch, g.grid).count());
  double per_tile =
      42 * in_padded * out_padded + 340 / static_cast<double>(g.out_c) + 230 / static_cast<double>(g.in_c);
  double taps = static_cast<double>(p.h.kernel * p.w.kernel) / 9;
  return tiles * per_tile + 500 * taps < 11 * taps * pixels;
}
template bool takes_winograd(const ConvParams&, const Gather<float>&);
template bool takes_winograd(const ConvParams&, const Gather<double>&);

}  // namespace arraynn::cpu::ARRAYNN_ISA
