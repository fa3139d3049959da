// What both directions of attention share. The rows of one side (queries, or in the backward pass for keys and
// values the keys) own the results: NR of them are a panel, one in each lane, so that maxima and sums over the
// other side are plain vector operations. `step_rows` of the others at a time meet a panel in a tile of scores,
// (others x NR): the product of others packed as A and the panel as B. In place it becomes weights, and in that
// order it is the B of the product that sums the results, (columns x NR), with nothing packed in between.
#pragma once
#include <cmath>

#include "cpu/gemm.h"
#include "cpu/kernels.h"
#include "cpu/simd/math.h"
#include "cpu/simd/philox.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

constexpr int64_t step_rows = 96;    // whole panels of MR rows on every instruction set; a tile is at most 12 KiB
constexpr int64_t block_rows = 384;  // of the others, packed at a time: 64 columns twice are 192 KiB of floats
constexpr int64_t most_panels = 16;  // of a task: its results wait in the cache between blocks

// A worker's pieces of scratch, one behind the other; without memory it counts them.
template <class T>
struct Pieces {
  T* at;
  int64_t used = 0;
  T* take(int64_t count) {
    T* piece = at ? at + used : nullptr;
    used += round_up(count, 64);
    return piece;
  }
};

template <class T>
struct Matrix {
  const T* data;
  int64_t row, column;  // strides
  int64_t columns;
};

// Where the matrix of a head of queries begins, whose last batch axis counts in groups.
inline int64_t head_offset(const AttentionParams& p, const AttentionMatrix& m, int64_t head, int64_t group) {
  int64_t offset = 0;
  for (int i = p.ndim - 3; i >= 0; --i) {
    int64_t index = head % p.shape[i];
    offset += (i == p.ndim - 3 ? index / group : index) * m.batch[i];
    head /= p.shape[i];
  }
  return offset;
}
template <class T>
Matrix<T> matrix_of(const AttentionParams& p, const AttentionMatrix& m, const void* data, int64_t columns, int64_t head,
                    int64_t group = 1) {
  return {static_cast<const T*>(data) + head_offset(p, m, head, group), m.row, m.column, columns};
}

// ---- packing and products -----------------------------------------------------------------------

// A panel of owners: B of the scores.
template <class T>
void pack_owners(const Matrix<T>& m, int64_t first, int owners, T* to) {
  pack_panel(m.data + first * m.row, m.row, m.column, owners, m.columns, to, NR<T>, NR<T>);
}
// Others as A of the scores: the panel of row i begins at i * columns.
template <class T>
void pack_others(const Matrix<T>& m, int64_t first, int64_t count, T* to) {
  for (int64_t i = 0; i < count; i += MR) {
    int rows = static_cast<int>(std::min<int64_t>(MR, count - i));
    pack_panel(m.data + (first + i) * m.row, m.row, m.column, rows, m.columns, to + i * m.columns, rows, rows);
  }
}
// Others as A of the results, step by step: the panel of column c begins at c * (rows of the step).
template <class T>
void pack_columns(const Matrix<T>& m, int64_t first, int64_t count, T* to) {
  constexpr int V = lanes<T>;
  for (int64_t i = 0; i < count; i += step_rows) {
    int64_t rows = std::min(step_rows, count - i);
    const T* from = m.data + (first + i) * m.row;
    T* panels = to + i * m.columns;
    if (m.column != 1 || V > 2 * MR) {
      for (int64_t c = 0; c < m.columns; c += MR) {
        int columns = static_cast<int>(std::min<int64_t>(MR, m.columns - c));
        pack_panel(from + c * m.column, m.column, m.row, columns, rows, panels + c * rows, columns, columns);
      }
      continue;
    }
    // Rows as they lie in memory, of each what every panel takes; a surplus of lanes is overwritten by the next row.
    for (int64_t r = 0; r < rows; ++r, from += m.row)
      for (int64_t c = 0; c < m.columns; c += MR) {
        int columns = static_cast<int>(std::min<int64_t>(MR, m.columns - c));
        T* at = panels + c * rows + r * columns;
        for (int part = 0; part < columns; part += V) {
          int rest = columns - part;
          vec<T> v = c + part + V <= m.columns ? load(from + c + part) : load_first(from + c + part, rest);
          if (rest >= V || (columns == MR && r + 1 < rows))
            store(at + part, v);
          else
            store_first(at + part, v, rest);
        }
      }
  }
}

