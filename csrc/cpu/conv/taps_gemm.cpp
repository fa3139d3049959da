// The gather as a matrix product without an im2col buffer: input elements are packed straight from
// the image into the panels that the micro-kernel reads, a block at a time.
//
// Contiguous images: C is out_c x pixels. The weights are A, packed once, k = (channel, tap); B's
// panels are filled by vectors along the image rows.
// Channels-last: C is pixels x out_c. The weights are B, packed once, k = (tap, channel); A's panels
// are transposed from the pixels' channel vectors.
#include "cpu/conv/taps.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

template <class T>
bool is_nchw(const Gather<T>& g) {
  return g.layout == Layout::contiguous;
}

template <class T>
Tiling tiling_of(const Gather<T>& g) {
  int64_t pixels = g.batch * product(g.grid), k = g.in_c * g.tap_count;
  if (is_nchw(g)) return panels_for<T>(g.out_c, pixels, k, g.groups, std::max<int64_t>(g.tap_count, 1));
  return tiling_for<T>(pixels, g.out_c, k, g.groups);
}

template <class T>
int64_t weight_elements(const Gather<T>& g) {
  int64_t width = is_nchw(g) ? g.out_c : round_up(g.out_c, NR<T>);
  return round_up(g.groups * width * g.in_c * g.tap_count, 64);
}

// One panel of weights per task: `rows` output channels from `first` on, all of k.
template <class T>
void pack_weights(const Gather<T>& g, T* packed) {
  bool nchw = is_nchw(g);
  int width = nchw ? MR : NR<T>;
  int64_t k = g.in_c * g.tap_count, panels = ceil_div(g.out_c, width);
  int64_t group_elements = (nchw ? g.out_c : round_up(g.out_c, width)) * k;
  parallel_for(g.groups * panels, [&](int64_t index, int) {
    int64_t group = index / panels, first = index % panels * width;
    int rows = static_cast<int>(std::min<int64_t>(width, g.out_c - first));
    int padded = nchw ? rows : width;
    const T* from = g.weight + group * g.w_group + first * g.w_out;
    T* to = packed + group * group_elements + first * k;
    // Element (channel i, tap t) goes to step i * tap_count + t, or t * in_c + i.
    int64_t i_step = (nchw ? g.tap_count : 1) * padded, t_step = (nchw ? 1 : g.in_c) * padded;
    if (g.tap_count > 1 && g.taps_adjacent && g.w_in != 1) {
      for (int64_t i = 0; i < g.in_c; ++i)
        pack_panel(from + g.taps[0].weight + i * g.w_in, g.w_out, 1, rows, g.tap_count, to + i * i_step, padded,
                   t_step);
    } else {
      for (int64_t t = 0; t < g.tap_count; ++t)
        pack_panel(from + g.taps[t].weight, g.w_out, g.w_in, rows, g.in_c, to + t * t_step, padded, i_step);
    }
  });
}

// Whether every pixel looks at one, and all of an image's lie at one distance: they need not be packed.
template <class T>
bool is_pointwise(const Gather<T>& g) {
  const Triple &s = g.stride, &low = g.low;
  bool one = g.tap_count == 1 && low.d == 0 && low.h == 0 && low.w == 0 && s.d == 1 && s.h == 1 && s.w == 1;
  return one && g.grid.d == 1 && g.grid.h == 1 && g.grid.w == g.size.w && g.size.d == 1 && g.size.h == 1;
}

// ---- contiguous images --------------------------------------------------------------------------------

