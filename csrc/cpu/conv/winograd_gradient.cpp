// dw of a convolution that winograd.h is for: the transpose of Winograd's algorithm, see winograd.h,
//   dg = G^T [sum over tiles (B^T d B) * (A dY A^T)] G
// The tiles are cut into a few chunks, a function of the shape, whose sums are added in order at the end. A task
// goes through its chunk in parts: what it keeps of a part is
//   v[point][tile][input channel], w[point][tile][output channel],
// and at each point their product is added to du[point][output channel][input channel].
#include "cpu/conv/outer.h"
#include "cpu/conv/winograd.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int64_t most_chunks = 16, most_outputs = 64, tiles_of_part = 64;

template <class T, class K>
struct Plan {
  TileGrid tiles;
  int64_t in_c, out_c, block, blocks;           // channels of one group; a task has a block of the output channels
  int64_t in_row, out_row;                      // elements for a tile's channels
  int64_t chunk = 0, chunks = 0, per_part = 0;  // tiles; no chunks: not for this shape
  int64_t line_step = 0;

  explicit Plan(const ConvParams& p) : tiles(tile_grid<K>(p.batch, output_size(p))) {
    in_c = p.in_channels / p.groups;
    out_c = p.out_channels / p.groups;
    block = even_part(out_c, most_outputs);
    blocks = ceil_div(out_c, block);
    in_row = round_up(in_c, NR<T>);
    out_row = round_up(block, lanes<T>);
    // Chunks make tasks, and cost a du each.
    int64_t fitting = most_bytes / (p.groups * blocks * du_elements() * static_cast<int64_t>(sizeof(T)));
    int64_t wanted = std::min({most_chunks, fitting, ceil_div(tiles.count(), tiles_of_part)});
    if (wanted == 0) return;
    if (wanted > 4) wanted = wanted / 4 * 4;
    chunk = ceil_div(tiles.count(), wanted);
    chunks = ceil_div(tiles.count(), chunk);
    per_part = even_part(chunk, tiles_of_part);
    line_step = line_elements<T, K>(std::min(per_part, tiles.wide));
  }
  int64_t du_elements() const { return K::points * block * in_row; }
  int64_t outputs_of(int64_t b) const { return std::min(block, out_c - b * block); }
  int64_t worker_elements() const {
    return round_up(K::points * per_part * (in_row + out_row) + tile_points * line_step, 64);
  }
};

template <class T, class K>
void add_products(const Plan<T, K>& plan, int64_t tiles, int64_t channels, const T* v, const T* w, bool accumulate,
                  T* du) {
  for (int64_t point = 0; point < K::points; ++point)
    add_outer(Outer<T>{1, tiles, w + point * plan.per_part * plan.out_row, 0, plan.out_row,
                       v + point * plan.per_part * plan.in_row, 0, plan.in_row, du + point * plan.block * plan.in_row,
                       plan.in_row, accumulate},
              channels, plan.in_c);
}

// Some channels' points at tiles [begin, end), a vector of channels at a time: to[point][tile][channel].
template <class Transform, class T, class K>
void points_of_channels(Images<T> images, int64_t channels, const Plan<T, K>& plan, int64_t begin, int64_t end,
                        int64_t top, int64_t left, T* lines, int64_t row, T* to) {
  for (int64_t c = 0; c < channels; c += lanes<T>, images.data += lanes<T> * images.strides.c) {
    images.channels = static_cast<int>(std::min<int64_t>(lanes<T>, channels - c));
    points_of<T, K, Transform>(images, plan.tiles, begin, end, top, left, lines, plan.line_step, to + c, row,
                               plan.per_part * row);
  }
}

template <class T, class K>
void chunk_gradient(const ConvParams& p, const Plan<T, K>& plan, int64_t group, int64_t block, int64_t chunk,
                    const T* dy, const T* x, T* scratch, T* du) {
  T* w = scratch + K::points * plan.per_part * plan.in_row;
  T* lines = w + K::points * plan.per_part * plan.out_row;
  Triple in = input_size(p), out = output_size(p);
  Images<T> inputs{p.layout, x, 0, strides_of(p.layout, p.in_channels, in), in.h, in.w};
  inputs.data += group * plan.in_c * inputs.strides.c;
  Images<T> cotangents{p.layout, dy, 0, strides_of(p.layout, p.out_channels, out), out.h, out.w};
  cotangents.data += (group * plan.out_c + block * plan.block) * cotangents.strides.c;
  int64_t channels = plan.outputs_of(block);
  int64_t first = chunk * plan.chunk, last = std::min(first + plan.chunk, plan.tiles.count());
  for (int64_t begin = first; begin < last; begin += plan.per_part) {
    int64_t end = std::min(begin + plan.per_part, last);
    points_of_channels<InputPoints<T>>(inputs, plan.in_c, plan, begin, end, -p.h.before, -p.w.before, lines,
                                       plan.in_row, scratch);
    points_of_channels<CotangentPoints<T, K::size>>(cotangents, channels, plan, begin, end, 0, 0, lines, plan.out_row,
                                                    w);
    add_products(plan, end - begin, channels, scratch, w, begin > first, du);
  }
}

