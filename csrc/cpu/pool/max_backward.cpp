// The gradient of maximum pooling. It is gathered, row by row of the input: an entry adds up the windows that
// have their maximum there, so that rows are independent and written once. Contiguous volumes are
// vectorised along the width, channels-last ones over the channels.
#include "cpu/pool/window.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

template <class T>
ARRAYNN_INLINE mask<T> load_taps(const uint8_t* p) {
  mask<T> taps;
  load_bytes(p, taps);
  return taps;
}
// ---- contiguous volumes -------------------------------------------------------------------------

// The rows of windows over a row of the gradient, where windows are ordinary and so have a tap each.
template <class T>
struct Sources {
  struct Source {
    const T* dy;
    const uint8_t* taps;
    int first;  // of the taps by which these windows hold the row
  } source[most_taps];
  int count = 0;
  template <bool deep>
  Sources(const PoolParams& p, const T* dy, const uint8_t* taps, Line<deep> line, Holders<deep> over) {
    int64_t out = p.columns.out;
    for_holders(p, line, over, [&](int64_t o, int64_t tap) {
      source[count++] = {dy + o * out, taps + o * out, static_cast<int>(tap)};
    });
  }
};

// A row of the gradient from the taps, at a stride of S.
template <int S, class T>
void gather_row(const PoolAxis& a, const Contributions& list, const Sources<T>& sources, T* dx) {
  for (int64_t i = 0; i * S < a.size; i += lanes<T>) {
    bool inside = i + list.least >= 0 && i + list.most + lanes<T> <= a.out;
    vec<T> streams[S];
    static_for<S>([&](auto s) ARRAYNN_LAMBDA {
      vec<T> total{};
      for (int k = 0; k < sources.count; ++k) {
        const auto& from = sources.source[k];
        for (int m = list.begin[s]; m < list.begin[s + 1]; ++m) {
          int64_t at = i + list.shift[m];
          if (!inside && (at <= -lanes<T> || at >= a.out)) continue;
          vec<T> value = inside ? load(from.dy + at) : load_inside(from.dy, at, a.out);
          total += load_taps<T>(from.taps + at) == from.first + list.tap[m] ? value : vec<T>{};
        }
      }
      streams[s] = total;
    });
    store_streams<S>(dx + i * S, streams, a.size - i * S);
  }
}

// Not inlined: the list takes room on the stack, which windows of two columns then need not make.
template <class T, bool deep>
__attribute__((noinline)) void gather_windows(const PoolParams& p, const Contributions& list, const T* dy,
                                              const uint8_t* taps, Line<deep> line, Holders<deep> over, T* dx) {
  Sources<T> sources(p, dy, taps, line, over);
  with_stride(p.columns.stride, [&](auto s) { gather_row<s()>(p.columns, list, sources, dx); });
}

// The same for windows of two columns side by side.
template <class T, bool deep>
ARRAYNN_INLINE void gather_pairs(const PoolParams& p, const T* dy, const uint8_t* taps, Line<deep> line,
                                 Holders<deep> over, T* dx) {
  const PoolAxis& a = p.columns;
  for_vectors<T>(a.out, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    vec<T> streams[2] = {};
    for_holders(p, line, over, [&](int64_t row, int64_t first) ARRAYNN_LAMBDA {
      vec<T> value = load_count(dy + row * a.out + i, count);
      mask<T> tap = load_taps<T>(taps + row * a.out + i) - static_cast<int>(first);
      streams[0] += tap == 0 ? value : vec<T>{};
      streams[1] += tap == 1 ? value : vec<T>{};
    });
    store_streams<2>(dx + 2 * i, streams, 2 * int64_t{count});
  });
  for (int64_t i = 2 * a.out; i < a.size; ++i) dx[i] = T(0);
}

// The rows of a plane's gradient that row `o` of windows of 2 x 2 side by side has for itself; the last one's are
// all that are left.
template <class T>
ARRAYNN_INLINE void square_rows(const PoolParams& p, const T* dy, const uint8_t* taps, int64_t o, T* plane) {
  const PoolAxis& a = p.columns;
  T* rows[2] = {plane + 2 * o * a.size, plane + (2 * o + 1) * a.size};
  for_vectors<T>(a.out, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    vec<T> value = load_count(dy + i, count);
    mask<T> tap = load_taps<T>(taps + i);
    static_for<2>([&](auto r) ARRAYNN_LAMBDA {
      vec<T> streams[2] = {tap == 2 * r() ? value : vec<T>{}, tap == 2 * r() + 1 ? value : vec<T>{}};
      store_streams<2>(rows[r] + 2 * i, streams, 2 * int64_t{count});
    });
  });
  for (int64_t i = 2 * a.out; i < a.size; ++i) rows[0][i] = rows[1][i] = T(0);
  int64_t done = o + 1 < p.rows.out ? p.rows.size : 2 * p.rows.out;
  for (int64_t i = done * a.size; i < p.rows.size * a.size; ++i) plane[i] = T(0);
}

