// Attention by tiles of 64 rows of one side (the owners of a block's results) and 64 of the other at a time: a product
// over the depth gives the tile of scores; in place of it come weights, or the gradient of the scores, which go to
// shared memory in the order of a product's operand; and a second product over the other side adds to the results.
//
//   results    owners   others   a tile                            times
//   output     queries  keys     weights so far, not divided yet   values
//   d_query    queries  keys     gradient of the scores            keys
//   d_key      keys     queries  the same, transposed              queries
//   d_value    keys     queries  weights, transposed               d_output
//
// A block owns 64 or 128 columns of the results; for wider ones several blocks compute the same tiles. 16-bit weights
// are held as the sum of two numbers, so that they keep 16 bits or more; all else is as in any product.
#pragma once
#include "attention/weights.h"
#include "device/tile_product.h"

namespace arraynn::cuda {

enum class Results : int { output, d_query, d_key, d_value };

inline constexpr int tile_rows = 64;

// A matrix of a head, and what one copy of it may move.
template <class T>
struct Operand {
  const T* data;
  AttentionMatrix at;
  int64_t group;
  int64_t rows, columns;
  int bytes;

  __device__ Operand of_head(const AttentionParams& p, int64_t head) const {
    Operand o = *this;
    o.data += head_offset(p, at, head, group);
    return o;
  }
  __device__ MatrixParams<T> by_rows() const { return {data, at.row, at.column, rows, bytes}; }
  // Transposed, from a column on, of `count` rows.
  __device__ MatrixParams<T> by_columns(int64_t column) const {
    return {data + column * at.column, at.column, at.row, columns - column, bytes};
  }
  __device__ T get(int64_t row, int64_t column) const { return data[row * at.row + column * at.column]; }
};

template <class T>
struct AttentionTiles {
  AttentionParams p;
  Operand<T> query, key, value, d_output;
  const void* mask;
  const compute_t<T>*saved, *delta;  // read by the backward pass
  T* results;
  compute_t<T>*save, *wide_output;  // of the output, or null
  int64_t tiles, chunks;            // of owners, and of columns
};

template <class Math, template <class, class> class Matrix, Results kind, int wide>
class Attention {
 public:
  using T = typename Math::T;
  using C = compute_t<T>;
  using Rows = Slice<T, tile_rows, Along::k, Math::Shape::threads>;
  using Columns = Slice<T, tile_rows, Along::rows, Math::Shape::threads>;
  using ByRows = Matrix<Rows, T>;
  using ByColumns = Matrix<Columns, T>;
  static constexpr bool queries_own = kind == Results::output || kind == Results::d_query;
  static constexpr bool slopes = kind == Results::d_query || kind == Results::d_key;
  static constexpr int threads = Math::Shape::threads, depth = Rows::depth;
  static constexpr int terms = sizeof(T) == 2 ? 2 : 1;  // of a weight
  static constexpr int stride = tile_rows + 2;          // of the scores where they wait: two threads to a row
  // In bytes of shared memory: slices under way (and scores that wait), weights, and the factors of the rows.
  static constexpr int scores_bytes = tile_rows * stride * static_cast<int>(sizeof(C));
  static constexpr int pair_bytes = tile_stages * 2 * Rows::elements * static_cast<int>(sizeof(T));
  static constexpr int columns_bytes = tile_stages * wide * Columns::elements * static_cast<int>(sizeof(T));
  static constexpr int most(int a, int b) { return a > b ? a : b; }
  static constexpr int room_bytes = most(scores_bytes, most(pair_bytes, columns_bytes));
  static constexpr int weights_bytes = terms * tile_rows * tile_rows * static_cast<int>(sizeof(T));
  static constexpr int bytes = room_bytes + weights_bytes + tile_rows * static_cast<int>(sizeof(C));

