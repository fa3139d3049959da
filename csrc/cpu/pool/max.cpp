// Maximum pooling. Contiguous planes are vectorised along the width, channels-last ones over the
// channels. The gradient is gathered, row by row of the input: an entry adds up the windows that
// have their maximum there, so that rows are independent and written once.
#include "cpu/pool/window.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr uint8_t no_tap = 255;
constexpr int64_t taps_room = 8192;  // elements of all rows of a window's buffer

template <class T>
ARRAYNN_INLINE mask<T> load_taps(const uint8_t* p) {
  mask<T> taps;
  load_bytes(p, taps);
  return taps;
}
template <class T, class Count>
ARRAYNN_INLINE void store_taps(uint8_t* p, mask<T> taps, Count count) {
  if constexpr (std::is_same_v<Count, int>) {
    uint8_t bytes[lanes<T>], *from = bytes;
    store_bytes(bytes, taps);
    for (int part = lanes<T> / 2; part > 0; part /= 2)
      if (count & part) __builtin_memcpy(p, from, static_cast<size_t>(part)), p += part, from += part;
  } else {
    store_bytes(p, taps);
  }
}

// The better of the best so far and tap k: a larger value, or a NaN.
template <class T>
ARRAYNN_INLINE void challenge(vec<T>& best, mask<T>& tap, vec<T> v, int k) {
  mask<T> better = (v > best) | (v != v);
  best = better ? v : best;
  tap = better ? mask<T>{} + k : tap;
}

// ---- one window, whatever its size --------------------------------------------------------------

template <class T>
struct Best {
  T value = -INFINITY;
  int64_t row = -1, column = -1;  // taps
};

// Entry (row, column) of the plane lies at x[row * row_step + column * column_step].
template <class T>
Best<T> best_of(const PoolParams& p, const T* x, int64_t row_step, int64_t column_step, int64_t oh, int64_t ow) {
  Best<T> best;
  Taps rows = taps_of(p.rows, oh), columns = taps_of(p.columns, ow);
  for (int64_t r = rows.first; r < rows.last; ++r)
    for (int64_t c = columns.first; c < columns.last; ++c) {
      T v = x[(rows.start + r * p.rows.dilation) * row_step + (columns.start + c * p.columns.dilation) * column_step];
      if (best.row < 0 || v > best.value || v != v) best = {v, r, c};
    }
  return best;
}

template <class T>
int64_t place_of(const PoolParams& p, const Best<T>& best, int64_t oh, int64_t ow) {
  if (best.row < 0) return -1;
  int64_t row = oh * p.rows.stride - p.rows.padding + best.row * p.rows.dilation;
  return row * p.columns.size + ow * p.columns.stride - p.columns.padding + best.column * p.columns.dilation;
}

// ---- contiguous planes --------------------------------------------------------------------------

