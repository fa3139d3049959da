// Elementwise activations at memory speed.
#include "cpu/activation/functions.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/simd/fill.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int64_t grain = 32 << 10;  // elements per task: its bytes fit in L2

template <class T, class F>
void forward_all(const F& f, int64_t count, const T* x, T* y) {
  bool streamed = is_streamed<T>(count);
  parallel_chunks(count, grain, [=](int64_t begin, int64_t end) {
    fill(streamed, begin, end, y, [=](int64_t i, auto n) ARRAYNN_LAMBDA { return f.forward(load_count(x + i, n)); }, x);
    if (streamed) stream_end();
  });
}

template <class T, class F>
void backward_all(const F& f, int64_t count, const T* saved, const T* dy, T* dx) {
  bool streamed = is_streamed<T>(count);
  parallel_chunks(count, grain, [=](int64_t begin, int64_t end) {
    fill(
        streamed, begin, end, dx,
        [=](int64_t i, auto n) ARRAYNN_LAMBDA { return f.backward(load_count(saved + i, n), load_count(dy + i, n)); },
        saved, dy);
    if (streamed) stream_end();
  });
}

}  // namespace

void activation_forward(const ActivationParams& p, const void* x, void* y) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    with_function<T>(p, [&](auto f) { forward_all<T>(f, p.count, static_cast<const T*>(x), static_cast<T*>(y)); });
  });
}

void activation_backward(const ActivationParams& p, const void* saved, const void* dy, void* dx) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    with_function<T>(p, [&](auto f) {
      backward_all<T>(f, p.count, static_cast<const T*>(saved), static_cast<const T*>(dy), static_cast<T*>(dx));
    });
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
