// Micro-kernels, packing, and the plain strided product. See gemm.h for the notation.
#include "cpu/gemm.h"

#include "cpu/gemm_shapes.h"
#include "cpu/gemm_tile.h"
#include "cpu/kernels.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

// NV vectors of columns; the accumulators of all rows stay in registers over k.
template <class T, int Rows, int NV, Left left, Product product>
void micro(const Tile<T>& t) {
  constexpr int V = lanes<T>;
  vec<T> acc[Rows][NV] = {};
  static_for<Rows>([&](auto i) ARRAYNN_LAMBDA {  // so that C's lines are here when the sums are done
    static_for<NV>([&](auto j) ARRAYNN_LAMBDA { __builtin_prefetch(t.c + i * t.ldc + j * V, 1); });
  });
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
          vec<T> value = broadcast_of<product>(a + k * a_k + i * a_row);
          static_for<NV>([&](auto j)
                             ARRAYNN_LAMBDA { acc[i][j] = multiply_add<product, T>(value, column[j], acc[i][j]); });
        });
      },
      [&](int64_t count) ARRAYNN_LAMBDA { a += count * a_k, b += count * b_step; });
  finish_tile<T, Rows, NV>(acc, t);
}

template <class T, Left left, Product product = Product::numbers>
void micro_of(int rows, const Tile<T>& tile) {
  with_constant<MR>(rows, [&](auto count) {
    if (tile.cols <= lanes<T>)
      micro<T, count, 1, left, product>(tile);
    else
      micro<T, count, 2, left, product>(tile);
  });
}

}  // namespace

template <class T>
void micro_kernel(int rows, const Tile<T>& tile) {
  switch (tile.left) {
    case Left::panel:
      return with_product<T>(tile.product, [&](auto product) { micro_of<T, Left::panel, product()>(rows, tile); });
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
  int64_t panel = round_up(NR<T> * std::min<int64_t>(k, most_block_k<T>), 64);
  int64_t panels = round_up(m * k, 64) + most_b_panels * panel * num_threads();
  return std::max(one_sided_scratch<T>(m, n, k), panels);
}
template int64_t gemm_scratch<float>(int64_t, int64_t, int64_t);
template int64_t gemm_scratch<double>(int64_t, int64_t, int64_t);

template <class T>
bool gemm(const Gemm<T>& g, T* scratch) {
  if (g.m == 0 || g.n == 0) return false;
  if (gemm_of_shape(g, scratch)) return false;
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
        tile.product = g.product;
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
