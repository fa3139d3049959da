// The recurrent product inside the kernels that stay on the chip for all steps: rows of the state (or,
// backward, of the later step's gate gradients), read out of the L2 cache where other blocks have just
// written them, times the block's own columns of the weights, which lie in its shared memory.
//
// A block's eight warps share out k, so that every row is read once, by one warp, straight into the registers
// from which the tensor cores take it. The order of k inside a group of 16 is free as long as both operands
// agree: lane t of a row's four holds k = 4t to 4t + 3, 16 bytes, as columns t and t + 4 of two products.
// The weights lie in the order in which lanes take them, 16 bytes each. The warps' sums meet in shared
// memory and are added up in their order: which block and which tile a sum is in does not show in its bits.
//
// float32 by TF32 products, as in device/tile_product.h: each operand is split into a TF32 number and a
// rest, and three of the four products are summed, the small ones first; sums of 16 k are then added to the
// rest in float32, since the tensor cores cut off instead of rounding. Where there are but 8 rows, a
// product's other 8 rows are the first ones' rests, and two products take the place of three. What is not
// finite does not survive the split; sums that are NaN are done again by plain multiply-adds.
#pragma once
#include "device/reduce.h"
#include "dispatch.h"

namespace arraynn::cuda::rnn {

inline constexpr int threads = 256, warps = threads / 32;
inline constexpr int counter_step = 32, most_counters = 256;  // of barriers

// A block's tile: Tiles times 16 rows (Half: 8 rows) by Columns times 8 columns of the weights.
template <int Columns, int Tiles, bool Half>
struct Tile {
  static constexpr int columns = Columns, tiles = Tiles, row_packs = Half ? 1 : 2;
  static constexpr bool half = Half;
  static constexpr int rows = Half ? 8 : 16 * Tiles, width = 8 * Columns;
  static constexpr int stride = width + (Columns % 2 ? 0 : 8);  // of a row of sums: no bank conflicts
  static constexpr int depth = 4 / Tiles;                       // groups of k under way
  // Groups of k and columns whose products alternate, since one product waits for the one before it.
  static constexpr int together = Columns * Tiles == 1 ? depth : Columns * Tiles <= 3 ? 2 : 1;
  static constexpr int side_by_side = Columns % 4 == 0 && Tiles == 1 ? 4
                                      : Columns % 3 == 0             ? 3
                                      : Columns == 5                 ? 5
                                      : Columns == 1                 ? 1
                                                                     : 2;
  static_assert(Columns % side_by_side == 0 && depth % together == 0);
  static constexpr int sums_bytes = warps * rows * stride * 4;
};

// The same, as the host knows it.
struct TileSize {
  int columns, tiles;  // no tiles: 8 rows
  bool operator==(const TileSize& o) const { return columns == o.columns && tiles == o.tiles; }
  int rows() const { return tiles ? 16 * tiles : 8; }
  int width() const { return 8 * columns; }
  size_t sums_bytes() const { return static_cast<size_t>(warps * rows() * (width() + (columns % 2 ? 0 : 8)) * 4); }
};

// How the work is cut: blocks are unit_groups x row_groups; each has every unit_groups-th slice of the
// weights and every row_groups-th group of rows. Rows are `step` apart, padded with zeros to groups of k.
struct Cut {
  int slices, unit_groups, k_groups;
  int64_t row_groups, groups, step;
  bool packs;         // the weights can be read 16 bytes at a time
  uint32_t* arrived;  // a zero for each group of rows, a line apart; of no use to blocks alone
};

// A block's part of the work: which slices of the weights, which groups of rows. It goes through them in passes.
struct Share {
  int x, y, slices;
  int64_t groups;

  __device__ __forceinline__ explicit Share(const Cut& cut)
      : x(static_cast<int>(blockIdx.x % static_cast<unsigned>(cut.unit_groups))),
        y(static_cast<int>(blockIdx.x / static_cast<unsigned>(cut.unit_groups))),
        slices((cut.slices - x + cut.unit_groups - 1) / cut.unit_groups),
        groups((cut.groups - y + cut.row_groups - 1) / cut.row_groups) {}

