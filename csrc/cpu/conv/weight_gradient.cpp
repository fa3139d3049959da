// dw[o, i, tap] = sum over pixels of dy[o, pixel] x[i, pixel + tap]: a matrix product whose inner
// dimension is the pixels of all images, usually the longest by far. It is cut into a few chunks,
// a function of the shape, that are summed in order at the end.
#include "cpu/conv/taps.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

struct Cut {
  int64_t pixels, chunk, chunks;
  Tiling tiling;  // of one group and chunk
};

template <class T>
Cut cut_of(const ConvParams& p) {
  int64_t pixels = p.batch * product(output_size(p));
  int64_t m = p.out_channels / p.groups, n = p.in_channels / p.groups * tap_count(p);
  // Chunks make tasks where C is small, and cost m x n elements each.
  int64_t tiles = std::max<int64_t>(1, p.groups * ceil_div(m, 8 * MR) * ceil_div(n, 4 * NR<T>));
  int64_t chunks = std::clamp<int64_t>(std::min(32 / tiles, pixels / 2048), 1, 16);
  Cut c{pixels, ceil_div(std::max<int64_t>(pixels, 1), chunks), 0, {}};
  c.chunks = ceil_div(std::max<int64_t>(pixels, 1), c.chunk);
  c.tiling = tiling_for<T>(m, n, c.chunk, p.groups * c.chunks);
  return c;
}

// A column of C, as the pixels see it.
struct Column {
  Triple offset;
  int64_t elements;  // the offset in elements, with that of the column's channel
};

// dst[(k - k0) * NR + j]: columns (channel, tap) from n0 on, at pixels [k0, k1). Vectors along the
// image rows are transposed, one block of columns by a run of pixels at a time.
template <class T>
void pack_columns_nchw(const ConvParams& p, const T* x, int64_t group, int64_t n0, int cols, int64_t k0, int64_t k1,
                       T* dst) {
  constexpr int V = lanes<T>;
  Triple size = input_size(p), grid = output_size(p), stride = stride_of(p);
  Strides strides = strides_of(Layout::contiguous, p.in_channels, size);
  int64_t in_c = p.in_channels / p.groups, taps = tap_count(p);
  for (int j0 = 0; j0 < NR<T>; j0 += V) {
    int valid = std::clamp(cols - j0, 0, V);
    Column columns[V];
    for (int j = 0; j < valid; ++j) {
      int64_t i = (n0 + j0 + j) / taps, t = (n0 + j0 + j) % taps;
      Triple offset = offset_of(p, t);
      columns[j] = {offset, elements_of(offset, strides) + (group * in_c + i) * strides.c};
    }
    for (int64_t k = k0; k < k1;) {
      Run run;
      cut_runs(k, static_cast<int>(std::min<int64_t>(V, k1 - k)), grid, V, &run, 1);
      View view = view_of(run, stride, strides);
      vec<T> block[V];
      static_for<V>([&](auto j) ARRAYNN_LAMBDA {
        block[j] = vec<T>{};
        if (j >= valid) return;
        Window w = window(view, columns[j].offset, columns[j].elements, stride.w, size);
        block[j] = load_stepped(x + w.offset, stride.w, w.lo, w.hi);
      });
      transpose<T>(block);
      T* to = dst + (k - k0) * NR<T> + j0;
      static_for<V>([&](auto d) ARRAYNN_LAMBDA {
        if (d < run.count) store(to + d * NR<T>, block[d]);
      });
      k += run.count;
    }
  }
}

// The same for channels-last images: columns are (tap, channel), adjacent along the channels.
template <class T>
void pack_columns_nhwc(const ConvParams& p, const T* x, int64_t group, int64_t n0, int cols, int64_t k0, int64_t k1,
                       T* dst) {
  Triple size = input_size(p), grid = output_size(p), stride = stride_of(p);
  Strides strides = strides_of(p.layout, p.in_channels, size);
  int64_t in_c = p.in_channels / p.groups;
  for (int64_t k = k0; k < k1; ++k, dst += NR<T>) {
    Run pixel;
    cut_runs(k, 1, grid, 1, &pixel, 1);
    View view = view_of(pixel, stride, strides);
    for (int j = 0; j < NR<T>;) {
      if (j >= cols) {
        dst[j++] = 0;
        continue;
      }
      int64_t t = (n0 + j) / in_c, i = (n0 + j) % in_c;
      int channels = static_cast<int>(std::min<int64_t>(in_c - i, cols - j));
      Triple offset = offset_of(p, t);
      Window w = window(view, offset, elements_of(offset, strides), stride.w, size);
      const T* from = x + w.offset + group * in_c + i;
      if (w.hi > w.lo)
        for_vectors<T>(channels,
                       [&](int64_t s, auto n) ARRAYNN_LAMBDA { store_count(dst + j + s, load_count(from + s, n), n); });
      else
        for_vectors<T>(channels, [&](int64_t s, auto n) ARRAYNN_LAMBDA { store_count(dst + j + s, vec<T>{}, n); });
      j += channels;
    }
  }
}

