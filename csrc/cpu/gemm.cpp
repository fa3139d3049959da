// Micro-kernels, packing, and the plain strided product. See gemm.h for the notation.
#include "cpu/gemm.h"

#include "cpu/kernels.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

// c[i] (+)= acc[i] + row_bias[i] + col_bias, in the first `cols` columns.
template <class T, int Rows, int NV>
ARRAYNN_INLINE void finish_tile(const vec<T> (&acc)[Rows][NV], const Tile<T>& t) {
  constexpr int V = lanes<T>;
  static_for<NV>([&](auto j) ARRAYNN_LAMBDA {
    int count = t.cols - j * V;
    auto finish = [&](auto n) ARRAYNN_LAMBDA {
      vec<T> bias = t.col_bias ? load_count(t.col_bias + j * V, n) : vec<T>{};
      static_for<Rows>([&](auto i) ARRAYNN_LAMBDA {
        T* c = t.c + i * t.ldc + j * V;
        vec<T> sum = acc[i][j];
        if (t.accumulate) sum = load_count(c, n) + sum;
        if (t.row_bias) sum += t.row_bias[i];
        if (t.col_bias) sum += bias;
        store_count(c, sum, n);
      });
    };
    if (count >= V)
      finish(std::integral_constant<int, V>{});
    else if (count > 0)
      finish(count);
  });
}

// NV vectors of columns; the accumulators of all rows stay in registers over k.
template <class T, int Rows, int NV, Left left>
void micro(const Tile<T>& t) {
  constexpr int V = lanes<T>;
  vec<T> acc[Rows][NV] = {};
  const T *a = t.a, *b = t.b;
  int64_t a_k = left == Left::panel ? Rows : left == Left::rows ? 1 : t.a_step;
  int64_t b_step = t.b_step;
  int64_t a_row = left == Left::rows ? t.a_step : 1;
  for_steps(
      t.k,
      [&](auto k) ARRAYNN_LAMBDA {
        vec<T> column[NV];
        static_for<NV>([&](auto j) ARRAYNN_LAMBDA { column[j] = load(b + k * b_step + j * V); });
        static_for<Rows>([&](auto i) ARRAYNN_LAMBDA {
          vec<T> value = broadcast<T>(a[k * a_k + i * a_row]);
          static_for<NV>([&](auto j) ARRAYNN_LAMBDA { acc[i][j] = fma(value, column[j], acc[i][j]); });
        });
      },
      [&](int64_t count) ARRAYNN_LAMBDA { a += count * a_k, b += count * b_step; });
  finish_tile<T, Rows, NV>(acc, t);
}

template <class T, Left left>
void micro_of(int rows, const Tile<T>& tile) {
  with_constant<MR>(rows, [&](auto count) {
    if (tile.cols <= lanes<T>)
      micro<T, count, 1, left>(tile);
    else
      micro<T, count, 2, left>(tile);
  });
}

}  // namespace

template <class T>
void micro_kernel(int rows, const Tile<T>& tile) {
  switch (tile.left) {
    case Left::panel: return micro_of<T, Left::panel>(rows, tile);
    case Left::rows: return micro_of<T, Left::rows>(rows, tile);
    case Left::columns: return micro_of<T, Left::columns>(rows, tile);
  }
}
template void micro_kernel(int, const Tile<float>&);
template void micro_kernel(int, const Tile<double>&);

// ---- packing ------------------------------------------------------------------------------------

