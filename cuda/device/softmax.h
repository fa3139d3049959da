// What softmax and cross-entropy share: maximum and sum of exponentials in one pass; and the ways in which
// threads share rows, in which normalization goes along.
#pragma once
#include <algorithm>
#include <cmath>

#include "device/extent.h"
#include "device/reduce.h"
#include "dispatch.h"

namespace arraynn::cuda {

// In the result of a 16-bit type the fast one is as good: what it errs by, 2^-23 of the value for each unit
// of x, stays below 2^-16 of it wherever that is not 0 or infinite.
template <class T>
__device__ __forceinline__ compute_t<T> exp_of(compute_t<T> x) {
  if constexpr (std::is_same_v<T, double>)
    return exp(x);
  else if constexpr (std::is_same_v<T, float>)
    return expf(x);
  else
    return __expf(x);
}
__device__ __forceinline__ float log_of(float x) { return logf(x); }
__device__ __forceinline__ double log_of(double x) { return log(x); }
__device__ __forceinline__ float log1p_of(float x) { return log1pf(x); }
__device__ __forceinline__ double log1p_of(double x) { return log1p(x); }

// Maximum and sum of exp(x - maximum) of the numbers seen so far (Milakov and Gimelshein, "Online normalizer
// calculation for softmax", 2018). NaN leaves the maximum alone and reaches the sum.
template <class T>
struct Online {
  using C = compute_t<T>;
  C max = -INFINITY, sum = 0;

  // Before anything above -inf was seen, any finite number gives the zeros that are right.
  __device__ __forceinline__ C base() const { return max == -INFINITY ? C(0) : max; }
  __device__ __forceinline__ void raise(C top) {
    if (top > max) {
      sum *= exp_of<T>(max - top);
      max = top;
    }
  }
};

// ---- rows held in registers ----

// A row of `size` elements next to each other over `lanes` threads, in packs of `width`: E elements a thread.
template <class T, int width, int lanes, int E>
struct Held {
  using C = compute_t<T>;
  static constexpr int count = E, packs = E / width;
  Raw<T, width> raw[packs];

  static __device__ int first(int pack) { return (pack * lanes + static_cast<int>(threadIdx.x) % lanes) * width; }
  // Whether any lane has elements in a pack; the same for all threads.
  static __device__ bool any(int pack, int size) { return pack * lanes * width < size; }

  static __device__ int lane_of(int index) { return index / width % lanes; }

  __device__ __forceinline__ void load(const T* row, int size, bool wanted, C otherwise) {
#pragma unroll
    for (int k = 0; k < packs; ++k) {
      raw[k] = raw_of<T, width>([&](int) { return otherwise; });
      if (wanted && first(k) < size) raw[k] = load_raw<width>(row + first(k));
    }
  }
  __device__ __forceinline__ C get(int j) const { return raw[j / width].get(j % width); }

  // f(j, index) for every element; with `all` also for those behind the row's end in packs that have any
  // within it.
  template <bool all = false, class F>
  static __device__ __forceinline__ void each(int size, const F& f) {
#pragma unroll
    for (int k = 0; k < packs; ++k)
      if (all ? any(k, size) : first(k) < size)
#pragma unroll
        for (int j = 0; j < width; ++j) f(k * width + j, first(k) + j);
  }
  // row[index] = f(j, index)
  template <class F>
  static __device__ __forceinline__ void store(T* row, int size, bool wanted, const F& f) {
#pragma unroll
    for (int k = 0; k < packs; ++k)
      if (wanted && first(k) < size)
        store_raw<width>(row + first(k), raw_of<T, width>([&](int j) { return f(k * width + j, first(k) + j); }));
  }
};

inline constexpr int longest_held = 1024, held_threads = 256;

// f(Held{}) of the shape for rows of `size`, which are whole packs if `vector`. Few lanes where rows are
// short, so that a warp has several.
template <class T, class F>
void with_held(int64_t size, bool vector, const F& f) {
  auto of_width = [&](auto width) {
    constexpr int w = decltype(width)::value;
    if (size <= 32) return f(Held<T, w, 4, 8>{}, std::integral_constant<int, 4>{});
    if (size <= 256) return f(Held<T, w, 32, 8>{}, std::integral_constant<int, 32>{});
    return f(Held<T, w, 32, 32>{}, std::integral_constant<int, 32>{});
  };
  if (vector && sizeof(T) < 8 && size % pack_size<T> == 0)
    return of_width(Elements<sizeof(T) < 8 ? pack_size<T> : 1>{});
  of_width(Elements<1>{});
}

// Row after row in the registers of `lanes` threads. All threads of a warp make the same rounds.
template <int lanes, class F>
__device__ __forceinline__ void for_held_rows(int64_t rows, const F& f) {
  constexpr int at_once = held_threads / lanes;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * at_once; first < rows;
       first += static_cast<int64_t>(gridDim.x) * at_once) {
    int64_t row = first + static_cast<int>(threadIdx.x) / lanes;
    f(row, row < rows);
  }
}

