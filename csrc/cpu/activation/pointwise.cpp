// Elementwise activations at memory speed.
#include "cpu/activation/functions.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int64_t grain = 32 << 10;                    // elements per task: its bytes fit in L2
constexpr int64_t streamed_bytes = int64_t{16} << 20;  // results of this size are not in cache when read

constexpr int64_t ahead = 2 << 10;  // bytes: functions of many instructions have too few loads under way by themselves

// y[i] = f(i, count) over [begin, end), by vectors; past the cache where the array is large, whose inputs are fetched
// ahead then.
template <class T, class F, class... Inputs>
ARRAYNN_INLINE void fill(int64_t total, int64_t begin, int64_t end, T* y, const F& f, const Inputs*... inputs) {
  bool aligned = reinterpret_cast<uintptr_t>(y + begin) % ARRAYNN_VECTOR_BYTES == 0;
  if (total * static_cast<int64_t>(sizeof(T)) >= streamed_bytes && aligned) {
    std::integral_constant<int, lanes<T>> whole;
    for (; begin + lanes<T> <= end; begin += lanes<T>) {
      (__builtin_prefetch(reinterpret_cast<const char*>(inputs + begin) + ahead), ...);
      stream(y + begin, f(begin, whole));
    }
    stream_end();
  }
  for_vectors<T>(end - begin,
                 [&](int64_t i, auto n) ARRAYNN_LAMBDA { store_count(y + begin + i, f(begin + i, n), n); });
}

template <class T, class F>
void forward_all(const F& f, int64_t count, const T* x, T* y) {
  parallel_chunks(count, grain, [=](int64_t begin, int64_t end) {
    fill<T>(count, begin, end, y, [=](int64_t i, auto n) ARRAYNN_LAMBDA { return f.forward(load_count(x + i, n)); }, x);
  });
}

template <class T, class F>
void backward_all(const F& f, int64_t count, const T* saved, const T* dy, T* dx) {
  parallel_chunks(count, grain, [=](int64_t begin, int64_t end) {
    fill<T>(
        count, begin, end, dx,
        [=](int64_t i, auto n) ARRAYNN_LAMBDA { return f.backward(load_count(saved + i, n), load_count(dy + i, n)); },
        saved, dy);
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
