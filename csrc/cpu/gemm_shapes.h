// Products of shapes for which to pack both operands would cost too much: few rows, few columns, or few steps in cache.
#pragma once
#include "cpu/gemm.h"

namespace arraynn::cpu::ARRAYNN_ISA {

// Does the product, if its shape is such a one, and says so.
template <class T>
bool gemm_of_shape(const Gemm<T>& g, T* scratch);
// The elements of scratch that it needs, enough for any smaller product too.
template <class T>
int64_t one_sided_scratch(int64_t m, int64_t n, int64_t k);

}  // namespace arraynn::cpu::ARRAYNN_ISA