  __device__ explicit Attention(const AttentionTiles<T>& a)
      : a_(a),
        room_(shared<char>()),
        weights_(reinterpret_cast<T*>(shared<char>() + room_bytes)),
        factors_(reinterpret_cast<C*>(shared<char>() + room_bytes + weights_bytes)) {
    int64_t block = blockIdx.x;
    column_ = block % a.chunks * wide * tile_rows;
    // The last queries have the most keys, if causal: they are begun first.
    owner_ = (a.tiles - 1 - block / a.chunks % a.tiles) * tile_rows;
    lot_ = block / a.chunks / a.tiles;
  }

  __device__ void run() {
    const AttentionParams& p = a_.p;
    int64_t heads = queries_own ? 1 : p.group;
    for (int64_t h = 0; h < heads; ++h) add_head(queries_own ? lot_ : lot_ * p.group + h);
    if constexpr (kind == Results::output) {
      // Without a key nothing has been summed.
      if (in_row() == 0) factors_[row()] = total_ == 0 ? C(0) : 1 / total_;
      save();
      __syncthreads();
    }
#pragma unroll
    for (int w = 0; w < wide; ++w) write(w);
  }

 private:
  // Of the threads that share a row of scores.
  __device__ static int row() { return static_cast<int>(threadIdx.x) / 2; }
  __device__ static int in_row() { return static_cast<int>(threadIdx.x) % 2; }
  static_assert(threads == 2 * tile_rows);

  __device__ void add_head(int64_t head) {
    const AttentionParams& p = a_.p;
    int64_t owners = queries_own ? p.queries : p.keys, others = queries_own ? p.keys : p.queries;
    int64_t begin = 0, end = others;
    if (p.causal && queries_own) end = min(others, min(owners, owner_ + tile_rows));
    if (p.causal && !queries_own) begin = owner_;
    Operand<T> query = a_.query.of_head(p, head), key = a_.key.of_head(p, head);
    Operand<T> value = a_.value.of_head(p, head), d_output = a_.d_output.of_head(p, head);
    Weights<T> weights(p, a_.mask, head);
    for (int64_t other = begin; other < end; other += tile_rows) {
      Math scores;
      multiply(scores, queries_own ? query : key, queries_own ? key : query, other, p.depth);
      int64_t i0 = queries_own ? owner_ : other, j0 = queries_own ? other : owner_;
      scores.update([&](int r, int c, C sum) {
        int64_t i = i0 + (queries_own ? r : c), j = j0 + (queries_own ? c : r);
        if (i >= p.queries || j >= p.keys) return -static_cast<C>(INFINITY);
        if constexpr (Math::repairs)
          if (!(sum - sum == 0)) sum = plain_product(query, key, i, j);
        return weights.score(sum, i, j);
      });
      if constexpr (kind == Results::output)
        soften(scores, weights, other);
      else
        differentiate(scores, weights, value, d_output, head, other, i0, j0);
      int count = static_cast<int>(min(others - other, int64_t{tile_rows}));
      add(kind == Results::output    ? value
          : kind == Results::d_query ? key
          : kind == Results::d_key   ? query
                                     : d_output,
          other, count);
    }
  }

  // The product of the owners' rows and the others'.
  __device__ void multiply(Math& math, const Operand<T>& own, const Operand<T>& other, int64_t first, int64_t columns) {
    MatrixParams<T> a_params = own.by_rows(), b_params = other.by_rows();
    ByRows a(a_params, 0, owner_, 0, columns, nullptr), b(b_params, 0, first, 0, columns, nullptr);
    multiply_slices(math, a, b, static_cast<int>((columns + depth - 1) / depth), reinterpret_cast<T*>(room_));
  }

  // Tensor cores lose infinities on the way.
  __device__ static C plain_product(const Operand<T>& query, const Operand<T>& key, int64_t i, int64_t j) {
    C sum = 0;
#pragma unroll 1
    for (int64_t k = 0; k < query.columns; ++k) sum = fma(widen(query.get(i, k)), widen(key.get(j, k)), sum);
    return sum;
  }

