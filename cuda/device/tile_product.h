// The main loop of every matrix product: a block's tile of C = A B^T-like sums over k, with both
// operands brought to shared memory a slice of k at a time by asynchronous copies, several slices ahead,
// and multiplied there by the tensor cores (or by plain multiply-adds).
//
// An operand is a matrix of `rows` (m of A, n of B) by k. Its slice in shared memory keeps the order
// in which it is read (`Along`): rows of 64 bytes of k, whose packs of 16 bytes are permuted (XOR), or for
// each k one row of all the tile's rows, longer by 16 or 32 bytes. Either way neither the copies into the
// slice nor the reads of eight rows at once out of it meet in one bank.
#pragma once
#include <type_traits>

#include "device/types.h"

namespace arraynn::cuda {

inline constexpr int tile_stages = 4, slice_bytes = 64;

// A block's tile of the result, and how many of its warps share each dimension.
template <int M, int N, int WarpsM = 2, int WarpsN = 2>
struct TileShape {
  static constexpr int m = M, n = N, warps_m = WarpsM, warps_n = WarpsN, threads = 32 * WarpsM * WarpsN;
  static constexpr int blocks = M * N > 8192 ? 2 : 3;  // at least so many on a multiprocessor
};
using SmallTile = TileShape<64, 64>;

// Which index of an operand lies along memory.
enum class Along { k, rows };

template <class T, int Rows, Along along_, int Threads>
struct Slice {
  static constexpr int rows = Rows, threads = Threads, depth = slice_bytes / static_cast<int>(sizeof(T)),
                       pack = pack_size<T>;
  static constexpr Along along = along_;
  static constexpr int stride = along == Along::k ? depth : rows + (sizeof(T) == 2 ? pack : 2 * pack);
  static constexpr int elements = (along == Along::k ? rows : depth) * stride;

  // Where an element lies; the pack that it belongs to stays together.
  static __device__ __forceinline__ int at(int row, int k) {
    if constexpr (along == Along::k) return row * stride + ((k / pack) ^ (row >> 1 & 3)) * pack + k % pack;
    return k * stride + row;
  }
};

// Queues a copy of `Bytes` into a slice, of which the elements behind `valid` become zero.
template <int Bytes, class T>
__device__ __forceinline__ void copy_to_slice(T* to, const T* from, int valid) {
  copy_async<Bytes>(to, from, valid * static_cast<int>(sizeof(T)));
}

// How the copies into a slice are shared out: each thread makes `copies` copies of `count` elements, the
// first at (row, k), each next one `step` further across.
template <class S, int Bytes, class T>
struct Copies {
  static constexpr bool along_k = S::along == Along::k;
  static constexpr int count = Bytes / static_cast<int>(sizeof(T));
  static constexpr int in_row = (along_k ? S::depth : S::rows) / count;
  static constexpr int copies = S::rows * S::depth / count / S::threads, step = S::threads / in_row;
  static_assert(S::threads % in_row == 0 && S::rows * S::depth % (count * S::threads) == 0);
  int row, k;
  __device__ Copies() {
    int thread = static_cast<int>(threadIdx.x), x = thread % in_row * count, y = thread / in_row;
    row = along_k ? y : x;
    k = along_k ? x : y;
  }
};

__device__ __forceinline__ int clamp_to(int64_t x, int most) {
  return x < 0 ? 0 : x < most ? static_cast<int>(x) : most;
}

// ---- operands that are strided matrices ----
// Any operand has load(slice), which queues the copies of the next slice of k, and element(params, unit, row,
// k), one element by itself.

template <class T>
struct MatrixParams {
  const T* data;
  int64_t row_step, k_step;
  int64_t rows;
  int bytes;  // what one copy may move: 16, 4, or an element; more than an element only along a step of 1
};

// Of which 16 bytes can be copied at once.
template <class S, class T>
class PackedMatrix {
 public:
  using Tile = S;
  using Params = MatrixParams<T>;
  static constexpr int table_bytes = 0;

  __device__ PackedMatrix(const Params& p, int64_t, int64_t first_row, int64_t k_begin, int64_t k_end, void*) : p_(p) {
    Copies<S, 16, T> c;
    from_ = p.data + (first_row + c.row) * p.row_step + (k_begin + c.k) * p.k_step;
    rows_left_ = clamp_to(p.rows - first_row - c.row, S::rows);
    k_left_ = static_cast<int>(k_end - k_begin) - c.k;
  }

