// What a register tile multiplies, and how its sums become part of C. See gemm.h for the notation.
#pragma once
#include "cpu/gemm.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

#ifdef ARRAYNN_HAS_PAIRS
template <class T>
constexpr bool has_pairs = std::is_same_v<T, float>;
#else
template <class T>
constexpr bool has_pairs = false;
#endif

// The element of A for all lanes, and sum + value column.
template <Product product, class T>
ARRAYNN_INLINE vec<T> broadcast_of(const T* a) {
  if constexpr (product == Product::pairs) {
    int32_t bits;  // not arithmetic, which a pair would not survive
    __builtin_memcpy(&bits, a, sizeof bits);
    return (vec<T>)(mask<T>{} + bits);
  } else {
    return broadcast<T>(*a);
  }
}
template <Product product, class T>
ARRAYNN_INLINE vec<T> multiply_add(vec<T> value, vec<T> column, vec<T> sum) {
#ifdef ARRAYNN_HAS_PAIRS
  if constexpr (product == Product::pairs) return dot_pairs(value, column, sum);
#endif
  return fma(value, column, sum);
}
// f(product) with the product as a constant.
template <class T, class F>
ARRAYNN_INLINE void with_product(Product product, F&& f) {
  if constexpr (has_pairs<T>)
    if (product == Product::pairs) return f(std::integral_constant<Product, Product::pairs>{});
  f(std::integral_constant<Product, Product::numbers>{});
}

// c[i] (+)= acc[i] + row_bias[i] + col_bias, in the first `cols` columns.
template <class T, int Rows, int NV>
ARRAYNN_INLINE void finish_tile(const vec<T> (&acc)[Rows][NV], const Tile<T>& t) {
  constexpr int V = lanes<T>;
  static_for<NV>([&](auto j) ARRAYNN_LAMBDA {
    int count = t.cols - j * V;
    auto finish = [&](auto n) ARRAYNN_LAMBDA {
      vec<T> bias = t.col_bias ? load_count(t.col_bias + j * V, n) : vec<T>{};
      static_for<Rows>([&](auto i) ARRAYNN_LAMBDA {
        T* c = t.c + i * t.ldc + j * V;
        vec<T> sum = acc[i][j];
        if (t.accumulate) sum = load_count(c, n) + sum;
        if (t.row_bias) sum += t.row_bias[i];
        if (t.col_bias) sum += bias;
        store_count(c, sum, n);
      });
    };
    if (count >= V)
      finish(std::integral_constant<int, V>{});
    else if (count > 0)
      finish(count);
  });
}

// The transposed tile: acc[i] is a column of C, and its lanes are rows. c[j][i] (+)= acc[i][j] + col_bias[i] for j <
// cols; rows of C are contiguous along i.
template <class T, int Columns, int NV>
ARRAYNN_INLINE void finish_transposed(const vec<T> (&acc)[Columns][NV], const Tile<T>& t) {
  constexpr int V = lanes<T>;
  static_for<NV>([&](auto j) ARRAYNN_LAMBDA {
    int count = std::min(V, t.cols - j * V);
    static_for<(Columns + V - 1) / V>([&](auto part) ARRAYNN_LAMBDA {
      constexpr int first = part * V, width = std::min(V, Columns - first);
      vec<T> block[V];
      static_for<V>([&](auto i) ARRAYNN_LAMBDA {
        if constexpr (i < width)
          block[i] = acc[first + i][j];
        else
          block[i] = vec<T>{};
      });
      transpose<T>(block);
      vec<T> bias = t.col_bias ? load_first(t.col_bias + first, width) : vec<T>{};
      static_for<V>([&](auto row) ARRAYNN_LAMBDA {
        if (row >= count) return;
        T* c = t.c + (j * V + row) * t.ldc + first;
        vec<T> sum = block[row];
        if (t.accumulate) sum = load_first(c, width) + sum;
        if (t.col_bias) sum += bias;
        store_first(c, sum, width);
      });
    });
  });
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
