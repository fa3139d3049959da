// What the C++ side knows of an array: where it lies, what it holds, how it is laid out.
#pragma once
#include <cstdint>

namespace arraynn {

// The 16-bit floats reach CUDA kernels alone; the integers after int64, conversions alone.
enum class DType : int {
  float32,
  float64,
  int64,
  float16,
  bfloat16,
  int32,
  int16,
  int8,
  uint64,
  uint32,
  uint16,
  uint8,
};

int64_t item_size(DType dtype);

// Where an array lies, and where the work on it is queued.
struct Place {
  int device = -1;         // a CUDA device, or -1: the host
  void* stream = nullptr;  // a cudaStream_t of that device
  bool tf32 = false;       // products of float32 may be rounded to TF32
  bool checks = false;     // values are looked at and errors raised in the call, which then waits for the device
  bool on_device() const { return device >= 0; }
};

inline constexpr int max_dims = 8;

// A view. Strides count elements, not bytes, and may be zero or negative.
struct Array {
  void* data = nullptr;
  DType dtype = DType::float32;
  Place place;
  int ndim = 0;
  int64_t shape[max_dims] = {};
  int64_t strides[max_dims] = {};
};

// Memory order of an output of three or more dimensions. The logical order is N, C, spatial always.
enum class Layout : int { contiguous, channels_last };

}  // namespace arraynn
