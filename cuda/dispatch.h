// From a dtype to a type, and from a count to a grid: what every launcher needs. Host code.
#pragma once
#include <algorithm>
#include <cstdint>

#include "core/array.h"
#include "device/types.h"
#include "launch.h"

namespace arraynn::cuda {

// f(T{}) with the element type of a floating dtype.
template <class F>
void dispatch_float(DType dtype, const F& f) {
  switch (dtype) {
    case DType::float64: return f(double{});
    case DType::float16: return f(float16{});
    case DType::bfloat16: return f(bfloat16{});
    default: return f(float{});
  }
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A one-dimensional grid that covers `count` in steps of `per_block`, at most as large as a grid may be;
// kernels walk on by the whole grid's width.
inline dim3 grid_for(int64_t count, int64_t per_block) {
  return dim3(static_cast<unsigned>(std::min<int64_t>(ceil_div(count, per_block), 0x7FFFFFFF)));
}

// Whether all of these can be read in packs of 16 bytes.
template <class... T>
bool aligned16(const T*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

}  // namespace arraynn::cuda
