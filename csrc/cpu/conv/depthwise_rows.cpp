// Depthwise convolution of contiguous images: lanes are pixels of an output row, and rows are read where they lie. A
// tile is some rows by some vectors; a vector of the input serves all rows that it is a tap of. Rows beyond the image
// are a row of zeros, pixels beyond it the masked lanes of a tile at the edge.
#include "cpu/conv/taps.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int tile_rows = 4, tile_vectors = 2;
constexpr int most_kernel_rows = 7, most_kernel_columns = 15, most_stride = 2;
constexpr int64_t grain = 16 << 10;  // pixels per task

// Some rows of an output plane as a tile sees them.
template <class T>
struct RowRun {
  const T* in[(tile_rows - 1) * most_stride + most_kernel_rows];  // the input's rows
  int64_t width;                                                  // of them
  const T* weights;                                               // [kernel row][kernel column]
  int64_t columns, first;                                         // of the kernel; where column 0 finds pixel 0
  T bias;
  T* out;
  int64_t out_step, out_width;
};

// Pixels from[0], from[S], ... that all lie in the row, as do those between them and the one behind.
template <int S, class T>
ARRAYNN_INLINE vec<T> load_inside(const T* from) {
  if constexpr (S == 1)
    return load(from);
  else
    return even<T>(load(from), load(from + lanes<T>));
}

// Zeros in the lanes that are not inside: one or two vectors are read, each with a window of its own.
template <int S, class T>
ARRAYNN_INLINE vec<T> load_edge(const T* from, const Window (&inside)[S]) {
  vec<T> first = load_range(from, inside[0].lo, inside[0].hi);
  if constexpr (S == 1)
    return first;
  else
    return even<T>(first, load_range(from + lanes<T>, inside[1].lo, inside[1].hi));
}

template <class T, int K, int S, int R, int NV, bool Inside>
void tile(const RowRun<T>& run, int64_t col) {
  constexpr int V = lanes<T>;
  vec<T> acc[R][NV];
  static_for<R>([&](auto j) ARRAYNN_LAMBDA {
    static_for<NV>([&](auto v) ARRAYNN_LAMBDA { acc[j][v] = broadcast<T>(run.bias); });
  });
  for (int64_t s = 0; s < run.columns; ++s) {
    vec<T> weight[K];
    static_for<K>([&](auto r) ARRAYNN_LAMBDA { weight[r] = broadcast<T>(run.weights[r * run.columns + s]); });
    int64_t x = col * S + run.first + s;
    Window window[NV][S];
    if (!Inside)
      static_for<NV * S>([&](auto i) ARRAYNN_LAMBDA { window[i / S][i % S] = row_window(V, x + i * V, 1, run.width); });
    static_for<(R - 1) * S + K>([&](auto i) ARRAYNN_LAMBDA {
      static_for<NV>([&](auto v) ARRAYNN_LAMBDA {
        const T* from = run.in[i] + x + v * V * S;
        vec<T> value = Inside ? load_inside<S>(from) : load_edge<S>(from, window[v]);
        static_for<R>([&](auto j) ARRAYNN_LAMBDA {
          constexpr int r = i - j * S;
          if constexpr (r >= 0 && r < K) acc[j][v] = fma(weight[r], value, acc[j][v]);
        });
      });
    });
  }
  static_for<R>([&](auto j) ARRAYNN_LAMBDA {
    static_for<NV>([&](auto v) ARRAYNN_LAMBDA {
      T* to = run.out + j * run.out_step + col + v * V;
      int64_t count = run.out_width - col - v * V;
      if ((NV > 1 && Inside) || count >= V)
        store(to, acc[j][v]);
      else
        store_first(to, acc[j][v], static_cast<int>(count));
    });
  });
}

// All columns of R rows; the last vector of a row may overlap the one before it, but where a row is one tile.
template <class T, int K, int S, int R>
void rows(const RowRun<T>& run) {
  constexpr int V = lanes<T>;
  static_assert(tile_vectors == 2);
  if (run.out_width > V && run.out_width <= tile_vectors * V) return tile<T, K, S, R, tile_vectors, false>(run, 0);
  // A vector at `col` has all its taps inside, with what load_inside reads besides, from `begin` to `end`.
  int64_t begin = run.first < 0 ? ceil_div(-run.first, S) : 0;
  int64_t end = run.width - S * V - (run.first + run.columns - 1);
  end = end < 0 ? -1 : end / S;
  int64_t last = std::max<int64_t>(run.out_width - V, 0);
  for (int64_t col = 0;;) {
    if (col >= begin && col + V <= std::min(end, last)) {
      tile<T, K, S, R, tile_vectors, true>(run, col);
      col += tile_vectors * V;
    } else {
      if (col >= begin && col <= end && run.out_width >= V)
        tile<T, K, S, R, 1, true>(run, col);
      else
        tile<T, K, S, R, 1, false>(run, col);
      col += V;
    }
    if (col >= run.out_width) return;
    col = std::min(col, last);
  }
}

template <class T, int K, int S>
void plane_rows(int count, const RowRun<T>& run) {
  if (count == tile_rows)
    rows<T, K, S, tile_rows>(run);
  else
    rows<T, K, S, 1>(run);
}

