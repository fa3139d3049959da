// Maximum pooling. Contiguous volumes are vectorised along the width, channels-last ones over the
// channels. max_backward.cpp has the gradient.
#include "cpu/pool/window.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int64_t taps_room = 8192;  // elements of all rows of a window's buffer

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
  int64_t slice = -1, row = -1, column = -1;  // taps
};

// Entry (row of the volume, column) lies at x[row * row_step + column * column_step].
template <class T, bool deep>
Best<T> best_of(const PoolParams& p, const T* x, int64_t row_step, int64_t column_step, Lines<deep> lines, int64_t ow) {
  Best<T> best;
  Taps slices = lines.slices(), columns = taps_of(p.columns, ow);
  for (int64_t s = slices.first; s < slices.last; ++s)
    for (int64_t r = lines.rows.first; r < lines.rows.last; ++r) {
      const T* line = x + line_at(p, lines, s, r) * row_step + columns.start * column_step;
      for (int64_t c = columns.first; c < columns.last; ++c) {
        T v = line[c * p.columns.dilation * column_step];
        if (best.slice < 0 || v > best.value || v != v) best = {v, s, r, c};
      }
    }
  return best;
}

template <class T>
uint8_t tap_of(const PoolParams& p, const Best<T>& best) {
  return best.slice < 0 ? no_tap : static_cast<uint8_t>(tap_number(p, best.slice, best.row) + best.column);
}

template <class T, bool deep>
int64_t place_of(const PoolParams& p, const Best<T>& best, Lines<deep> lines, int64_t ow) {
  if (best.slice < 0) return -1;
  return line_at(p, lines, best.slice, best.row) * p.columns.size + taps_of(p.columns, ow).start +
         best.column * p.columns.dilation;
}

// ---- contiguous volumes -------------------------------------------------------------------------

