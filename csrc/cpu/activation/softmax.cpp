// Softmax: one pass for the maximum and the sum, one for the result. Along the last axis a row is vectorised over
// itself; along another axis, over the elements behind it, so that memory is always read in order.
#include <cmath>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/simd/fill.h"
#include "cpu/simd/math.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int64_t grain = 8 << 10;  // elements per task

// ---- softmax along rows of n adjacent elements --------------------------------------------------

// NaN is left to the sum, which it makes NaN.
template <class T>
T row_max(const T* x, int64_t n) {
  constexpr int ways = 4;
  vec<T> m[ways], lowest = broadcast<T>(-INFINITY);
  static_for<ways>([&](auto way) ARRAYNN_LAMBDA { m[way] = lowest; });
  for_vectors_in_turns<T, ways>(n, [&](int64_t i, auto way, auto count) ARRAYNN_LAMBDA {
    m[way] = max(keep_count<T>(load_count(x + i, count), count, lowest), m[way]);
  });
  return max_lane<T>(max(max(m[0], m[1]), max(m[2], m[3])));
}

template <class T>
void softmax_row(int64_t n, const T* x, T* y, bool log, bool streamed) {
  constexpr int64_t room = 2048;
  alignas(64) T buffer[room];
  T* e = streamed && n <= room ? buffer : y;  // the exponentials
  T m = row_max(x, n);
  vec<T> total{};
  for_vectors<T>(n, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    vec<T> v = exp_nonpositive<T>(load_count(x + i, count) - m);
    total += keep_count<T>(v, count, vec<T>{});
    if (!log) store_count(e + i, v, count);
  });
  T s = sum<T>(total);
  if (log) {
    T shift = std::log(s);
    fill(streamed, 0, n, y,
         [&](int64_t i, auto count) ARRAYNN_LAMBDA { return (load_count(x + i, count) - m) - shift; });
  } else {
    T factor = T(1) / s;
    fill(e == buffer, 0, n, y, [&](int64_t i, auto count) ARRAYNN_LAMBDA { return load_count(e + i, count) * factor; });
  }
}

template <class T>
void softmax_row_backward(int64_t n, const T* y, const T* dy, T* dx, bool log, bool streamed) {
  vec<T> total{};
  for_vectors<T>(n, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    vec<T> d = load_count(dy + i, count);
    total += log ? d : d * load_count(y + i, count);
  });
  T s = sum<T>(total);
  fill(streamed, 0, n, dx, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    vec<T> d = load_count(dy + i, count), v = load_count(y + i, count);
    return log ? d - exp<T>(v) * s : v * (d - s);
  });
}

// ---- softmax along an axis with `inner` elements between neighbours -----------------------------

// One vector of columns; stride is `inner`.
template <class T, class Count>
ARRAYNN_INLINE void softmax_columns(int64_t size, int64_t stride, const T* x, T* y, bool log, Count count) {
  vec<T> m = broadcast<T>(-INFINITY), total{};
  for (int64_t i = 0; i < size; ++i) m = max(load_count(x + i * stride, count), m);
  for (int64_t i = 0; i < size; ++i) {
    vec<T> e = exp_nonpositive<T>(load_count(x + i * stride, count) - m);
    total += e;
    if (!log) store_count(y + i * stride, e, count);
  }
  vec<T> last = T(1) / total;
  if (log)
    for (int l = 0; l < lanes<T>; ++l) last[l] = std::log(total[l]);
  for (int64_t i = 0; i < size; ++i) {
    vec<T> v = log ? (load_count(x + i * stride, count) - m) - last : load_count(y + i * stride, count) * last;
    store_count(y + i * stride, v, count);
  }
}

template <class T, class Count>
ARRAYNN_INLINE void softmax_columns_backward(int64_t size, int64_t stride, const T* y, const T* dy, T* dx, bool log,
                                             Count count) {
  vec<T> total{};
  for (int64_t i = 0; i < size; ++i) {
    vec<T> d = load_count(dy + i * stride, count);
    total += log ? d : d * load_count(y + i * stride, count);
  }
  for (int64_t i = 0; i < size; ++i) {
    vec<T> d = load_count(dy + i * stride, count), v = load_count(y + i * stride, count);
    store_count(dx + i * stride, log ? d - exp<T>(v) * total : v * (d - total), count);
  }
}

// row(offset) for every row, or columns(offset, count) for every vector of columns.
template <class T, class Row, class Columns>
void for_softmax(const SoftmaxParams& p, const Row& row, const Columns& columns) {
  if (p.size == 0) return;
  if (p.inner == 1) {
    parallel_chunks(p.outer, grain / p.size + 1, [&](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o) row(o * p.size);
      stream_end();  // of those who stream
    });
    return;
  }
  int64_t vectors = (p.inner + lanes<T> - 1) / lanes<T>;
  parallel_chunks(p.outer * vectors, grain / (p.size * lanes<T>)+1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t first = i % vectors * lanes<T>, offset = i / vectors * p.size * p.inner + first;
      if (p.inner - first >= lanes<T>)
        columns(offset, std::integral_constant<int, lanes<T>>{});
      else
        columns(offset, static_cast<int>(p.inner - first));
    }
  });
}

}  // namespace

void softmax_forward(const SoftmaxParams& p, const void* x, void* y) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* in = static_cast<const T*>(x);
    T* out = static_cast<T*>(y);
    bool streamed = is_streamed<T>(p.outer * p.size * p.inner);
    for_softmax<T>(
        p, [&](int64_t at) { softmax_row(p.size, in + at, out + at, p.log, streamed); },
        [&](int64_t at, auto count) { softmax_columns(p.size, p.inner, in + at, out + at, p.log, count); });
  });
}

void softmax_backward(const SoftmaxParams& p, const void* y, const void* dy, void* dx) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *out = static_cast<const T*>(y), *cotangent = static_cast<const T*>(dy);
    T* in = static_cast<T*>(dx);
    bool streamed = is_streamed<T>(p.outer * p.size * p.inner);
    for_softmax<T>(
        p, [&](int64_t at) { softmax_row_backward(p.size, out + at, cotangent + at, in + at, p.log, streamed); },
        [&](int64_t at, auto count) {
          softmax_columns_backward(p.size, p.inner, out + at, cotangent + at, in + at, p.log, count);
        });
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
