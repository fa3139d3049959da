// An operand of a product that is never laid out as a matrix: one index runs over an image's pixels, the
// other over taps and channels, and the element is what the pixel meets at the tap, zero outside the image.
// The image is channels-last. Where an element lies is the sum of what its pixel and its tap add, so of the
// tile's rows that is kept in a table, and of k worked out once for each slice.
#pragma once
#include "conv/axis.h"
#include "device/tile_product.h"

namespace arraynn::cuda {

template <class T>
struct GatherParams {
  const T* data;
  Axes axes;
  unsigned pitch;       // a power of two, see Spot
  int64_t pixel_step;   // from one pixel to the next: all channels
  int batch, channels;  // channels: of one group
};

// What a pixel, or a tap and channel, adds to the place of an element. Its position along depth and height is
// one number, d * pitch + h. The pitch is a power of two, at least twice the image's height and any |h|:
// so the number's low bits tell whether h is inside, and if it is, the others are d.
struct alignas(16) Spot {
  int64_t offset;
  unsigned line, w;  // compared unsigned, so that below zero is outside too
};

// Along k, rows are pixels and k runs over taps; along rows, rows are taps and k runs over pixels.
// One copy moves `Bytes`, of as many channels, which belong to one tap.
template <class S, class T, int Bytes>
class Gather {
 public:
  using Tile = S;
  using Params = GatherParams<T>;
  static constexpr bool along_k = S::along == Along::k;
  static constexpr int count = Bytes / static_cast<int>(sizeof(T));
  static constexpr int entries = along_k ? S::rows : S::rows / count;
  static constexpr int table_bytes = entries * static_cast<int>(sizeof(Spot)) + static_cast<int>(sizeof(Digits));

  __device__ Gather(const Params& p, int64_t unit, int64_t first_row, int64_t k_begin, int64_t, void* table)
      : p_(p), unit_(unit_of(p.axes, unit)), table_(static_cast<Spot*>(table)) {
    data_ = p.data + unit_.group * p.channels;
    for (int i = thread(); i < entries; i += S::threads)
      table_[i] = row_spot(row_base().digits(first_row + (along_k ? i : i * count)));
    k_ = k_base().digits(k_begin + first_k());
    if (thread() == 0) *step() = k_base().digits(S::depth);
  }

  __device__ __forceinline__ void load(T* slice) {
    Spot k = k_spot(k_);
    if constexpr (Bytes >= 4) {
#pragma unroll
      for (int i = 0; i < copies; ++i) {
        Spot row = table_[entry(i)];
        bool inside = is_inside(row, k);
        const T* from = data_ + (row.offset + k.offset);
        copy_to_slice<Bytes>(slice + at(i), inside ? from : p_.data, inside ? count : 0);
      }
    } else {
      constexpr int batch = 8;
      static_assert(copies % batch == 0);
#pragma unroll 1
      for (int i = 0; i < copies; i += batch) {
        T held[batch];
#pragma unroll
        for (int j = 0; j < batch; ++j) {
          Spot row = table_[entry(i + j)];
          held[j] = is_inside(row, k) ? data_[row.offset + k.offset] : T{};
        }
#pragma unroll
        for (int j = 0; j < batch; ++j) slice[at(i + j)] = held[j];
      }
    }
    k_base().add(k_, *step());
  }

  static __device__ T element(const Params& p, int64_t unit, int64_t row, int64_t k) {
    Gather g(p, unit);
    Spot row_spot = g.row_spot(g.row_base().digits(row)), k_spot = g.k_spot(g.k_base().digits(k));
    return g.is_inside(row_spot, k_spot) ? g.data_[row_spot.offset + k_spot.offset] : T{};
  }

 private:
  // Threads along k: as for a matrix. Along rows, each thread stays with one k, of which there are S::depth.
  static constexpr int in_row = along_k ? S::depth / count : S::threads / S::depth;
  static constexpr int copies = S::rows * S::depth / count / S::threads;
  static constexpr unsigned outside = 0x80000000u;

  __device__ Gather(const Params& p, int64_t unit) : p_(p), unit_(unit_of(p.axes, unit)) {
    data_ = p.data + unit_.group * p.channels;
  }

  // From one slice to the next; behind the table, since registers are scarce.
  __device__ Digits* step() const { return reinterpret_cast<Digits*>(table_ + entries); }

  static __device__ int thread() { return static_cast<int>(threadIdx.x); }
  static __device__ int first_k() { return along_k ? thread() % in_row * count : thread() / in_row; }
  static __device__ int entry(int i) {
    return along_k ? thread() / in_row + i * (S::threads / in_row) : thread() % in_row + i * in_row;
  }
  static __device__ int at(int i) { return S::at(along_k ? entry(i) : entry(i) * count, first_k()); }

  __device__ Base pixel_base() const { return {unit_.d.count, unit_.h.count, unit_.w.count}; }
  __device__ Base tap_base() const { return {max(1, unit_.h.taps), max(1, unit_.w.taps), max(1, p_.channels)}; }
  __device__ Base row_base() const { return along_k ? pixel_base() : tap_base(); }
  __device__ Base k_base() const { return along_k ? tap_base() : pixel_base(); }

  __device__ Spot spot(int64_t image, int d, int h, int w, int channel, bool exists) const {
    const Axes& a = p_.axes;
    int64_t line = (image * a.d.size + d) * a.h.size + h;
    return {(line * a.w.size + w) * p_.pixel_step + channel,
            exists ? static_cast<unsigned>(d) * p_.pitch + static_cast<unsigned>(h) : outside,
            static_cast<unsigned>(w)};
  }
  __device__ Spot pixel_spot(const Digits& d) const {
    const Axes& a = p_.axes;
    return spot(d.top, d.high * a.d.step + unit_.d.origin, d.middle * a.h.step + unit_.h.origin,
                d.low * a.w.step + unit_.w.origin, 0, d.top < p_.batch);
  }
  __device__ Spot tap_spot(const Digits& d) const {
    const Axes& a = p_.axes;
    return spot(0, d.top * a.d.dilation, d.high * a.h.dilation, d.middle * a.w.dilation, d.low, d.top < unit_.d.taps);
  }
  __device__ Spot row_spot(const Digits& d) const { return along_k ? pixel_spot(d) : tap_spot(d); }
  __device__ Spot k_spot(const Digits& d) const { return along_k ? tap_spot(d) : pixel_spot(d); }

  // Whether there are such a row and k, and a pixel. Lines and widths lie within 2^30 of zero. Without branches.
  __device__ __forceinline__ bool is_inside(const Spot& row, const Spot& k) const {
    const Axes& a = p_.axes;
    unsigned line = row.line + k.line;
    return ((line & (p_.pitch - 1)) < static_cast<unsigned>(a.h.size)) &
           (line < static_cast<unsigned>(a.d.size) * p_.pitch) & (row.w + k.w < static_cast<unsigned>(a.w.size)) &
           (k.line != outside);
  }

  const Params& p_;
  Unit unit_;
  Spot* table_;
  const T* data_;
  Digits k_;
};

}  // namespace arraynn::cuda
