// The table's entries for recurrent layers.
#include "cpu/rnn/product.h"

namespace arraynn::cpu::ARRAYNN_ISA {

size_t rnn_layer_scratch(const RnnLayer& p, bool backward, bool saving) {
  if (p.dtype == DType::float32) return backward ? backward_scratch<float>(p) : forward_scratch<float>(p, saving);
  return backward ? backward_scratch<double>(p) : forward_scratch<double>(p, saving);
}

void rnn_layer_forward(const RnnLayer& p, const RnnForward& b, void* scratch) {
  if (p.dtype == DType::float32)
    layer_forward<float>(p, b, scratch);
  else
    layer_forward<double>(p, b, scratch);
}

void rnn_layer_backward(const RnnLayer& p, const RnnBackward& b, void* scratch) {
  if (p.dtype == DType::float32)
    layer_backward<float>(p, b, scratch);
  else
    layer_backward<double>(p, b, scratch);
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
