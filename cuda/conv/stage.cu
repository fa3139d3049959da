// One pass over the data each: every element is read once and written once. Images whose pixels lie next to
// each other go through shared memory, so that both sides are touched in whole lines.
#include "conv/stage.h"

#include "dispatch.h"

namespace arraynn::cuda {

namespace {

constexpr int threads = 256;

struct ImageShape {
  int64_t batch, pixels, channels, padded, from_channels, to_channels;  // the last two: of all groups
};

// Channel of the source for one of the copy; negative where the copy has only room.
__device__ __forceinline__ int64_t source_channel(const ImageShape& s, int64_t channel) {
  if (s.channels == s.padded) return channel;
  int64_t c = channel % s.padded;
  return c < s.channels ? channel / s.padded * s.channels + c : -1;
}

template <class T>
__global__ void __launch_bounds__(threads) copy_pixels_kernel(const T* from, T* to, ImageShape s) {
  int64_t step = static_cast<int64_t>(gridDim.x) * threads, count = s.batch * s.pixels * s.to_channels;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < count; i += step) {
    int64_t pixel = i / s.to_channels, channel = source_channel(s, i % s.to_channels);
    to[i] = channel < 0 ? T{} : from[pixel * s.from_channels + channel];
  }
}

constexpr int tile_pixels = 32, tile_channels = 64;

// N: how many elements one store writes.
template <class T, int N>
__global__ void __launch_bounds__(threads) transpose_image_kernel(const T* from, T* to, ImageShape s) {
  constexpr int row = tile_channels + (sizeof(T) == 2 ? 2 : 1);  // odd in words, against bank conflicts
  constexpr int lines = threads / 32;
  T* room = shared<T>();
  int64_t pixel_tiles = (s.pixels + tile_pixels - 1) / tile_pixels;
  int64_t channel_tiles = (s.to_channels + tile_channels - 1) / tile_channels;
  int64_t image = blockIdx.x / (pixel_tiles * channel_tiles), rest = blockIdx.x % (pixel_tiles * channel_tiles);
  int64_t pixel0 = rest % pixel_tiles * tile_pixels, channel0 = rest / pixel_tiles * tile_channels;
  int x = static_cast<int>(threadIdx.x) % 32, y = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
  for (int i = 0; i < tile_channels; i += lines) {
    int64_t channel = channel0 + y + i, pixel = pixel0 + x;
    int64_t source = channel < s.to_channels ? source_channel(s, channel) : -1;
    room[x * row + y + i] =
        source >= 0 && pixel < s.pixels ? from[(image * s.from_channels + source) * s.pixels + pixel] : T{};
  }
  __syncthreads();
  constexpr int stores = tile_channels / N;  // in a row of the tile
#pragma unroll
  for (int i = static_cast<int>(threadIdx.x); i < tile_pixels * stores; i += threads) {
    int64_t pixel = pixel0 + i / stores, channel = channel0 + i % stores * N;
    if (pixel < s.pixels && channel < s.to_channels)
      store_pack(to + (image * s.pixels + pixel) * s.to_channels + channel,
                 load_pack<N>(room + i / stores * row + i % stores * N));
  }
}

// The taps of an axis that share tap i's slot, and which of them it is.
struct Slot {
  int slot, place, taps;
};
__device__ __forceinline__ Slot slot_at(const Axis& a, int i) {
  int slot = i % a.period;
  return {slot, i / a.period, (a.taps - slot + a.period - 1) / a.period};
}

template <class T>
__global__ void __launch_bounds__(threads) copy_weights_kernel(const T* from, T* to, WeightCopy c) {
  int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  int64_t channel = i % c.padded, row = i / c.padded % c.rows, group = i / c.padded / c.rows;
  if (group >= c.groups) return;
  from += group * c.steps[0] + row * c.steps[1] + channel * c.steps[2];
  for (int q = 0; q < c.axes.d.taps; ++q)
    for (int r = 0; r < c.axes.h.taps; ++r)
      for (int s = 0; s < c.axes.w.taps; ++s) {
        Slot d = slot_at(c.axes.d, q), h = slot_at(c.axes.h, r), w = slot_at(c.axes.w, s);
        int64_t slot = slot_of(c.axes, group, d.slot, h.slot, w.slot);
        int64_t tap = (static_cast<int64_t>(d.place) * h.taps + h.place) * w.taps + w.place;
        to[(slot * c.rows + row) * c.row_step + tap * c.padded + channel] =
            channel < c.channels ? from[q * c.steps[3] + r * c.steps[4] + s * c.steps[5]] : T{};
      }
}

// As bits, whatever they mean.
template <class F>
void dispatch_size(DType dtype, const F& f) {
  switch (item_size(dtype)) {
    case 8: return f(uint64_t{});
    case 4: return f(uint32_t{});
    default: return f(uint16_t{});
  }
}

}  // namespace

void copy_image(const ImageCopy& c, const void* from, void* to) {
  ImageShape s{c.batch, c.pixels, c.channels, c.padded, c.groups * c.channels, c.groups * c.padded};
  int64_t count = s.batch * s.pixels * s.to_channels;
  if (count == 0) return;
  dispatch_size(c.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto* source = static_cast<const T*>(from);
    auto* target = static_cast<T*>(to);
    if (c.layout == Layout::channels_last) {
      launch(copy_pixels_kernel<T>, grid_for(count, threads), threads, 0, c.place, source, target, s);
      return;
    }
    constexpr int pair = sizeof(T) == 2 ? 2 : 1;
    int64_t blocks = s.batch * ceil_div(s.pixels, tile_pixels) * ceil_div(s.to_channels, tile_channels);
    launch(s.to_channels % pair == 0 ? transpose_image_kernel<T, pair> : transpose_image_kernel<T, 1>,
           dim3(static_cast<unsigned>(blocks)), threads, sizeof(T) * tile_pixels * (tile_channels + 2), c.place, source,
           target, s);
  });
}

void copy_weights(const WeightCopy& c, const void* from, void* to) {
  int64_t count = c.groups * c.rows * c.padded;
  dispatch_size(c.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch(copy_weights_kernel<T>, grid_for(count, threads), threads, 0, c.place, static_cast<const T*>(from),
           static_cast<T*>(to), c);
  });
}

}  // namespace arraynn::cuda
