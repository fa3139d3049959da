// Convolution as a gather over taps, the form that forward and input gradient share:
//   out[n, g, o, pixel] = bias + sum_{tap, i} w[o, i, tap] in[n, g, i, pixel stride + offset(tap)]
// for the pixels (slice, row, col) of a grid, with zeros outside `in`. Forward is one such gather. The input
// gradient of a convolution with stride (sd, sh, sw) is sd x sh x sw of them, one per phase of the
// input's grid, each with stride 1 and those taps of the kernel that fall on the phase.
#pragma once
#include "cpu/gemm.h"
#include "cpu/kernels.h"

namespace arraynn::cpu::ARRAYNN_ISA {

struct Triple {  // a number for each axis
  int64_t d, h, w;
};

ARRAYNN_INLINE int64_t product(const Triple& t) { return t.d * t.h * t.w; }

// Whether distances are small enough for the engines that keep what lies between taps.
ARRAYNN_INLINE bool is_near(const Triple& t) { return std::max({t.d, t.h, t.w}) <= 4096; }

struct Tap {
  Triple offset;   // into the input
  int64_t weight;  // into the weights
};

struct Strides {  // of an array seen as n, c, d, h, w
  int64_t n, c, d, h, w;
};

// What computes a gather, or a weight gradient: depthwise.cpp (channels-last), depthwise_rows.cpp (contiguous) and
// depthwise_gradient.cpp; winograd.cpp and
// winograd_gradient.cpp; direct.cpp and direct_gradient.cpp, with channels in the lanes; planes.cpp, with pixels in
// them; taps_gemm.cpp and weight_gradient.cpp, as a matrix product.
enum class Engine { depthwise, depthwise_rows, winograd, direct, planes, product };

template <class T>
struct Gather {
  Layout layout;
  int64_t batch, groups, in_c, out_c;  // channels of one group
  Triple size, grid, stride;           // size: of the input
  Triple spread{1, 1, 1};              // the input's pixels lie so far apart within its size, with zeros between
  const T* in;
  Strides in_strides;
  T* out;  // the grid's first element
  Strides out_strides;
  const T* weight;
  int64_t w_group, w_out, w_in;  // steps from one group, output channel, input channel to the next
  const T* bias;                 // groups x out_c, or null
  const Tap* taps;
  int64_t tap_count;
  Triple low, high;    // the least and the largest offsets
  bool taps_adjacent;  // tap t's weight lies t elements behind tap 0's
  Engine engine;
};

template <class T>
void gather_gemm(const Gather<T>& g, T* scratch);
template <class T>
int64_t gather_gemm_scratch(const Gather<T>& g);  // elements
template <class T>
void gather_winograd(const Gather<T>& g, T* scratch);
template <class T>
int64_t gather_winograd_scratch(const Gather<T>& g);
template <class T>
void gather_direct(const Gather<T>& g, T* scratch);
template <class T>
int64_t gather_direct_scratch(const Gather<T>& g);
template <class T>
void gather_planes(const Gather<T>& g, T* scratch);
template <class T>
int64_t gather_planes_scratch(const Gather<T>& g);
template <class T>
void gather_depthwise(const Gather<T>& g, T* scratch);
template <class T>
int64_t gather_depthwise_scratch(const Gather<T>& g);
template <class T>
void gather_depthwise_rows(const Gather<T>& g, T* scratch);
template <class T>
int64_t gather_depthwise_rows_scratch(const Gather<T>& g);

// Whether one of these can compute the gather, and is faster than a matrix product.
template <class T>
bool takes_depthwise_rows(const Gather<T>& g);
template <class T>
bool takes_winograd(const ConvParams& p, const Gather<T>& g);
template <class T>
bool takes_direct(const Gather<T>& g);
template <class T>
bool takes_planes(const Gather<T>& g);

// dw of a convolution.
template <class T>
void weight_gradient(const ConvParams& p, const T* dy, const T* x, T* dw, T* scratch);
template <class T>
int64_t weight_gradient_scratch(const ConvParams& p);
template <class T>
void weight_gradient_direct(const ConvParams& p, const T* dy, const T* x, T* dw, T* scratch);
template <class T>
int64_t weight_gradient_direct_scratch(const ConvParams& p);
template <class T>
bool takes_direct_gradient(const ConvParams& p);
template <class T>
void weight_gradient_winograd(const ConvParams& p, const T* dy, const T* x, T* dw, T* scratch);
template <class T>
int64_t weight_gradient_winograd_scratch(const ConvParams& p);
template <class T>
bool takes_winograd_gradient(const ConvParams& p);
// Of the forward gather, whose input is x; dy lies as its output.
template <class T>
void weight_gradient_depthwise(const Gather<T>& g, const T* dy, T* dw, T* scratch);
template <class T>
int64_t weight_gradient_depthwise_scratch(const Gather<T>& g);
template <class T>
bool takes_depthwise_gradient(const Gather<T>& g);

namespace {

ARRAYNN_INLINE Triple input_size(const ConvParams& p) { return {p.d.in, p.h.in, p.w.in}; }
ARRAYNN_INLINE Triple output_size(const ConvParams& p) { return {p.d.out, p.h.out, p.w.out}; }
ARRAYNN_INLINE Triple stride_of(const ConvParams& p) { return {p.d.stride, p.h.stride, p.w.stride}; }
ARRAYNN_INLINE int64_t tap_count(const ConvParams& p) { return p.d.kernel * p.h.kernel * p.w.kernel; }

ARRAYNN_INLINE Strides strides_of(Layout layout, int64_t c, const Triple& size) {
  int64_t plane = size.h * size.w, volume = size.d * plane;
  if (layout == Layout::channels_last) return {c * volume, 1, plane * c, size.w * c, c};
  return {c * volume, volume, plane, size.w, 1};
}

// Where tap (q, r, s) of a forward pass finds the input of pixel 0.
ARRAYNN_INLINE Triple offset_of(const ConvParams& p, int64_t q, int64_t r, int64_t s) {
  return {q * p.d.dilation - p.d.before, r * p.h.dilation - p.h.before, s * p.w.dilation - p.w.before};
}
ARRAYNN_INLINE Triple offset_of(const ConvParams& p, int64_t tap) {
  int64_t line = tap / p.w.kernel, slice = p.d.kernel == 1 ? 0 : line / p.h.kernel;
  return offset_of(p, slice, line - slice * p.h.kernel, tap - line * p.w.kernel);
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

// Whether groups have so few channels that little is computed with a pixel. A spread input is for these alone.
template <class T>
bool is_thin(const Gather<T>& g) {
  return g.groups > 1 && g.in_c * g.out_c <= 4;
}
// One output channel for each input channel.
template <class T>
bool is_depthwise(const Gather<T>& g) {
  return g.groups > 1 && g.in_c == 1 && g.out_c == 1;
}

// The columns of the grid that find a tap at offset dx inside the image.
struct Columns {
  int64_t begin, end;
};
template <class T>
Columns columns_of(const Gather<T>& g, int64_t dx) {
  int64_t begin = dx < 0 ? std::min(ceil_div(-dx, g.stride.w), g.grid.w) : 0;
  return {begin, dx < g.size.w ? std::min((g.size.w - 1 - dx) / g.stride.w + 1, g.grid.w) : 0};
}

// What a tile of the next row reads for the first time, and writes: its first pixel's input and output, or null. Lines
// of channels are too scattered for the processor to foresee, and a burst of requests would only wait, so that a tile
// asks for them channel by channel.
template <class T>
struct NextRow {
  const T *in, *out;

  template <int Inputs, int Outputs, int Write = 1>
  ARRAYNN_INLINE void prefetch(int64_t c, int64_t in_step, int64_t out_step) const {
    constexpr int64_t line = 64, size = sizeof(T), half = size * lanes<T> < line ? line / 2 : 0;
    if (in && c * size % line == 0)
      static_for<Inputs>([&](auto i) ARRAYNN_LAMBDA { __builtin_prefetch(in + i * in_step + c, 0, 2); });
    if (out && c * size % line == half)
      static_for<Outputs>([&](auto i) ARRAYNN_LAMBDA { __builtin_prefetch(out + i * out_step + c, Write, 2); });
  }
};

template <class T>
NextRow<T> next_row(const Gather<T>& g, const T* in, int64_t slice, int64_t row, int64_t col, const T* out) {
  if (row + 1 == g.grid.h) return {};
  int64_t z = slice * g.stride.d + g.high.d, y = (row + 1) * g.stride.h + g.high.h;
  bool inside = z >= 0 && z < g.size.d && y >= 0 && y < g.size.h;
  const T* from = in + z * g.in_strides.d + y * g.in_strides.h + col * g.stride.w * g.in_strides.w;
  return {inside ? from : nullptr, out + g.out_strides.h + col * g.out_strides.w};
}

// A run of `count` <= lanes neighbouring outputs of one grid row.
struct Run {
  int lane, count;
  int64_t image, slice, row, col;
};

// Cuts `count` outputs from number `first` on (counted image by image, slice by slice, row by row) into
// runs that cross no row's end, and no multiple of `width` lanes. Returns their number, at most `most`.
ARRAYNN_INLINE int cut_runs(int64_t first, int count, const Triple& grid, int width, Run* runs, int most = INT32_MAX) {
  int64_t line = first / grid.w, plane = line / grid.h;
  int64_t col = first - line * grid.w, row = line - plane * grid.h, slice = 0, image = plane;
  if (grid.d != 1) {
    image = plane / grid.d;
    slice = plane - image * grid.d;
  }
  int found = 0;
  for (int lane = 0; lane < count && found < most;) {
    int64_t size = std::min<int64_t>({grid.w - col, count - lane, width - lane % width});
    runs[found++] = {lane, static_cast<int>(size), image, slice, row, col};
    lane += static_cast<int>(size);
    col += size;
    if (col == grid.w) {
      col = 0;
      if (++row == grid.h) {
        row = 0;
        if (++slice == grid.d) {
          slice = 0;
          ++image;
        }
      }
    }
  }
  return found;
}

ARRAYNN_INLINE int64_t place_of(const Run& run, const Strides& s) {
  return run.image * s.n + run.slice * s.d + run.row * s.h + run.col * s.w;
}

// Where a run meets the input for one tap: lanes lo <= i < hi are inside; offset is that of lane 0 from
// the first element of the channel.
struct Window {
  int64_t offset;
  int lo, hi;
};

// Along one row of `size` elements, lane 0 at x.
ARRAYNN_INLINE Window row_window(int count, int64_t x, int64_t stride, int64_t size) {
  int64_t lo = x < 0 ? std::min<int64_t>((-x + stride - 1) / stride, count) : 0;
  int64_t hi = count;  // mostly, and divisions are slow
  if (x + (count - 1) * stride >= size) hi = x >= size ? 0 : (size - 1 - x) / stride + 1;
  if (hi < lo) hi = lo;
  return {x, static_cast<int>(lo), static_cast<int>(hi)};
}

// A run as the input sees it: what a tap without an offset meets at lane 0.
struct View {
  int count;
  Triple at;
  int64_t offset;
};

ARRAYNN_INLINE View view_of(const Run& run, const Triple& stride, const Strides& strides) {
  Triple at{run.slice * stride.d, run.row * stride.h, run.col * stride.w};
  return {run.count, at, run.image * strides.n + at.d * strides.d + at.h * strides.h + at.w * strides.w};
}

// A tap's offset along the axes, and in elements.
ARRAYNN_INLINE int64_t elements_of(const Triple& offset, const Strides& strides) {
  return offset.d * strides.d + offset.h * strides.h + offset.w * strides.w;
}

ARRAYNN_INLINE Window window(const View& view, const Triple& offset, int64_t elements, int64_t stride_w,
                             const Triple& size) {
  int64_t z = view.at.d + offset.d, y = view.at.h + offset.h;
  if (z < 0 || z >= size.d || y < 0 || y >= size.h) return {0, 0, 0};
  Window w = row_window(view.count, view.at.w + offset.w, stride_w, size.w);
  w.offset = view.offset + elements;
  return w;
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