// dst[(i * taps + t) * NR + lane] for channels [i0, i1): one panel of NR pixels from `first` on.
template <class T, int Step>
void pack_pixels_stepped(const Gather<T>& g, int64_t group, int64_t first, int count, int64_t i0, int64_t i1, T* dst) {
  constexpr int V = lanes<T>;
  Run runs[NR<T>];
  int run_count = cut_runs(first, count, g.grid, V, runs);
  const T* channels = g.in + (group * g.in_c + i0) * g.in_strides.c;
  View views[NR<T>];
  for (int r = 0; r < run_count; ++r) views[r] = view_of(runs[r], g.stride, g.in_strides);
  int64_t step = Step ? Step : g.stride.w, next = g.tap_count * NR<T>;
  for (int64_t t = 0; t < g.tap_count; ++t) {
    Triple offset = g.taps[t].offset;
    int64_t elements = elements_of(offset, g.in_strides);
    for (int r = 0; r < run_count; ++r) {
      const Run& run = runs[r];
      Window w = window(views[r], offset, elements, step, g.size);
      const T* from = channels + w.offset;
      T* to = dst + t * NR<T> + run.lane;
      if (Step == 1 && w.lo == 0 && w.hi == V) {
        for (int64_t i = i0; i < i1; ++i, from += g.in_strides.c, to += next) store(to, load(from));
      } else if (run.count == V) {
        for (int64_t i = i0; i < i1; ++i, from += g.in_strides.c, to += next)
          store(to, load_stepped(from, step, w.lo, w.hi));
      } else {
        for (int64_t i = i0; i < i1; ++i, from += g.in_strides.c, to += next)
          store_first(to, load_stepped(from, step, w.lo, w.hi), run.count);
      }
    }
  }
  if (count == NR<T>) return;
  for (int64_t k = 0; k < (i1 - i0) * g.tap_count; ++k)
    for (int lane = count; lane < NR<T>; ++lane) dst[k * NR<T> + lane] = 0;
}

template <class T>
void pack_pixels(const Gather<T>& g, int64_t group, int64_t first, int count, int64_t i0, int64_t i1, T* dst) {
  if (g.stride.w == 1)
    pack_pixels_stepped<T, 1>(g, group, first, count, i0, i1, dst);
  else if (g.stride.w == 2)
    pack_pixels_stepped<T, 2>(g, group, first, count, i0, i1, dst);
  else
    pack_pixels_stepped<T, 0>(g, group, first, count, i0, i1, dst);
}

// Where a tile's pixels lie in the output: in one go if they are in one image and the grid is the
// whole volume, else run by run through a buffer.
template <class T>
void store_pixels(const Gather<T>& g, int64_t channel, int rows, int64_t pixel, Tile<T>& tile) {
  int64_t volume = product(g.grid), at = pixel % volume;
  bool whole = g.out_strides.w == 1 && g.out_strides.h == g.grid.w && g.out_strides.d == g.grid.h * g.grid.w;
  T* out = g.out + channel * g.out_strides.c;
  if (whole && at + tile.cols <= volume) {
    tile.c = out + pixel / volume * g.out_strides.n + at;
    tile.ldc = g.out_strides.c;
    micro_kernel<T>(rows, tile);
    return;
  }
  T buffer[MR * NR<T>];
  bool accumulate = tile.accumulate;
  tile.accumulate = false;
  tile.c = buffer;
  tile.ldc = NR<T>;
  micro_kernel<T>(rows, tile);
  Run runs[NR<T>];
  int run_count = cut_runs(pixel, tile.cols, whole ? Triple{1, 1, volume} : g.grid, NR<T>, runs);
  for (int r = 0; r < run_count; ++r) {
    const Run& run = runs[r];
    T* to = out + place_of(run, g.out_strides);
    for (int i = 0; i < rows; ++i, to += g.out_strides.c) {
      const T* from = buffer + i * NR<T> + run.lane;
      for (int j = 0; j < run.count; ++j) {
        T* element = to + j * g.out_strides.w;
        *element = accumulate ? *element + from[j] : from[j];
      }
    }
  }
}

