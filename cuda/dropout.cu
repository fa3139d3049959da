// Dropout: each element read and written once. The random words are a function of the element's number in C
// order: where memory is in that order, one Philox block serves four elements next to each other; where the
// numbers of neighbours are a multiple of four apart (channels last), a thread takes four packs that lie side
// by side in the numbers, so that a block still serves four; else each element has its own.
#include "device/extent.h"
#include "device/philox.h"
#include "dispatch.h"
#include "kernels.h"

namespace arraynn::cuda {

namespace {

constexpr int threads = 256;

template <class T>
struct Mask {
  uint64_t key;
  uint32_t threshold;
  compute_t<T> scale;

  __device__ __forceinline__ compute_t<T> apply(uint32_t word, compute_t<T> x) const {
    return word >= threshold ? x * scale : 0;
  }
};

// Packs begin at multiples of their width.
template <class T>
__global__ __launch_bounds__(threads) void in_order(Extent<T> extent, Mask<T> mask, const T* x, T* y) {
  extent.template walk_grid<2>([&](auto n, int64_t i) { return load_raw<decltype(n)::value>(x + i); },
                               [&](auto n, int64_t i, const auto& raw) {
                                 constexpr int N = decltype(n)::value, blocks = (N + 3) / 4;
                                 Words words[blocks];
#pragma unroll
                                 for (int b = 0; b < blocks; ++b)
                                   words[b] = philox(static_cast<uint64_t>(i) / 4 + b, mask.key);
                                 store_raw<N>(y + i, raw_of<T, N>([&](int j) {
                                                uint32_t word = N >= 4 ? words[j / 4].of[j % 4]
                                                                       : words[0].get(static_cast<uint64_t>(i + j) & 3);
                                                return mask.apply(word, raw.get(j));
                                              }));
                               });
}

// The axes of memory, slowest first, and by how much an element's number grows along each.
struct Axes {
  int ndim;
  int64_t shape[max_dims], step[max_dims];

  // An element's number from its place in memory; the fastest axis is the last.
  __device__ __forceinline__ int64_t number(int64_t at) const {
    int64_t result = 0;
    for (int i = ndim - 1; i > 0; --i) {
      int64_t rest = at <= INT32_MAX && shape[i] <= INT32_MAX  // a division of 32 bits is several times cheaper
                         ? static_cast<int64_t>(static_cast<uint32_t>(at) / static_cast<uint32_t>(shape[i]))
                         : at / shape[i];
      result += (at - rest * shape[i]) * step[i];
      at = rest;
    }
    return ndim > 0 ? result + at * step[0] : result;
  }
};

// In any order, element by element.
template <class T>
__global__ __launch_bounds__(threads) void apart(int64_t count, Axes axes, Mask<T> mask, const T* x, T* y) {
  int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < count; i += step) {
    auto number = static_cast<uint64_t>(axes.number(i));
    uint32_t word = philox(number / 4, mask.key).get(number & 3);
    y[i] = narrow<T>(mask.apply(word, widen(x[i])));
  }
}

// Four packs, `apart` elements from one to the next in memory, whose elements' numbers are neighbours, the
// first a multiple of four. The axes are those of the packs' first elements: the one of the neighbours has a
// fourth of its length and four times its step, the fastest the number of packs along it.
template <class T>
struct Quads {
  int64_t count, apart, step;  // of quads; and the numbers' step along a pack
  Axes numbers, places;
};

template <class T>
__global__ __launch_bounds__(threads) void in_quads(Quads<T> quads, Mask<T> mask, const T* x, T* y) {
  constexpr int N = pack_size<T>;
  int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < quads.count; i += step) {
    auto first = static_cast<uint64_t>(quads.numbers.number(i));
    int64_t place = quads.places.number(i);
    Raw<T, N> raw[4];
    Words words[N];
#pragma unroll
    for (int k = 0; k < 4; ++k) raw[k] = load_raw<N>(x + place + k * quads.apart);
#pragma unroll
    for (int j = 0; j < N; ++j) words[j] = philox((first + static_cast<uint64_t>(j * quads.step)) / 4, mask.key);
#pragma unroll
    for (int k = 0; k < 4; ++k)
      store_raw<N>(y + place + k * quads.apart,
                   raw_of<T, N>([&](int j) { return mask.apply(words[j].of[k], raw[k].get(j)); }));
  }
}

