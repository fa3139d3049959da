#include "copy.h"

#include "dispatch.h"

namespace arraynn::cuda {

namespace {

// Both arrays walked in the order in which the target lies in memory, axes joined where they can be.
struct Walk {
  const char* from;
  char* to;
  DType from_type, to_type;
  int ndim;
  int64_t count;
  int64_t shape[max_dims], from_step[max_dims], to_step[max_dims];  // slowest first; steps in elements
};

Walk walk_of(const Array& from, const Array& to) {
  Walk w{static_cast<const char*>(from.data), static_cast<char*>(to.data), from.dtype, to.dtype, 0, 1, {}, {}, {}};
  int axes[max_dims], n = 0;
  for (int i = 0; i < to.ndim; ++i) {
    w.count *= to.shape[i];
    if (to.shape[i] != 1) axes[n++] = i;
  }
  auto size = [&](int axis) { return to.strides[axis] < 0 ? -to.strides[axis] : to.strides[axis]; };
  std::stable_sort(axes, axes + n, [&](int a, int b) { return size(a) > size(b); });
  for (int k = 0; k < n; ++k) {
    int axis = axes[k], last = w.ndim - 1;
    int64_t extent = to.shape[axis], a = from.strides[axis], b = to.strides[axis];
    if (last >= 0 && w.from_step[last] == a * extent && w.to_step[last] == b * extent) {
      w.shape[last] *= extent;
      w.from_step[last] = a;
      w.to_step[last] = b;
    } else {
      w.shape[w.ndim] = extent;
      w.from_step[w.ndim] = a;
      w.to_step[w.ndim++] = b;
    }
  }
  return w;
}

struct Places {
  int64_t from, to;
};

__device__ __forceinline__ Places places_of(const Walk& w, int64_t i) {
  Places p{0, 0};
  for (int axis = w.ndim - 1; axis > 0; --axis) {
    int64_t at = i % w.shape[axis];
    i /= w.shape[axis];
    p.from += at * w.from_step[axis];
    p.to += at * w.to_step[axis];
  }
  if (w.ndim > 0) {
    p.from += i * w.from_step[0];
    p.to += i * w.to_step[0];
  }
  return p;
}

constexpr int threads = 256;

template <class Word>
__global__ void copy_kernel(Walk w) {
  int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < w.count; i += step) {
    Places p = places_of(w, i);
    reinterpret_cast<Word*>(w.to)[p.to] = reinterpret_cast<const Word*>(w.from)[p.from];
  }
}

// Matrices whose rows lie along memory in the source and across it in the target go by way of shared
// memory, a tile at a time, so that both sides are touched in whole lines.
constexpr int tile = 32, tile_rows = 8;

// Axes 0..ndim-3 of the walk number the matrices; the last but one axis is the source's fastest.
template <class Word>
__global__ void transpose_kernel(Walk w, int64_t tiles_y, int64_t tiles_x) {
  auto* room = shared<Word>();  // tile x (tile + 1), the one more against bank conflicts
  int y_axis = w.ndim - 2, x_axis = w.ndim - 1;
  int tx = static_cast<int>(threadIdx.x % tile), ty = static_cast<int>(threadIdx.x / tile);
  int64_t matrix = blockIdx.x / (tiles_y * tiles_x), rest = blockIdx.x % (tiles_y * tiles_x);
  int64_t y0 = rest / tiles_x * tile, x0 = rest % tiles_x * tile;
  int64_t from = 0, to = 0;
  for (int axis = y_axis - 1; axis >= 0; --axis) {
    int64_t at = matrix % w.shape[axis];
    matrix /= w.shape[axis];
    from += at * w.from_step[axis];
    to += at * w.to_step[axis];
  }
  for (int k = ty; k < tile; k += tile_rows) {
    int64_t y = y0 + tx, x = x0 + k;
    if (y < w.shape[y_axis] && x < w.shape[x_axis])
      room[k * (tile + 1) + tx] =
          reinterpret_cast<const Word*>(w.from)[from + y * w.from_step[y_axis] + x * w.from_step[x_axis]];
  }
  __syncthreads();
  for (int k = ty; k < tile; k += tile_rows) {
    int64_t y = y0 + k, x = x0 + tx;
    if (y < w.shape[y_axis] && x < w.shape[x_axis])
      reinterpret_cast<Word*>(w.to)[to + y * w.to_step[y_axis] + x * w.to_step[x_axis]] = room[tx * (tile + 1) + k];
  }
}

template <class Word>
void copy_words(const Walk& w, const Place& place) {
  int n = w.ndim;
  if (n >= 2 && w.from_step[n - 2] == 1 && w.to_step[n - 1] == 1 && w.shape[n - 1] >= 8 && w.shape[n - 2] >= 8) {
    int64_t tiles_y = ceil_div(w.shape[n - 2], tile), tiles_x = ceil_div(w.shape[n - 1], tile);
    int64_t blocks = w.count / (w.shape[n - 1] * w.shape[n - 2]) * tiles_y * tiles_x;
    if (blocks <= 0x7FFFFFFF) {
      launch(transpose_kernel<Word>, dim3(static_cast<unsigned>(blocks)), tile * tile_rows,
             sizeof(Word) * tile * (tile + 1), place, w, tiles_y, tiles_x);
      return;
    }
  }
  launch(copy_kernel<Word>, grid_for(w.count, threads), threads, 0, place, w);
}

// ---- conversions ----

// What any element is, exactly: a double, or 64 bits of an integer.
struct Number {
  bool integer, is_unsigned;
  double real;
  int64_t bits;
};

__device__ Number read(const char* data, DType type, int64_t i) {
  switch (type) {
    case DType::float32: return {false, false, reinterpret_cast<const float*>(data)[i], 0};
    case DType::float64: return {false, false, reinterpret_cast<const double*>(data)[i], 0};
    case DType::float16: return {false, false, widen(reinterpret_cast<const float16*>(data)[i]), 0};
    case DType::bfloat16: return {false, false, widen(reinterpret_cast<const bfloat16*>(data)[i]), 0};
    case DType::int64: return {true, false, 0, reinterpret_cast<const int64_t*>(data)[i]};
    case DType::int32: return {true, false, 0, reinterpret_cast<const int32_t*>(data)[i]};
    case DType::int16: return {true, false, 0, reinterpret_cast<const int16_t*>(data)[i]};
    case DType::int8: return {true, false, 0, reinterpret_cast<const int8_t*>(data)[i]};
    case DType::uint64: return {true, true, 0, static_cast<int64_t>(reinterpret_cast<const uint64_t*>(data)[i])};
    case DType::uint32: return {true, false, 0, reinterpret_cast<const uint32_t*>(data)[i]};
    case DType::uint16: return {true, false, 0, reinterpret_cast<const uint16_t*>(data)[i]};
    default: return {true, false, 0, reinterpret_cast<const uint8_t*>(data)[i]};
  }
}

// A float that rounds to any shorter format as the double itself would: what is cut off stays visible
// in the last bit (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms
// using rounding to odd", 2008).
__device__ float round_to_odd(double x) {
  auto nearest = static_cast<float>(x);
  if (static_cast<double>(nearest) == x || x != x) return nearest;
  uint32_t bits = __float_as_uint(nearest);
  if ((bits & 0x7FFFFFFFu) == 0x7F800000u) return nearest;  // infinite in any shorter format
  double magnitude = x < 0 ? -x : x, got = nearest < 0 ? -static_cast<double>(nearest) : static_cast<double>(nearest);
  if (got > magnitude) --bits;  // towards zero
  return __uint_as_float(bits | 1u);
}

__device__ void write(char* data, DType type, int64_t i, Number n) {
  double real = !n.integer      ? n.real
                : n.is_unsigned ? static_cast<double>(static_cast<uint64_t>(n.bits))
                                : static_cast<double>(n.bits);
  int64_t bits = n.integer ? n.bits : static_cast<int64_t>(n.real);
  switch (type) {
    case DType::float32: reinterpret_cast<float*>(data)[i] = static_cast<float>(real); break;
    case DType::float64: reinterpret_cast<double*>(data)[i] = real; break;
    case DType::float16: reinterpret_cast<float16*>(data)[i] = narrow<float16>(round_to_odd(real)); break;
    case DType::bfloat16: reinterpret_cast<bfloat16*>(data)[i] = narrow<bfloat16>(round_to_odd(real)); break;
    case DType::int64:
    case DType::uint64: reinterpret_cast<int64_t*>(data)[i] = bits; break;
    case DType::int32:
    case DType::uint32: reinterpret_cast<int32_t*>(data)[i] = static_cast<int32_t>(bits); break;
    case DType::int16:
    case DType::uint16: reinterpret_cast<int16_t*>(data)[i] = static_cast<int16_t>(bits); break;
    default: reinterpret_cast<int8_t*>(data)[i] = static_cast<int8_t>(bits);
  }
}

__global__ void convert_kernel(Walk w) {
  int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < w.count; i += step) {
    Places p = places_of(w, i);
    write(w.to, w.to_type, p.to, read(w.from, w.from_type, p.from));
  }
}

}  // namespace

void copy(const Array& from, const Array& to) {
  Walk w = walk_of(from, to);
  if (w.count == 0) return;
  if (from.dtype != to.dtype) {
    launch(convert_kernel, grid_for(w.count, threads), threads, 0, to.place, w);
    return;
  }
  switch (item_size(to.dtype)) {
    case 8: return copy_words<uint64_t>(w, to.place);
    case 4: return copy_words<uint32_t>(w, to.place);
    case 2: return copy_words<uint16_t>(w, to.place);
    default: return copy_words<uint8_t>(w, to.place);
  }
}

}  // namespace arraynn::cuda