  __device__ __forceinline__ int64_t passes() const { return slices * groups; }
  // The slice of pass i, as the block counts its own.
  __device__ __forceinline__ int slice(int64_t i) const { return static_cast<int>(i % slices); }
  // Where the units of a slice begin, and the rows of pass i.
  __device__ __forceinline__ int64_t unit(const Cut& cut, int slice, int units) const {
    return static_cast<int64_t>(x + slice * cut.unit_groups) * units;
  }
  __device__ __forceinline__ int64_t row(const Cut& cut, int64_t i, int rows) const {
    return (y + i / slices * cut.row_groups) * rows;
  }
};

// ---- weights in shared memory ----

// slices x k groups x columns x lanes x 4
template <class S>
__device__ __forceinline__ int weight_at(int slice, int k_groups, int k, int column) {
  return (((slice * k_groups + k / 16) * S::columns + column / 8) * 32 + column % 8 * 4 + k % 16 / 4) * 4 + k % 4;
}

// Forward: a column is a row of the weights, row_of(column), of `size` elements along k; null is a row of zeros.
template <class S, class F>
__device__ __forceinline__ void fill_weights_along_k(float* weights, int slice, int k_groups, int64_t size, bool packs,
                                                     const F& row_of) {
  int lane = static_cast<int>(threadIdx.x % 32), end = 16 * k_groups;
  for (int column = static_cast<int>(threadIdx.x / 32); column < S::width; column += warps) {
    const float* row = row_of(column);
    if (packs) {  // then a pack lies inside or outside as a whole
#pragma unroll 4
      for (int k = 4 * lane; k < end; k += 128) {
        float4 w = make_float4(0, 0, 0, 0);
        if (row && k < size) w = __ldg(reinterpret_cast<const float4*>(row + k));
        *reinterpret_cast<float4*>(weights + weight_at<S>(slice, k_groups, k, column)) = w;
      }
    } else {
#pragma unroll 4
      for (int k = lane; k < end; k += 32)
        weights[weight_at<S>(slice, k_groups, k, column)] = row && k < size ? __ldg(row + k) : 0.0f;
    }
  }
}

// Backward: columns lie along the weights' rows, from `first` on; there are `size` rows of `width`.
template <class S>
__device__ __forceinline__ void fill_weights_along_columns(float* weights, int slice, int k_groups, const float* from,
                                                           int64_t size, int64_t width, int64_t first, bool packs) {
  constexpr int across = S::width / 4;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < 16 * k_groups * across; i += threads) {
    int k = i / across, column = i % across * 4;
    int64_t left = k < size ? width - first - column : 0;
    const float* at = from + k * width + first + column;
    float4 w = make_float4(0, 0, 0, 0);
    if (packs) {
      if (left > 0) w = __ldg(reinterpret_cast<const float4*>(at));
    } else {
      if (left > 0) w.x = __ldg(at);
      if (left > 1) w.y = __ldg(at + 1);
      if (left > 2) w.z = __ldg(at + 2);
      if (left > 3) w.w = __ldg(at + 3);
    }
    float* to = weights + weight_at<S>(slice, k_groups, k, column);
    to[0] = w.x;
    to[16] = w.y;
    to[32] = w.z;
    to[48] = w.w;
  }
}

// ---- rows ----

// Where a lane reads; rows behind the last one are the last one again.
template <class S>
struct RowPointers {
  const float* row[S::tiles][S::row_packs];

  __device__ __forceinline__ RowPointers(const float* base, int64_t step, int64_t first, int64_t rows) {
    int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
    for (int i = 0; i < S::tiles; ++i)
#pragma unroll
      for (int j = 0; j < S::row_packs; ++j)
        row[i][j] = base + min(first + 16 * i + 8 * j + lane / 4, rows - 1) * step + lane % 4 * 4;
  }
};

template <class S>
struct RowPacks {
  float4 x[S::tiles][S::row_packs];

  __device__ __forceinline__ void load(const RowPointers<S>& from, int group, int last) {
#pragma unroll
    for (int i = 0; i < S::tiles; ++i)
#pragma unroll
      for (int j = 0; j < S::row_packs; ++j)
        x[i][j] = group < last ? __ldcg(reinterpret_cast<const float4*>(from.row[i][j] + 16 * group))
                               : make_float4(0, 0, 0, 0);
  }
};

// ---- products ----

template <int Passes>
__device__ __forceinline__ void split(float x, uint32_t& high, uint32_t& low) {
  if constexpr (Passes == 1) {
    high = to_tf32(x);
    low = 0;
  } else {
    high = (__float_as_uint(x) + 0x1000u) & 0xFFFFE000u;  // a NaN may become anything, but then low is NaN
    low = __float_as_uint(x - __uint_as_float(high));
  }
}

// The two products' operands in a group of k: rows.
template <class S, int Passes>
struct SplitRows {
  uint32_t high[2][S::tiles][4], low[2][S::tiles][4];

  __device__ __forceinline__ void set(const RowPacks<S>& rows) {
#pragma unroll
    for (int i = 0; i < S::tiles; ++i)
#pragma unroll
      for (int j = 0; j < S::row_packs; ++j) {
        const float4& x = rows.x[i][j];
        const float values[2][2] = {{x.x, x.y}, {x.z, x.w}};
#pragma unroll
        for (int part = 0; part < 2; ++part)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            uint32_t* with_rest = &high[part][i][2 * e + 1];
            split<Passes>(values[part][e], high[part][i][2 * e + j], S::half ? *with_rest : low[part][i][2 * e + j]);
          }
      }
  }
};

