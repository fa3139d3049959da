// Maximum pooling, ordinary and adaptive, and its gradient, contiguous (packs of 16 bytes along the columns of 2 x 2
// windows, else one column to a thread) and channels-last (packs of 16 bytes along the channels).
//
// The forward pass writes the maximum and, in the same pass, which entry it was: its tap, one byte of a
// window, which is all that the gradient reads beside the cotangent (an int64 place where a window has more
// than 255 entries). Indices are made of the tap at the store, not in a second pass.
//
// Bytes moved per element of the input, of E bytes, with O outputs per input (1/4 at a stride of 2):
// forward E + O (E + 1), and 8 O more for indices; backward E + O (E + 1). Windows that overlap read from
// the caches what they share.
//
// What else could be the bound is the arithmetic, four instructions for each entry of a window (two
// comparisons, for NaN is one of them, and two choices) beside loads and places. Compiled for 9.0, 3 x 3
// windows at a stride of 2 take some 170 instructions of a contiguous output and 90 to 120 of a channels-last
// one; their gradient 15 to 30 of an element of the input. On a Hopper that is about what the memory takes
// in float32; in 16 bits, and at a stride of 1, arithmetic is the bound.
//
// The gradient is gathered: every entry asks the windows over it, and no two threads write to one place.
// Atomics would move as many bytes and add in any order.
#include "pool/backward.h"
#include "pool/forward.h"

namespace arraynn::cuda {

namespace {

// ---- what is kept of maxima ---------------------------------------------------------------------

// Any of the pointers but the first may be null. `taps` are bytes, from the first one on; `places` what
// takes their place where they are too many.
template <class T>
struct Maxima {
  T* y;  // or its gradient
  uint8_t* taps;
  int64_t *places, *indices;

  Maxima at(int64_t i) const {
    return {y + i, taps ? taps + i : nullptr, places ? places + i : nullptr, indices ? indices + i : nullptr};
  }
  bool aligned() const { return aligned16(y, taps, places, indices); }
};

template <class T, class V>
Maxima<T> maxima_of(const PoolParams& p, T* y, V* taps, int64_t* indices) {
  if (!taps) return {y, nullptr, nullptr, indices};
  auto* bytes = static_cast<uint8_t*>(static_cast<void*>(taps));
  if (p.compact) return {y, bytes + taps_margin, nullptr, indices};
  return {y, nullptr, static_cast<int64_t*>(static_cast<void*>(taps)), indices};
}

// ---- forward ------------------------------------------------------------------------------------

template <class T, int N, class I>
struct Highest {
  using C = compute_t<T>;
  struct State {
    C value[N];
    I tap[N];
  };
  struct Line {
    C value[N];
    int column[N];
  };

  Maxima<T> to;
  explicit Highest(const PoolParams&, const Maxima<T>& maxima) : to(maxima) {}

  static __device__ __forceinline__ Pack<T, N> nothing() {
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; ++i) pack.v[i] = narrow<T>(C(-INFINITY));
    return pack;
  }
  // Where nothing is more than -inf, the first entry is the maximum: padding, as -inf, never wins.
  __device__ __forceinline__ State start(I tap) const {
    State state;
#pragma unroll
    for (int i = 0; i < N; ++i) state.value[i] = C(-INFINITY), state.tap[i] = tap;
    return state;
  }
  __device__ __forceinline__ Line start_line(int column) const {
    Line line;
#pragma unroll
    for (int i = 0; i < N; ++i) line.value[i] = C(-INFINITY), line.column[i] = column;
    return line;
  }
  // Larger, or NaN: the first of equal values and the last NaN stay.
  static __device__ __forceinline__ bool wins(C value, C best) { return value > best || value != value; }