  // Weights relative to the largest score so far of their row, to which all that came before is brought down.
  __device__ void soften(const Math& scores, Weights<T>& weights, int64_t other) {
    C* waiting = reinterpret_cast<C*>(room_);
    scores.each([&](int r, int c, auto sums) {
#pragma unroll
      for (int e = 0; e < static_cast<int>(sizeof(sums.v) / sizeof(C)); ++e) waiting[r * stride + c + e] = sums.v[e];
    });
    __syncthreads();
    const C* mine = waiting + row() * stride + in_row();
    C top = top_, sum = 0;
    for (int c = 0; c < tile_rows; c += 2) top = MaxNumber{}(mine[c], top);
    top = MaxNumber{}(top, __shfl_xor_sync(full_warp, top, 1));
    C shift = top == -static_cast<C>(INFINITY) ? C(0) : top;
#pragma unroll 4
    for (int c = 0; c < tile_rows; c += 2) {
      C e = exp_of<T>(mine[c] - shift);
      sum += e;
      put(row(), c + in_row(), weights.kept(owner_ + row(), other + c + in_row(), e));
    }
    sum += __shfl_xor_sync(full_warp, sum, 1);
    C shrink = exp_of<T>(top_ - shift);
    total_ = total_ * shrink + sum;
    top_ = top;
    if (in_row() == 0) factors_[row()] = shrink;
    __syncthreads();
    scale_results();
  }

  // From scores to the weights or to the gradient of the products that they are scaled from.
  __device__ void differentiate(Math& scores, Weights<T>& weights, const Operand<T>& value, const Operand<T>& d_output,
                                int64_t head, int64_t other, int64_t i0, int64_t j0) {
    const AttentionParams& p = a_.p;
    auto weight = [&](int64_t i, C score) {
      if (score == -static_cast<C>(INFINITY)) return C(0);
      const C* saved = a_.saved + head * p.queries + i;
      return exp_of<T>(score - saved[0]) * saved[p.heads * p.queries];
    };
    if constexpr (slopes) {
      Math slope;
      multiply(slope, queries_own ? d_output : value, queries_own ? value : d_output, other, p.value_depth);
      scores.update(
          [&](int r, int c, C score, C s) {
            int64_t i = i0 + (queries_own ? r : c), j = j0 + (queries_own ? c : r);
            if (score == -static_cast<C>(INFINITY)) return C(0);
            C delta = a_.delta[head * p.queries + i];
            return weight(i, score) * (weights.kept(i, j, s) - delta) * static_cast<C>(p.scale);
          },
          slope);
    } else {
      scores.update([&](int r, int c, C score) { return weights.kept(i0 + c, j0 + r, weight(i0 + c, score)); });
    }
    scores.each([&](int r, int c, auto sums) {
#pragma unroll
      for (int e = 0; e < static_cast<int>(sizeof(sums.v) / sizeof(C)); ++e) put(r, c + e, sums.v[e]);
    });
  }

  // A weight where the second product reads it.
  __device__ __forceinline__ void put(int r, int c, C value) {
    T* to = weights_ + c / depth * Rows::elements + Rows::at(r, c % depth);
#pragma unroll
    for (int t = 0; t < terms; ++t) {
      T part = narrow<T>(value);
      to[t * tile_rows * tile_rows] = part;
      value -= widen(part);
    }
  }

