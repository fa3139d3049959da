// A product of pairs is a product of floats whose lanes hold two numbers each (Product::pairs), with half as many steps
// of k. Operands whose numbers are neighbours along k are such floats as they lie; others are paired first.
#include "cpu/gemm_bfloat16.h"

#include "cpu/gemm.h"
#include "cpu/kernels.h"
#include "cpu/simd/halves.h"

namespace arraynn::cpu::ARRAYNN_ISA {

#ifdef ARRAYNN_HAS_PAIRS
bool multiplies_bfloat16() { return __builtin_cpu_supports("avx512bf16"); }
#else
bool multiplies_bfloat16() { return false; }
#endif

namespace {

constexpr int64_t line = 16;  // floats
constexpr int64_t grain = 32 << 10;

// An operand of `rows` (columns, of B) by k numbers.
struct Operand {
  const uint16_t* data;
  int64_t rows, k, row, step;
};
struct Paired {
  const float* data;
  int64_t row, step;
};

int64_t pairs_of(int64_t k) { return (k + 1) / 2; }
int64_t paired_elements(int64_t rows, int64_t k) { return round_up(rows * pairs_of(k), line); }

ARRAYNN_INLINE uint32_t pair_of(uint32_t first, uint32_t second) { return first | second << 16; }

// Numbers that are neighbours along the rows: two steps of k are woven into one of pairs.
Paired woven(const Operand& o, float* to) {
  int64_t pairs = pairs_of(o.k);
  parallel_chunks(pairs, 1 + grain / (o.rows + 1), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const uint16_t* first = o.data + 2 * p * o.step;
      for_vectors<float>(o.rows, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
        vu32 pair = load_halves(first + i, count);
        if (2 * p + 1 < o.k) pair |= load_halves(first + o.step + i, count) << 16;
        store_count(to + p * o.rows + i, (vf32)pair, count);
      });
    }
  });
  return {to, 1, o.rows};
}

// Numbers that lie anyhow.
Paired gathered(const Operand& o, float* to) {
  int64_t pairs = pairs_of(o.k);
  parallel_chunks(o.rows, 1 + grain / (o.k + 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t p = 0; p < pairs; ++p) {
        const uint16_t* first = o.data + i * o.row + 2 * p * o.step;
        uint32_t pair = pair_of(first[0], 2 * p + 1 < o.k ? first[o.step] : 0);
        __builtin_memcpy(to + i * pairs + p, &pair, sizeof pair);
      }
  });
  return {to, pairs, 1};
}

Paired paired(const Operand& o, float* to) {
  bool fits = o.k % 2 == 0 && o.row % 2 == 0 && reinterpret_cast<uintptr_t>(o.data) % sizeof(float) == 0;
  if (o.step == 1 && fits) return {reinterpret_cast<const float*>(o.data), o.row / 2, 1};
  return o.row == 1 ? woven(o, to) : gathered(o, to);
}

void round_sums(int64_t m, int64_t n, const float* sums, const uint16_t* bias, uint16_t* c) {
  parallel_chunks(m, 1 + grain / (n + 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for_vectors<float>(n, [&](int64_t j, auto count) ARRAYNN_LAMBDA {
        vf32 sum = load_count(sums + i * n + j, count);
        if (bias) sum += (vf32)BFloat16::widen(load_halves(bias + j, count));
        store_halves(c + i * n + j, BFloat16::round((vu32)sum), count);
      });
  });
}

}  // namespace

size_t gemm_bfloat16_scratch(int64_t m, int64_t n, int64_t k) {
  int64_t elements =
      round_up(m * n, line) + paired_elements(m, k) + paired_elements(n, k) + gemm_scratch<float>(m, n, pairs_of(k));
  return static_cast<size_t>(elements) * sizeof(float);
}

void gemm_bfloat16(const BFloat16Gemm& g, void* scratch) {
  float* sums = static_cast<float*>(scratch);
  float* a_pairs = sums + round_up(g.m * g.n, line);
  float* b_pairs = a_pairs + paired_elements(g.m, g.k);
  Paired a = paired({g.a, g.m, g.k, g.a_row, g.a_k}, a_pairs);
  Paired b = paired({g.b, g.n, g.k, g.b_col, g.b_k}, b_pairs);
  Gemm<float> product{g.m, g.n, pairs_of(g.k), a.data, a.row, a.step, b.data, b.row, b.step, sums, g.n, nullptr, false};
  product.product = Product::pairs;
  gemm(product, b_pairs + paired_elements(g.n, g.k));
  round_sums(g.m, g.n, sums, g.bias, g.c);
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
