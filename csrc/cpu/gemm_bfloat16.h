// C = A B + bias of bfloat16 numbers, summed in float32 and rounded once, where the machine multiplies pairs of them.
#pragma once
#include <cstddef>
#include <cstdint>

namespace arraynn::cpu::ARRAYNN_ISA {

// C is m x n, C-contiguous; element (i, k) of A lies at a[i * a_row + k * a_k], element (k, j) of B at b[j * b_col + k
// * b_k]. bias, one for each column, may be null.
struct BFloat16Gemm {
  int64_t m, n, k;
  const uint16_t* a;
  int64_t a_row, a_k;
  const uint16_t* b;
  int64_t b_col, b_k;
  uint16_t* c;
  const uint16_t* bias;
};
void gemm_bfloat16(const BFloat16Gemm& g, void* scratch);
size_t gemm_bfloat16_scratch(int64_t m, int64_t n, int64_t k);  // bytes

}  // namespace arraynn::cpu::ARRAYNN_ISA