// Windows at a stride of S, if their rows fit the buffer.
template <int S, class T>
bool row_with_taps(const PoolParams& p, const T* plane, int64_t oh, T* y, uint8_t* taps) {
  const PoolAxis& a = p.columns;
  Taps rows = taps_of(p.rows, oh);
  int64_t size = taps_room / p.rows.kernel, length = size / S, tile = windows_in<T, S>(size, a);
  if (tile < lanes<T>) return false;
  alignas(64) T phases[taps_room];
  int64_t reach = (a.kernel - 1) * a.dilation;
  int first_tap = static_cast<int>(rows.first * a.kernel);
  for (int64_t o = 0; o < a.out; o += tile) {
    int64_t n = a.out - o < tile ? a.out - o : tile;
    for (int64_t r = rows.first; r < rows.last; ++r) {
      const T* row = plane + (rows.start + r * p.rows.dilation) * a.size;
      auto values = [&](int64_t c, auto count) ARRAYNN_LAMBDA { return load_count(row + c, count); };
      fill_phases<S>(phases + (r - rows.first) * size, length, o * S - a.padding, (n - 1) * S + reach + 1, a.size,
                     T(-INFINITY), values);
    }
    // Each comparison waits for the one before it: two vectors at a time fill the gaps.
    auto vectors = [&](int64_t j, auto ways, auto count) ARRAYNN_LAMBDA {
      vec<T> best[ways];
      mask<T> tap[ways];
      static_for<ways>([&](auto v)
                           ARRAYNN_LAMBDA { best[v] = broadcast<T>(-INFINITY), tap[v] = mask<T>{} + first_tap; });
      int k = first_tap;
      T* row = phases + j;
      for (int64_t r = rows.first; r < rows.last; ++r, row += size)
        for (int64_t c = 0; c <= reach; c += a.dilation, ++k) {
          const T* from = column<T, S>(row, length, c);
          static_for<ways>([&](auto v) ARRAYNN_LAMBDA { challenge<T>(best[v], tap[v], load(from + v * lanes<T>), k); });
        }
      static_for<ways>([&](auto v) ARRAYNN_LAMBDA {
        store_count(y + o + j + v * lanes<T>, best[v], count);
        store_taps<T>(taps + o + j + v * lanes<T>, tap[v], count);
      });
    };
    int64_t j = 0;
    constexpr std::integral_constant<int, lanes<T>> all{};
    for (; j + 2 * lanes<T> <= n; j += 2 * lanes<T>) vectors(j, std::integral_constant<int, 2>{}, all);
    for_vectors<T>(
        n - j, [&](int64_t i, auto count) ARRAYNN_LAMBDA { vectors(j + i, std::integral_constant<int, 1>{}, count); });
  }
  // A window that begins in the padding has its first entry at another tap, or none at all.
  for (int64_t o = 0; o < a.out && (o * S < a.padding || rows.first == rows.last); ++o) {
    Taps columns = taps_of(a, o);
    if (y[o] == T(-INFINITY))
      taps[o] = rows.first < rows.last && columns.first < columns.last ? static_cast<uint8_t>(first_tap + columns.first)
                                                                       : no_tap;
  }
  return true;
}

// Windows of two columns side by side.
template <class T>
void pairs_with_taps(const PoolParams& p, const T* plane, int64_t oh, T* y, uint8_t* taps) {
  const PoolAxis& a = p.columns;
  Taps rows = taps_of(p.rows, oh);
  int first_tap = static_cast<int>(rows.first * a.kernel);
  const T* row = plane + (rows.start + rows.first * p.rows.dilation) * a.size;
  int64_t step = p.rows.dilation * a.size;
  for_vectors<T>(a.out, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    vec<T> best = broadcast<T>(-INFINITY);
    mask<T> tap = mask<T>{} + first_tap;
    int k = first_tap;
    for (int64_t r = rows.first; r < rows.last; ++r, k += 2) {
      const T* at = row + (r - rows.first) * step + 2 * i;
      auto from = [&](int64_t c, auto n) ARRAYNN_LAMBDA { return load_count(at + c, n); };
      pair<T>(from, count, [&](vec<T> first, vec<T> second) ARRAYNN_LAMBDA {
        challenge<T>(best, tap, first, k);
        challenge<T>(best, tap, second, k + 1);
      });
    }
    store_count(y + i, best, count);
    store_taps<T>(taps + i, tap, count);
  });
  if (rows.first == rows.last)
    for (int64_t i = 0; i < a.out; ++i) taps[i] = no_tap;
}

// The gradient's row h, which the rows of windows `over` hold, from the taps, at a stride of S.
template <int S, class T>
void gather_row(const PoolParams& p, const Contributions& list, const T* dy, const uint8_t* taps, int64_t h, Over over,
                T* dx) {
  const PoolAxis& a = p.columns;
  struct Source {
    const T* dy;
    const uint8_t* taps;
    int first;  // tap of the row that h is in these windows
  } sources[most_taps];
  int count = 0;
  for (int64_t oh = over.first; oh < over.last; ++oh) {
    int64_t r = tap_at(p.rows, oh, h);
    if (r >= 0) sources[count++] = {dy + oh * a.out, taps + oh * a.out, static_cast<int>(r * a.kernel)};
  }
  for (int64_t i = 0; i * S < a.size; i += lanes<T>) {
    bool inside = i + list.least >= 0 && i + list.most + lanes<T> <= a.out;
    vec<T> streams[S];
    static_for<S>([&](auto s) ARRAYNN_LAMBDA {
      vec<T> total{};
      for (int k = 0; k < count; ++k)
        for (int m = list.begin[s]; m < list.begin[s + 1]; ++m) {
          int64_t at = i + list.shift[m];
          if (!inside && (at <= -lanes<T> || at >= a.out)) continue;
          vec<T> value = inside ? load(sources[k].dy + at) : load_inside(sources[k].dy, at, a.out);
          total += load_taps<T>(sources[k].taps + at) == sources[k].first + list.tap[m] ? value : vec<T>{};
        }
      streams[s] = total;
    });
    store_streams<S>(dx + i * S, streams, a.size - i * S);
  }
}

