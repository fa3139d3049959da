// Products that need not pack both operands. See gemm_shapes.h.
#include "cpu/gemm_shapes.h"

#include "cpu/gemm_tile.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

// Panels' widths in vectors, and the rows of a tile beside them.
constexpr int wide_panel = 4, narrow_panel = 2;
constexpr int narrow_rows = MR == 12 ? 8 : MR;

// Rows up to which to pack B would cost more than using it: where B is contiguous along k, more of them if k is so long
// that the sums across lanes do not count, and along its columns.
template <class T>
bool is_dot(const Gemm<T>& g) {
  return g.a_k == 1 && g.b_k == 1 && g.m <= (g.k >= 16 * lanes<T> ? 24 : 16);
}
constexpr int64_t most_axpy_rows = 16;

// Both operands contiguous along k: each element is a dot product of vectors, `most_dot_k` steps at a time, so that B's
// rows of a tile stay in the nearest cache for all rows of A. Meanwhile columns that come next are fetched.
constexpr int dot_rows = MR / 2, dot_columns = 4;
constexpr int64_t most_dot_k = 4096;

template <class T>
struct Ahead {
  const T* next;  // the first step of columns that lie b_col apart
  int count;
};

template <Product product, class T, int R, int C>
ARRAYNN_INLINE void dot_tile(const Gemm<T>& g, int64_t m, int64_t n, int cols, int64_t k0, int64_t k1, Ahead<T> ahead) {
  vec<T> acc[R][C] = {};
  const T* a[R];
  const T* b[C];
  static_for<R>([&](auto i) ARRAYNN_LAMBDA { a[i] = g.a + (m + i) * g.a_row + k0; });
  static_for<C>([&](auto j) ARRAYNN_LAMBDA { b[j] = g.b + (n + (j < cols ? j : 0)) * g.b_col + k0; });
  for_vectors<T>(k1 - k0, [&](int64_t k, auto count) ARRAYNN_LAMBDA {
    vec<T> row[R];
    static_for<R>([&](auto i) ARRAYNN_LAMBDA { row[i] = load_count(a[i] + k, count); });
    for (int c = 0; c < ahead.count; ++c) __builtin_prefetch(ahead.next + c * g.b_col + k, 0, 2);
    static_for<C>([&](auto j) ARRAYNN_LAMBDA {
      vec<T> column = load_count(b[j] + k, count);
      static_for<R>([&](auto i) ARRAYNN_LAMBDA { acc[i][j] = multiply_add<product, T>(row[i], column, acc[i][j]); });
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

template <Product product, class T>
void skinny_dot(const Gemm<T>& g) {
  if (g.m == 1)
    return dot_tasks<T, 2 * dot_columns>(g, [&](int64_t n, int cols, int64_t k0, int64_t k1) {
      // too few products to hide a prefetch behind
      dot_tile<product, T, 1, 2 * dot_columns>(g, 0, n, cols, k0, k1, {});
    });
  int64_t rows = even_part(g.m, dot_rows), tiles = ceil_div(g.m, rows);
  dot_tasks<T, dot_columns>(g, [&](int64_t n, int cols, int64_t k0, int64_t k1) {
    int64_t coming = std::clamp<int64_t>(g.n - n - dot_columns, 0, dot_columns);
    for (int64_t m = 0; m < g.m; m += rows) {
      // each tile fetches a part: all at once would keep the loads waiting
      int64_t first = coming * (m / rows) / tiles, last = coming * (m / rows + 1) / tiles;
      Ahead<T> ahead{g.b + (n + dot_columns + first) * g.b_col + k0, static_cast<int>(last - first)};
      with_constant<dot_rows>(static_cast<int>(std::min(rows, g.m - m)), [&](auto count) {
        dot_tile<product, T, count(), dot_columns>(g, m, n, cols, k0, k1, ahead);
      });
    }
  });
}

// ---- one operand in panels, the other where it lies ---------------------------------------------------

// Of two operands, the larger one, contiguous along k, is read by rows where it lies, since to pack it would cost much
// of its use. The other one is packed once. The larger one is A, or B, and then a tile is one of C's transpose.
template <class T>
struct OneSided {
  int64_t rows, columns, k;
  const T* left;
  int64_t left_row;
  const T* right;
  int64_t right_column, right_k;
  bool transposed;  // rows are C's columns
};
template <class T>
OneSided<T> by_rows(const Gemm<T>& g) {
  return {g.m, g.n, g.k, g.a, g.a_row, g.b, g.b_col, g.b_k, false};
}
template <class T>
OneSided<T> by_columns(const Gemm<T>& g) {
  return {g.n, g.m, g.k, g.b, g.b_col, g.a, g.a_row, g.a_k, true};
}

template <class T>
constexpr int64_t most_packed_rows = 2 * wide_panel * lanes<T>;  // of A
template <class T>
constexpr int64_t most_packed_columns = 4 * wide_panel * lanes<T>;

template <class T>
bool reads_rows(const Gemm<T>& g) {
  return g.a_k == 1 && g.n > lanes<T> && g.n <= most_packed_columns<T> && g.m >= 2 * g.n;
}
// Few steps of k do not pay for the transposed stores.
template <class T>
bool reads_columns(const Gemm<T>& g) {
  return g.b_k == 1 && g.m <= most_packed_rows<T> && g.n >= g.m && g.k >= 2 * g.m;
}

// The tile's rows as they lie, times a panel of Width vectors; meanwhile the rows of the next tile are fetched, into
// the second cache where in the first one they would drive out what is in use.
template <Product product, class T, int Width, int Rows, int NV>
void one_sided_tile(const Tile<T>& t, const T* next, bool transposed) {
  constexpr int V = lanes<T>;
  vec<T> acc[Rows][NV] = {};
  const T *a = t.a, *b = t.b;
  bool near = Rows * t.k * static_cast<int64_t>(sizeof(T)) <= 8 << 10;
  for (int64_t k0 = 0; k0 < t.k; k0 += V) {
    static_for<Rows>([&](auto i) ARRAYNN_LAMBDA {
      if (near)
        __builtin_prefetch(next + i * t.a_step + k0);
      else
        __builtin_prefetch(next + i * t.a_step + k0, 0, 2);
    });
    for_steps(
        std::min<int64_t>(V, t.k - k0),
        [&](auto k) ARRAYNN_LAMBDA {
          vec<T> column[NV];
          static_for<NV>([&](auto j) ARRAYNN_LAMBDA { column[j] = load(b + (k * Width + j) * V); });
          static_for<Rows>([&](auto i) ARRAYNN_LAMBDA {
            vec<T> value = broadcast_of<product>(a + i * t.a_step + k);
            static_for<NV>([&](auto j)
                               ARRAYNN_LAMBDA { acc[i][j] = multiply_add<product, T>(value, column[j], acc[i][j]); });
          });
        },
        [&](int64_t count) ARRAYNN_LAMBDA { a += count, b += count * Width * V; });
  }
  if (transposed)
    finish_transposed<T, Rows, NV>(acc, t);
  else
    finish_tile<T, Rows, NV>(acc, t);
}

template <Product product, class T, int Width>
void gemm_one_sided(const Gemm<T>& g, const OneSided<T>& o, T* panels) {
  constexpr int V = lanes<T>, columns = Width * V, half = columns / 2;
  constexpr int rows = Width == wide_panel ? MR / 2 : narrow_rows;
  parallel_chunks(2 * ceil_div(o.columns, columns), 1 + 4096 / (half * o.k + 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int cols = static_cast<int>(std::clamp<int64_t>(o.columns - i * half, 0, half));
      T* to = panels + i / 2 * columns * o.k + i % 2 * half;
      pack_panel(o.right + i * half * o.right_column, o.right_column, o.right_k, cols, o.k, to, half, columns);
    }
  });
  // a task more costs nothing, as the panels are there
  int64_t groups = ceil_div(o.rows, rows), products = g.m * g.n * g.k;
  int64_t tasks =
      std::min(groups, std::max(wanted_tasks(products), std::min<int64_t>(products >> 19, 16 * num_threads())));
  int64_t per_task = ceil_div(groups, tasks) * rows;
  parallel_for(ceil_div(o.rows, per_task), [&](int64_t task, int) {
    int64_t last = std::min((task + 1) * per_task, o.rows);
    for (int64_t n = 0; n < o.columns; n += columns)
      for (int64_t m = task * per_task; m < last; m += rows) {
        int64_t c_row = o.transposed ? n : m, c_column = o.transposed ? m : n;
        Tile<T> tile{};
        tile.k = o.k;
        tile.a = o.left + m * o.left_row;
        tile.a_step = o.left_row;
        tile.b = panels + n * o.k;
        tile.c = g.c + c_row * g.ldc + c_column;
        tile.ldc = g.ldc;
        tile.cols = static_cast<int>(std::min<int64_t>(columns, o.columns - n));
        tile.accumulate = g.accumulate;
        tile.col_bias = g.col_bias ? g.col_bias + c_column : nullptr;
        const T* next = m + 2 * rows <= last ? tile.a + rows * o.left_row : tile.a;
        with_constant<rows>(static_cast<int>(std::min<int64_t>(rows, last - m)), [&](auto count) {
          with_constant<Width>(static_cast<int>(ceil_div(tile.cols, V)), [&](auto vectors) {
            one_sided_tile<product, T, Width, count(), vectors()>(tile, next, o.transposed);
          });
        });
      }
  });
}

template <Product product, class T>
void gemm_one_sided(const Gemm<T>& g, const OneSided<T>& o, T* panels) {
  if (o.columns <= narrow_panel * lanes<T>)
    gemm_one_sided<product, T, narrow_panel>(g, o, panels);
  else
    gemm_one_sided<product, T, wide_panel>(g, o, panels);
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

}  // namespace

template <class T>
int64_t one_sided_scratch(int64_t m, int64_t n, int64_t k) {
  int64_t columns = std::max(std::min(m, most_packed_rows<T>), std::min(n, most_packed_columns<T>));
  return round_up(columns, wide_panel * lanes<T>) * k;
}
template int64_t one_sided_scratch<float>(int64_t, int64_t, int64_t);
template int64_t one_sided_scratch<double>(int64_t, int64_t, int64_t);

namespace {

template <Product product, class T>
bool product_of_shape(const Gemm<T>& g, T* scratch) {
  constexpr bool pairs = product == Product::pairs;
  if (is_dot(g)) return skinny_dot<product>(g), true;
  if (!pairs && g.m <= most_axpy_rows && g.b_col == 1) return skinny_axpy(g), true;
  if (reads_rows(g)) return gemm_one_sided<product>(g, by_rows(g), scratch), true;
  if (reads_columns(g)) return gemm_one_sided<product>(g, by_columns(g), scratch), true;
  if (!pairs && is_outer(g)) return gemm_outer(g), true;
  return false;
}

}  // namespace

template <class T>
bool gemm_of_shape(const Gemm<T>& g, T* scratch) {
  bool done = false;
  with_product<T>(g.product, [&](auto product) { done = product_of_shape<product()>(g, scratch); });
  return done;
}
template bool gemm_of_shape(const Gemm<float>&, float*);
template bool gemm_of_shape(const Gemm<double>&, double*);

}  // namespace arraynn::cpu::ARRAYNN_ISA