namespace {

// Up to `lanes` rows, contiguous along k: square blocks are transposed in registers. A whole vector
// is stored where its surplus lanes fall on elements that the next step of k overwrites.
template <class T>
ARRAYNN_INLINE void pack_transposed(const T* const* src, int valid, int64_t kc, T* dst, int width, int64_t ld,
                                    bool surplus) {
  constexpr int V = lanes<T>;
  for (int64_t k0 = 0; k0 < kc; k0 += V) {
    int depth = static_cast<int>(std::min<int64_t>(V, kc - k0));
    vec<T> block[V];
    static_for<V>([&](auto i) ARRAYNN_LAMBDA {
      if (i >= valid || !src[i])
        block[i] = vec<T>{};
      else if (depth == V)
        block[i] = load(src[i] + k0);
      else
        block[i] = load_first(src[i] + k0, depth);
    });
    transpose<T>(block);
    T* to = dst + k0 * ld;
    static_for<V>([&](auto k) ARRAYNN_LAMBDA {
      if (k >= depth) return;
      if (width == V || (surplus && k0 + k + 1 < kc))
        store(to + k * ld, block[k]);
      else
        store_first(to + k * ld, block[k], width);
    });
  }
}

// Rows that lie side by side: each step of k is a copy, of a whole vector too where the next step overwrites the
// surplus.
template <class T>
void pack_copied(const T* src, int64_t step, int rows, int64_t kc, T* dst, int full, int64_t ld) {
  constexpr int V = lanes<T>;
  bool surplus = ld == full && V <= 2 * ld;
  for (int64_t k = 0; k < kc; ++k)
    for (int i0 = 0; i0 < full; i0 += V) {
      int valid = std::max(0, std::min(V, rows - i0)), width = std::min(V, full - i0);
      vec<T> v = valid == V ? load(src + k * step + i0) : load_first(src + k * step + i0, valid);
      if (width == V || (surplus && k + 1 < kc))
        store(dst + k * ld + i0, v);
      else
        store_first(dst + k * ld + i0, v, width);
    }
}

}  // namespace

template <class T>
void pack_rows(const T* const* src, int rows, int64_t kc, T* dst, int width, int64_t ld) {
  constexpr int V = lanes<T>;
  for (int i0 = 0; i0 < width; i0 += V) {
    int part = std::min(V, width - i0);
    pack_transposed(src + i0, std::min(V, std::max(0, rows - i0)), kc, dst + i0, part, ld,
                    width < V && 2 * ld >= V && ld == width);
  }
}
template void pack_rows(const float* const*, int, int64_t, float*, int, int64_t);
template void pack_rows(const double* const*, int, int64_t, double*, int, int64_t);

template <class T>
void pack_panel(const T* src, int64_t row, int64_t step, int rows, int64_t kc, T* dst, int width, int64_t ld) {
  if (step == 1 && kc > 1) {
    const T* lines[std::max(MR, NR<T>)];
    for (int i = 0; i < rows; ++i) lines[i] = src + i * row;
    return pack_rows(lines, rows, kc, dst, width, ld);
  }
  if (row == 1) return pack_copied(src, step, rows, kc, dst, width, ld);
  for (int64_t k = 0; k < kc; ++k) {
    for (int i = 0; i < rows; ++i) dst[k * ld + i] = src[i * row + k * step];
    for (int i = rows; i < width; ++i) dst[k * ld + i] = 0;
  }
}
template void pack_panel(const float*, int64_t, int64_t, int, int64_t, float*, int, int64_t);
template void pack_panel(const double*, int64_t, int64_t, int, int64_t, double*, int, int64_t);

// ---- the plain product ----------------------------------------------------------------------------