// Asks for the input rows of a later panel, channels [i0, i1): its first and last pixel's, one tap row
// below the kernel's centre at most. A panel is short against the distance between channels, which
// the hardware's own prefetching does not see through.
template <class T>
ARRAYNN_INLINE void prefetch_pixels(const Gather<T>& g, int64_t group, int64_t first, int64_t i0, int64_t i1) {
  if (first >= g.batch * product(g.grid) || g.tap_count == 0) return;
  Run start;
  cut_runs(first, 1, g.grid, 1, &start, 1);
  const Triple& last = g.taps[g.tap_count - 1].offset;
  int64_t z = std::clamp<int64_t>(start.slice * g.stride.d + last.d, 0, g.size.d - 1);
  int64_t y = std::clamp<int64_t>(start.row * g.stride.h + last.h, 0, g.size.h - 1);
  const T* from = g.in + start.image * g.in_strides.n + (group * g.in_c + i0) * g.in_strides.c + z * g.in_strides.d +
                  y * g.in_strides.h + start.col * g.stride.w;
  int64_t elements = NR<T> * g.stride.w, line = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t i = i0; i < i1; ++i, from += g.in_strides.c) {
    for (int64_t at = 0; at < elements; at += line) __builtin_prefetch(from + at, 0, 2);
    __builtin_prefetch(from + elements - 1, 0, 2);  // the line before it, if they begin with one
  }
}

template <class T>
void gather_nchw(const Gather<T>& g, const Tiling& tiling, const T* weights, T* scratch) {
  int64_t taps = std::max<int64_t>(g.tap_count, 1), volume = product(g.grid);
  // Channels lie at distances that share sets of the first cache, so that not many panels of weights should read them.
  bool in_place = is_pointwise(g) && g.out_c <= 8 * MR;
  run_panels<T>(
      tiling, g.groups, scratch, [&](int64_t group) { return weights + group * g.out_c * tiling.k; },
      [&](int64_t group, int64_t n, int cols, int64_t k0, int64_t k1, T* panel) {
        int64_t at = n % volume;
        if (in_place && cols == NR<T> && at + cols <= volume)
          return Right<T>{g.in + n / volume * g.in_strides.n + (group * g.in_c + k0) * g.in_strides.c + at,
                          g.in_strides.c};
        pack_pixels(g, group, n, cols, k0 / taps, k1 / taps, panel);
        return Right<T>{panel};
      },
      [&](int64_t group, int64_t n, int64_t part, int64_t parts, int64_t k0, int64_t k1) {
        int64_t first = k0 / taps, channels = k1 / taps - first;
        prefetch_pixels(g, group, n, first + channels * part / parts, first + channels * (part + 1) / parts);
      },
      [&](int64_t group, int64_t m, int rows, int64_t n, bool last, Tile<T>& tile) {
        int64_t channel = group * g.out_c + m;
        if (last && g.bias) tile.row_bias = g.bias + channel;
        store_pixels(g, channel, rows, n, tile);
      });
}

// ---- channels-last images -------------------------------------------------------------------------------

// dst[(k - k0) * rows + i]: one panel of `rows` pixels from `first` on, k = (tap, channel).
template <class T>
void pack_channels(const Gather<T>& g, int64_t group, int64_t first, int rows, int64_t k0, int64_t k1, T* dst) {
  Run pixels[MR];
  cut_runs(first, rows, g.grid, 1, pixels);
  View views[MR];
  for (int i = 0; i < rows; ++i) views[i] = view_of(pixels[i], g.stride, g.in_strides);
  for (int64_t k = k0; k < k1;) {
    int64_t t = k / g.in_c, i0 = k % g.in_c, size = std::min(g.in_c - i0, k1 - k);
    Triple offset = g.taps[t].offset;
    int64_t elements = elements_of(offset, g.in_strides);
    const T* lines[MR];
    for (int i = 0; i < rows; ++i) {
      Window w = window(views[i], offset, elements, g.stride.w, g.size);
      lines[i] = w.hi > w.lo ? g.in + w.offset + group * g.in_c + i0 : nullptr;
    }
    pack_rows(lines, rows, size, dst + (k - k0) * rows, rows, rows);
    k += size;
  }
}