// c (rows x NR) (+)= A B over `k`, A's rows [i, i + MR) as a_at(i, tile) sets them.
template <class T, class AAt>
void product(int64_t rows, int64_t k, const T* b, T* c, bool accumulate, const AAt& a_at) {
  for (int64_t i = 0; i < rows; i += MR) {
    Tile<T> tile{};
    tile.k = k;
    a_at(i, tile);
    tile.b = b;
    tile.c = c + i * NR<T>;
    tile.ldc = NR<T>;
    tile.cols = NR<T>;
    tile.accumulate = accumulate;
    micro_kernel<T>(static_cast<int>(std::min<int64_t>(MR, rows - i)), tile);
  }
}

// A block of the others' rows as A of both products: packed, unless they lie so near each other that their tiles may
// be read where they are.
template <class T>
class Others {
 public:
  // `scores` and `results`: whether they take part in such products.
  Others(int64_t rows, int64_t columns, bool scores, bool results, Pieces<T>& room)
      : by_rows_(scores ? room.take(std::min(rows, block_rows) * columns) : nullptr),
        by_columns_(results ? room.take(std::min(rows, block_rows) * columns) : nullptr),
        scores_(scores),
        results_(results) {}

  void pack(const Matrix<T>& m, int64_t first, int64_t count) {
    constexpr int64_t near = 1024;  // bytes
    m_ = m;
    first_ = first;
    count_ = count;
    in_place_ = m.column == 1 && m.row >= 0 && m.row * static_cast<int64_t>(sizeof(T)) <= near;
    if (in_place_) return;
    if (scores_) pack_others(m, first, count, by_rows_);
    if (results_) pack_columns(m, first, count, by_columns_);
  }

  // tile (rows x NR) = rows [at, at + rows) times the owners' panel.
  void scores(int64_t at, int64_t rows, const T* panel, T* tile) const {
    product<T>(rows, m_.columns, panel, tile, false, [&](int64_t i, Tile<T>& t) {
      if (in_place_) {
        t.a = m_.data + (first_ + at + i) * m_.row;
        t.left = Left::rows;
        t.a_step = m_.row;
      } else {
        t.a = by_rows_ + (at + i) * m_.columns;
      }
    });
  }
  // sums (columns x NR) += the same rows, transposed, times their tile of weights
  void add_results(int64_t at, int64_t rows, const T* tile, T* sums) const {
    product<T>(m_.columns, rows, tile, sums, true, [&](int64_t c, Tile<T>& t) {
      if (in_place_) {
        t.a = m_.data + (first_ + at) * m_.row + c;
        t.left = Left::columns;
        t.a_step = m_.row;
      } else {
        t.a = by_columns_ + at * m_.columns + c * std::min(step_rows, count_ - at);
      }
    });
  }

 private:
  T *by_rows_, *by_columns_;
  bool scores_, results_, in_place_ = false;
  Matrix<T> m_{};
  int64_t first_ = 0, count_ = 0;
};

// Results, (columns x NR), to their rows.
template <class T>
void write_results(const T* sums, int64_t columns, int owners, T* to) {
  for (int64_t c = 0; c < columns; c += NR<T>) {
    int width = static_cast<int>(std::min<int64_t>(NR<T>, columns - c));
    pack_panel(sums + c * NR<T>, NR<T>, 1, width, owners, to + c, width, columns);
  }
}

// ---- what is beside the products: mask, causality, dropout ----------------------------------------

// Where a tile lies: `others` rows from `other` on, a panel of `owners` from `owner` on.
struct Spot {
  int64_t head;  // of queries
  int64_t other, others, owner;
  int owners;
};

template <class T, bool owned_by_queries>
class Extras {
 public:
  Extras(const AttentionParams& p, const void* mask, Pieces<T>& room)
      : p_(p), mask_(mask), threshold_(static_cast<uint64_t>(p.dropout * 4294967296.0)) {
    // A threshold beyond 32 bits drops all.
    scale_ = threshold_ > 0xffffffffu ? T(0) : static_cast<T>(1 / (1 - p.dropout));
    if (mask || p.causal) bias_ = room.take(step_rows * NR<T>);
    if (p.dropout > 0) keep_ = room.take(step_rows * NR<T>);
    if (p.dropout > 0 && owned_by_queries) lines_ = room.take(step_rows * NR<T>);
  }

  // What is added to the scores, -inf where a key takes no part, or null: nothing.
  const T* bias(const Spot& s) {
    bool edge = p_.causal && (owned_by_queries ? s.other + s.others - 1 > s.owner : s.owner + s.owners - 1 > s.other);
    if (!edge && p_.mask_kind == AttentionMask::none) return nullptr;
    add_mask(s);
    if (edge) cut(s);
    return bias_;
  }