namespace {

// Rows up to which to pack B would cost more than using it: where B is contiguous along k, more of them if k is so long
// that the sums across lanes do not count, and along its columns.
template <class T>
bool is_dot(const Gemm<T>& g) {
  constexpr int64_t most_rows = ARRAYNN_VECTOR_BYTES == 64 ? 24 : 32;
  return g.a_k == 1 && g.b_k == 1 && g.m <= (g.k >= 16 * lanes<T> ? most_rows : 16);
}
constexpr int64_t most_axpy_rows = 16;

// Both operands contiguous along k: each element is a dot product of vectors, `most_dot_k` steps at a time, so that B's
// rows of a tile stay in the nearest cache for all rows of A. Meanwhile columns that come next are fetched.
constexpr int dot_rows = MR / 2, dot_columns = 4;
constexpr int64_t most_dot_k = 1024;

template <class T>
struct Ahead {
  const T* next;  // the first step of columns that lie b_col apart
  int count;
};

template <class T, int R, int C>
ARRAYNN_INLINE void dot_tile(const Gemm<T>& g, int64_t m, int64_t n, int cols, int64_t k0, int64_t k1, Ahead<T> ahead) {
  vec<T> acc[R][C] = {};
  const T* a[R];
  const T* b[C];
  static_for<R>([&](auto i) ARRAYNN_LAMBDA { a[i] = g.a + (m + i) * g.a_row + k0; });
  static_for<C>([&](auto j) ARRAYNN_LAMBDA { b[j] = g.b + (n + (j < cols ? j : 0)) * g.b_col + k0; });
  for_vectors<T>(k1 - k0, [&](int64_t k, auto count) ARRAYNN_LAMBDA {
    vec<T> row[R];
    static_for<R>([&](auto i) ARRAYNN_LAMBDA { row[i] = load_count(a[i] + k, count); });
    for (int c = 0; c < ahead.count; ++c) __builtin_prefetch(ahead.next + c * g.b_col + k);
    static_for<C>([&](auto j) ARRAYNN_LAMBDA {
      vec<T> column = load_count(b[j] + k, count);
      static_for<R>([&](auto i) ARRAYNN_LAMBDA { acc[i][j] = fma(row[i], column, acc[i][j]); });
    });
  });
  static_for<R>([&](auto i) ARRAYNN_LAMBDA {
    T* c = g.c + (m + i) * g.ldc + n;
    T total[C];
    static_for<C / 4>([&](auto q) ARRAYNN_LAMBDA { sums_of_four<T>(acc[i] + 4 * q, total + 4 * q); });
    static_for<C>([&](auto j) ARRAYNN_LAMBDA {
      if (j >= cols) return;
      T v = total[j];
      if (g.accumulate || k0 > 0) v = c[j] + v;
      if (g.col_bias && k1 == g.k) v += g.col_bias[n + j];
      c[j] = v;
    });
  });
}

// B contiguous along its columns: a tile takes B's rows as they lie.
constexpr int axpy_rows = MR / 3;
template <class T, int R>
ARRAYNN_INLINE void axpy_tile(const Gemm<T>& g, int64_t m, int64_t n, int64_t end) {
  constexpr int V = lanes<T>, C = 4;
  vec<T> acc[R][C] = {};
  int whole = static_cast<int>(std::min<int64_t>(C, (end - n) / V)), rest = static_cast<int>(end - n - whole * V);
  const T *a = g.a + m * g.a_row, *b = g.b + n;
  for (int64_t k = 0; k < g.k; ++k, a += g.a_k, b += g.b_k) {
    vec<T> column[C];
    static_for<C>([&](auto j) ARRAYNN_LAMBDA {
      column[j] = j < whole                ? load(b + j * V)
                  : j == whole && rest > 0 ? load_first(b + j * V, std::min(rest, V))
                                           : vec<T>{};
    });
    static_for<R>([&](auto i) ARRAYNN_LAMBDA {
      vec<T> value = broadcast<T>(a[i * g.a_row]);
      static_for<C>([&](auto j) ARRAYNN_LAMBDA { acc[i][j] = fma(value, column[j], acc[i][j]); });
    });
  }
  static_for<R>([&](auto i) ARRAYNN_LAMBDA {
    static_for<C>([&](auto j) ARRAYNN_LAMBDA {
      int64_t at = n + j * V;
      if (at >= end) return;
      T* c = g.c + (m + i) * g.ldc + at;
      int count = static_cast<int>(std::min<int64_t>(V, end - at));
      vec<T> total = acc[i][j];
      if (g.accumulate) total = load_first(c, count) + total;
      if (g.col_bias) total += load_first(g.col_bias + at, count);
      store_first(c, total, count);
    });
  });
}

template <class T>
void skinny_axpy(const Gemm<T>& g) {
  constexpr int64_t group = 4 * lanes<T>;
  int64_t per_task = std::max<int64_t>(group, round_up(65536 / (g.k * g.m + 1), std::max<int64_t>(group, 16)));
  parallel_for(ceil_div(g.n, per_task), [&](int64_t task, int) {
    int64_t end = std::min(g.n, (task + 1) * per_task);
    for (int64_t n = task * per_task; n < end; n += group)
      for (int64_t m = 0; m < g.m; m += axpy_rows)
        with_constant<axpy_rows>(static_cast<int>(std::min<int64_t>(axpy_rows, g.m - m)),
                                 [&](auto count) { axpy_tile<T, count()>(g, m, n, std::min(n + group, end)); });
  });
}

// f(first column, how many, first step of k, end) for a task's columns, C at a time.
template <class T, int C, class F>
void dot_tasks(const Gemm<T>& g, const F& f) {
  int64_t per_task = round_up(ceil_div(g.n, many_tasks(g.m * g.n * g.k)), 16);
  int64_t block = even_part(std::max<int64_t>(g.k, 1), most_dot_k);
  parallel_for(ceil_div(g.n, per_task), [&](int64_t task, int) {
    int64_t end = std::min(g.n, (task + 1) * per_task), k0 = 0;
    do {
      int64_t k1 = std::min(k0 + block, g.k);
      for (int64_t n = task * per_task; n < end; n += C) f(n, static_cast<int>(std::min<int64_t>(C, end - n)), k0, k1);
      k0 = k1;
    } while (k0 < g.k);
  });
}

template <class T>
void skinny_dot(const Gemm<T>& g) {
  if (g.m == 1)
    return dot_tasks<T, 2 * dot_columns>(g, [&](int64_t n, int cols, int64_t k0, int64_t k1) {
      dot_tile<T, 1, 2 * dot_columns>(g, 0, n, cols, k0, k1, {});  // too few products to hide a prefetch behind
    });
  int64_t rows = even_part(g.m, dot_rows), tiles = ceil_div(g.m, rows);
  dot_tasks<T, dot_columns>(g, [&](int64_t n, int cols, int64_t k0, int64_t k1) {
    int64_t coming = std::clamp<int64_t>(g.n - n - dot_columns, 0, dot_columns);
    for (int64_t m = 0; m < g.m; m += rows) {
      // each tile fetches a part: all at once would keep the loads waiting
      int64_t first = coming * (m / rows) / tiles, last = coming * (m / rows + 1) / tiles;
      Ahead<T> ahead{g.b + (n + dot_columns + first) * g.b_col + k0, static_cast<int>(last - first)};
      with_constant<dot_rows>(static_cast<int>(std::min(rows, g.m - m)),
                              [&](auto count) { dot_tile<T, count(), dot_columns>(g, m, n, cols, k0, k1, ahead); });
    }
  });
}

// Many rows, contiguous along k, and few columns: to pack A would cost much of its use, so its rows are read as they
// lie. B is packed once, in panels of row_tile_vectors.
constexpr int row_tile_vectors = 4;
constexpr int row_tile_rows = 2 * MR / row_tile_vectors;
template <class T>
constexpr int row_tile_columns = row_tile_vectors * lanes<T>;
template <class T>
constexpr int64_t most_row_columns = 4 * row_tile_columns<T>;

template <class T>
bool reads_rows(const Gemm<T>& g) {
  return g.a_k == 1 && g.n > lanes<T> && g.n <= most_row_columns<T> && g.m >= 2 * g.n;
}

template <class T, int Rows, int NV>
void row_tile(const Tile<T>& t, int64_t a_row) {
  constexpr int V = lanes<T>;
  vec<T> acc[Rows][NV] = {};
  const T *a = t.a, *b = t.b;
  for_steps(
      t.k,
      [&](auto k) ARRAYNN_LAMBDA {
        vec<T> column[NV];
        static_for<NV>([&](auto j) ARRAYNN_LAMBDA { column[j] = load(b + k * row_tile_columns<T> + j * V); });
        static_for<Rows>([&](auto i) ARRAYNN_LAMBDA {
          vec<T> value = broadcast<T>(a[i * a_row + k]);
          static_for<NV>([&](auto j) ARRAYNN_LAMBDA { acc[i][j] = fma(value, column[j], acc[i][j]); });
        });
      },
      [&](int64_t count) ARRAYNN_LAMBDA { a += count, b += count * row_tile_columns<T>; });
  finish_tile<T, Rows, NV>(acc, t);
}

template <class T>
void gemm_by_rows(const Gemm<T>& g, T* panels) {
  constexpr int columns = row_tile_columns<T>, half = columns / 2;
  parallel_chunks(2 * ceil_div(g.n, columns), 1 + 4096 / (half * g.k + 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int cols = static_cast<int>(std::clamp<int64_t>(g.n - i * half, 0, half));
      T* to = panels + i / 2 * columns * g.k + i % 2 * half;
      pack_panel(g.b + i * half * g.b_col, g.b_col, g.b_k, cols, g.k, to, half, columns);
    }
  });
  int64_t groups = ceil_div(g.m, row_tile_rows);
  parallel_chunks(groups, 1 + 65536 / (row_tile_rows * g.k * g.n + 1), [&](int64_t begin, int64_t end) {
    int64_t last = std::min(end * row_tile_rows, g.m);
    for (int64_t n = 0; n < g.n; n += columns)
      for (int64_t m = begin * row_tile_rows; m < last; m += row_tile_rows) {
        Tile<T> tile{};
        tile.k = g.k;
        tile.a = g.a + m * g.a_row;
        tile.b = panels + n * g.k;
        tile.c = g.c + m * g.ldc + n;
        tile.ldc = g.ldc;
        tile.cols = static_cast<int>(std::min<int64_t>(columns, g.n - n));
        tile.accumulate = g.accumulate;
        tile.col_bias = g.col_bias ? g.col_bias + n : nullptr;
        with_constant<row_tile_rows>(static_cast<int>(std::min<int64_t>(row_tile_rows, last - m)), [&](auto rows) {
          if (tile.cols <= half)
            row_tile<T, rows, row_tile_vectors / 2>(tile, g.a_row);
          else
            row_tile<T, rows, row_tile_vectors>(tile, g.a_row);
        });
      }
  });
}

