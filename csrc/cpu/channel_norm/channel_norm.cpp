// batch_norm and group_norm, by the order of memory: channels as planes, or innermost.
#include "cpu/channel_norm/columns.h"
#include "cpu/channel_norm/planes.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

bool is_empty(const ChannelNormParams& p) { return p.images * p.channels * p.inner == 0; }

// The pieces of scratch, one behind the other: sums of units, parts of columns, factors of columns.
struct Pieces {
  int64_t sums = 0, parts = 0, factors = 0;  // bytes

  Pieces(const ChannelNormParams& p, bool backward) {
    if (backward) sums = p.units() * static_cast<int64_t>(sizeof(Sums));
    if (p.layout != Layout::channels_last) return;
    Columns t(p);
    parts = t.parts() * static_cast<int64_t>(sizeof(double));
    factors = p.units() * 5 * item_size(p.dtype);
  }
};

}  // namespace

size_t channel_norm_scratch(const ChannelNormParams& p, bool backward) {
  if (is_empty(p)) return 0;
  Pieces pieces(p, backward);
  return static_cast<size_t>(pieces.sums + pieces.parts + pieces.factors);
}

void channel_norm_forward(const ChannelNormParams& p, const ChannelNormForward& a, void* scratch) {
  if (is_empty(p)) return;
  auto* room = static_cast<char*>(scratch);
  Pieces pieces(p, false);
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (p.layout == Layout::channels_last)
      columns_forward(p, a, reinterpret_cast<double*>(room), reinterpret_cast<T*>(room + pieces.parts));
    else
      planes_forward<T>(p, a);
  });
}

void channel_norm_backward(const ChannelNormParams& p, const ChannelNormBackward& a, void* scratch) {
  if (is_empty(p)) {
    for (void* gradient : {a.d_weight, a.d_bias})
      if (gradient) __builtin_memset(gradient, 0, static_cast<size_t>(p.channels * item_size(p.dtype)));
    return;
  }
  auto* room = static_cast<char*>(scratch);
  Pieces pieces(p, true);
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto* sums = reinterpret_cast<Sums*>(room);
    if (p.layout == Layout::channels_last)
      columns_backward(p, a, sums, reinterpret_cast<double*>(room + pieces.sums),
                       reinterpret_cast<T*>(room + pieces.sums + pieces.parts));
    else
      planes_backward<T>(p, a, sums);
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
