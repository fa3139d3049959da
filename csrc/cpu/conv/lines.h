// Images as lines of pixels whose lanes are channels: the form in which Winograd's transforms and the direct
// convolution read and write them, whatever their layout.
#pragma once
#include "cpu/conv/taps.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

// Up to `lanes` channels of images, as the transforms read them.
template <class T>
struct Images {
  Layout layout;
  const T* data;
  int channels;
  Strides strides;
  int64_t high, wide;
};

// lines[row][pixel][lane] of an image for `rows` rows from y0 on and `pixels` pixels from x0 on; zero outside the
// image. A row of lines has room for a whole number of vectors of pixels. Rows lie line_step, pixels pixel_step apart.
template <class T>
void read_lines(const Images<T>& images, int64_t image, int64_t y0, int64_t x0, int rows, int64_t pixels, T* lines,
                int64_t line_step, int64_t pixel_step = lanes<T>) {
  constexpr int V = lanes<T>;
  for (int row = 0; row < rows; ++row, lines += line_step) {
    int64_t y = y0 + row;
    bool inside = y >= 0 && y < images.high;
    const T* from = images.data + image * images.strides.n + y * images.strides.h + x0 * images.strides.w;
    if (!inside) {
      for (int64_t i = 0; i < pixels; ++i) store(lines + i * pixel_step, vec<T>{});
    } else if (images.layout == Layout::channels_last) {
      for (int64_t i = 0; i < pixels; ++i) {
        bool there = x0 + i >= 0 && x0 + i < images.wide;
        store(lines + i * pixel_step, there ? load_first(from + i * images.strides.w, images.channels) : vec<T>{});
      }
    } else {
      for (int64_t i = 0; i < pixels; i += V) {
        Window w = row_window(static_cast<int>(std::min<int64_t>(V, pixels - i)), x0 + i, 1, images.wide);
        vec<T> block[V];
        static_for<V>([&](auto c) ARRAYNN_LAMBDA {
          block[c] = c < images.channels ? load_stepped(from + c * images.strides.c + i, 1, w.lo, w.hi) : vec<T>{};
        });
        transpose<T>(block);
        static_for<V>([&](auto x) ARRAYNN_LAMBDA { store(lines + (i + x) * pixel_step, block[x]); });
      }
    }
  }
}

// Takes such lines to `rows` rows of `pixels` pixels at `out`.
template <class T>
void write_lines(const T* lines, int64_t line_step, Layout layout, const Strides& strides, int channels, int rows,
                 int64_t pixels, T* out) {
  constexpr int V = lanes<T>;
  for (int row = 0; row < rows; ++row, lines += line_step, out += strides.h) {
    if (layout == Layout::channels_last) {
      for (int64_t i = 0; i < pixels; ++i) store_first(out + i * strides.w, load(lines + i * V), channels);
      continue;
    }
    if (strides.w != 1) {
      for (int c = 0; c < channels; ++c)
        for (int64_t i = 0; i < pixels; ++i) out[c * strides.c + i * strides.w] = lines[i * V + c];
      continue;
    }
    for (int64_t i = 0; i < pixels; i += V) {
      int count = static_cast<int>(std::min<int64_t>(V, pixels - i));
      vec<T> block[V];
      static_for<V>([&](auto x) ARRAYNN_LAMBDA { block[x] = load(lines + (i + x) * V); });
      transpose<T>(block);
      static_for<V>([&](auto c) ARRAYNN_LAMBDA {
        if (c >= channels) return;
        if (count == V)
          store(out + c * strides.c + i, block[c]);
        else
          store_first(out + c * strides.c + i, block[c], count);
      });
    }
  }
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