template <int Passes>
struct SplitWeights {
  uint32_t high[2][2], low[2][2];

  __device__ __forceinline__ void set(const float4& w) {
    const float values[2][2] = {{w.x, w.y}, {w.z, w.w}};
#pragma unroll
    for (int part = 0; part < 2; ++part)
#pragma unroll
      for (int e = 0; e < 2; ++e) split<Passes>(values[part][e], high[part][e], low[part][e]);
  }
};

template <class S>
struct Sums {
  float sum[S::tiles][S::columns][4];
};

// Adds the products of S::together groups of k, from `group` on; those from `last` on are zero.
template <class S, int Passes>
__device__ __forceinline__ void add_products(Sums<S>& sums, const RowPacks<S>* rows, const float4* weights, int group,
                                             int last) {
  constexpr int lots = S::together, wide = S::side_by_side;
  constexpr int terms = Passes == 1 ? 1 : S::half ? 2 : 3;
  SplitRows<S, Passes> a[lots];
#pragma unroll
  for (int lot = 0; lot < lots; ++lot) a[lot].set(rows[lot]);
  int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int first = 0; first < S::columns; first += wide) {
    SplitWeights<Passes> b[lots][wide];
    float part[lots][wide][S::tiles][4];
#pragma unroll
    for (int lot = 0; lot < lots; ++lot)
#pragma unroll
      for (int j = 0; j < wide; ++j) {
        b[lot][j].set(weights[(min(group + lot, last - 1) * S::columns + first + j) * 32 + lane]);
#pragma unroll
        for (int i = 0; i < S::tiles; ++i)
#pragma unroll
          for (int e = 0; e < 4; ++e) part[lot][j][i][e] = 0;
      }
#pragma unroll
    for (int term = 0; term < terms; ++term) {
      bool rest_of_rows = terms == 3 && term == 0, rest_of_weights = terms > 1 && term == terms - 2;
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int lot = 0; lot < lots; ++lot)
#pragma unroll
          for (int j = 0; j < wide; ++j)
#pragma unroll
            for (int i = 0; i < S::tiles; ++i)
              mma_tf32(part[lot][j][i], rest_of_rows ? a[lot].low[half][i] : a[lot].high[half][i],
                       rest_of_weights ? b[lot][j].low[half] : b[lot][j].high[half]);
    }
#pragma unroll
    for (int lot = 0; lot < lots; ++lot)
#pragma unroll
      for (int j = 0; j < wide; ++j)
#pragma unroll
        for (int i = 0; i < S::tiles; ++i)
#pragma unroll
          for (int e = 0; e < 4; ++e) sums.sum[i][first + j][e] += part[lot][j][i][e];
  }
}

