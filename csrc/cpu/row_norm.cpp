// layer_norm and rms_norm: a row is read for its statistics and, from cache, for its result; its gradient in the same
// two passes, the second of which also adds to the sums of weight and bias that a task holds.
#include <cmath>

#include "cpu/kernels.h"
#include "cpu/moments.h"
#include "cpu/parallel.h"
#include "cpu/simd/fill.h"
#include "cpu/sums.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int64_t grain = 8 << 10;  // elements per task

template <class T>
double wide_sum_of_squares(const T* x, int64_t n) {
  vec<double> total[2] = {};
  for_vectors<T>(n, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    int half = 0;
    as_doubles(load_count(x + i, count), [&](vec<double> v) ARRAYNN_LAMBDA {
      total[half] = fma(v, v, total[half]);
      ++half;
    });
  });
  return sum<double>(total[0] + total[1]);
}

// Blocks are summed in T, as far as that has the range for it, and their sums in double.
template <class T>
double sum_of_squares(const T* x, int64_t n, double eps) {
  constexpr int64_t block = 2048;
  constexpr int ways = 4;
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += block) {
    int64_t size = n - begin < block ? n - begin : block;
    vec<T> squares[ways] = {};
    for_vectors_in_turns<T, ways>(size, [&](int64_t i, auto way, auto count) ARRAYNN_LAMBDA {
      vec<T> v = load_count(x + begin + i, count);
      squares[way] = fma(v, v, squares[way]);
    });
    auto q = static_cast<double>(sum<T>((squares[0] + squares[1]) + (squares[2] + squares[3])));
    total += keeps_range(q, size, eps) ? q : wide_sum_of_squares(x + begin, size);
  }
  return total;
}

template <class T>
Statistics statistics_of(const RowNormParams& p, const T* x) {
  if (p.centered) {
    Moments m = moments_of(x, p.size, p.eps);
    return {m.mean, 1 / std::sqrt(m.variance() + p.eps)};
  }
  return {0, 1 / std::sqrt(sum_of_squares(x, p.size, p.eps) / static_cast<double>(p.size) + p.eps)};
}

// (x - mean) rstd of a row.
template <class T>
struct Normal {
  const T* x;
  T high, low, rstd;

  Normal(const T* row, const Statistics& s) : x(row), rstd(static_cast<T>(s.rstd)) {
    Split<T> mean(s.mean);
    high = mean.high, low = mean.low;
  }
  template <class Count>
  ARRAYNN_INLINE vec<T> at(int64_t i, Count count) const {
    return ((load_count(x + i, count) - high) - low) * rstd;
  }
};

template <class T>
void normalize_row(bool streamed, const Normal<T>& z, int64_t n, const T* weight, const T* bias, T* y) {
  fill(streamed, 0, n, y, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    vec<T> v = z.at(i, count);
    if (weight) v *= load_count(weight + i, count);
    if (bias) v += load_count(bias + i, count);
    return v;
  });
}

template <class T, class Count>
ARRAYNN_INLINE vec<T> weighted(const T* dy, const T* weight, int64_t i, Count count) {
  vec<T> d = load_count(dy + i, count);
  return weight ? d * load_count(weight + i, count) : d;
}

template <class T>
void row_gradient(bool streamed, const RowNormParams& p, const Normal<T>& z, const T* dy, const T* weight, T* dx) {
  Sums sums = sums_of<T>(p.size, [&](int64_t i, auto count, vec<T>& g, vec<T>& gz) ARRAYNN_LAMBDA {
    g = weighted(dy, weight, i, count);
    gz = g * z.at(i, count);
  });
  double n = static_cast<double>(p.size);
  T mean_g = static_cast<T>(p.centered ? sums.first / n : 0), mean_gz = static_cast<T>(sums.second / n);
  fill(streamed, 0, p.size, dx, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    return ((weighted(dy, weight, i, count) - mean_g) - z.at(i, count) * mean_gz) * z.rstd;
  });
}

