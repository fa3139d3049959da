// The one matrix product under convolution, linear and recurrent layers and attention: C = A B, cut into tiles
// that are independent tasks, with what A, B and C are left to the caller.
//
// Notation. C is m x n, the inner dimension is k. A register tile is MR rows by NR columns, NR two
// vectors wide. Operands are packed into panels: MR rows of A (or NR columns of B) with k running
// slowest, so that the micro-kernel reads both in order (Goto and van de Geijn, Anatomy of
// High-Performance Matrix Multiplication, 2008). block_k steps of a panel stay in L1 and L2.
//
// Every element of C is summed over k in the same order whatever the tiles are, so the bits do not
// depend on how the work is cut; block_k, which they depend on, is a function of k alone.
#pragma once
#include <algorithm>
#include <cstddef>

#include "cpu/parallel.h"
#include "cpu/simd/vec.h"

namespace arraynn::cpu::ARRAYNN_ISA {

#if defined(ARRAYNN_ISA_avx512) || defined(__aarch64__)
constexpr int MR = 12;  // 24 accumulators of 32 registers
#else
constexpr int MR = 6;  // 12 accumulators of 16 registers
#endif
template <class T>
constexpr int NR = 2 * ARRAYNN_VECTOR_BYTES / sizeof(T);

// How A lies for a register tile: element (i, k) at a[k * rows + i] of a panel with exactly `rows` columns, or where
// its caller found it, at a[i * a_step + k] or at a[k * a_step + i].
enum class Left { panel, rows, columns };

// What the lanes of A and B hold, of which k counts steps: numbers, or (floats only, where the machine has instructions
// for it) the bits of two bfloat16 numbers, neighbours along k.
enum class Product { numbers, pairs };

// One register tile: c[i][j] (+)= sum_k a[i][k] b[k][j] + row_bias[i] + col_bias[j] for i < rows <= MR, j < cols <= NR.
// A step of k is b_step elements in b, NR in a panel.
template <class T>
struct Tile {
  int64_t k;
  const T* a;
  const T* b;
  T* c;
  int64_t ldc;
  int cols;
  bool accumulate;
  const T* row_bias;  // null: none
  const T* col_bias;
  Left left = Left::panel;
  int64_t a_step = 0;
  int64_t b_step = NR<T>;
  Product product = Product::numbers;  // of pairs, A lies in a panel
};
template <class T>
void micro_kernel(int rows, const Tile<T>& tile);

// C (m x n, ldc) = A B + col_bias, or C += with accumulate; element (i, k) of A lies at
// a[i * a_row + k * a_k], element (k, j) of B at b[j * b_col + k * b_k].
template <class T>
struct Gemm {
  int64_t m, n, k;
  const T* a;
  int64_t a_row, a_k;
  const T* b;
  int64_t b_col, b_k;
  T* c;
  int64_t ldc;
  const T* col_bias;
  bool accumulate;
  bool a_packed = false;  // by the call before, which had the same A, m and k, and said so
  Product product = Product::numbers;
};
// Whether scratch holds A packed afterwards, for a call with a_packed.
template <class T>
bool gemm(const Gemm<T>& g, T* scratch);
template <class T>
int64_t gemm_scratch(int64_t m, int64_t n, int64_t k);  // elements, enough for any smaller product too

// Writes dst[k * ld + i] = src[i * row + k * step] for i < rows, k < kc, and zeros for rows <= i < width.
template <class T>
void pack_panel(const T* src, int64_t row, int64_t step, int rows, int64_t kc, T* dst, int width, int64_t ld);
// The same for rows that are contiguous along k and lie anywhere; a null row is zeros.
template <class T>
void pack_rows(const T* const* src, int rows, int64_t kc, T* dst, int width, int64_t ld);

namespace {

ARRAYNN_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
ARRAYNN_INLINE int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
// The size of the parts that n is cut into as evenly as can be, at most `most`.
ARRAYNN_INLINE int64_t even_part(int64_t n, int64_t most) { return ceil_div(n, ceil_div(n, most)); }

// db[j] = sum over rows of dy[row][j], rows in order: a bias's gradient. A task owns some columns.
template <class T>
void column_sums(int64_t rows, int64_t columns, const T* dy, T* db) {
  constexpr int V = lanes<T>;
  parallel_chunks(ceil_div(columns, V), std::max<int64_t>(1, 16384 / (rows + 1)), [=](int64_t begin, int64_t end) {
    int64_t last = std::min(end * V, columns);
    for_vectors<T>(last - begin * V, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
      vec<T> total{};
      const T* p = dy + begin * V + i;
      for (int64_t row = 0; row < rows; ++row, p += columns) total += load_count(p, count);
      store_count(db + begin * V + i, total, count);
    });
  });
}

// How one product is cut. k is cut in units of k_unit (the taps of a convolution kernel).
struct Tiling {
  int64_t m, n, k;
  int64_t tile_m, tile_n, block_k;
  int64_t block_m;     // rows of A that a task has in hand at a time
  int64_t panels = 1;  // of B that it has packed meanwhile
  int64_t tasks_m() const { return ceil_div(m, tile_m); }
  int64_t tasks_n() const { return ceil_div(n, tile_n); }
};

// A B panel of floats is 128 KiB with 64-byte vectors, which the second cache feeds as fast as it is used: to read and
// write C less often is worth more. With 32-byte ones it is 24 KiB, and stays in the first.
template <class T>
constexpr int64_t most_block_k = (ARRAYNN_VECTOR_BYTES == 64 ? 4096 : 1536) / sizeof(T);
constexpr int64_t block_bytes = 384 * 1024;  // of A, a part of the second cache

template <class T>
int64_t block_m_for(int64_t block_k) {
  int64_t fitting = block_bytes / (block_k * static_cast<int64_t>(sizeof(T))) / MR;
  return MR * std::clamp<int64_t>(fitting, 2, 16);
}

template <class T>
int64_t block_k_for(int64_t k, int64_t k_unit) {
  int64_t blocks = std::max<int64_t>(1, ceil_div(k, most_block_k<T>));
  return std::max(k_unit, round_up(ceil_div(std::max<int64_t>(k, 1), blocks), k_unit));
}

// The tasks for so many multiplications: several per thread, but none so small that to wake a thread would cost more.
inline int64_t wanted_tasks(int64_t products) {
  constexpr int64_t least = 1 << 16;
  return std::clamp<int64_t>(products / least, 1, 4 * num_threads());
}
// The same where a task more costs nothing: a core that others slow down keeps the rest waiting for less.
inline int64_t many_tasks(int64_t products) {
  constexpr int64_t least = 1 << 20;
  return std::max(wanted_tasks(products), std::min<int64_t>(products / least, 16 * num_threads()));
}

template <class T>
Tiling tiling_for(int64_t m, int64_t n, int64_t k, int64_t batches = 1, int64_t k_unit = 1) {
  Tiling t{m, n, k, std::max<int64_t>(m, 1), 0, block_k_for<T>(k, k_unit), 0};
  t.block_m = block_m_for<T>(t.block_k);
  t.tile_n = std::min<int64_t>(16 * NR<T>, round_up(std::max<int64_t>(n, 1), NR<T>));
  int64_t wanted = wanted_tasks(batches * m * n * k);
  auto tasks = [&] { return batches * t.tasks_m() * t.tasks_n(); };
  auto halve = [](int64_t size, int64_t unit) { return std::max(unit, round_up(ceil_div(size, 2), unit)); };
  while (tasks() < wanted && t.tile_m > 32 * MR) t.tile_m = halve(t.tile_m, MR);
  while (tasks() < wanted && t.tile_n > 4 * NR<T>) t.tile_n = halve(t.tile_n, NR<T>);
  while (tasks() < wanted && t.tile_m > 4 * MR) t.tile_m = halve(t.tile_m, MR);
  while (tasks() < wanted && t.tile_n > NR<T>) t.tile_n = halve(t.tile_n, NR<T>);
  return t;
}

// The panels of a block: panel p starts at data + p * stride, and its first `skip` steps of k belong
// to earlier blocks.
template <class T>
struct Panels {
  const T* data;
  int64_t stride;
  int64_t skip = 0;
};

// Elements of scratch a worker needs to pack its blocks of A and B.
template <class T>
int64_t worker_elements(const Tiling& t) {
  return round_up(std::min(t.tile_m, t.block_m) * t.block_k, 64) + t.tile_n * t.block_k + 64;
}

// Runs the product. pack_a(batch, m0, m1, k0, k1, buffer) and pack_b(batch, n0, n1, k0, k1, buffer)
// return the Panels of a block, packed into the buffer or earlier; store(batch, m, rows, n, tile)
// completes `tile` (c, ldc, biases) and runs the micro-kernel. `last` tells it the final block of k.
template <class T, class PackA, class PackB, class Store>
void run_tiles(const Tiling& t, int64_t batches, T* scratch, const PackA& pack_a, const PackB& pack_b,
               const Store& store) {
  int64_t per_worker = worker_elements<T>(t);
  int64_t tasks_m = t.tasks_m(), tasks = tasks_m * t.tasks_n();
  parallel_for(batches * tasks, [&](int64_t index, int worker) {
    int64_t batch = index / tasks, task = index % tasks;
    int64_t m0 = task % tasks_m * t.tile_m, m1 = std::min(m0 + t.tile_m, t.m);
    int64_t n0 = task / tasks_m * t.tile_n, n1 = std::min(n0 + t.tile_n, t.n);
    T* a_buffer = scratch + worker * per_worker;
    T* b_buffer = a_buffer + round_up(std::min(t.tile_m, t.block_m) * t.block_k, 64);
    int64_t k0 = 0;
    do {
      int64_t k1 = std::min(k0 + t.block_k, t.k), kc = k1 - k0;
      Panels<T> b = pack_b(batch, n0, n1, k0, k1, b_buffer);
      for (int64_t mb = m0; mb < m1; mb += t.block_m) {
        int64_t mb1 = std::min(mb + t.block_m, m1);
        Panels<T> a = pack_a(batch, mb, mb1, k0, k1, a_buffer);
        for (int64_t n = n0; n < n1; n += NR<T>)
          for (int64_t m = mb; m < mb1; m += MR) {
            Tile<T> tile{};
            int rows = static_cast<int>(std::min<int64_t>(MR, mb1 - m));
            tile.k = kc;
            tile.a = a.data + (m - mb) / MR * a.stride + a.skip * rows;
            tile.b = b.data + (n - n0) / NR<T> * b.stride + b.skip * NR<T>;
            tile.cols = static_cast<int>(std::min<int64_t>(NR<T>, n1 - n));
            tile.accumulate = k0 > 0;
            store(batch, m, rows, n, k1 == t.k, tile);
          }
      }
      k0 = k1;
    } while (k0 < t.k);
  });
}

// ---- with A packed before ----------------------------------------------------------------------------
// Where A is small enough to be packed as a whole, once, a task needs one panel of B at a time, which
// then stays in the nearest caches for all of A. Of a larger A, each block is used for several panels.

constexpr int64_t most_b_panels = ARRAYNN_VECTOR_BYTES == 64 ? 4 : 1;

// Few rows per task would pack B's panels several times, so columns are split first.
template <class T>
Tiling panels_for(int64_t m, int64_t n, int64_t k, int64_t batches = 1, int64_t k_unit = 1) {
  Tiling t{m, n, k, std::max<int64_t>(m, 1), 0, block_k_for<T>(k, k_unit), std::max<int64_t>(m, 1)};
  t.tile_n = std::min<int64_t>(16 * NR<T>, round_up(std::max<int64_t>(n, 1), NR<T>));
  if (m * t.block_k * static_cast<int64_t>(sizeof(T)) > 2 * block_bytes && most_b_panels > 1) {
    t.block_m = block_m_for<T>(t.block_k);
    t.panels = std::min(most_b_panels, t.tile_n / NR<T>);
  }
  int64_t products = batches * m * n * k, many = many_tasks(products), wanted = wanted_tasks(products);
  auto tasks = [&] { return batches * t.tasks_m() * t.tasks_n(); };
  while (tasks() < many && t.tile_n > t.panels * NR<T>)
    t.tile_n = std::max(t.panels * NR<T>, round_up(ceil_div(t.tile_n, 2), NR<T>));
  while (tasks() < wanted && t.tile_m > 2 * MR) t.tile_m = round_up(ceil_div(t.tile_m, 2), MR);
  return t;
}

template <class T>
int64_t panel_elements(const Tiling& t) {
  return round_up(NR<T> * t.block_k, 64) * t.panels;
}

// Columns of B: element (k, j) at data[k * step + j].
template <class T>
struct Right {
  const T* data;
  int64_t step = NR<T>;
};

// Runs the product. A's panels lie at packed_a(batch), each with all of k; pack_b(batch, n, cols, k0,
// k1, buffer) returns one panel of B, packed into the buffer or where it lies; ahead(batch, n, part, parts, k0, k1) may
// prefetch a part of a later one; store(batch, m, rows, n, last, tile) as in run_tiles.
template <class T, class PackedA, class PackB, class Ahead, class Store>
void run_panels(const Tiling& t, int64_t batches, T* scratch, const PackedA& packed_a, const PackB& pack_b,
                const Ahead& ahead, const Store& store) {
  int64_t tasks_m = t.tasks_m(), tasks = tasks_m * t.tasks_n();
  int64_t panel_step = panel_elements<T>(t) / t.panels, together = t.panels * NR<T>;
  parallel_for(batches * tasks, [&](int64_t index, int worker) {
    int64_t batch = index / tasks, task = index % tasks;
    int64_t m0 = task % tasks_m * t.tile_m, m1 = std::min(m0 + t.tile_m, t.m);
    int64_t n0 = task / tasks_m * t.tile_n, n1 = std::min(n0 + t.tile_n, t.n);
    const T* a = packed_a(batch);
    T* buffer = scratch + worker * panel_elements<T>(t);
    auto columns = [&](int64_t n) { return static_cast<int>(std::min<int64_t>(NR<T>, n1 - n)); };
    auto block = [&](int64_t first, int64_t last, int64_t n, const Right<T>& b, int64_t k0, int64_t k1) {
      for (int64_t m = first; m < last; m += MR) {
        ahead(batch, n + together, (m - m0) / MR, ceil_div(m1 - m0, MR), k0, k1);
        int rows = static_cast<int>(std::min<int64_t>(MR, m1 - m));
        Tile<T> tile{};
        tile.k = k1 - k0;
        tile.a = a + m * t.k + k0 * rows;
        tile.b = b.data;
        tile.b_step = b.step;
        tile.cols = columns(n);
        tile.accumulate = k0 > 0;
        store(batch, m, rows, n, k1 == t.k, tile);
      }
    };
    int64_t k0 = 0;
    do {
      int64_t k1 = std::min(k0 + t.block_k, t.k);
      for (int64_t first = n0; first < n1; first += together) {
        int64_t end = std::min(first + together, n1);
        Right<T> b[most_b_panels];
        for (int64_t n = first, i = 0; n < end; n += NR<T>, ++i)
          b[i] = pack_b(batch, n, columns(n), k0, k1, buffer + i * panel_step);
        for (int64_t m = m0; m < m1; m += t.block_m)
          for (int64_t n = first, i = 0; n < end; n += NR<T>, ++i)
            block(m, std::min(m + t.block_m, m1), n, b[i], k0, k1);
      }
      k0 = k1;
    } while (k0 < t.k);
  });
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