// The same for windows of two columns side by side.
template <class T>
void gather_pairs(const PoolParams& p, const T* dy, const uint8_t* taps, int64_t h, Over over, T* dx) {
  const PoolAxis& a = p.columns;
  for_vectors<T>(a.out, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    vec<T> streams[2] = {};
    for (int64_t oh = over.first; oh < over.last; ++oh) {
      int64_t r = tap_at(p.rows, oh, h);
      if (r < 0) continue;
      vec<T> value = load_count(dy + oh * a.out + i, count);
      mask<T> tap = load_taps<T>(taps + oh * a.out + i) - static_cast<int>(2 * r);
      streams[0] += tap == 0 ? value : vec<T>{};
      streams[1] += tap == 1 ? value : vec<T>{};
    }
    store_streams<2>(dx + 2 * i, streams, 2 * int64_t{count});
  });
  for (int64_t i = 2 * a.out; i < a.size; ++i) dx[i] = T(0);
}

// The same at any stride: each window of the rows over h adds to one entry.
template <class T>
void scatter_row(const PoolParams& p, const T* dy, const uint8_t* taps, int64_t h, Over over, T* dx) {
  const PoolAxis& a = p.columns;
  for (int64_t i = 0; i < a.size; ++i) dx[i] = T(0);
  for (int64_t oh = over.first; oh < over.last; ++oh) {
    int64_t r = tap_at(p.rows, oh, h);
    if (r < 0) continue;
    for (int64_t o = 0; o < a.out; ++o) {
      uint8_t tap = taps[oh * a.out + o];
      int64_t k = tap - r * a.kernel;
      if (tap != no_tap && k >= 0 && k < a.kernel) dx[o * a.stride - a.padding + k * a.dilation] += dy[oh * a.out + o];
    }
  }
}

// The gradient's rows [begin, end) of a plane.
template <class T>
void contiguous_backward(const PoolParams& p, const Contributions* list, const T* dy, const uint8_t* taps,
                         int64_t begin, int64_t end, T* dx) {
  Over over = windows_over(p.rows, begin);
  for (int64_t h = begin; h < end; ++h, over = next_windows(p.rows, over, h)) {
    T* row = dx + h * p.columns.size;
    if (is_pairs(p.columns))
      gather_pairs(p, dy, taps, h, over, row);
    else if (!list)
      scatter_row(p, dy, taps, h, over, row);
    else
      with_stride(p.columns.stride, [&](auto s) { gather_row<s()>(p, *list, dy, taps, h, over, row); });
  }
}

// ---- channels-last ------------------------------------------------------------------------------

// Output pixel ow, of all channels, of the row whose windows have the taps `rows`; x is the image, y
// and taps (which may be null) the pixel's.
template <class T>
void pixel(const PoolParams& p, const T* x, Taps rows, int64_t ow, T* y, uint8_t* taps) {
  Taps columns = taps_of(p.columns, ow);
  const T* corner = x + (rows.start * p.columns.size + columns.start) * p.channels;
  int64_t row_step = p.rows.dilation * p.columns.size * p.channels, column_step = p.columns.dilation * p.channels;
  bool none = rows.first == rows.last || columns.first == columns.last;
  int first = none ? no_tap : static_cast<int>(rows.first * p.columns.kernel + columns.first);
  for_vectors<T>(p.channels, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    vec<T> best = broadcast<T>(-INFINITY);
    mask<T> tap = mask<T>{} + first;
    for (int64_t r = rows.first; r < rows.last; ++r)
      for (int64_t c = columns.first; c < columns.last; ++c) {
        vec<T> v = load_count(corner + r * row_step + c * column_step + i, count);
        if (taps)
          challenge<T>(best, tap, v, static_cast<int>(r * p.columns.kernel + c));
        else
          best = Max<T>::join(best, v);
      }
    store_count(y + i, best, count);
    if (taps) store_taps<T>(taps + i, tap, count);
  });
}