// Windows at a stride of S, if their rows fit the buffer.
template <int S, class T, bool deep>
bool row_with_taps(const PoolParams& p, const T* volume, Lines<deep> lines, T* y, uint8_t* taps) {
  const PoolAxis& a = p.columns;
  int64_t size = taps_room / (p.slices.kernel * p.rows.kernel), length = size / S, tile = windows_in<T, S>(size, a);
  if (tile < lanes<T>) return false;
  alignas(64) T phases[taps_room];
  int64_t reach = (a.kernel - 1) * a.dilation;
  Taps slices = lines.slices();
  int first_tap = static_cast<int>(tap_number(p, slices.first, lines.rows.first));
  for (int64_t o = 0; o < a.out; o += tile) {
    int64_t n = a.out - o < tile ? a.out - o : tile;
    T* line = phases;
    for_lines(p, lines, [&](int64_t number, int64_t) {
      const T* row = volume + number * a.size;
      auto values = [&](int64_t c, auto count) ARRAYNN_LAMBDA { return load_count(row + c, count); };
      fill_phases<S>(line, length, o * S - a.padding, (n - 1) * S + reach + 1, a.size, T(-INFINITY), values);
      line += size;
    });
    // Each comparison waits for the one before it: two vectors at a time fill the gaps.
    auto vectors = [&](int64_t j, auto ways, auto count) ARRAYNN_LAMBDA {
      vec<T> best[ways];
      mask<T> tap[ways];
      static_for<ways>([&](auto v)
                           ARRAYNN_LAMBDA { best[v] = broadcast<T>(-INFINITY), tap[v] = mask<T>{} + first_tap; });
      T* row = phases + j;
      for (int64_t s = slices.first; s < slices.last; ++s) {
        int k = static_cast<int>(tap_number(p, s, lines.rows.first));
        for (int64_t r = lines.rows.first; r < lines.rows.last; ++r, row += size)
          for (int64_t c = 0; c <= reach; c += a.dilation, ++k) {
            const T* from = column<T, S>(row, length, c);
            static_for<ways>([&](auto v)
                                 ARRAYNN_LAMBDA { challenge<T>(best[v], tap[v], load(from + v * lanes<T>), k); });
          }
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
  for (int64_t o = 0; o < a.out && (o * S < a.padding || lines.none()); ++o) {
    Taps columns = taps_of(a, o);
    if (y[o] == T(-INFINITY))
      taps[o] = lines.none() || columns.none() ? no_tap : static_cast<uint8_t>(first_tap + columns.first);
  }
  return true;
}

// Windows of two columns side by side.
template <class T, bool deep>
ARRAYNN_INLINE void pairs_with_taps(const PoolParams& p, const T* volume, Lines<deep> lines, T* y, uint8_t* taps) {
  const PoolAxis& a = p.columns;
  Taps slices = lines.slices();
  int first_tap = static_cast<int>(tap_number(p, slices.first, lines.rows.first));
  for_overlapping_vectors<T>(a.out, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    vec<T> best = broadcast<T>(-INFINITY);
    mask<T> tap = mask<T>{} + first_tap;
    for_lines(p, lines, [&](int64_t number, int64_t first_of_line) ARRAYNN_LAMBDA {
      const T* at = volume + number * a.size + 2 * i;
      int k = static_cast<int>(first_of_line);
      auto from = [&](int64_t c, auto n) ARRAYNN_LAMBDA { return load_count(at + c, n); };
      pair<T>(from, count, [&](vec<T> first, vec<T> second) ARRAYNN_LAMBDA {
        challenge<T>(best, tap, first, k);
        challenge<T>(best, tap, second, k + 1);
      });
    });
    store_count(y + i, best, count);
    store_taps<T>(taps + i, tap, count);
  });
  if (lines.none())
    for (int64_t i = 0; i < a.out; ++i) taps[i] = no_tap;
}

// ---- channels-last ------------------------------------------------------------------------------

// Output pixel ow, of all channels, of the row whose windows have the taps `lines`; x is the image, y
// and taps (which may be null) the pixel's.
template <class T, bool deep>
void pixel(const PoolParams& p, const T* x, Lines<deep> lines, int64_t ow, T* y, uint8_t* taps) {
  Taps columns = taps_of(p.columns, ow);
  int64_t line_step = p.columns.size * p.channels, column_step = p.columns.dilation * p.channels;
  int first = lines.none() || columns.none()
                  ? no_tap
                  : static_cast<int>(tap_number(p, lines.slices().first, lines.rows.first) + columns.first);
  for_vectors<T>(p.channels, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    vec<T> best = broadcast<T>(-INFINITY);
    mask<T> tap = mask<T>{} + first;
    for_lines(p, lines, [&](int64_t number, int64_t first_of_line) ARRAYNN_LAMBDA {
      const T* line = x + number * line_step + columns.start * p.channels + i;
      for (int64_t c = columns.first; c < columns.last; ++c) {
        vec<T> v = load_count(line + c * column_step, count);
        if (taps)
          challenge<T>(best, tap, v, static_cast<int>(first_of_line + c));
        else
          best = Max<T>::join(best, v);
      }
    });
    store_count(y + i, best, count);
    if (taps) store_taps<T>(taps + i, tap, count);
  });
}

// ---- all volumes --------------------------------------------------------------------------------

// The places in the volume that a row's taps name; `channels` of them per window.
template <bool deep>
void places_of(const PoolParams& p, Lines<deep> lines, int64_t channels, const uint8_t* taps, int64_t* places) {
  const PoolAxis& columns = p.columns;
  int64_t offset[no_tap];  // of each tap from the place of the first column in the first tap's row
  for (int64_t s = 0; s < p.slices.kernel; ++s)
    for (int64_t r = 0; r < p.rows.kernel; ++r)
      for (int64_t c = 0; c < columns.kernel; ++c)
        offset[tap_number(p, s, r) + c] = line_at(p, lines, s, r) * columns.size + c * columns.dilation;
  for (int64_t ow = 0; ow < columns.out; ++ow) {
    int64_t start = taps_of(columns, ow).start;
    for (int64_t i = ow * channels; i < (ow + 1) * channels; ++i)
      places[i] = taps[i] == no_tap ? -1 : start + offset[taps[i]];
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

// Row `number` of the output.
template <class T, bool deep>
ARRAYNN_INLINE void contiguous_row(const Forward<T>& f, int64_t image, Line<deep> o, int64_t number) {
  const PoolParams& p = f.p;
  int64_t out = p.columns.out, at = number * out;
  const T* x = f.x + image * p.slices.size * p.rows.size * p.columns.size;
  if (!f.taps && !f.places) {
    join_row(p.columns, JoinedRows<Max<T>, T>(p, x, o), f.y + at);
    return;
  }
  Lines<deep> lines = lines_of(p, o);
  bool done = f.taps && is_pairs(p.columns);
  if (done)
    pairs_with_taps(p, x, lines, f.y + at, f.taps + at);
  else if (f.taps && !p.columns.adaptive)
    with_stride(p.columns.stride, [&](auto s) { done = row_with_taps<s()>(p, x, lines, f.y + at, f.taps + at); });
  if (done) {
    if (f.places) places_of(p, lines, 1, f.taps + at, f.places + at);
    return;
  }
  for (int64_t ow = 0; ow < out; ++ow) {
    Best<T> best = best_of(p, x, p.columns.size, 1, lines, ow);
    f.y[at + ow] = best.value;
    if (f.taps) f.taps[at + ow] = tap_of(p, best);
    if (f.places) f.places[at + ow] = place_of(p, best, lines, ow);
  }
}

template <class T, bool deep>
void channels_last_row(const Forward<T>& f, int64_t image, Line<deep> o, int64_t number) {
  const PoolParams& p = f.p;
  int64_t channels = p.channels, at = number * p.columns.out * channels;
  const T* x = f.x + image * p.slices.size * p.rows.size * p.columns.size * channels;
  Lines<deep> lines = lines_of(p, o);
  if (f.taps || !f.places) {
    for (int64_t ow = 0; ow < p.columns.out; ++ow)
      pixel(p, x, lines, ow, f.y + at + ow * channels, f.taps ? f.taps + at + ow * channels : nullptr);
    if (f.places) places_of(p, lines, channels, f.taps + at, f.places + at);
    return;
  }
  for (int64_t i = 0; i < p.columns.out * channels; ++i) {
    Best<T> best = best_of(p, x + i % channels, p.columns.size * channels, channels, lines, i / channels);
    f.y[at + i] = best.value;
    f.places[at + i] = place_of(p, best, lines, i / channels);
  }
}

}  // namespace

void max_pool_forward(const PoolParams& p, const void* input, void* output, void* taps, int64_t* indices) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    Forward<T> f{p, static_cast<const T*>(input), static_cast<T*>(output), nullptr, indices};
    if (taps && p.compact) f.taps = static_cast<uint8_t*>(taps) + taps_margin;
    if (taps && !p.compact) f.places = static_cast<int64_t*>(taps);
    int64_t in = p.slices.size * p.rows.size * p.columns.size, lines = p.slices.out * p.rows.out;
    int64_t cost = in / (lines + 1), planes = p.batch * p.channels;
    if (p.layout != Layout::channels_last && is_whole(p) && !f.taps && !f.places)
      parallel_chunks(planes, grain / in + 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) f.y[i] = join_run<Max<T>>(f.x + i * in, in);
      });
    else
      with_depth(p, [&](auto deep) {
        if (p.layout == Layout::channels_last)
          for_output_rows<deep()>(p, p.batch, cost * p.channels, [=, &f](int64_t image, auto line, int64_t i) {
            channels_last_row(f, image, line, i);
          });
        else
          for_output_rows<deep()>(p, planes, cost,
                                  [=, &f](int64_t image, auto line, int64_t i) { contiguous_row(f, image, line, i); });
      });
    if (indices && f.places != indices)  // the taps are places themselves
      parallel_chunks(planes * lines * p.columns.out, grain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) indices[i] = f.places[i];
      });
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
