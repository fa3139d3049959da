// Sums of outer products of channels, the heart of the weights' gradients: over the tiles at a point in Winograd's
// algorithm, over the pixels of a place in the direct one.
#pragma once
#include "cpu/gemm.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

// c[i][j] (+)= sum over lines and steps of a[line][step][i] b[line][step][j]. Rows of b and c have room for a whole
// number of vectors.
template <class T>
struct Outer {
  int64_t lines, steps;
  const T* a;
  int64_t a_line, a_step;
  const T* b;
  int64_t b_line, b_step;
  T* c;
  int64_t c_row;
  bool accumulate;
};

template <class T, int Rows, int NV>
void outer_tile(const Outer<T>& p) {
  constexpr int V = lanes<T>;
  vec<T> acc[Rows][NV] = {};
  for (int64_t line = 0; line < p.lines; ++line) {
    const T *a = p.a + line * p.a_line, *b = p.b + line * p.b_line;
    for (int64_t step = 0; step < p.steps; ++step, a += p.a_step, b += p.b_step) {
      vec<T> row[NV];
      static_for<NV>([&](auto j) ARRAYNN_LAMBDA { row[j] = load(b + j * V); });
      static_for<Rows>([&](auto i) ARRAYNN_LAMBDA {
        vec<T> value = broadcast<T>(a[i]);
        static_for<NV>([&](auto j) ARRAYNN_LAMBDA { acc[i][j] = fma(value, row[j], acc[i][j]); });
      });
    }
  }
  static_for<Rows>([&](auto i) ARRAYNN_LAMBDA {
    static_for<NV>([&](auto j) ARRAYNN_LAMBDA {
      T* c = p.c + i * p.c_row + j * V;
      store(c, p.accumulate ? load(c) + acc[i][j] : acc[i][j]);
    });
  });
}

// The same for i < m and j < n, a register tile at a time.
template <class T>
void add_outer(const Outer<T>& all, int64_t m, int64_t n) {
  int64_t most_rows = even_part(m, MR);
  for (int64_t j = 0; j < n; j += NR<T>)
    for (int64_t i = 0; i < m; i += most_rows) {
      Outer<T> tile = all;
      tile.a += i;
      tile.b += j;
      tile.c += i * all.c_row + j;
      with_constant<MR>(static_cast<int>(std::min(most_rows, m - i)), [&](auto rows) {
        if (n - j <= lanes<T>)
          outer_tile<T, rows, 1>(tile);
        else
          outer_tile<T, rows, 2>(tile);
      });
    }
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