  static __device__ __forceinline__ void add(State& state, const Pack<T, N>& pack, I tap) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      C value = widen(pack.v[i]);
      bool better = wins(value, state.value[i]);
      state.value[i] = better ? value : state.value[i];
      state.tap[i] = better ? tap : state.tap[i];
    }
  }
  static __device__ __forceinline__ void end_row(State&) {}
  static __device__ __forceinline__ void add(Line& line, const Pack<T, N>& pack, int column) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      C value = widen(pack.v[i]);
      bool better = wins(value, line.value[i]);
      line.value[i] = better ? value : line.value[i];
      line.column[i] = better ? column : line.column[i];
    }
  }
  static __device__ __forceinline__ void join(State& state, const Line& line, int tap) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      bool better = wins(line.value[i], state.value[i]);
      state.value[i] = better ? line.value[i] : state.value[i];
      state.tap[i] = better ? tap + line.column[i] : state.tap[i];
    }
  }

  template <bool Deep>
  __device__ __forceinline__ int64_t place(const Shape<I, Deep>& s, I row, I column, I tap) const {
    if (tap < 0) return -1;
    Position<I> line = output_line(s, row);
    I above = tap / s.columns.kernel, d = Deep ? above / s.rows.kernel : 0;
    I slice = slice_at(s, slice_taps(s, line.slice).start, d);
    I r = start_of(s.rows, line.row) + (above - d * s.rows.kernel) * s.rows.dilation;
    I c = start_of(s.columns, column) + tap % s.columns.kernel * s.columns.dilation;
    return (static_cast<int64_t>(slice) * s.rows.size + r) * s.columns.size + c;
  }
  template <bool Deep>
  __device__ __forceinline__ void store(const Shape<I, Deep>& s, int64_t at, I row, I column, I step,
                                        const State& state) const {
    Pack<T, N> y;
    Pack<uint8_t, N> taps;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      y.v[i] = narrow<T>(state.value[i]);
      taps.v[i] = static_cast<uint8_t>(state.tap[i]);  // 255 for none, -1
    }
    store_pack(to.y + at, y);
    if (to.taps) store_pack(to.taps + at, taps);
    if (!to.places && !to.indices) return;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      int64_t found = place(s, row, column + i * step, state.tap[i]);
      if (to.places) to.places[at + i] = found;
      if (to.indices) to.indices[at + i] = found;
    }
  }
};

// ---- backward -----------------------------------------------------------------------------------

template <class T, int N, class I>
struct ToHighest {
  using C = compute_t<T>;
  struct Window {
    Pack<T, N> dy;
    Pack<uint8_t, N> taps;
  };

  Maxima<const T> from;
  explicit ToHighest(const PoolParams&, const Maxima<const T>& maxima) : from(maxima) {}

  static __device__ __forceinline__ Window nothing() {
    Window window{};
#pragma unroll
    for (int i = 0; i < N; ++i) window.taps.v[i] = 255;
    return window;
  }
  __device__ __forceinline__ Window window(int64_t at) const {
    return {load_pack<N>(from.y + at), load_pack<N>(from.taps + at)};
  }
  __device__ __forceinline__ void settle(Window&, const Shape<I>&, I, I) const {}
  static __device__ __forceinline__ void add(C (&sums)[N], const Window& window, int tap) {
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (window.taps.v[i] == tap) sums[i] += widen(window.dy.v[i]);
  }
  template <bool Deep>
  __device__ __forceinline__ void gather(C (&sums)[N], const Shape<I, Deep>&, I, I, int64_t at, I tap, I place) const {
    if (from.taps) {
      Pack<uint8_t, N> taps = load_pack<N>(from.taps + at);
#pragma unroll
      for (int i = 0; i < N; ++i)
        if (taps.v[i] == tap) sums[i] += widen(from.y[at + i]);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i)
        if (from.places[at + i] == place) sums[i] += widen(from.y[at + i]);
    }
  }
};

}  // namespace

// ---- launchers ----------------------------------------------------------------------------------

void max_pool_forward(const PoolParams& p, const void* input, void* output, void* taps, int64_t* indices) {
  if (p.slices.out == 0 || p.rows.out == 0 || p.columns.out == 0) return;
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    forward<Highest, T>(p, static_cast<const T*>(input), maxima_of(p, static_cast<T*>(output), taps, indices));
  });
}

void max_pool_backward(const PoolParams& p, const void* d_output, const void* taps, void* d_input) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto* dy = static_cast<const T*>(d_output);
    backward<ToHighest, T>(p, maxima_of(p, dy, const_cast<void*>(taps), nullptr), static_cast<T*>(d_input));
  });
}

}  // namespace arraynn::cuda