// dst[(k - k0) * rows + i]: dy of output channels m0 + i at pixels [k0, k1).
template <class T>
void pack_cotangent(const ConvParams& p, const T* dy, int64_t group, int64_t m0, int rows, int64_t k0, int64_t k1,
                    T* dst) {
  int64_t volume = product(output_size(p)), channel = group * (p.out_channels / p.groups) + m0;
  if (p.layout == Layout::channels_last)
    return pack_panel(dy + k0 * p.out_channels + channel, 1, p.out_channels, rows, k1 - k0, dst, rows, rows);
  for (int64_t k = k0; k < k1;) {
    int64_t image = k / volume, at = k % volume, size = std::min(volume - at, k1 - k);
    pack_panel(dy + (image * p.out_channels + channel) * volume + at, volume, 1, rows, size, dst + (k - k0) * rows,
               rows, rows);
    k += size;
  }
}

// Sums the chunks of partial results, and puts channels-last columns (tap, channel) in dw's order.
template <class T>
void reduce_chunks(const ConvParams& p, const Cut& c, const T* partial, T* dw) {
  int64_t m = c.tiling.m, n = c.tiling.n, size = p.groups * m * n;
  int64_t in_c = p.in_channels / p.groups, taps = tap_count(p);
  parallel_chunks(p.groups * m, 16384 / (n + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t j = 0; j < n; ++j) {
        T total = 0;
        for (int64_t chunk = 0; chunk < c.chunks; ++chunk) total += partial[chunk * size + row * n + j];
        int64_t at = p.layout == Layout::channels_last ? j % in_c * taps + j / in_c : j;
        dw[row * n + at] = total;
      }
  });
}

bool writes_partial(const ConvParams& p, const Cut& c) { return c.chunks > 1 || p.layout == Layout::channels_last; }

}  // namespace

template <class T>
int64_t weight_gradient_scratch(const ConvParams& p) {
  Cut c = cut_of<T>(p);
  int64_t partial = writes_partial(p, c) ? round_up(c.chunks * p.groups * c.tiling.m * c.tiling.n, 64) : 0;
  return partial + worker_elements<T>(c.tiling) * num_threads();
}
template int64_t weight_gradient_scratch<float>(const ConvParams&);
template int64_t weight_gradient_scratch<double>(const ConvParams&);

template <class T>
void weight_gradient(const ConvParams& p, const T* dy, const T* x, T* dw, T* scratch) {
  Cut c = cut_of<T>(p);
  int64_t m = c.tiling.m, n = c.tiling.n, size = p.groups * m * n;
  bool partial = writes_partial(p, c);
  T* target = partial ? scratch : dw;
  T* rest = partial ? scratch + round_up(c.chunks * size, 64) : scratch;
  if (c.pixels == 0) {
    for (int64_t i = 0; i < size; ++i) dw[i] = 0;
    return;
  }
  // Batches are (chunk, group); the last chunk may be shorter, its missing pixels count as zero.
  auto pixel_range = [&](int64_t batch, int64_t k0, int64_t k1) {
    int64_t first = batch / p.groups * c.chunk;
    return std::pair<int64_t, int64_t>{std::min(first + k0, c.pixels), std::min(first + k1, c.pixels)};
  };
  auto zero_rest = [](T* panel, int64_t width, int64_t done, int64_t all) {
    for (int64_t i = done * width; i < all * width; ++i) panel[i] = 0;
  };
  run_tiles<T>(
      c.tiling, c.chunks * p.groups, rest,
      [&](int64_t batch, int64_t m0, int64_t m1, int64_t k0, int64_t k1, T* buffer) {
        auto [first, last] = pixel_range(batch, k0, k1);
        for (int64_t i = m0; i < m1; i += MR) {
          int rows = static_cast<int>(std::min<int64_t>(MR, m1 - i));
          T* panel = buffer + (i - m0) * (k1 - k0);
          pack_cotangent(p, dy, batch % p.groups, i, rows, first, last, panel);
          zero_rest(panel, rows, last - first, k1 - k0);
        }
        return Panels<T>{buffer, MR * (k1 - k0)};
      },
      [&](int64_t batch, int64_t n0, int64_t n1, int64_t k0, int64_t k1, T* buffer) {
        auto [first, last] = pixel_range(batch, k0, k1);
        for (int64_t j = n0; j < n1; j += NR<T>) {
          int cols = static_cast<int>(std::min<int64_t>(NR<T>, n1 - j));
          T* panel = buffer + (j - n0) * (k1 - k0);
          if (p.layout == Layout::channels_last)
            pack_columns_nhwc(p, x, batch % p.groups, j, cols, first, last, panel);
          else
            pack_columns_nchw(p, x, batch % p.groups, j, cols, first, last, panel);
          zero_rest(panel, NR<T>, last - first, k1 - k0);
        }
        return Panels<T>{buffer, NR<T> * (k1 - k0)};
      },
      [&](int64_t batch, int64_t row, int rows, int64_t column, bool, Tile<T>& tile) {
        tile.c = target + batch / p.groups * size + (batch % p.groups * m + row) * n + column;
        tile.ldc = n;
        micro_kernel<T>(rows, tile);
      });
  if (partial) reduce_chunks(p, c, target, dw);
}
template void weight_gradient(const ConvParams&, const float*, const float*, float*, float*);
template void weight_gradient(const ConvParams&, const double*, const double*, double*, double*);

}  // namespace arraynn::cpu::ARRAYNN_ISA