// ---- rows walked ----

// What a walker is given beside the elements: where they lie in the arrays, their number along the row, and
// their slot in shared memory, where the thread may leave them for its next walk.
struct Spot {
  int64_t at, index, slot;
};

// Rows of elements next to each other, each walked by a whole block.
template <class T>
struct RowWalk {
  static constexpr int width = pack_size<T>, states = 1;
  static constexpr bool alone = true;  // a block has one row at a time
  // What the registers allow, and how many blocks a multiprocessor shall hold at least, if that matters.
  static constexpr int most_threads = sizeof(T) == 8 ? 512 : 1024, least_blocks = 0;
  int64_t rows, size;
  int phase;  // of the first row
  bool vector;
  int64_t row = 0;
  Extent<T> extent{};

  __device__ int64_t units() const { return rows; }
  __device__ void go(int64_t unit) {
    row = unit;
    extent = Extent<T>(size, (phase + static_cast<int>(row * size & (width - 1))) & (width - 1), vector);
  }
  __device__ bool inside() const { return true; }
  __device__ int64_t number(int) const { return row; }
  __device__ int64_t place(int, int64_t index) const { return row * size + index; }
  __device__ static int64_t index_of(const Spot& spot, int j) { return spot.index + j; }
  __device__ bool leads() const { return threadIdx.x == 0; }
  // Whether the thread is the one that walks over an element.
  __device__ bool owns(int64_t index) const {
    int64_t behind = index - extent.head, pack = behind / width;
    bool in_pack = behind >= 0 && pack < extent.packs;
    int64_t turn = in_pack ? pack : behind < 0 ? index : index - extent.packs * width;
    return turn % blockDim.x == threadIdx.x;
  }

  template <int unroll, class Load, class Use>
  __device__ __forceinline__ void walk(const Load& load, const Use& use) const {
    int64_t begin = row * size;
    auto spot = [&](auto n, int64_t i) {
      return Spot{begin + i, i, decltype(n)::value == width ? (i - extent.head) / width : INT64_MAX};
    };
    extent.template walk<unroll>(
        threadIdx.x, blockDim.x, [&](auto n, int64_t i) { return load(n, spot(n, i)); },
        [&](auto n, int64_t i, const auto& held) { use(n, spot(n, i), held); });
  }
  template <class C, class F>
  __device__ __forceinline__ void join(C (&v)[1], F f, C* room) const {
    v[0] = block_reduce(v[0], f, room);
  }
};

// Rows with `inner` elements from one of theirs to the next. Threads next to each other take rows next to
// each other, `width` each; `groups` of them, a power of two, share a row.
template <class T, int width_>
struct ColumnWalk {
  static constexpr int width = width_, states = width_;
  static constexpr bool alone = false;
  static constexpr int most_threads = 256, least_blocks = 3;
  int64_t outer, size, inner;
  int groups;
  int64_t image = 0, column = 0;
  bool valid = false;