template <class T>
void run_rows(int64_t kernel_rows, int64_t stride, int count, const RowRun<T>& run) {
  auto with_kernel = [&](auto s) {
    switch (kernel_rows) {
      case 3: return plane_rows<T, 3, s>(count, run);
      case 5: return plane_rows<T, 5, s>(count, run);
      default: return plane_rows<T, 7, s>(count, run);
    }
  };
  if (stride == 1)
    with_kernel(std::integral_constant<int, 1>{});
  else
    with_kernel(std::integral_constant<int, 2>{});
}

// Brings nearer what the next rows of the plane, or the next plane's first, read for the first time and write.
template <class T>
void prefetch_rows(const T* in, int64_t in_bytes, const T* out, int64_t out_bytes) {
  prefetch_part(in, in_bytes, 0, 1);
  prefetch_part<1>(out, out_bytes, 0, 1);
}

}  // namespace

template <class T>
bool takes_depthwise_rows(const Gather<T>& g) {
  int64_t kernel_rows = g.high.h - g.low.h + 1, columns = g.high.w - g.low.w + 1;
  bool plane = g.size.d == 1 && g.grid.d == 1 && g.low.d == 0 && g.high.d == 0;
  bool whole = g.tap_count == kernel_rows * columns && columns <= most_kernel_columns &&
               (kernel_rows == 3 || kernel_rows == 5 || kernel_rows == 7);
  bool strides = g.stride.h == g.stride.w && g.stride.w <= most_stride && g.in_strides.w == 1 && g.out_strides.w == 1;
  bool adjacent = product(g.spread) == 1 && 2 * g.grid.w >= lanes<T>;
  return is_depthwise(g) && g.layout == Layout::contiguous && plane && whole && strides && adjacent;
}
template bool takes_depthwise_rows(const Gather<float>&);
template bool takes_depthwise_rows(const Gather<double>&);

template <class T>
int64_t gather_depthwise_rows_scratch(const Gather<T>& g) {
  return round_up(g.size.w, 64);
}
template int64_t gather_depthwise_rows_scratch(const Gather<float>&);
template int64_t gather_depthwise_rows_scratch(const Gather<double>&);

template <class T>
void gather_depthwise_rows(const Gather<T>& g, T* zeros) {
  std::fill_n(zeros, g.size.w, T(0));
  int64_t kernel_rows = g.high.h - g.low.h + 1, columns = g.high.w - g.low.w + 1, stride = g.stride.h;
  int count = g.grid.h < tile_rows ? 1 : tile_rows;
  int64_t blocks = ceil_div(g.grid.h, count), planes = g.batch * g.groups;
  int64_t in_bytes = count * stride * g.in_strides.h * static_cast<int64_t>(sizeof(T));
  int64_t out_bytes = count * g.out_strides.h * static_cast<int64_t>(sizeof(T));
  // A plane's last two blocks, which share rows, belong to one task.
  int64_t chunks = blocks > 1 ? blocks - 1 : 1, least = grain / (count * g.grid.w) + 1;
  auto first_block = [&](int64_t chunk) { return chunk / chunks * blocks + chunk % chunks; };
  parallel_chunks(planes * chunks, least, [&](int64_t from, int64_t to) {
    int64_t begin = first_block(from), end = first_block(to);
    T weights[most_kernel_rows * most_kernel_columns];
    int64_t weights_of = -1;
    RowRun<T> run{};
    run.width = g.size.w, run.weights = weights, run.columns = columns, run.first = g.low.w;
    run.out_step = g.out_strides.h, run.out_width = g.grid.w;
    for (int64_t i = begin; i < end; ++i) {
      int64_t plane = i / blocks, group = plane % g.groups, image = plane / g.groups;
      if (group != weights_of)
        for (int64_t t = 0; t < g.tap_count; ++t) {
          const Tap& tap = g.taps[t];
          weights[(tap.offset.h - g.low.h) * columns + tap.offset.w - g.low.w] =
              g.weight[group * g.w_group + tap.weight];
        }
      weights_of = group;
      run.bias = g.bias ? g.bias[group] : T(0);
      int64_t row = std::min(i % blocks * count, g.grid.h - count);  // the last ones overlap
      const T* in = g.in + image * g.in_strides.n + group * g.in_strides.c;
      int64_t y = row * stride + g.low.h, seen = (count - 1) * stride + kernel_rows;
      for (int64_t r = 0; r < seen; ++r)
        run.in[r] = y + r >= 0 && y + r < g.size.h ? in + (y + r) * g.in_strides.h : zeros;
      run.out = g.out + image * g.out_strides.n + group * g.out_strides.c + row * g.out_strides.h;
      if (y + seen >= 0 && y + seen < g.size.h)
        prefetch_rows(in + (y + seen) * g.in_strides.h, in_bytes, run.out + count * g.out_strides.h, out_bytes);
      run_rows(kernel_rows, stride, count, run);
    }
  });
}
template void gather_depthwise_rows(const Gather<float>&, float*);
template void gather_depthwise_rows(const Gather<double>&, double*);

}  // namespace arraynn::cpu::ARRAYNN_ISA
