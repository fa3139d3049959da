// The table's entries for recurrent layers.
#include "cpu/rnn/product.h"

namespace arraynn::cpu::ARRAYNN_ISA {

size_t rnn_layer_scratch(const RnnLayer& p, bool backward, bool saving) {
  size_t bytes = 0;
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (p.stepwise())
      bytes = backward ? stepwise_backward_scratch<T>(p) : stepwise_forward_scratch<T>(p, saving);
    else
      bytes = backward ? backward_scratch<T>(p) : forward_scratch<T>(p, saving);
  });
  return bytes;
}

void rnn_layer_forward(const RnnLayer& p, const RnnForward& b, void* scratch) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    p.stepwise() ? stepwise_forward<T>(p, b, scratch) : layer_forward<T>(p, b, scratch);
  });
}

void rnn_layer_backward(const RnnLayer& p, const RnnBackward& b, void* scratch) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    p.stepwise() ? stepwise_backward<T>(p, b, scratch) : layer_backward<T>(p, b, scratch);
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
