#include "attention/launch.h"

namespace arraynn::cuda {

namespace {

template <class T>
void launch_any(const AttentionCall& call) {
  launch_kinds<Fma<T>, AnyMatrix, 1>(call.kind, tiles_of<T>(call));
}

}  // namespace

// float64, and what old chips multiply.
void attention_plain(const AttentionCall& call) {
  dispatch_float(call.p->dtype, [&](auto zero) { launch_any<decltype(zero)>(call); });
}

}  // namespace arraynn::cuda
