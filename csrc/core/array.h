// What the C++ side knows of an array: where it lies, what it holds, how it is laid out.
#pragma once
#include <cstdint>

namespace arraynn {

enum class DType : int { float32, float64, int64 };

inline constexpr int max_dims = 8;

// A view. Strides count elements, not bytes, and may be zero or negative.
struct Array {
  void* data = nullptr;
  DType dtype = DType::float32;
  int ndim = 0;
  int64_t shape[max_dims] = {};
  int64_t strides[max_dims] = {};
};

// Memory order of an output of three or more dimensions. The logical order is N, C, spatial always.
enum class Layout : int { contiguous, channels_last };

}  // namespace arraynn
