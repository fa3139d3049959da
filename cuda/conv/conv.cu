// Convolution's launchers and plans.
//
// Forward and the input's gradient are products of gathered pixels and weights (conv/product.h): nothing as
// large as the taps' images is ever written. An image that is not channels-last is first copied so, one
// pass; weights are copied with the summed channels innermost. The weights' gradient is the product of the
// output's gradient and the gathered pixels, its long sums over all pixels split across blocks. A kernel of
// one tap that visits every pixel is a plain product (gemm.h); groups of one channel go to conv/depthwise.h.
//
// Scratch stays within input + output + the weights' copy + 64 MB: images get room for whole packs of channels
// only within that.
#include "channel_sums.h"
#include "conv/depthwise.h"
#include "conv/geometry.h"
#include "conv/product.h"
#include "conv/stage.h"
#include "core/errors.h"
#include "gemm.h"
#include "kernels.h"

namespace arraynn::cuda {

namespace {

constexpr int64_t wanted_blocks = 264;  // two for each multiprocessor of the largest chips
constexpr int64_t least_slices = 16;    // of k for one block: below, starting costs more than it saves
constexpr int64_t room_bytes = int64_t{32} << 20;

int64_t input_bytes(const ConvParams& p) { return p.batch * input_pixels(p) * p.in_channels * item_size(p.dtype); }
int64_t output_bytes(const ConvParams& p) { return p.batch * output_pixels(p) * p.out_channels * item_size(p.dtype); }

int64_t pack_of(DType dtype) { return 16 / item_size(dtype); }
int64_t round_up(int64_t x, int64_t to) { return ceil_div(x, to) * to; }
bool tensor_cores(const ConvParams& p) { return p.dtype != DType::float64 && capability(p.place) >= 80; }
bool is_depthwise(const ConvParams& p) { return in_group(p) == 1 && p.groups > 1; }

// Whether the channels lie side by side already.
bool channels_last(const ConvParams& p, int64_t pixels, int64_t channels) {
  return p.layout == Layout::channels_last || pixels == 1 || channels == 1;
}

// ---- scratch ----

// Hands out pieces of scratch; from null it only counts.
class Room {
 public:
  explicit Room(void* scratch) : start_(static_cast<char*>(scratch)) {}
  void* take(int64_t bytes) {
    size_t at = used_;
    used_ += (static_cast<size_t>(bytes) + 255) / 256 * 256;
    return start_ ? start_ + at : nullptr;
  }
  size_t used() const { return used_; }