  __device__ __forceinline__ void load(T* slice) {
    using C = Copies<S, 16, T>;
    C c;
    int along = C::along_k ? k_left_ : rows_left_, across = C::along_k ? rows_left_ : k_left_;
    if (along >= C::count)  // all or nothing, which costs less to tell the copy
      copy<true>(slice, c, across, C::count);
    else
      copy<false>(slice, c, across, max(0, along));
    from_ += S::depth * p_.k_step;
    k_left_ -= S::depth;
  }

  static __device__ T element(const Params& p, int64_t, int64_t row, int64_t k) {
    return p.data[row * p.row_step + k * p.k_step];
  }

 private:
  template <bool Whole, class C>
  __device__ __forceinline__ void copy(T* slice, const C& c, int across, int along) const {
    const T* from = from_;
#pragma unroll
    for (int i = 0; i < C::copies; ++i) {
      int valid = i * C::step < across ? (Whole ? C::count : along) : 0;
      copy_to_slice<16>(slice + S::at(c.row + (C::along_k ? i * C::step : 0), c.k + (C::along_k ? 0 : i * C::step)),
                        valid ? from : p_.data, valid);
      from += C::step * (C::along_k ? p_.row_step : p_.k_step);
    }
  }

  const Params& p_;
  const T* from_;
  int rows_left_, k_left_;
};

// Of any strides.
template <class S, class T>
class AnyMatrix {
 public:
  using Tile = S;
  using Params = MatrixParams<T>;
  static constexpr int table_bytes = 0;

  __device__ AnyMatrix(const Params& p, int64_t, int64_t first_row, int64_t k_begin, int64_t k_end, void*)
      : p_(p), first_row_(first_row), k_(k_begin), k_end_(k_end) {}

  __device__ __forceinline__ void load(T* slice) {
    if constexpr (sizeof(T) == 2) {
      if (p_.bytes >= 4)
        copy<4>(slice);
      else
        copy_elements(slice);
    } else {
      copy<sizeof(T)>(slice);
    }
    k_ += S::depth;
  }

  static __device__ T element(const Params& p, int64_t, int64_t row, int64_t k) {
    return p.data[row * p.row_step + k * p.k_step];
  }

 private:
  template <int Bytes>
  __device__ __forceinline__ void copy(T* slice) const {
    using C = Copies<S, Bytes, T>;
    C c;
    const T* from = p_.data + (first_row_ + c.row) * p_.row_step + (k_ + c.k) * p_.k_step;
    int rows_left = clamp_to(p_.rows - first_row_ - c.row, S::rows), k_left = clamp_to(k_end_ - k_ - c.k, S::depth);
    int along = C::along_k ? k_left : rows_left, across = C::along_k ? rows_left : k_left;
    along = along < C::count ? along : C::count;
#pragma unroll 4
    for (int i = 0; i < C::copies; ++i) {
      int valid = i * C::step < across ? along : 0;
      copy_to_slice<Bytes>(slice + S::at(c.row, c.k), valid ? from : p_.data, valid);
      from += C::step * (C::along_k ? p_.row_step : p_.k_step);
      (C::along_k ? c.row : c.k) += C::step;
    }
  }

  // The same by way of registers, several loads under way.
  __device__ __forceinline__ void copy_elements(T* slice) const {
    using C = Copies<S, sizeof(T), T>;
    constexpr int batch = 8;
    static_assert(C::copies % batch == 0);
    C c;
    const T* from = p_.data + (first_row_ + c.row) * p_.row_step + (k_ + c.k) * p_.k_step;
    int rows_left = clamp_to(p_.rows - first_row_ - c.row, S::rows), k_left = clamp_to(k_end_ - k_ - c.k, S::depth);
    int across = C::along_k ? (k_left > 0 ? rows_left : 0) : (rows_left > 0 ? k_left : 0);
#pragma unroll 1
    for (int i = 0; i < C::copies; i += batch) {
      T held[batch];
#pragma unroll
      for (int j = 0; j < batch; ++j) {
        held[j] = (i + j) * C::step < across ? *from : T{};
        from += C::step * (C::along_k ? p_.row_step : p_.k_step);
      }
#pragma unroll
      for (int j = 0; j < batch; ++j) {
        slice[S::at(c.row, c.k)] = held[j];
        (C::along_k ? c.row : c.k) += C::step;
      }
    }
  }