  // Adds the product of the weights and `count` rows of the others' matrix.
  __device__ void add(const Operand<T>& others, int64_t first, int count) {
    auto* room = reinterpret_cast<T*>(room_);
    MatrixParams<T> params[wide];
#pragma unroll
    for (int w = 0; w < wide; ++w) params[w] = others.by_columns(min(others.columns, column_ + w * tile_rows));
    if constexpr (wide == 1) {
      ByColumns b(params[0], 0, 0, first, first + count, nullptr);
      run_slices((count + depth - 1) / depth, [&](int slot) { b.load(room + slot * Columns::elements); },
                 [&](int slot, int s) { step(results_[0], s, room + slot * Columns::elements); });
    } else {
      ByColumns left(params[0], 0, 0, first, first + count, nullptr);
      ByColumns right(params[1], 0, 0, first, first + count, nullptr);
      run_slices((count + depth - 1) / depth,
                 [&](int slot) {
                   left.load(room + 2 * slot * Columns::elements);
                   right.load(room + (2 * slot + 1) * Columns::elements);
                 },
                 [&](int slot, int s) {
                   step(results_[0], s, room + 2 * slot * Columns::elements);
                   step(results_[1], s, room + (2 * slot + 1) * Columns::elements);
                 });
    }
  }
  __device__ __forceinline__ void step(Math& results, int slice, const T* columns) const {
#pragma unroll
    for (int t = 0; t < terms; ++t)
      results.template step<Rows, Columns>(weights_ + t * tile_rows * tile_rows + slice * Rows::elements, columns);
  }

  __device__ void scale_results() {
#pragma unroll
    for (int w = 0; w < wide; ++w) results_[w].update([&](int r, int, C sum) { return sum * factors_[r]; });
  }

  __device__ void save() {
    const AttentionParams& p = a_.p;
    int64_t i = owner_ + row();
    if (!a_.save || column_ > 0 || in_row() != 0 || i >= p.queries) return;
    C* to = a_.save + lot_ * p.queries + i;
    to[0] = total_ == 0 ? C(0) : top_;
    to[p.heads * p.queries] = factors_[row()];
  }

  // By way of shared memory, so that whole lines are written.
  __device__ void write(int w) {
    const AttentionParams& p = a_.p;
    if constexpr (kind == Results::output)
      results_[w].update([&](int r, int, C sum) { return factors_[r] == 0 ? C(0) : sum * factors_[r]; });
    C* waiting = reinterpret_cast<C*>(room_);
    results_[w].each([&](int r, int c, auto sums) {
#pragma unroll
      for (int e = 0; e < static_cast<int>(sizeof(sums.v) / sizeof(C)); ++e) waiting[r * stride + c + e] = sums.v[e];
    });
    __syncthreads();
    int64_t rows = queries_own ? p.queries : p.keys, first = column_ + w * tile_rows;
    int64_t columns = kind == Results::output || kind == Results::d_value ? p.value_depth : p.depth;
    constexpr int pack = pack_size<T>;
    bool whole = columns % pack == 0 && reinterpret_cast<uintptr_t>(a_.results) % 16 == 0;
    for (int i = static_cast<int>(threadIdx.x); i < tile_rows * tile_rows / pack; i += threads) {
      int r = i / (tile_rows / pack), c = i % (tile_rows / pack) * pack;
      if (owner_ + r >= rows || first + c >= columns) continue;
      int64_t at = (lot_ * rows + owner_ + r) * columns + first + c;
      int count = static_cast<int>(min(columns - first - c, int64_t{pack}));
      Pack<T, pack> narrowed;
#pragma unroll
      for (int e = 0; e < pack; ++e) narrowed.v[e] = narrow<T>(waiting[r * stride + c + e]);
      if (whole)
        store_pack(a_.results + at, narrowed);
      else
        for (int e = 0; e < count; ++e) a_.results[at + e] = narrowed.v[e];
      if (a_.wide_output)
        for (int e = 0; e < count; ++e) a_.wide_output[at + e] = waiting[r * stride + c + e];
    }
    __syncthreads();
  }

  const AttentionTiles<T>& a_;
  char* room_;
  T* weights_;
  C* factors_;
  int64_t column_, owner_, lot_;
  C top_ = -INFINITY, total_ = 0;  // of this thread's row
  Math results_[wide];
};

}  // namespace arraynn::cuda