// Whether numbers can be taken four at a time: one axis, not the fastest in memory, along which they are
// neighbours, every other step and its length multiples of four.
template <class T>
bool quads_of(const DropoutParams& p, Quads<T>& quads) {
  constexpr int N = pack_size<T>;
  int last = p.ndim - 1, beside = -1;
  for (int i = 0; i < p.ndim; ++i) {
    if (p.step[i] == 1)
      beside = i;
    else if (p.step[i] % 4 != 0)
      return false;
  }
  if (beside < 0 || beside == last || p.shape[beside] % 4 != 0 || p.shape[last] % N != 0) return false;
  quads.count = p.count / (4 * N);
  quads.step = p.step[last];
  quads.numbers.ndim = quads.places.ndim = p.ndim;
  int64_t place = 1;
  for (int i = last; i >= 0; --i) {
    int64_t together = i == last ? N : i == beside ? 4 : 1;
    if (i == beside) quads.apart = place;
    quads.numbers.shape[i] = quads.places.shape[i] = p.shape[i] / together;
    quads.numbers.step[i] = p.step[i] * together;
    quads.places.step[i] = place * together;
    place *= p.shape[i];
  }
  return true;
}

// All of one fate.
template <class T>
__global__ __launch_bounds__(threads) void scale_all(Extent<T> extent, bool kept, const T* x, T* y) {
  extent.template walk_grid<4>([&](auto n, int64_t i) { return load_raw<decltype(n)::value>(x + i); },
                               [&](auto n, int64_t i, const auto& raw) {
                                 constexpr int N = decltype(n)::value;
                                 store_raw<N>(y + i, kept ? raw : raw_of<T, N>([](int) { return 0; }));
                               });
}

template <class T>
dim3 grid_of(const Extent<T>& extent, int unroll) {
  return grid_for(std::max(extent.packs, extent.edges()), static_cast<int64_t>(threads) * unroll);
}

template <class T>
void drop_apart(const DropoutParams& p, const Mask<T>& mask, const T* x, T* y) {
  Quads<T> quads{};
  if (aligned16(x, y) && quads_of(p, quads)) {
    launch(in_quads<T>, grid_for(quads.count, threads), threads, 0, p.place, quads, mask, x, y);
    return;
  }
  Axes axes{p.ndim, {}, {}};
  std::copy(p.shape, p.shape + p.ndim, axes.shape);
  std::copy(p.step, p.step + p.ndim, axes.step);
  launch(apart<T>, grid_for(p.count, threads), threads, 0, p.place, p.count, axes, mask, x, y);
}

}  // namespace

void dropout_forward(const DropoutParams& p, const void* x, void* y) {
  if (p.count == 0) return;
  auto threshold = static_cast<uint64_t>(p.p * 4294967296.0);
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto from = static_cast<const T*>(x);
    auto to = static_cast<T*>(y);
    Mask<T> mask{p.key, static_cast<uint32_t>(threshold), static_cast<compute_t<T>>(p.p < 1 ? 1 / (1 - p.p) : 0)};
    if (p.p == 0 || threshold > 0xFFFFFFFFu) {
      auto extent = extent_of(p.count, from, to);
      launch(scale_all<T>, grid_of(extent, 4), threads, 0, p.place, extent, p.p == 0, from, to);
    } else if (p.ndim == 0) {
      Extent<T> extent(p.count, 0, aligned16(from, to));  // off a line of 16 bytes a pack's words are of two blocks
      launch(in_order<T>, grid_of(extent, 2), threads, 0, p.place, extent, mask, from, to);
    } else {
      drop_apart(p, mask, from, to);
    }
  });
}

}  // namespace arraynn::cuda