  // What the weights are multiplied with, or null.
  const T* keep(const Spot& s) {
    if (p_.dropout == 0) return nullptr;
    if (owned_by_queries) {
      const T* lines[NR<T>];
      for (int i = 0; i < s.owners; ++i) {
        draw(s.head, s.owner + i, s.other, s.others, lines_ + i * step_rows);
        lines[i] = lines_ + i * step_rows;
      }
      pack_rows(lines, s.owners, s.others, keep_, NR<T>, NR<T>);
    } else {
      for (int64_t k = 0; k < s.others; ++k) draw(s.head, s.other + k, s.owner, NR<T>, keep_ + k * NR<T>);
    }
    return keep_;
  }

 private:
  void add_mask(const Spot& s) {
    const AttentionMatrix& m = p_.mask;
    int64_t by_owner = owned_by_queries ? m.row : m.column, by_other = owned_by_queries ? m.column : m.row;
    int64_t at = head_offset(p_, m, s.head, 1) + s.owner * by_owner + s.other * by_other;
    if (p_.mask_kind == AttentionMask::bias) {
      pack_panel(static_cast<const T*>(mask_) + at, by_owner, by_other, s.owners, s.others, bias_, NR<T>, NR<T>);
      return;
    }
    bool flags = p_.mask_kind == AttentionMask::flags;
    for (int64_t i = 0; i < s.others * NR<T>; ++i) bias_[i] = 0;
    for (int64_t k = 0; flags && k < s.others; ++k)
      for (int i = 0; i < s.owners; ++i)
        bias_[k * NR<T> + i] = static_cast<const uint8_t*>(mask_)[at + k * by_other + i * by_owner] ? T(0) : -infinity;
  }

  // -inf where the key is behind the query.
  void cut(const Spot& s) {
    for (int64_t k = 0; k < s.others; ++k) {
      // The lanes before it, if they are queries, or behind it, if keys.
      auto edge = static_cast<int>(std::min<int64_t>(NR<T>, std::max<int64_t>(-1, s.other + k - s.owner)));
      static_for<2>([&](auto v) ARRAYNN_LAMBDA {
        T* to = bias_ + k * NR<T> + v * lanes<T>;
        auto lane = iota<T>() + v * lanes<T>;
        auto behind = owned_by_queries ? lane < edge : lane > edge;
        store(to, behind ? broadcast<T>(-infinity) : load(to));
      });
    }
  }

  // 0 or 1 / (1 - p) for `count` keys of a query; at most step_rows, or NR.
  void draw(int64_t head, int64_t query, int64_t key, int64_t count, T* to) const {
    static_assert(NR<T> <= step_rows);
    uint32_t word[step_rows + 4 + words + lanes<T>];
    auto number = static_cast<uint64_t>((head * p_.queries + query) * p_.keys + key);
    int skip = static_cast<int>(number % 4);
    for (int64_t i = 0; i < skip + count; i += words)
      words_in_order(number / 4 + static_cast<uint64_t>(i / 4), p_.dropout_key, word + i);
    auto threshold = static_cast<uint32_t>(threshold_);
    for_vectors<T>(count, [&](int64_t i, auto n) ARRAYNN_LAMBDA {
      store_count(to + i, kept(word + skip + i, threshold, T()) ? broadcast<T>(scale_) : vec<T>{}, n);
    });
  }

  static constexpr T infinity = static_cast<T>(INFINITY);
  const AttentionParams& p_;
  const void* mask_;
  uint64_t threshold_;
  T scale_;
  T *bias_ = nullptr, *keep_ = nullptr, *lines_ = nullptr;
};

// A score with its bias, which takes a key out whatever its score is.
template <class T>
ARRAYNN_INLINE vec<T> biased(vec<T> score, const T* bias) {
  vec<T> b = load(bias);
  return b == -static_cast<T>(INFINITY) ? b : score + b;
}

// ---- tasks ----------------------------------------------------------------------------------------

// The owners of all heads that share the others' rows: `sharing` heads of `owners` rows each, in panels. A task
// takes some panels of one of `heads` such lots; how many does not change the results.
struct Tasks {
  int64_t heads, sharing, panels;  // panels of one head
  int64_t per_task;
  int64_t per_lot() const { return ceil_div(sharing * panels, per_task); }
  int64_t count() const { return heads * per_lot(); }
};
inline Tasks tasks_of(int64_t heads, int64_t sharing, int64_t panels) {
  Tasks t{heads, sharing, panels, std::max<int64_t>(1, std::min(most_panels, sharing * panels))};
  while (t.count() < 4 * num_threads() && t.per_task > 4) t.per_task = (t.per_task + 1) / 2;
  while (t.count() < num_threads() && t.per_task > 1) t.per_task = (t.per_task + 1) / 2;
  return t;
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