// Operands whose steps of k are rows, A's along m and B's along n, as in a weight's gradient: a tile reads both as they
// lie. A block of few steps, which stays in the nearest caches, is added to all of C before the next one.
constexpr int64_t outer_k = 64;

template <class T>
bool is_outer(const Gemm<T>& g) {
  return g.a_row == 1 && g.b_col == 1 && g.n <= 8 * NR<T> && g.k >= outer_k;
}

template <class T, int Rows, int NV>
void outer_tile(const Tile<T>& t, int64_t a_k, int64_t b_k) {
  constexpr int V = lanes<T>;
  vec<T> acc[Rows][NV] = {};
  const T *a = t.a, *b = t.b;
  auto run = [&](auto last) ARRAYNN_LAMBDA {  // how many columns the last vector has
    for_steps(
        t.k,
        [&](auto k) ARRAYNN_LAMBDA {
          vec<T> column[NV];
          static_for<NV - 1>([&](auto j) ARRAYNN_LAMBDA { column[j] = load(b + k * b_k + j * V); });
          column[NV - 1] = load_count(b + k * b_k + (NV - 1) * V, last);
          static_for<Rows>([&](auto i) ARRAYNN_LAMBDA {
            vec<T> value = broadcast<T>(a[k * a_k + i]);
            static_for<NV>([&](auto j) ARRAYNN_LAMBDA { acc[i][j] = fma(value, column[j], acc[i][j]); });
          });
        },
        [&](int64_t count) ARRAYNN_LAMBDA { a += count * a_k, b += count * b_k; });
  };
  if (t.cols == NV * V)
    run(std::integral_constant<int, V>{});
  else
    run(t.cols - (NV - 1) * V);
  finish_tile<T, Rows, NV>(acc, t);
}