  __device__ int lanes() const { return static_cast<int>(blockDim.x) / groups; }
  __device__ int group() const { return static_cast<int>(threadIdx.x) / lanes(); }
  __device__ int64_t units() const { return (outer * (inner / width) + lanes() - 1) / lanes(); }
  __device__ void go(int64_t unit) {
    int64_t across = inner / width, pack = unit * lanes() + static_cast<int>(threadIdx.x) % lanes();
    valid = pack < outer * across;
    if (pack <= INT32_MAX && across <= INT32_MAX)  // a division of 32 bits is several times cheaper
      image = static_cast<uint32_t>(pack) / static_cast<uint32_t>(across);
    else
      image = pack / across;
    column = (pack - image * across) * width;
  }
  __device__ bool inside() const { return valid; }
  __device__ int64_t number(int state) const { return image * inner + column + state; }
  __device__ int64_t place(int state, int64_t index) const { return (image * size + index) * inner + column + state; }
  __device__ static int64_t index_of(const Spot& spot, int) { return spot.index; }
  __device__ bool leads() const { return group() == 0; }
  __device__ bool owns(int64_t index) const { return (index & (groups - 1)) == group(); }

  template <int unroll, class Load, class Use>
  __device__ __forceinline__ void walk(const Load& load, const Use& use) const {
    if (!valid) return;
    constexpr Elements<width> whole{};
    int64_t begin = (image * size + group()) * inner + column, step = groups * inner;
    int64_t rounds = (size - group() + groups - 1) / groups;
    auto spot = [&](int64_t k) { return Spot{begin + k * step, group() + k * groups, k * blockDim.x + threadIdx.x}; };
#pragma unroll 1
    for (int64_t first = 0; first < rounds; first += unroll) {
      decltype(load(whole, Spot{})) held[unroll];
#pragma unroll
      for (int u = 0; u < unroll; ++u)
        if (first + u < rounds) held[u] = load(whole, spot(first + u));
#pragma unroll
      for (int u = 0; u < unroll; ++u)
        if (first + u < rounds) use(whole, spot(first + u), held[u]);
    }
  }
  template <class C, class F>
  __device__ __forceinline__ void join(C (&v)[width], F f, C* room) const {
    if (groups == 1) return;
    int lane = static_cast<int>(threadIdx.x) % lanes();
#pragma unroll
    for (int s = 0; s < width; ++s) room[threadIdx.x * width + s] = v[s];
    __syncthreads();
#pragma unroll
    for (int s = 0; s < width; ++s) {
      v[s] = room[lane * width + s];
      for (int g = 1; g < groups; ++g) v[s] = f(v[s], room[(g * lanes() + lane) * width + s]);
    }
    __syncthreads();
  }
};

// ---- the block of a walk ----

// Shared memory: room to join in, then the slots of `arrays` arrays, as many as there is room for; elements
// behind them are read again, mostly from L2.
struct WalkBlock {
  int threads;
  size_t room, bytes;
  int64_t slots;
  int64_t grid;
};

template <class T>
WalkBlock block_of(const RowWalk<T>& w, int arrays, const Place& place) {
  constexpr int64_t half = 110 << 10;  // of a multiprocessor's shared memory: two blocks fit
  constexpr size_t room = 256;         // block_reduce's
  int64_t packs = w.vector ? w.size / w.width : 0, bytes = packs * 16 * arrays;
  int64_t threads = std::min<int64_t>(std::max<int64_t>(ceil_div(w.size, w.width * 256) * 32, 128), 512);
  if (bytes > half) threads = w.most_threads;
  int64_t slots = std::min(packs, (most_shared_bytes(place) - static_cast<int64_t>(room)) / (16 * arrays));
  return {static_cast<int>(threads), room, room + static_cast<size_t>(slots * 16 * arrays), slots, w.rows};
}