// The same wherever windows lie: each window of the rows over the row adds to one entry.
template <class T, bool deep>
void scatter_row(const PoolParams& p, const T* dy, const uint8_t* taps, Line<deep> line, Holders<deep> over, T* dx) {
  const PoolAxis& a = p.columns;
  for (int64_t i = 0; i < a.size; ++i) dx[i] = T(0);
  for_holders(p, line, over, [&](int64_t row, int64_t first) {
    for (int64_t o = 0; o < a.out; ++o) {
      uint8_t tap = taps[row * a.out + o];
      int64_t k = tap - first;
      if (tap != no_tap && k >= 0 && k < a.kernel) dx[taps_of(a, o).start + k * a.dilation] += dy[row * a.out + o];
    }
  });
}

// A row of the gradient of a volume. Without a list, windows lie anyhow.
template <class T, bool deep>
ARRAYNN_INLINE void row_backward(const PoolParams& p, const Contributions* list, const T* dy, const uint8_t* taps,
                                 Line<deep> line, Holders<deep> over, T* dx) {
  if (is_pairs(p.columns)) {
    gather_pairs(p, dy, taps, line, over, dx);
  } else if (list) {
    gather_windows(p, *list, dy, taps, line, over, dx);
  } else {
    scatter_row(p, dy, taps, line, over, dx);
  }
}

// ---- channels-last ------------------------------------------------------------------------------

// A row of the gradient, which the rows of windows `over` hold; dy and taps are the image's.
template <class T, bool deep>
void channels_last_backward(const PoolParams& p, const T* dy, const uint8_t* taps, Line<deep> line, Holders<deep> over,
                            T* dx) {
  const PoolAxis& a = p.columns;
  int64_t channels = p.channels;
  for_vectors<T>(a.size * channels,
                 [&](int64_t i, auto count) ARRAYNN_LAMBDA { store_count(dx + i, vec<T>{}, count); });
  for_holders(p, line, over, [&](int64_t row, int64_t first) {
    for (int64_t ow = 0; ow < a.out; ++ow) {
      Taps columns = taps_of(a, ow);
      const T* d = dy + (row * a.out + ow) * channels;
      const uint8_t* t = taps + (row * a.out + ow) * channels;
      T* to = dx + columns.start * channels;
      for_vectors<T>(channels, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
        vec<T> value = load_count(d + i, count);
        mask<T> tap = load_taps<T>(t + i);
        for (int64_t c = columns.first; c < columns.last; ++c) {
          T* at = to + c * a.dilation * channels + i;
          vec<T> part = tap == static_cast<int>(first + c) ? value : vec<T>{};
          store_count(at, load_count(at, count) + part, count);
        }
      });
    }
  });
}

// ---- all volumes --------------------------------------------------------------------------------

// Gradients by place: windows share entries, so that an image or a volume is one task.
template <class T>
void scatter_places(int64_t images, int64_t in, int64_t out, int64_t lane, const T* dy, const int64_t* places, T* dx) {
  parallel_for(images, [&](int64_t i, int) {
    T* image = dx + i * in;
    for (int64_t k = 0; k < in; ++k) image[k] = T(0);
    for (int64_t k = i * out; k < (i + 1) * out; ++k)
      if (places[k] >= 0) image[places[k] * lane + k % lane] += dy[k];
  });
}

}  // namespace

void max_pool_backward(const PoolParams& p, const void* d_output, const void* taps, void* d_input) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* dy = static_cast<const T*>(d_output);
    T* dx = static_cast<T*>(d_input);
    int64_t lane = p.layout == Layout::channels_last ? p.channels : 1, images = p.batch * p.channels / lane;
    int64_t width = p.columns.size * lane, in = p.slices.size * p.rows.size * width;
    int64_t out = p.slices.out * p.rows.out * p.columns.out * lane;
    if (!p.compact) {
      scatter_places(images, in, out, lane, dy, static_cast<const int64_t*>(taps), dx);
      return;
    }
    const uint8_t* t = static_cast<const uint8_t*>(taps) + taps_margin;
    if (p.dims < 3 && p.layout != Layout::channels_last && is_pairs(p.rows) && is_pairs(p.columns)) {
      for_output_rows<false>(p, images, 2 * width, [=, &p](int64_t image, Line<false> line, int64_t i) ARRAYNN_LAMBDA {
        square_rows(p, dy + i * p.columns.out, t + i * p.columns.out, line.row, dx + image * in);
      });
      return;
    }
    // Vectors of taps may begin before the first one, but not by more than the margin.
    bool near = (p.columns.kernel - 1) * p.columns.dilation < static_cast<int64_t>(taps_margin);
    bool adaptive = p.slices.adaptive || p.rows.adaptive || p.columns.adaptive;
    bool gathers = near && !adaptive && p.columns.stride <= longest_stride;
    Contributions list;
    if (gathers) list = contributions_of(p.columns);
    with_depth(p, [&](auto deep) {
      for_input_rows<deep()>(
          p, images, width, [=, &p, &list](int64_t image, auto line, int64_t i, const auto& over, bool) ARRAYNN_LAMBDA {
            T* row = dx + i * width;
            if (p.layout == Layout::channels_last)
              channels_last_backward(p, dy + image * out, t + image * out, line, over, row);
            else
              row_backward(p, gathers ? &list : nullptr, dy + image * out, t + image * out, line, over, row);
          });
    });
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