template <class T>
void gemm_outer(const Gemm<T>& g) {
  int64_t tasks = std::min(many_tasks(g.m * g.n * g.k), ceil_div(g.m, MR));
  int64_t per_task = round_up(ceil_div(g.m, tasks), MR);
  parallel_for(ceil_div(g.m, per_task), [&](int64_t task, int) {
    int64_t end = std::min(g.m, (task + 1) * per_task);
    for (int64_t k0 = 0; k0 < g.k; k0 += outer_k)
      for (int64_t n = 0; n < g.n; n += NR<T>)
        for (int64_t m = task * per_task; m < end; m += MR) {
          Tile<T> tile{};
          tile.k = std::min(outer_k, g.k - k0);
          tile.a = g.a + k0 * g.a_k + m;
          tile.b = g.b + k0 * g.b_k + n;
          tile.c = g.c + m * g.ldc + n;
          tile.ldc = g.ldc;
          tile.cols = static_cast<int>(std::min<int64_t>(NR<T>, g.n - n));
          tile.accumulate = g.accumulate || k0 > 0;
          tile.col_bias = g.col_bias && k0 + outer_k >= g.k ? g.col_bias + n : nullptr;
          with_constant<MR>(static_cast<int>(std::min<int64_t>(MR, end - m)), [&](auto rows) {
            if (tile.cols <= lanes<T>)
              outer_tile<T, rows, 1>(tile, g.a_k, g.b_k);
            else
              outer_tile<T, rows, 2>(tile, g.a_k, g.b_k);
          });
        }
  });
}