template <class T>
void store_channels(const Gather<T>& g, int64_t channel, int rows, int64_t pixel, Tile<T>& tile) {
  const Strides& s = g.out_strides;
  if (s.h == g.grid.w * s.w && s.d == g.grid.h * s.h && s.n == g.grid.d * s.d) {
    tile.c = g.out + pixel * s.w + channel;
    tile.ldc = s.w;
    micro_kernel<T>(rows, tile);
    return;
  }
  T buffer[MR * NR<T>];
  bool accumulate = tile.accumulate;
  tile.accumulate = false;
  tile.c = buffer;
  tile.ldc = NR<T>;
  micro_kernel<T>(rows, tile);
  Run pixels[MR];
  cut_runs(pixel, rows, g.grid, 1, pixels);
  for (int i = 0; i < rows; ++i) {
    T* to = g.out + place_of(pixels[i], s) + channel;
    for (int j = 0; j < tile.cols; ++j) to[j] = accumulate ? to[j] + buffer[i * NR<T> + j] : buffer[i * NR<T> + j];
  }
}

template <class T>
void gather_nhwc(const Gather<T>& g, const Tiling& tiling, const T* weights, T* scratch) {
  int64_t k = tiling.k, width = round_up(g.out_c, NR<T>), pixel = g.in_strides.w;
  bool in_place = is_pointwise(g) && g.in_strides.n == g.size.w * g.in_strides.w;
  run_tiles<T>(
      tiling, g.groups, scratch,
      [&](int64_t group, int64_t m0, int64_t m1, int64_t k0, int64_t k1, T* buffer) {
        if (in_place) return Panels<T>{g.in + group * g.in_c + m0 * pixel + k0, MR * pixel};
        for (int64_t m = m0; m < m1; m += MR)
          pack_channels(g, group, m, static_cast<int>(std::min<int64_t>(MR, m1 - m)), k0, k1,
                        buffer + (m - m0) * (k1 - k0));
        return Panels<T>{buffer, MR * (k1 - k0)};
      },
      [&](int64_t group, int64_t n0, int64_t, int64_t k0, int64_t, T*) {
        return Panels<T>{weights + (group * width + n0) * k, NR<T> * k, k0};
      },
      [&](int64_t group, int64_t m, int rows, int64_t n, bool last, Tile<T>& tile) {
        int64_t channel = group * g.out_c + n;
        if (last && g.bias) tile.col_bias = g.bias + channel;
        if (in_place) {
          tile.left = Left::rows;
          tile.a_step = pixel;
          // of the block of pixels that comes next, a part with each panel
          int64_t next = m + tiling.block_m, panels = tiling.tile_n / NR<T>;
          for (int i = 0; i < rows && next + i < tiling.m; ++i)
            prefetch_part(g.in + group * g.in_c + (next + i) * pixel, g.in_c * static_cast<int64_t>(sizeof(T)),
                          n / NR<T> % panels, panels);
        }
        store_channels(g, channel, rows, m, tile);
      });
}

}  // namespace

template <class T>
int64_t gather_gemm_scratch(const Gather<T>& g) {
  Tiling t = tiling_of(g);
  return weight_elements(g) + (is_nchw(g) ? panel_elements<T>(t) : worker_elements<T>(t)) * num_threads();
}
template int64_t gather_gemm_scratch(const Gather<float>&);
template int64_t gather_gemm_scratch(const Gather<double>&);

template <class T>
void gather_gemm(const Gather<T>& g, T* scratch) {
  if (g.batch * product(g.grid) == 0 || g.out_c == 0) return;
  pack_weights(g, scratch);
  T* rest = scratch + weight_elements(g);
  if (is_nchw(g))
    gather_nchw(g, tiling_of(g), scratch, rest);
  else
    gather_nhwc(g, tiling_of(g), scratch, rest);
}
template void gather_gemm(const Gather<float>&, float*);
template void gather_gemm(const Gather<double>&, double*);

}  // namespace arraynn::cpu::ARRAYNN_ISA
