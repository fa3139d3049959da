// Convolution as a gather over taps, the form that forward and input gradient share:
//   out[n, g, o, row, col] = bias + sum_{tap, i} w[o, i, tap] in[n, g, i, row sh + dy(tap), col sw + dx(tap)]
// on a grid of rows x cols outputs, with zeros outside `in`. Forward is one such gather. The input
// gradient of a convolution with stride (sh, sw) is sh x sw of them, one per phase of the input's
// grid, each with stride 1 and those taps of the kernel that fall on the phase.
#pragma once
#include "cpu/gemm.h"
#include "cpu/kernels.h"

namespace arraynn::cpu::ARRAYNN_ISA {

struct Tap {
  int64_t dy, dx;  // offset into the input plane
  int64_t weight;  // offset into the weights
};

struct Plane {  // strides of an array seen as n, c, h, w
  int64_t n, c, h, w;
};

template <class T>
struct Gather {
  Layout layout;
  int64_t batch, groups, in_c, out_c;  // channels of one group
  int64_t in_h, in_w, rows, cols, stride_h, stride_w;
  const T* in;
  Plane in_strides;
  T* out;  // the grid's first element
  Plane out_strides;
  const T* weight;
  int64_t w_group, w_out, w_in;  // steps from one group, output channel, input channel to the next
  const T* bias;                 // groups x out_c, or null
  const Tap* taps;
  int64_t tap_count;
  bool taps_adjacent;  // tap t's weight lies t elements behind tap 0's
};

// The gather as a matrix product, pixels by channels (taps_gemm.cpp), or channel by channel where a
// group has one input channel (depthwise.cpp).
template <class T>
void gather_gemm(const Gather<T>& g, T* scratch);
template <class T>
int64_t gather_gemm_scratch(const Gather<T>& g);  // elements
template <class T>
void gather_depthwise(const Gather<T>& g, T* scratch);
template <class T>
int64_t gather_depthwise_scratch(const Gather<T>& g);

// dw and db of a convolution (weight_gradient.cpp), and of a depthwise one (depthwise.cpp).
template <class T>
void weight_gradient(const ConvParams& p, const T* dy, const T* x, T* dw, T* scratch);
template <class T>
int64_t weight_gradient_scratch(const ConvParams& p);
template <class T>
void weight_gradient_depthwise(const ConvParams& p, const T* dy, const T* x, T* dw);

namespace {

ARRAYNN_INLINE Plane plane_strides(Layout layout, int64_t c, int64_t h, int64_t w) {
  if (layout == Layout::channels_last) return {c * h * w, 1, w * c, c};
  return {c * h * w, h * w, w, 1};
}

// Lanes lo <= i < hi of p[0], p[step], p[2 step], ...; zero in the others, whose memory is not read.
template <class T>
ARRAYNN_INLINE vec<T> load_stepped(const T* p, int64_t step, int lo, int hi) {
  constexpr int V = lanes<T>;
  if (step == 1) {
    if (lo == 0 && hi == V) return load(p);
    return load_range(p, lo, hi);
  }
  if (step == 2) {
    if (hi <= lo) return vec<T>{};
    int end = 2 * hi - 1, begin = 2 * lo;  // elements begin <= e < end
    vec<T> first = load_range(p, std::min(begin, V), std::min(end, V));
    vec<T> second = load_range(p + V, std::max(begin - V, 0), std::max(end - V, 0));
    return even<T>(first, second);
  }
  vec<T> v{};
  for (int i = lo; i < hi; ++i) v[i] = p[i * step];
  return v;
}

// A run of `count` <= lanes neighbouring outputs of one grid row.
struct Run {
  int lane, count;
  int64_t image, row, col;
};

// Cuts `count` outputs from number `first` on (counted image by image, row by row) into runs that
// cross no row's end, and no multiple of `width` lanes. Returns their number, at most
// `most`.
ARRAYNN_INLINE int cut_runs(int64_t first, int count, int64_t rows, int64_t cols, int width, Run* runs,
                            int most = INT32_MAX) {
  int64_t col = first % cols, row = first / cols % rows, image = first / (cols * rows);
  int found = 0;
  for (int lane = 0; lane < count && found < most;) {
    int64_t size = std::min<int64_t>({cols - col, count - lane, width - lane % width});
    runs[found++] = {lane, static_cast<int>(size), image, row, col};
    lane += static_cast<int>(size);
    col += size;
    if (col == cols) {
      col = 0;
      if (++row == rows) row = 0, ++image;
    }
  }
  return found;
}

// Where a run meets the input plane for one tap: lanes lo <= i < hi are inside; offset is that of
// lane 0 from the image's first element of the channel.
struct Window {
  int64_t offset;
  int lo, hi;
};

ARRAYNN_INLINE Window window(const Run& run, int64_t dy, int64_t dx, int64_t stride_h, int64_t stride_w, int64_t in_h,
                             int64_t in_w, int64_t h_stride, int64_t w_stride) {
  int64_t y = run.row * stride_h + dy, x = run.col * stride_w + dx;
  if (y < 0 || y >= in_h) return {0, 0, 0};
  int64_t lo = x < 0 ? std::min<int64_t>((-x + stride_w - 1) / stride_w, run.count) : 0;
  int64_t hi = x >= in_w ? 0 : std::min<int64_t>((in_w - 1 - x) / stride_w + 1, run.count);
  if (hi < lo) hi = lo;
  return {y * h_stride + x * w_stride, static_cast<int>(lo), static_cast<int>(hi)};
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