// The gradient's row h, which the rows of windows `over` hold; dy and taps are the image's.
template <class T>
void channels_last_backward(const PoolParams& p, const T* dy, const uint8_t* taps, int64_t h, Over over, T* dx) {
  const PoolAxis& a = p.columns;
  int64_t channels = p.channels;
  for_vectors<T>(a.size * channels,
                 [&](int64_t i, auto count) ARRAYNN_LAMBDA { store_count(dx + i, vec<T>{}, count); });
  for (int64_t oh = over.first; oh < over.last; ++oh) {
    int64_t r = tap_at(p.rows, oh, h);
    if (r < 0) continue;
    for (int64_t ow = 0; ow < a.out; ++ow) {
      Taps columns = taps_of(a, ow);
      const T* d = dy + (oh * a.out + ow) * channels;
      const uint8_t* t = taps + (oh * a.out + ow) * channels;
      T* to = dx + columns.start * channels;
      for_vectors<T>(channels, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
        vec<T> value = load_count(d + i, count);
        mask<T> tap = load_taps<T>(t + i);
        for (int64_t c = columns.first; c < columns.last; ++c) {
          T* at = to + c * a.dilation * channels + i;
          vec<T> part = tap == static_cast<int>(r * a.kernel + c) ? value : vec<T>{};
          store_count(at, load_count(at, count) + part, count);
        }
      });
    }
  }
}

// ---- all planes ---------------------------------------------------------------------------------

// The places in the plane that a row's taps name; `channels` of them per window.
void places_of(const PoolParams& p, int64_t oh, int64_t channels, const uint8_t* taps, int64_t* places) {
  const PoolAxis &rows = p.rows, &columns = p.columns;
  int64_t offset[no_tap];  // of each tap from the window's corner
  for (int64_t r = 0; r < rows.kernel; ++r)
    for (int64_t c = 0; c < columns.kernel; ++c)
      offset[r * columns.kernel + c] = r * rows.dilation * columns.size + c * columns.dilation;
  for (int64_t ow = 0; ow < columns.out; ++ow) {
    int64_t corner = (oh * rows.stride - rows.padding) * columns.size + ow * columns.stride - columns.padding;
    for (int64_t i = ow * channels; i < (ow + 1) * channels; ++i)
      places[i] = taps[i] == no_tap ? -1 : corner + offset[taps[i]];
  }
}

template <class T>
struct Forward {
  const PoolParams& p;
  const T* x;
  T* y;
  uint8_t* taps;    // null if they are not compact or not wanted
  int64_t* places;  // null if they are not wanted
};

template <class T>
void contiguous_row(const Forward<T>& f, int64_t plane, int64_t oh) {
  const PoolParams& p = f.p;
  int64_t out = p.columns.out, at = (plane * p.rows.out + oh) * out;
  const T* x = f.x + plane * p.rows.size * p.columns.size;
  if (!f.taps && !f.places) {
    join_row<Max<T>>(p, x, oh, f.y + at);
    return;
  }
  if (f.taps && is_pairs(p.columns)) {
    pairs_with_taps(p, x, oh, f.y + at, f.taps + at);
    if (f.places) places_of(p, oh, 1, f.taps + at, f.places + at);
    return;
  }
  bool done = false;
  if (f.taps)
    with_stride(p.columns.stride, [&](auto s) { done = row_with_taps<s()>(p, x, oh, f.y + at, f.taps + at); });
  if (done) {
    if (f.places) places_of(p, oh, 1, f.taps + at, f.places + at);
    return;
  }
  for (int64_t ow = 0; ow < out; ++ow) {
    Best<T> best = best_of(p, x, p.columns.size, 1, oh, ow);
    f.y[at + ow] = best.value;
    if (f.taps)
      f.taps[at + ow] = best.row < 0 ? no_tap : static_cast<uint8_t>(best.row * p.columns.kernel + best.column);
    if (f.places) f.places[at + ow] = place_of(p, best, oh, ow);
  }
}