  const Params& p_;
  int64_t first_row_, k_, k_end_;
};

// ---- how a slice is multiplied ----
// A thread's sums are handed out by each(f): f(row, column, sums side by side). update(f, others...) replaces each by
// f(row, column, it, the others' at the same place).

// Where the warp's part of the tile starts.
template <class Shape>
struct WarpPlace {
  int lane, row, column;
  __device__ WarpPlace() {
    int thread = static_cast<int>(threadIdx.x);
    lane = thread % 32;
    row = thread / 32 / Shape::warps_n * (Shape::m / Shape::warps_m);
    column = thread / 32 % Shape::warps_n * (Shape::n / Shape::warps_n);
  }
};

// Sums of the tensor cores, as mma lays them out.
template <class Shape>
struct MmaSums {
  static constexpr int rows = Shape::m / Shape::warps_m, columns = Shape::n / Shape::warps_n;  // of a warp's part
  static constexpr int tall = rows / 16, wide = columns / 8;
  float sum[tall][wide][4];

  __device__ MmaSums() {
#pragma unroll
    for (int i = 0; i < tall; ++i)
#pragma unroll
      for (int j = 0; j < wide; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[i][j][e] = 0;
  }
  template <class F>
  __device__ __forceinline__ void each(F f) const {
    WarpPlace<Shape> w;
#pragma unroll
    for (int i = 0; i < tall; ++i)
#pragma unroll
      for (int j = 0; j < wide; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          f(w.row + 16 * i + 8 * half + w.lane / 4, w.column + 8 * j + w.lane % 4 * 2,
            Pack<float, 2>{{sum[i][j][2 * half], sum[i][j][2 * half + 1]}});
  }
  template <class F, class... Other>
  __device__ __forceinline__ void update(F f, const Other&... others) {
    WarpPlace<Shape> w;
#pragma unroll
    for (int i = 0; i < tall; ++i)
#pragma unroll
      for (int j = 0; j < wide; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          sum[i][j][e] = f(w.row + 16 * i + 8 * (e / 2) + w.lane / 4, w.column + 8 * j + w.lane % 4 * 2 + e % 2,
                           sum[i][j][e], others.sum[i][j][e]...);
  }
};

// A lane's share of an operand's fragments, 16 rows by 32 bytes of k each, starting at a row of the slice. In
// the order of mma's A: by rows first; of B: by k first, so that a fragment is B's of two times 8 columns.
template <class S, class T, bool is_a>
class Fragments {
 public:
  __device__ Fragments(const T* slice, int row, int lane) : slice_(slice) {
    int low = lane % 8, by_row = is_a ? lane / 8 % 2 : lane / 16, by_k = is_a ? lane / 16 : lane / 8 % 2;
    if constexpr (S::along == Along::k)
      at_ = S::at(row + 8 * by_row + low, S::pack * by_k);
    else if constexpr (sizeof(T) == 2)
      at_ = S::at(row + 8 * by_row, 8 * by_k + low);
    else
      at_ = S::at(row + lane / 4, lane % 4);
  }

  // Number i along the rows, from k on: a multiple of 32 bytes, which of the permuted packs changes one bit.
  __device__ __forceinline__ void load(uint32_t (&words)[4], int i, int k) const {
    if constexpr (S::along == Along::k) {
      load_matrices(words, slice_ + ((at_ ^ k) + 16 * i * S::stride));
    } else if constexpr (sizeof(T) == 2) {
      load_matrices_transposed(words, slice_ + (at_ + k * S::stride + 16 * i));
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        int by_row = is_a ? e % 2 : e / 2, by_k = is_a ? e / 2 : e % 2;
        words[e] = __float_as_uint(slice_[at_ + (k + 4 * by_k) * S::stride + 16 * i + 8 * by_row]);
      }
    }
  }

 private:
  const T* slice_;
  int at_;
};

// 16-bit elements: exact products, summed in float32.
template <class T_, class Shape_>
struct HalfMma {
  using T = T_;
  using Shape = Shape_;
  using Sums = MmaSums<Shape>;
  static constexpr bool repairs = false;
  Sums sums;

  template <class SA, class SB>
  __device__ __forceinline__ void step(const T* a_slice, const T* b_slice) {
    WarpPlace<Shape> w;
    Fragments<SA, T, true> as(a_slice, w.row, w.lane);
    Fragments<SB, T, false> bs(b_slice, w.column, w.lane);
#pragma unroll
    for (int k = 0; k < SA::depth; k += 16) {
      uint32_t a[Sums::tall][4], b[Sums::wide / 2][4];
#pragma unroll
      for (int i = 0; i < Sums::tall; ++i) as.load(a[i], i, k);
#pragma unroll
      for (int j = 0; j < Sums::wide / 2; ++j) bs.load(b[j], j, k);
#pragma unroll
      for (int i = 0; i < Sums::tall; ++i)
#pragma unroll
        for (int j = 0; j < Sums::wide; ++j) {
          const uint32_t pair[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
          multiply(sums.sum[i][j], a[i], pair);
        }
    }
  }
  template <class F>
  __device__ __forceinline__ void each(F f) const {
    sums.each(f);
  }
  template <class F, class... Other>
  __device__ __forceinline__ void update(F f, const Other&... others) {
    sums.update(f, others.sums...);
  }

 private:
  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    if constexpr (std::is_same_v<T, float16>)
      mma_float16(d, a, b);
    else
      mma_bfloat16(d, a, b);
  }
};

// float32 by TF32 products. One pass rounds each operand to TF32's 11 bits. Three passes split each as
// x = high + low, high the nearest TF32 number and low the rest, of which the tensor cores see 11 bits, and
// sum low * high + high * low + high * high: what is left out is at most 2^-21 |a| |b| of each product
// (2^-23 for each operand's cut low part, 2^-22 for low * low), but for operands below 2^-112, whose low part
// falls among the subnormals. The tensor cores cut their sums off instead of rounding them, so each
// product of 8 k is summed by itself and then added, rounded, to the rest (Ootomo and Yokota,
// "Recovering single precision accuracy from Tensor Cores while surpassing the FP32 theoretical peak
// performance", 2022). Infinities do not survive the split (infinity times a low part of zero), nor do
// magnitudes that round to infinity: the caller sees that a sum is not finite and does it again.
template <int Passes, class Shape_>
struct Tf32Mma {
  using T = float;
  using Shape = Shape_;
  using Sums = MmaSums<Shape>;
  static constexpr bool repairs = true;
  Sums sums;

  template <class SA, class SB>
  __device__ __forceinline__ void step(const float* a_slice, const float* b_slice) {
    WarpPlace<Shape> w;
    Fragments<SA, T, true> as(a_slice, w.row, w.lane);
    Fragments<SB, T, false> bs(b_slice, w.column, w.lane);
#pragma unroll 1
    for (int k = 0; k < SA::depth; k += 8) {
      uint32_t words[4];
      Split<2> b[Sums::wide];
#pragma unroll
      for (int j = 0; j < Sums::wide; j += 2) {
        bs.load(words, j / 2, k);
        b[j].set(words);
        b[j + 1].set(words + 2);
      }
#pragma unroll
      for (int i = 0; i < Sums::tall; ++i) {
        as.load(words, i, k);
        Split<4> a;
        a.set(words);
#pragma unroll
        for (int j = 0; j < Sums::wide; ++j) {
          float (&sum)[4] = sums.sum[i][j];
          if constexpr (Passes == 1) {
            mma_tf32(sum, a.high, b[j].high);
          } else {
            float part[4] = {0, 0, 0, 0};
            mma_tf32(part, a.low, b[j].high);
            mma_tf32(part, a.high, b[j].low);
            mma_tf32(part, a.high, b[j].high);
#pragma unroll
            for (int e = 0; e < 4; ++e) sum[e] += part[e];
          }
        }
      }
    }
  }
  template <class F>
  __device__ __forceinline__ void each(F f) const {
    sums.each(f);
  }
  template <class F, class... Other>
  __device__ __forceinline__ void update(F f, const Other&... others) {
    sums.update(f, others.sums...);
  }

 private:
  template <int N_>
  struct Split {
    uint32_t high[N_], low[N_];
    __device__ __forceinline__ void set(const uint32_t* words) {
#pragma unroll
      for (int e = 0; e < N_; ++e) {
        float x = __uint_as_float(words[e]);
        if constexpr (Passes == 1) {
          high[e] = to_tf32(x);
        } else {
          high[e] = (words[e] + 0x1000u) & 0xFFFFE000u;  // a NaN may become anything, but then low is NaN
          low[e] = __float_as_uint(x - __uint_as_float(high[e]));
        }
      }
    }
  };
};

// Multiply-adds of any type: float64, and chips without these tensor cores. 8 x 16 threads, each with
// every eighth row and every sixteenth column.
template <class T_>
struct Fma {
  using T = T_;
  using Shape = SmallTile;
  static constexpr bool repairs = false;
  static constexpr int tall = Shape::m / 8, wide = Shape::n / 16;
  compute_t<T> sum[tall][wide];

  __device__ Fma() {
#pragma unroll
    for (int i = 0; i < tall; ++i)
#pragma unroll
      for (int j = 0; j < wide; ++j) sum[i][j] = 0;
  }
  template <class SA, class SB>
  __device__ __forceinline__ void step(const T* a_slice, const T* b_slice) {
    int y = static_cast<int>(threadIdx.x) / 16, x = static_cast<int>(threadIdx.x) % 16;
#pragma unroll 2
    for (int k = 0; k < SA::depth; ++k) {
      compute_t<T> a[tall], b[wide];
#pragma unroll
      for (int i = 0; i < tall; ++i) a[i] = widen(a_slice[SA::at(y + 8 * i, k)]);
#pragma unroll
      for (int j = 0; j < wide; ++j) b[j] = widen(b_slice[SB::at(x + 16 * j, k)]);
#pragma unroll
      for (int i = 0; i < tall; ++i)
#pragma unroll
        for (int j = 0; j < wide; ++j) sum[i][j] = fma(a[i], b[j], sum[i][j]);
    }
  }
  template <class F>
  __device__ __forceinline__ void each(F f) const {
    int y = static_cast<int>(threadIdx.x) / 16, x = static_cast<int>(threadIdx.x) % 16;
#pragma unroll
    for (int i = 0; i < tall; ++i)
#pragma unroll
      for (int j = 0; j < wide; ++j) f(y + 8 * i, x + 16 * j, Pack<compute_t<T>, 1>{{sum[i][j]}});
  }
  template <class F, class... Other>
  __device__ __forceinline__ void update(F f, const Other&... others) {
    int y = static_cast<int>(threadIdx.x) / 16, x = static_cast<int>(threadIdx.x) % 16;
#pragma unroll
    for (int i = 0; i < tall; ++i)
#pragma unroll
      for (int j = 0; j < wide; ++j) sum[i][j] = f(y + 8 * i, x + 16 * j, sum[i][j], others.sum[i][j]...);
  }
};

// Slices brought by load(slot), `tile_stages` - 1 of them under way while step(slot, slice) works on one. Afterwards
// their memory is free.
template <class Load, class Step>
__device__ __forceinline__ void run_slices(int slices, const Load& load, const Step& step) {
  for (int s = 0; s < tile_stages - 1; ++s) {
    if (s < slices) load(s);
    commit_async();
  }
  int slot = 0, free_slot = tile_stages - 1;
  for (int s = 0; s < slices; ++s) {
    wait_async<tile_stages - 2>();
    __syncthreads();  // slice s is there for all, and slice s - 1 done with by all
    if (s + tile_stages - 1 < slices) load(free_slot);
    commit_async();
    step(slot, s);
    slot = slot + 1 == tile_stages ? 0 : slot + 1;
    free_slot = free_slot + 1 == tile_stages ? 0 : free_slot + 1;
  }
  wait_async<0>();
  __syncthreads();
}

// All of a block's slices of k (fewer than 2^31 elements of it).
template <class Math, class A, class B>
__device__ __forceinline__ void multiply_slices(Math& math, A& a, B& b, int slices, typename Math::T* room) {
  using SA = typename A::Tile;
  using SB = typename B::Tile;
  constexpr int stage = SA::elements + SB::elements;
  run_slices(
      slices,
      [&](int slot) {
        a.load(room + slot * stage);
        b.load(room + slot * stage + SA::elements);
      },
      [&](int slot, int) { math.template step<SA, SB>(room + slot * stage, room + slot * stage + SA::elements); });
}

}  // namespace arraynn::cuda
