// Rows of a table. Forward copies them as they are stored, whatever the dtype. Backward sorts the indices by
// row, counting, which keeps their order within a row; each row of the gradient is then a sum of its own,
// which no thread shares.
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/simd/vec.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int64_t grain = 16 << 10;  // elements per task
constexpr int64_t part = 64;         // rows that are summed by themselves, so that long sums do not drift

// dx = the sum of the rows order[begin..end) of dy, for `ways` vectors from column c on.
template <class T, class Ways, class Count>
ARRAYNN_INLINE void sum_columns(const T* dy, int64_t width, const int64_t* order, int64_t begin, int64_t end, int64_t c,
                                Ways ways, Count count, T* dx) {
  vec<T> total[ways] = {};
  for (int64_t first = begin; first < end; first += part) {
    int64_t last = end - first < part ? end : first + part;
    vec<T> sum[ways] = {};
    for (int64_t i = first; i < last; ++i) {
      const T* row = dy + order[i] * width + c;
      static_for<ways>([&](auto k) ARRAYNN_LAMBDA { sum[k] += load_count(row + k * lanes<T>, count); });
    }
    static_for<ways>([&](auto k) ARRAYNN_LAMBDA { total[k] += sum[k]; });
  }
  static_for<ways>([&](auto k) ARRAYNN_LAMBDA { store_count(dx + c + k * lanes<T>, total[k], count); });
}

template <class T>
void sum_rows(const T* dy, int64_t width, const int64_t* order, int64_t begin, int64_t end, T* dx) {
  constexpr int at_once = 4;  // vectors: what a sum waits for is then not its own last addition
  constexpr std::integral_constant<int, lanes<T>> all{};
  int64_t c = 0;
  for (; c + at_once * lanes<T> <= width; c += at_once * lanes<T>)
    sum_columns(dy, width, order, begin, end, c, std::integral_constant<int, at_once>{}, all, dx);
  for_vectors<T>(width - c, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    sum_columns(dy, width, order, begin, end, c + i, std::integral_constant<int, 1>{}, count, dx);
  });
}

// Positions in the order of their rows: those of row r are order[ends[r - 1]..ends[r]).
void sort_by_row(const int64_t* index, int64_t count, int64_t rows, int64_t* ends, int64_t* order) {
  for (int64_t r = 0; r < rows; ++r) ends[r] = 0;
  for (int64_t i = 0; i < count; ++i) ++ends[index[i]];
  int64_t start = 0;
  for (int64_t r = 0; r < rows; ++r) {
    int64_t here = ends[r];
    ends[r] = start;
    start += here;
  }
  for (int64_t i = 0; i < count; ++i) order[ends[index[i]]++] = i;
}

}  // namespace

BadIndex embedding_indices(const EmbeddingParams& p, const void* index, void*) {
  const int64_t* row = static_cast<const int64_t*>(index);
  auto rows = static_cast<uint64_t>(p.rows);
  double bad = parallel_sum(p.count, grain, [&](int64_t begin, int64_t end) {
    int64_t found = 0;
    for (int64_t i = begin; i < end; ++i) found += static_cast<uint64_t>(row[i]) >= rows;
    return static_cast<double>(found);
  });
  for (int64_t i = 0; bad > 0 && i < p.count; ++i)
    if (static_cast<uint64_t>(row[i]) >= rows) return {row[i], true};
  return {0, false};
}

void embedding_forward(const EmbeddingParams& p, const void* index, const void* weight, void* output) {
  const int64_t* row = static_cast<const int64_t*>(index);
  int64_t item = item_size(p.dtype), bytes = p.width * item, step = p.row_step * item;
  const char* from = static_cast<const char*>(weight);
  char* to = static_cast<char*>(output);
  parallel_chunks(p.count, grain / (p.width + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      __builtin_memcpy(to + i * bytes, from + row[i] * step, static_cast<size_t>(bytes));
  });
}

size_t embedding_backward_scratch(const EmbeddingParams& p) {
  return static_cast<size_t>(p.rows + p.count) * sizeof(int64_t);
}

void embedding_backward(const EmbeddingParams& p, const void* d_output, const void* index, void* d_weight,
                        void* scratch) {
  int64_t *ends = static_cast<int64_t*>(scratch), *order = ends + p.rows;
  sort_by_row(static_cast<const int64_t*>(index), p.count, p.rows, ends, order);
  int64_t cost = p.rows > 0 ? p.width * (1 + p.count / p.rows) : 0;
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* dy = static_cast<const T*>(d_output);
    T* dx = static_cast<T*>(d_weight);
    parallel_chunks(p.rows, grain / (cost + 1) + 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        int64_t first = r > 0 ? ends[r - 1] : 0;
        sum_rows(dy, p.width, order, first, r == p.padding_idx ? first : ends[r], dx + r * p.width);
      }
    });
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
