// Scratch of a layer, and which layer's. Host code.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "ops/rnn.h"

namespace arraynn::cuda::rnn {

// Hands out aligned pieces; with a null base it only counts.
class Pieces {
 public:
  explicit Pieces(void* base) : at_(reinterpret_cast<uintptr_t>(base)) { bytes(0); }
  void* bytes(size_t count) {
    at_ = (at_ + 127) / 128 * 128;
    auto* piece = reinterpret_cast<void*>(at_);
    at_ += count;
    return piece;
  }
  template <class T>
  T* take(int64_t elements) {
    return static_cast<T*>(bytes(static_cast<size_t>(elements) * sizeof(T)));
  }
  size_t used() const { return at_ + 128; }  // whatever the real base is aligned to

 private:
  uintptr_t at_;
};

// f(cell, zero): the cell a constant, zero of the element type. The two RNNs are one.
template <class F>
void dispatch_cell(const RnnLayer& p, const F& f) {
  auto typed = [&](auto zero) {
    switch (p.cell) {
      case Cell::lstm: return f(std::integral_constant<Cell, Cell::lstm>{}, zero);
      case Cell::gru: return f(std::integral_constant<Cell, Cell::gru>{}, zero);
      case Cell::gru_reset_first: return f(std::integral_constant<Cell, Cell::gru_reset_first>{}, zero);
      case Cell::rnn:
      case Cell::rnn_relu: return f(std::integral_constant<Cell, Cell::rnn>{}, zero);
    }
  };
  if (p.dtype == DType::float64)
    typed(double{});
  else
    typed(float{});
}

}  // namespace arraynn::cuda::rnn