template <class T>
void channels_last_row(const Forward<T>& f, int64_t image, int64_t oh) {
  const PoolParams& p = f.p;
  int64_t channels = p.channels, at = (image * p.rows.out + oh) * p.columns.out * channels;
  const T* x = f.x + image * p.rows.size * p.columns.size * channels;
  if (f.taps || !f.places) {
    Taps rows = taps_of(p.rows, oh);
    for (int64_t ow = 0; ow < p.columns.out; ++ow)
      pixel(p, x, rows, ow, f.y + at + ow * channels, f.taps ? f.taps + at + ow * channels : nullptr);
    if (f.places) places_of(p, oh, channels, f.taps + at, f.places + at);
    return;
  }
  for (int64_t i = 0; i < p.columns.out * channels; ++i) {
    Best<T> best = best_of(p, x + i % channels, p.columns.size * channels, channels, oh, i / channels);
    f.y[at + i] = best.value;
    f.places[at + i] = place_of(p, best, oh, i / channels);
  }
}

// Gradients by place: windows share entries, so that an image or a plane is one task.
template <class T>
void scatter_places(const PoolParams& p, const T* dy, const int64_t* places, T* dx) {
  int64_t lane = p.layout == Layout::channels_last ? p.channels : 1;
  int64_t in = p.rows.size * p.columns.size * lane, out = p.rows.out * p.columns.out * lane;
  parallel_for(p.batch * p.channels / lane, [&](int64_t i, int) {
    T* plane = dx + i * in;
    for (int64_t k = 0; k < in; ++k) plane[k] = T(0);
    for (int64_t k = i * out; k < (i + 1) * out; ++k)
      if (places[k] >= 0) plane[places[k] * lane + k % lane] += dy[k];
  });
}

}  // namespace

void max_pool_forward(const PoolParams& p, const void* input, void* output, void* taps, int64_t* indices) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    Forward<T> f{p, static_cast<const T*>(input), static_cast<T*>(output), nullptr, indices};
    if (taps && p.compact) f.taps = static_cast<uint8_t*>(taps) + taps_margin;
    if (taps && !p.compact) f.places = static_cast<int64_t*>(taps);
    int64_t cost = p.rows.size * p.columns.size / (p.rows.out + 1), in = p.rows.size * p.columns.size;
    if (p.layout == Layout::channels_last)
      for_rows(p.batch, p.rows.out, cost * p.channels, [&](int64_t i, int64_t begin, int64_t end) {
        for (int64_t oh = begin; oh < end; ++oh) channels_last_row(f, i, oh);
      });
    else if (is_whole(p) && !f.taps && !f.places)
      parallel_chunks(p.batch * p.channels, grain / in + 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) f.y[i] = join_run<Max<T>>(f.x + i * in, in);
      });
    else
      for_rows(p.batch * p.channels, p.rows.out, cost, [&](int64_t i, int64_t begin, int64_t end) {
        for (int64_t oh = begin; oh < end; ++oh) contiguous_row(f, i, oh);
      });
    if (indices && f.places != indices)  // the taps are places themselves
      parallel_chunks(p.batch * p.channels * p.rows.out * p.columns.out, grain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) indices[i] = f.places[i];
      });
  });
}

void max_pool_backward(const PoolParams& p, const void* d_output, const void* taps, void* d_input) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* dy = static_cast<const T*>(d_output);
    T* dx = static_cast<T*>(d_input);
    if (!p.compact) {
      scatter_places(p, dy, static_cast<const int64_t*>(taps), dx);
      return;
    }
    const uint8_t* t = static_cast<const uint8_t*>(taps) + taps_margin;
    int64_t width = p.columns.size, in = p.rows.size * width, out = p.rows.out * p.columns.out;
    if (p.layout == Layout::channels_last) {
      in *= p.channels, out *= p.channels, width *= p.channels;
      for_rows(p.batch, p.rows.size, width, [&](int64_t i, int64_t begin, int64_t end) {
        Over over = windows_over(p.rows, begin);
        for (int64_t h = begin; h < end; ++h, over = next_windows(p.rows, over, h))
          channels_last_backward(p, dy + i * out, t + i * out, h, over, dx + i * in + h * width);
      });
      return;
    }
    // Vectors of taps may begin before the first one, but not by more than the margin.
    bool near = (p.columns.kernel - 1) * p.columns.dilation < static_cast<int64_t>(taps_margin);
    bool gathers = near && p.columns.stride <= longest_stride;
    Contributions list;
    if (gathers) list = contributions_of(p.columns);
    for_rows(p.batch * p.channels, p.rows.size, width, [&](int64_t i, int64_t begin, int64_t end) {
      contiguous_backward(p, gathers ? &list : nullptr, dy + i * out, t + i * out, begin, end, dx + i * in);
    });
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