// The groups of k from `first` to before `last`, S::depth of them under way at a time.
template <class S, int Passes>
__device__ __forceinline__ void multiply(Sums<S>& sums, const RowPointers<S>& from, const float4* weights, int first,
                                         int last) {
#pragma unroll
  for (int i = 0; i < S::tiles; ++i)
#pragma unroll
    for (int j = 0; j < S::columns; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums.sum[i][j][e] = 0;
  RowPacks<S> ring[S::depth];
#pragma unroll
  for (int i = 0; i < S::depth; ++i) ring[i].load(from, first + i, last);
#pragma unroll 1
  for (int group = first; group < last; group += S::depth) {
#pragma unroll
    for (int i = 0; i < S::depth; i += S::together) {
      if (group + i < last) add_products<S, Passes>(sums, ring + i, weights, group + i, last);
#pragma unroll
      for (int j = 0; j < S::together; ++j) ring[i + j].load(from, group + i + j + S::depth, last);
    }
  }
}

// Leaves a warp's sums in shared memory; true if any may have to be done again.
template <class S>
__device__ __forceinline__ bool store_sums(const Sums<S>& sums, float* room) {
  int lane = static_cast<int>(threadIdx.x % 32);
  float all = 0;
#pragma unroll
  for (int i = 0; i < S::tiles; ++i)
#pragma unroll
    for (int j = 0; j < S::columns; ++j) {
      const float (&d)[4] = sums.sum[i][j];
      float* to = room + (16 * i + lane / 4) * S::stride + 8 * j + lane % 4 * 2;
      all += (d[0] + d[1]) + (d[2] + d[3]);
      if constexpr (S::half) {
        *reinterpret_cast<float2*>(to) = make_float2(d[0] + d[2], d[1] + d[3]);
      } else {
        *reinterpret_cast<float2*>(to) = make_float2(d[0], d[1]);
        *reinterpret_cast<float2*>(to + 8 * S::stride) = make_float2(d[2], d[3]);
      }
    }
  return __any_sync(full_warp, all != all) != 0;
}

__device__ __forceinline__ float largest(float4 x) {  // of what are numbers
  return fmaxf(fmaxf(fabsf(x.x), fabsf(x.y)), fmaxf(fabsf(x.z), fabsf(x.w)));
}

// Whether a warp's sums may be NaN but for the split: only if it has numbers so large that parts of their
// products overflow. Else a NaN came in, and there is nothing to repair.
template <class S>
__device__ __forceinline__ bool may_overflow(const float* base, int64_t step, int64_t first_row, int64_t rows,
                                             const float* weights, int first, int last) {
  int lane = static_cast<int>(threadIdx.x % 32), packs = 4 * (last - first);
  float most = 0;
#pragma unroll 4
  for (int i = lane; i < S::rows * packs; i += 32) {
    const float* row = base + min(first_row + i / packs, rows - 1) * step;
    most = fmaxf(most, largest(__ldcg(reinterpret_cast<const float4*>(row + 16 * first + i % packs * 4))));
  }
#pragma unroll 4
  for (int i = lane + first * S::columns * 32; i < last * S::columns * 32; i += 32)
    most = fmaxf(most, largest(reinterpret_cast<const float4*>(weights)[i]));
  return __any_sync(full_warp, most >= 0x1p50f) != 0;
}

template <class S>
__device__ __forceinline__ void repair_sums(float* room, const float* base, int64_t step, int64_t first_row,
                                            int64_t rows, const float* weights, int first, int last) {
  if (!may_overflow<S>(base, step, first_row, rows, weights, first, last)) return;
  __syncwarp();
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x % 32); i < S::rows * S::width; i += 32) {
    int row = i / S::width, column = i % S::width;
    float* to = room + row * S::stride + column;
    if (*to == *to) continue;
    const float* x = base + min(first_row + row, rows - 1) * step;
    float sum = 0;
#pragma unroll 1
    for (int k = 16 * first; k < 16 * last; ++k) sum = fmaf(__ldcg(x + k), weights[weight_at<S>(0, 0, k, column)], sum);
    *to = sum;
  }
}

// Rows `first_row` on of the matrix at `base` times a slice of weights. The warp's sums go to its part of
// `room`; after the next barrier sum_of() finds them all.
template <class S>
__device__ __forceinline__ void multiply_rows(bool tf32, const float* base, int64_t step, int64_t first_row,
                                              int64_t rows, const float* weights, int k_groups, float* room) {
  int warp = static_cast<int>(threadIdx.x / 32);
  int first = k_groups * warp / warps, last = k_groups * (warp + 1) / warps;
  RowPointers<S> from(base, step, first_row, rows);
  auto* packs = reinterpret_cast<const float4*>(weights);
  float* mine = room + warp * S::rows * S::stride;
  Sums<S> sums;
  if (tf32)
    multiply<S, 1>(sums, from, packs, first, last);
  else
    multiply<S, 3>(sums, from, packs, first, last);
  if (store_sums<S>(sums, mine)) repair_sums<S>(mine, base, step, first_row, rows, weights, first, last);
}

// The warps' sums of N columns side by side.
template <class S, int N>
__device__ __forceinline__ void sum_of(const float* room, int row, int column, float (&sum)[N]) {
  const float* from = room + row * S::stride + column;
  float parts[warps][N];
#pragma unroll
  for (int w = 0; w < warps; ++w, from += S::rows * S::stride) {
    if constexpr (N == 4) {
      auto pack = load_pack<4>(from);
#pragma unroll
      for (int e = 0; e < 4; ++e) parts[w][e] = pack.v[e];
    } else {
#pragma unroll
      for (int e = 0; e < N; ++e) parts[w][e] = from[e];
    }
  }
#pragma unroll
  for (int width = warps / 2; width > 0; width /= 2)
#pragma unroll
    for (int w = 0; w < width; ++w)
#pragma unroll
      for (int e = 0; e < N; ++e) parts[w][e] += parts[w + width][e];
#pragma unroll
  for (int e = 0; e < N; ++e) sum[e] = parts[0][e];
}

// Between steps: of the blocks that have the same rows, or of a block that has to do with no other.
class StepBarrier {
 public:
  __device__ __forceinline__ void wait(const Cut& cut, const Share& share) {
    if (cut.unit_groups == 1) return __syncthreads();
    all_ += static_cast<uint32_t>(cut.unit_groups);
    group_barrier(cut.arrived + share.y * counter_step, all_);
  }

 private:
  uint32_t all_ = 0;
};

}  // namespace arraynn::cuda::rnn