 private:
  char* start_;
  size_t used_ = 0;
};

// ---- images ----

// An image as a product reads it.
struct StagedImage {
  bool copied;
  int64_t groups, channels, padded, pixels;
  int64_t bytes(const ConvParams& p) const {
    return copied ? p.batch * pixels * groups * padded * item_size(p.dtype) : 0;
  }
};

// A group's channels are made whole packs where that is worth it: what elements cost to copy one by one
// against what is copied and multiplied for nothing. 16-bit elements cannot even be copied asynchronously.
StagedImage stage_of(const ConvParams& p, int64_t pixels, int64_t channels, int64_t budget) {
  StagedImage s{!channels_last(p, pixels, channels), p.groups, channels / p.groups, channels / p.groups, pixels};
  int64_t padded = round_up(s.channels, pack_of(p.dtype));
  bool worth_it = padded != s.channels && tensor_cores(p) && (item_size(p.dtype) == 2 || padded <= 2 * s.channels);
  if (worth_it && p.batch * pixels * s.groups * padded * item_size(p.dtype) <= budget) {
    s.copied = true;
    s.padded = padded;
  }
  return s;
}

ConvImage stage(const ConvParams& p, const StagedImage& s, const void* data, Room& room) {
  void* copy = room.take(s.bytes(p));
  if (s.copied) {
    copy_image({p.dtype, p.place, p.layout, p.batch, s.pixels, s.groups, s.channels, s.padded}, data, copy);
    data = copy;
  }
  return {data, s.groups * s.padded, static_cast<int>(s.padded)};
}

bool is_packed(const ConvParams& p, const StagedImage& s, const void* data) {
  return s.padded % pack_of(p.dtype) == 0 && (s.copied || aligned16(data));
}

// ---- plans ----

int64_t part_bytes(DType dtype, const ConvPlan& c) {
  if (dtype == DType::float64) return c.units * c.m * partial_width<double>(c.n) * 8;
  return c.units * c.m * partial_width<float>(c.n) * 4;
}

ConvPlan plan_of(const ConvParams& p, int64_t units, int64_t m, int64_t n, int64_t k) {
  ConvPlan c{ConvTile::small, false, units, m, n, k, 1};
  auto blocks = [&](int64_t tall, int64_t wide) { return units * ceil_div(m, tall) * ceil_div(n, wide); };
  if (tensor_cores(p) && m > 64) {
    if (n > 64 && blocks(128, 128) >= 100)
      c.tile = ConvTile::large;
    else if (n > 32 && blocks(128, 64) >= 200)
      c.tile = ConvTile::tall;
  }
  int64_t size = c.tile == ConvTile::large  ? blocks(128, 128)
                 : c.tile == ConvTile::tall ? blocks(128, 64)
                                            : blocks(64, 64);
  int64_t slices = ceil_div(k, slice_bytes / item_size(p.dtype));
  c.parts = std::max({int64_t{1}, k >> 30,  // a block counts k in 32 bits
                      std::min({wanted_blocks / std::max<int64_t>(1, size), slices / least_slices,
                                room_bytes / std::max<int64_t>(1, part_bytes(p.dtype, c))})});
  if (blocks(64, 64) * c.parts > 0x7FFFFFFF)
    value_error("conv: on CUDA, %lld blocks are more than a grid may have",
                static_cast<long long>(blocks(64, 64) * c.parts));
  return c;
}

int64_t partial_bytes(DType dtype, const ConvPlan& c) { return c.parts > 1 ? c.parts * part_bytes(dtype, c) : 0; }

Write write_of(const ConvParams& p, int64_t channels, int64_t pixels, const void* data) {
  if (p.layout != Layout::channels_last && pixels > 1) return Write::columns;
  return channels / p.groups % pack_of(p.dtype) == 0 && aligned16(data) ? Write::packs : Write::rows;
}

// Strides of an image of d x h x w pixels.
ImageSteps steps_of(const ConvParams& p, int64_t channels, int64_t d, int64_t h, int64_t w) {
  int64_t pixels = d * h * w;
  if (p.layout == Layout::channels_last) return {pixels * channels, 1, h * w * channels, w * channels, channels};
  return {pixels * channels, pixels, h * w, w, 1};
}

ImageSteps input_steps(const ConvParams& p) { return steps_of(p, p.in_channels, p.d.in, p.h.in, p.w.in); }
ImageSteps output_steps(const ConvParams& p) { return steps_of(p, p.out_channels, p.d.out, p.h.out, p.w.out); }

// Forward, and the input's gradient, which differ in which image is gathered from.
struct GatherPlan {
  Axes axes;
  unsigned pitch;
  StagedImage image;
  ConvPlan plan;
  WeightCopy weights;
  int64_t weight_bytes;
};

GatherPlan gather_plan(const ConvParams& p, bool backward) {
  GatherPlan g{};
  g.axes = axes_of(p, backward);
  g.pitch = pitch_of(p);
  const Axis &d = g.axes.d, &h = g.axes.h, &w = g.axes.w;
  int64_t rows = backward ? in_group(p) : out_group(p);
  g.image = stage_of(p, backward ? output_pixels(p) : input_pixels(p), backward ? p.out_channels : p.in_channels,
                     input_bytes(p) + output_bytes(p));
  int64_t m = p.batch * ceil_div(d.count, d.phases) * ceil_div(h.count, h.phases) * ceil_div(w.count, w.phases);
  int64_t k = static_cast<int64_t>(most_taps_of(d)) * most_taps_of(h) * most_taps_of(w) * g.image.padded;
  g.plan = plan_of(p, p.groups * phases_of(g.axes), m, rows, k);
  const int64_t* s = p.w_strides;
  g.weights = {p.dtype, p.place, p.groups, rows, g.image.channels, g.image.padded, {}, g.axes, 0};
  int64_t steps[6] = {out_group(p) * s[0], s[backward ? 1 : 0], s[backward ? 0 : 1], s[2], s[3], s[4]};
  std::copy(steps, steps + 6, g.weights.steps);
  g.weights.row_step = round_up(k, pack_of(p.dtype));
  int64_t slots = slot_of(g.axes, p.groups, 0, 0, 0);
  g.weight_bytes = slots * rows * g.weights.row_step * item_size(p.dtype);
  return g;
}

// Whether weights can be read as they are, like those of a channels-last kernel.
bool lies_in_order(const WeightCopy& c) {
  const Axes& a = c.axes;
  int64_t row = a.w.taps * c.channels;
  int64_t steps[6] = {c.rows * c.row_step, c.row_step, 1, a.h.taps * row, row, c.channels};
  int64_t sizes[6] = {c.groups, c.rows, c.channels, a.d.taps, a.h.taps, a.w.taps};
  bool same = c.channels == c.padded && c.row_step == steps[3] * a.d.taps && phases_of(a) == 1;
  for (int i = 0; i < 6; ++i) same = same && (sizes[i] == 1 || c.steps[i] == steps[i]);
  return same;
}

size_t gather_scratch(const ConvParams& p, bool backward) {
  GatherPlan g = gather_plan(p, backward);
  Room room(nullptr);
  room.take(g.weight_bytes);
  room.take(g.image.bytes(p));
  room.take(partial_bytes(p.dtype, g.plan));
  return room.used();
}

void run_gather(const ConvParams& p, bool backward, const void* image, const void* weight, const void* bias,
                void* result, void* scratch) {
  GatherPlan g = gather_plan(p, backward);
  if (g.plan.units == 0 || g.plan.m == 0 || g.plan.n == 0) return;
  Room room(scratch);
  void* copy = room.take(g.weight_bytes);
  bool in_order = lies_in_order(g.weights) && aligned16(weight);
  if (!in_order) copy_weights(g.weights, weight, copy);
  const void* weights = in_order ? weight : copy;
  g.plan.packed = is_packed(p, g.image, image);
  GatherProduct product{
      p.dtype, p.place, g.plan, g.axes, g.pitch, static_cast<int>(p.batch), {}, weights, g.weights.row_step, {}};
  product.image = stage(p, g.image, image, room);
  int64_t channels = backward ? p.in_channels : p.out_channels;
  Write write = write_of(p, channels, backward ? input_pixels(p) : output_pixels(p), result);
  product.result = {result, bias, backward ? input_steps(p) : output_steps(p), write};
  void* partials = room.take(partial_bytes(p.dtype, g.plan));
  if (!tensor_cores(p)) return conv_gather_plain(product, partials);
  switch (p.dtype) {
    case DType::float16: return conv_gather_float16(product, partials);
    case DType::bfloat16: return conv_gather_bfloat16(product, partials);
    default: return p.place.tf32 ? conv_gather_tf32(product, partials) : conv_gather_float32(product, partials);
  }
}

// ---- the weights' gradient ----

struct GradientPlan {
  StagedImage image, d_output;
  ConvPlan plan;
  unsigned pitch;
};

GradientPlan gradient_plan(const ConvParams& p) {
  GradientPlan g{};
  int64_t budget = input_bytes(p) + output_bytes(p);
  g.d_output = stage_of(p, output_pixels(p), p.out_channels, budget);
  g.image = stage_of(p, input_pixels(p), p.in_channels, budget - g.d_output.bytes(p));
  g.pitch = pitch_of(p);
  g.plan = plan_of(p, p.groups, out_group(p), taps(p) * g.image.padded, p.batch * output_pixels(p));
  return g;
}

size_t gradient_scratch(const ConvParams& p) {
  GradientPlan g = gradient_plan(p);
  Room room(nullptr);
  room.take(g.image.bytes(p));
  room.take(g.d_output.bytes(p));
  room.take(partial_bytes(p.dtype, g.plan));
  return room.used();
}

void run_gradient(const ConvParams& p, const void* d_output, const void* input, void* d_weight, void* scratch) {
  GradientPlan g = gradient_plan(p);
  if (g.plan.units == 0 || g.plan.m == 0 || g.plan.n == 0) return;
  Room room(scratch);
  g.plan.packed = is_packed(p, g.image, input) && is_packed(p, g.d_output, d_output);
  GradientProduct product{
      p.dtype, p.place, g.plan,  axes_of(p, false), g.pitch, static_cast<int>(p.batch), static_cast<int>(in_group(p)),
      {},      {},      d_weight};
  product.image = stage(p, g.image, input, room);
  product.d_output = stage(p, g.d_output, d_output, room);
  void* partials = room.take(partial_bytes(p.dtype, g.plan));
  if (!tensor_cores(p)) return conv_gradient_plain(product, partials);
  switch (p.dtype) {
    case DType::float16: return conv_gradient_float16(product, partials);
    case DType::bfloat16: return conv_gradient_bfloat16(product, partials);
    default: return p.place.tf32 ? conv_gradient_tf32(product, partials) : conv_gradient_float32(product, partials);
  }
}

ChannelSums bias_sums(const ConvBiasParams& p) {
  if (p.layout == Layout::channels_last || p.pixels == 1 || p.channels == 1)
    return {p.dtype, p.place, p.batch * p.pixels, p.channels, 1};
  return {p.dtype, p.place, p.batch, p.channels, p.pixels};
}

// ---- one tap, every pixel: a matrix product ----

bool is_product(const ConvParams& p) {
  bool plain = true;
  for (const ConvAxis* a : {&p.d, &p.h, &p.w})
    plain = plain && a->kernel == 1 && a->stride == 1 && a->before == 0 && a->in == a->out;
  return plain && p.groups == 1 && (p.layout == Layout::channels_last || p.batch == 1 || input_pixels(p) == 1);
}

// An image as a matrix of pixels by channels: the steps from one to the next.
struct Matrix {
  int64_t pixel, channel;
};
Matrix matrix_of(const ConvParams& p, int64_t channels) {
  if (p.layout == Layout::channels_last || input_pixels(p) == 1) return {channels, 1};
  return {1, input_pixels(p)};
}

Gemm forward_product(const ConvParams& p, const void* input, const void* weight, const void* bias, void* output) {
  Matrix x = matrix_of(p, p.in_channels), y = matrix_of(p, p.out_channels);
  return {p.dtype,        p.place,        p.batch * input_pixels(p),
          p.out_channels, p.in_channels,  input,
          x.pixel,        x.channel,      weight,
          p.w_strides[1], p.w_strides[0], output,
          y.pixel,        y.channel,      bias,
          false};
}
Gemm input_product(const ConvParams& p, const void* d_output, const void* weight, const void* bias, void* d_input) {
  Matrix x = matrix_of(p, p.in_channels), y = matrix_of(p, p.out_channels);
  return {p.dtype,        p.place,        p.batch * input_pixels(p),
          p.in_channels,  p.out_channels, d_output,
          y.pixel,        y.channel,      weight,
          p.w_strides[0], p.w_strides[1], d_input,
          x.pixel,        x.channel,      bias,
          false};
}
Gemm weight_product(const ConvParams& p, const void* d_output, const void* input, void* d_weight) {
  Matrix x = matrix_of(p, p.in_channels), y = matrix_of(p, p.out_channels);
  return {p.dtype,
          p.place,
          p.out_channels,
          p.in_channels,
          p.batch * input_pixels(p),
          d_output,
          y.channel,
          y.pixel,
          input,
          x.pixel,
          x.channel,
          d_weight,
          p.in_channels,
          1,
          nullptr,
          false};
}

// ---- groups of one channel ----

Depthwise depthwise_of(const ConvParams& p, bool backward) {
  ImageSteps input = input_steps(p), output = output_steps(p);
  return {p.dtype,
          p.place,
          p.layout,
          axes_of(p, backward),
          p.batch,
          p.groups,
          out_group(p),
          backward ? output : input,
          backward ? input : output};
}

// Those of the weight's strides that depthwise kernels need.
DepthwiseWeight depthwise_weight(const ConvParams& p, const void* weight) {
  return {weight, p.w_strides[0], p.w_strides[2], p.w_strides[3], p.w_strides[4]};
}

}  // namespace

size_t conv_forward_scratch(const ConvParams& params) {
  ConvParams p = plain(params);
  if (is_product(p)) return gemm_scratch(forward_product(p, nullptr, nullptr, nullptr, nullptr));
  return is_depthwise(p) ? depthwise_scratch(depthwise_of(p, false)) : gather_scratch(p, false);
}

void conv_forward(const ConvParams& params, const void* input, const void* weight, const void* bias, void* output,
                  void* scratch) {
  ConvParams p = plain(params);
  if (is_product(p)) return gemm(forward_product(p, input, weight, bias, output), scratch);
  if (!is_depthwise(p)) return run_gather(p, false, input, weight, bias, output, scratch);
  depthwise_forward(depthwise_of(p, false), input, depthwise_weight(p, weight), bias, output, scratch);
}

size_t conv_backward_input_scratch(const ConvParams& params) {
  ConvParams p = plain(params);
  if (is_product(p)) return gemm_scratch(input_product(p, nullptr, nullptr, nullptr, nullptr));
  return is_depthwise(p) ? depthwise_scratch(depthwise_of(p, true)) : gather_scratch(p, true);
}

void conv_backward_input(const ConvParams& params, const void* d_output, const void* weight, const void* bias,
                         void* d_input, void* scratch) {
  ConvParams p = plain(params);
  if (is_product(p)) return gemm(input_product(p, d_output, weight, bias, d_input), scratch);
  if (!is_depthwise(p)) return run_gather(p, true, d_output, weight, bias, d_input, scratch);
  depthwise_backward_input(depthwise_of(p, true), d_output, depthwise_weight(p, weight), bias, d_input, scratch);
}

size_t conv_backward_weight_scratch(const ConvParams& params) {
  ConvParams p = plain(params);
  if (is_product(p)) return gemm_scratch(weight_product(p, nullptr, nullptr, nullptr));
  return is_depthwise(p) ? depthwise_gradient_scratch(depthwise_of(p, false)) : gradient_scratch(p);
}

void conv_backward_weight(const ConvParams& params, const void* d_output, const void* input, void* d_weight,
                          void* scratch) {
  ConvParams p = plain(params);
  if (is_product(p)) return gemm(weight_product(p, d_output, input, d_weight), scratch);
  if (is_depthwise(p)) return depthwise_backward_weight(depthwise_of(p, false), d_output, input, d_weight, scratch);
  run_gradient(p, d_output, input, d_weight, scratch);
}

size_t conv_backward_bias_scratch(const ConvBiasParams& p) { return channel_sums_scratch(bias_sums(p)); }

void conv_backward_bias(const ConvBiasParams& p, const void* d_output, void* d_bias, void* scratch) {
  channel_sums(bias_sums(p), d_output, d_bias, scratch);
}

}  // namespace arraynn::cuda