// Adds a row's share to the sums of d_weight and d_bias.
template <class T>
void add_row(const Normal<T>& z, int64_t n, const T* dy, T* d_weight, T* d_bias) {
  for_vectors<T>(n, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    vec<T> d = load_count(dy + i, count);
    store_count(d_weight + i, load_count(d_weight + i, count) + d * z.at(i, count), count);
    store_count(d_bias + i, load_count(d_bias + i, count) + d, count);
  });
}

// Rows that one task of the gradient takes. The sums of all tasks together are no larger than the input.
int64_t rows_of_task(const RowNormParams& p) {
  constexpr int64_t most_tasks = 64;
  int64_t least = (p.rows + most_tasks - 1) / most_tasks, by_grain = grain / p.size + 1;
  return least > by_grain ? least : by_grain > 2 ? by_grain : 2;
}

int64_t tasks_of(const RowNormParams& p) { return (p.rows + rows_of_task(p) - 1) / rows_of_task(p); }

// The sum over the tasks, of which each has `step` numbers.
template <class T>
void add_tasks(const T* parts, int64_t tasks, int64_t step, int64_t n, T* total) {
  if (!total) return;
  parallel_chunks(n, grain / (tasks + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double sum = 0;
      for (int64_t task = 0; task < tasks; ++task) sum += static_cast<double>(parts[task * step + i]);
      total[i] = static_cast<T>(sum);
    }
  });
}

}  // namespace

void row_norm_forward(const RowNormParams& p, const void* x, const void* weight, const void* bias, void* y,
                      Statistics* statistics) {
  if (p.size == 0) return;
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *in = static_cast<const T*>(x), *w = static_cast<const T*>(weight), *b = static_cast<const T*>(bias);
    T* out = static_cast<T*>(y);
    bool streamed = is_streamed<T>(p.rows * p.size);
    parallel_chunks(p.rows, grain / p.size + 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        Statistics s = statistics_of(p, in + row * p.size);
        normalize_row(streamed, Normal<T>(in + row * p.size, s), p.size, w, b, out + row * p.size);
        if (statistics) statistics[row] = s;
      }
      if (streamed) stream_end();
    });
  });
}

size_t row_norm_scratch(const RowNormParams& p) {
  return p.size == 0 ? 0 : static_cast<size_t>(2 * tasks_of(p) * p.size * item_size(p.dtype));
}

void row_norm_backward(const RowNormParams& p, const void* dy, const void* x, const void* weight,
                       const Statistics* statistics, void* dx, void* d_weight, void* d_bias, void* scratch) {
  if (p.size == 0) return;
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *in = static_cast<const T*>(x), *cotangent = static_cast<const T*>(dy), *w = static_cast<const T*>(weight);
    T *out = static_cast<T*>(dx), *parts = static_cast<T*>(scratch);
    bool adds = d_weight || d_bias, streamed = out && is_streamed<T>(p.rows * p.size);
    int64_t each = rows_of_task(p), tasks = tasks_of(p);
    parallel_for(tasks, [&](int64_t task, int) {
      T* sums = adds ? parts + 2 * task * p.size : nullptr;
      for (int64_t i = 0; adds && i < 2 * p.size; ++i) sums[i] = 0;
      for (int64_t row = task * each; row < p.rows && row < (task + 1) * each; ++row) {
        int64_t at = row * p.size;
        Normal<T> z(in + at, statistics[row]);
        if (out) row_gradient(streamed, p, z, cotangent + at, w, out + at);
        if (adds) add_row(z, p.size, cotangent + at, sums, sums + p.size);
      }
      if (streamed) stream_end();
    });
    add_tasks(parts, tasks, 2 * p.size, p.size, static_cast<T*>(d_weight));
    add_tasks(parts + p.size, tasks, 2 * p.size, p.size, static_cast<T*>(d_bias));
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