inline int groups_of(int64_t size, int64_t columns) {
  if (columns <= 32 * 512 && size >= 16) return 8;  // too few threads otherwise
  return size <= 64 ? 1 : size <= 128 ? 2 : size <= 256 ? 4 : 8;
}

template <class T, int width>
WalkBlock block_of(const ColumnWalk<T, width>& w, int arrays, const Place&) {
  constexpr int64_t most = 64 << 10, threads = ColumnWalk<T, width>::most_threads;
  constexpr size_t room = threads * width * sizeof(compute_t<T>);
  int64_t bytes = static_cast<int64_t>(sizeof(T)) * width * arrays;
  int64_t slots = std::min(ceil_div(w.size, w.groups) * threads, most / bytes);
  int64_t grid = ceil_div(w.outer * (w.inner / width), threads / w.groups);
  return {threads, room, room + static_cast<size_t>(slots * bytes), slots, grid};
}

// f(walk) of the kind for arrays that begin at these places.
template <class T, class F, class... P>
void with_walk(int64_t outer, int64_t size, int64_t inner, const F& f, const T* first, const P*... others) {
  if (inner == 1) return f(RowWalk<T>{outer, size, phase_of(first), alike(first, others...)});
  bool pairs = inner % 2 == 0 && reinterpret_cast<uintptr_t>(first) % 4 == 0 &&
               ((reinterpret_cast<uintptr_t>(others) % 4 == 0) && ...);
  if (sizeof(T) == 2 && pairs)
    return f(ColumnWalk<T, sizeof(T) == 2 ? 2 : 1>{outer, size, inner, groups_of(size, outer * inner / 2)});
  f(ColumnWalk<T, 1>{outer, size, inner, groups_of(size, outer * inner)});
}

// The slots of one array. A thread finds there what it left, and nothing that another one did: no barriers.
template <class T, int width>
struct Slots {
  Raw<T, width>* kept;
  int64_t count;

  __device__ Slots(void* room, int64_t count_, int which)
      : kept(static_cast<Raw<T, width>*>(room) + which * count_), count(count_) {}
  template <int N>
  __device__ __forceinline__ void put(const Spot& spot, const Raw<T, N>& raw) const {
    if constexpr (N == width)
      if (spot.slot < count) kept[spot.slot] = raw;
  }
  template <int N>
  __device__ __forceinline__ Raw<T, N> get(const Spot& spot, const T* array) const {
    if constexpr (N == width)
      if (spot.slot < count) return kept[spot.slot];
    return load_raw<N>(array + spot.at);
  }
};

// Adds elements to their rows' states: all to one, or each to its own.
template <int N, int states, class T>
__device__ __forceinline__ void add(Online<T> (&o)[states], const Raw<T, N>& raw) {
  using C = compute_t<T>;
  if constexpr (states == 1) {
    C top = raw.get(0);
#pragma unroll
    for (int j = 1; j < N; ++j) top = MaxNumber{}(top, raw.get(j));
    o[0].raise(top);
    C base = o[0].base(), sum = 0;
#pragma unroll
    for (int j = 0; j < N; ++j) sum += exp_of<T>(raw.get(j) - base);
    o[0].sum += sum;
  } else {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      o[j].raise(raw.get(j));
      o[j].sum += exp_of<T>(raw.get(j) - o[j].base());
    }
  }
}

// The states of all threads of a row, made one.
template <class Walk, class T, int states>
__device__ __forceinline__ void join_online(const Walk& walk, Online<T> (&o)[states], compute_t<T>* room) {
  compute_t<T> top[states], sum[states];
#pragma unroll
  for (int s = 0; s < states; ++s) top[s] = o[s].max;
  walk.join(top, MaxNumber{}, room);
#pragma unroll
  for (int s = 0; s < states; ++s) {
    o[s].raise(top[s]);
    sum[s] = o[s].sum;
  }
  walk.join(sum, Add{}, room);
#pragma unroll
  for (int s = 0; s < states; ++s) o[s].sum = sum[s];
}

}  // namespace arraynn::cuda