// A's panels of MR rows, one after the other, each with all of k.
template <class T>
void pack_a(const Gemm<T>& g, T* panels) {
  auto panel = [&](int64_t m, int64_t k0, int64_t k1) {
    int rows = static_cast<int>(std::min<int64_t>(MR, g.m - m));
    pack_panel(g.a + m * g.a_row + k0 * g.a_k, g.a_row, g.a_k, rows, k1 - k0, panels + m * g.k + k0 * rows, rows, rows);
  };
  if (g.a_row == 1 && g.a_k > 1) {
    // a step of k is contiguous in A, and steps may lie at distances that share a cache set: few at a time
    constexpr int64_t together = 16, across = 32 * MR;
    int64_t strips = ceil_div(g.k, together), parts = ceil_div(g.m, across);
    parallel_chunks(strips * parts, 8, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        int64_t k0 = i / parts * together, first = i % parts * across;
        for (int64_t m = first; m < std::min(first + across, g.m); m += MR) panel(m, k0, std::min(k0 + together, g.k));
      }
    });
    return;
  }
  parallel_chunks(ceil_div(g.m, MR), 32768 / (g.k + 1) / MR + 1, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin * MR; m < std::min(end * MR, g.m); m += MR) panel(m, 0, g.k);
  });
}

}  // namespace

template <class T>
int64_t gemm_scratch(int64_t m, int64_t n, int64_t k) {
  // A bound that grows with each size, so that it serves all smaller products too: a tile's block of
  // k need not be smaller where k is.
  int64_t by_rows = round_up(std::min(n, most_row_columns<T>), row_tile_columns<T>) * k;
  int64_t panel = round_up(NR<T> * std::min<int64_t>(k, most_block_k<T>), 64);
  int64_t panels = round_up(m * k, 64) + most_b_panels * panel * num_threads();
  return std::max(by_rows, panels);
}
template int64_t gemm_scratch<float>(int64_t, int64_t, int64_t);
template int64_t gemm_scratch<double>(int64_t, int64_t, int64_t);

template <class T>
bool gemm(const Gemm<T>& g, T* scratch) {
  if (g.m == 0 || g.n == 0) return false;
  if (is_dot(g)) return skinny_dot(g), false;
  if (g.m <= most_axpy_rows && g.b_col == 1) return skinny_axpy(g), false;
  if (reads_rows(g)) return gemm_by_rows(g, scratch), false;
  if (is_outer(g)) return gemm_outer(g), false;
  if (!g.a_packed) pack_a(g, scratch);
  run_panels<T>(
      panels_for<T>(g.m, g.n, g.k), 1, scratch + round_up(g.m * g.k, 64), [&](int64_t) { return scratch; },
      [&](int64_t, int64_t n, int cols, int64_t k0, int64_t k1, T* panel) {
        pack_panel(g.b + n * g.b_col + k0 * g.b_k, g.b_col, g.b_k, cols, k1 - k0, panel, NR<T>, NR<T>);
        return Right<T>{panel};
      },
      [](int64_t, int64_t, int64_t, int64_t, int64_t, int64_t) {},
      [&](int64_t, int64_t m, int rows, int64_t n, bool last, Tile<T>& tile) {
        tile.c = g.c + m * g.ldc + n;
        tile.ldc = g.ldc;
        tile.accumulate |= g.accumulate;
        if (last && g.col_bias) tile.col_bias = g.col_bias + n;
        micro_kernel<T>(rows, tile);
      });
  return true;
}
template bool gemm(const Gemm<float>&, float*);
template bool gemm(const Gemm<double>&, double*);

// ---- the roof ---------------------------------------------------------------------------------------

namespace {

template <class T>
double fma_rounds(int64_t rounds) {
  constexpr int chains = 12;  // enough independent sums to hide the latency
  vec<T> acc[chains], factor = broadcast<T>(T(0.999)), term = broadcast<T>(T(1e-3));
  static_for<chains>([&](auto i) ARRAYNN_LAMBDA { acc[i] = broadcast<T>(T(i)); });
  for (int64_t r = 0; r < rounds; ++r) {
    static_for<chains>([&](auto i) ARRAYNN_LAMBDA { acc[i] = fma(acc[i], factor, term); });
    asm volatile("" ::: "memory");  // keeps the loop as it is written
  }
  vec<T> total{};
  static_for<chains>([&](auto i) ARRAYNN_LAMBDA { total += acc[i]; });
  volatile T used = sum<T>(total);
  (void)used;
  return 2.0 * chains * lanes<T> * static_cast<double>(rounds);
}

}  // namespace

double fma_loop(DType dtype, int64_t rounds) {
  return dtype == DType::float32 ? fma_rounds<float>(rounds) : fma_rounds<double>(rounds);
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