// Adds the chunks' sums for an output channel, a vector of input channels at a time, and goes back to the kernel.
template <class T, class K>
void kernel_gradient(const Plan<T, K>& plan, const T* du, int64_t chunk_step, T* dw) {
  constexpr int V = lanes<T>;
  for (int64_t c = 0; c < plan.in_c; c += V) {
    T found[K::taps][V];
    transformed<T, KernelGradient<T, K::size>, K::axes>(
        [&](auto row, auto col) ARRAYNN_LAMBDA {
          const T* from = du + (row * tile_points + col) * plan.block * plan.in_row + c;
          vec<T> total = load(from);
          for (int64_t chunk = 1; chunk < plan.chunks; ++chunk) total += load(from + chunk * chunk_step);
          return total;
        },
        [&](auto row, auto col, vec<T> value) ARRAYNN_LAMBDA { store(found[row * K::size + col], value); });
    int count = static_cast<int>(std::min<int64_t>(V, plan.in_c - c));
    for (int lane = 0; lane < count; ++lane)
      for (int t = 0; t < K::taps; ++t) dw[(c + lane) * K::taps + t] = found[t][lane];
  }
}

template <class T, class K>
void gradient(const ConvParams& p, const T* dy, const T* x, T* dw, T* scratch) {
  Plan<T, K> plan(p);
  int64_t size = plan.du_elements(), tasks = p.groups * plan.blocks, chunk_step = tasks * size;
  T* rest = scratch + round_up(plan.chunks * chunk_step, 64);
  parallel_for(plan.chunks * tasks, [&](int64_t index, int worker) {
    int64_t chunk = index / tasks, group = index % tasks / plan.blocks, block = index % plan.blocks;
    chunk_gradient(p, plan, group, block, chunk, dy, x, rest + worker * plan.worker_elements(), scratch + index * size);
  });
  parallel_for(p.groups * plan.out_c, [&](int64_t o, int) {
    int64_t group = o / plan.out_c, block = o % plan.out_c / plan.block, row = o % plan.out_c % plan.block;
    const T* from = scratch + (group * plan.blocks + block) * size + row * plan.in_row;
    kernel_gradient(plan, from, chunk_step, dw + o * plan.in_c * K::taps);
  });
}

}  // namespace

template <class T>
int64_t weight_gradient_winograd_scratch(const ConvParams& p) {
  int64_t elements = 0;
  with_kernel(p.h.kernel, p.w.kernel, [&](auto k) {
    Plan<T, decltype(k)> plan(p);
    elements = round_up(plan.chunks * p.groups * plan.blocks * plan.du_elements(), 64) +
               plan.worker_elements() * num_threads();
  });
  return elements;
}
template int64_t weight_gradient_winograd_scratch<float>(const ConvParams&);
template int64_t weight_gradient_winograd_scratch<double>(const ConvParams&);

template <class T>
void weight_gradient_winograd(const ConvParams& p, const T* dy, const T* x, T* dw, T* scratch) {
  with_kernel(p.h.kernel, p.w.kernel, [&](auto k) { gradient<T, decltype(k)>(p, dy, x, dw, scratch); });
}
template void weight_gradient_winograd(const ConvParams&, const float*, const float*, float*, float*);
template void weight_gradient_winograd(const ConvParams&, const double*, const double*, double*, double*);

// Counted as in takes_winograd; the matrix product that it stands against reaches half the peak.
template <class T>
bool takes_winograd_gradient(const ConvParams& p) {
  if (!is_winograd<T>(p)) return false;
  bool takes = false;
  with_kernel(p.h.kernel, p.w.kernel, [&](auto k) {
    Plan<T, decltype(k)> plan(p);
    if (plan.chunks == 0) return;
    double padded = static_cast<double>(round_up(plan.in_c, lanes<T>)) / static_cast<double>(plan.in_c);
    double pixels = static_cast<double>(p.batch * product(output_size(p))), taps = k.taps / 9.0;
    double per_tile = 45 * padded + 340 / static_cast<double>(plan.block) + 300 / static_cast<double>(plan.in_c);
    double whole = static_cast<double>(plan.chunks) * 290 + 200;
    double part = k.points / 36.0;
    takes = static_cast<double>(plan.tiles.count()) * part * per_tile + part * whole < 16 * taps * pixels;
  });
  return takes;
}
template bool takes_winograd_gradient<float>(const ConvParams&);
template bool takes_winograd_gradient<double>(const ConvParams&);

}  // namespace arraynn::cpu::ARRAYNN_ISA
