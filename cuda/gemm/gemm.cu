// The matrix product's plan. Tiles of 128 x 128 where there are enough of them to fill a large chip, else of
// 64 x 64; k is split across blocks where even those are few. Both choices, and with them the order of
// every sum, depend on the shape alone. Each operand is read once for each row (column) of tiles, from the
// second time on out of the L2 cache for the most part: tiles are numbered in bands of eight rows.
#include "gemm.h"

#include "gemm/launch.h"

namespace arraynn::cuda {

namespace {

constexpr int64_t wanted_blocks = 264;  // two for each multiprocessor of the largest chips
constexpr int64_t least_slices = 16;    // of k for one block: below, starting costs more than it saves
constexpr int64_t most_partial_bytes = int64_t{64} << 20;

bool tensor_cores(const Gemm& g) { return g.dtype != DType::float64 && capability(g.place) >= 80; }

// Bytes of one part's sums, whether of C or of its transpose.
int64_t part_bytes(const Gemm& g) {
  auto bytes = [&](auto zero) {
    using C = decltype(zero);
    return std::max(g.m * partial_width<C>(g.n), g.n * partial_width<C>(g.m)) * static_cast<int64_t>(sizeof(C));
  };
  return g.dtype == DType::float64 ? bytes(double{}) : bytes(float{});
}

bool packed(const void* data, int64_t step, int64_t other_step, DType dtype) {
  return (step == 1 || other_step == 1) && (step == 1 ? other_step : step) * item_size(dtype) % 16 == 0 &&
         aligned16(data);
}

GemmPlan plan_of(const Gemm& g) {
  GemmPlan p{};
  auto tiles = [&](int64_t size) { return ceil_div(g.m, size) * ceil_div(g.n, size); };
  bool large = tensor_cores(g) && g.m > 64 && g.n > 64 && tiles(128) >= 100;
  int64_t depth = slice_bytes / item_size(g.dtype), slices = ceil_div(g.k, depth);
  int64_t splits = std::min({wanted_blocks / std::max<int64_t>(1, tiles(large ? 128 : 64)), slices / least_slices,
                             most_partial_bytes / std::max<int64_t>(1, part_bytes(g))});
  splits = std::max({int64_t{1}, splits, g.k >> 30});  // a block counts k in 32 bits
  int64_t each = std::max<int64_t>(1, ceil_div(slices, splits));
  p.splits = std::max<int64_t>(1, ceil_div(slices, each));
  p.k_per_split = each * depth;
  p.packed = packed(g.a, g.a_column, g.a_row, g.dtype) && packed(g.b, g.b_row, g.b_column, g.dtype);
  p.large = large && p.packed;
  p.tiles_m = ceil_div(g.m, p.large ? 128 : 64);
  p.tiles_n = ceil_div(g.n, p.large ? 128 : 64);
  return p;
}

Gemm transpose(const Gemm& g) {  // C^T = B^T A^T
  Gemm t = g;
  t.m = g.n;
  t.n = g.m;
  t.a = g.b;
  t.a_row = g.b_column;
  t.a_column = g.b_row;
  t.b = g.a;
  t.b_row = g.a_column;
  t.b_column = g.a_row;
  t.c_row = g.c_column;
  t.c_column = g.c_row;
  return t;
}

}  // namespace

size_t gemm_scratch(const Gemm& g) {
  GemmPlan p = plan_of(g);
  return p.splits > 1 ? static_cast<size_t>(p.splits * part_bytes(g)) : 0;
}

void gemm(const Gemm& wanted, void* scratch) {
  if (wanted.m == 0 || wanted.n == 0) return;
  auto along = [](int64_t k_step, int64_t step) { return k_step == 1 || step != 1 ? Along::k : Along::rows; };
  Along a = along(wanted.a_column, wanted.a_row), b = along(wanted.b_row, wanted.b_column);
  bool swapped = a == Along::rows && b == Along::k;
  Gemm g = swapped ? transpose(wanted) : wanted;
  if (swapped) std::swap(a, b);
  GemmPlan p = plan_of(g);
  p.swapped = swapped;
  p.a_along = a;
  p.b_along = b;
  if (!tensor_cores(g)) return gemm_plain(g, p, scratch);
  switch (g.dtype) {
    case DType::float16: return gemm_float16(g, p, scratch);
    case DType::bfloat16: return gemm_bfloat16(g, p, scratch);
    default: return g.place.tf32 ? gemm_tf32(g, p, scratch) : gemm_float32(g, p, scratch);
  }
}

}  // namespace arraynn::cuda
