// Dropout with a counter-based generator: no state, and any element's number on its own. Where memory
// is in C order a Philox block serves four elements; in another order each element takes its own.
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/simd/philox.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int64_t grain = 16 << 10;  // elements per task, whole steps

// The words of `words` elements, number `first` and every step-th behind it.
ARRAYNN_INLINE void words_apart(uint64_t first, uint64_t step, uint64_t key, uint32_t* out) {
  for (int i = 0; i < words; i += counters) {
    vu64 number = (vu64)iota<double>() * step + (first + static_cast<uint64_t>(i) * step), word[4];
    philox(number >> 2, key, word);
    vu64 which = number & 3;
    vu64 w = which == 0 ? word[0] : which == 1 ? word[1] : which == 2 ? word[2] : word[3];
    for (int l = 0; l < counters; ++l) out[i + l] = static_cast<uint32_t>(w[l]);
  }
}

template <class T>
struct Mask {
  uint32_t threshold;
  T scale;
  // y = x scale where kept, for at most `words` elements.
  ARRAYNN_INLINE void apply(const uint32_t* word, const T* x, T* y, int64_t n) const {
    for_vectors<T>(n, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
      vec<T> v = load_count(x + i, count) * scale;
      store_count(y + i, kept(word + i, threshold, T()) ? v : vec<T>{}, count);
    });
  }
};

template <class T>
void drop_in_order(const DropoutParams& p, Mask<T> mask, const T* x, T* y) {
  int64_t count = p.count, steps = (count + words - 1) / words;
  parallel_chunks(steps, grain / words, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * words; i < end * words && i < count; i += words) {
      alignas(64) uint32_t word[words];
      words_in_order(static_cast<uint64_t>(i / 4), p.key, word);
      mask.apply(word, x + i, y + i, count - i < words ? count - i : words);
    }
  });
}

template <class T>
void drop_apart(const DropoutParams& p, Mask<T> mask, const T* x, T* y) {
  int last = p.ndim - 1;
  int64_t length = p.shape[last], rows = 1;
  for (int i = 0; i < last; ++i) rows *= p.shape[i];
  int64_t steps = (length + words - 1) / words;
  parallel_chunks(rows * steps, grain / 4 / words, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      int64_t row = k / steps, at = k % steps * words, number = at * p.step[last], rest = row;
      for (int i = last - 1; i >= 0; rest /= p.shape[i--]) number += rest % p.shape[i] * p.step[i];
      alignas(64) uint32_t word[words];
      words_apart(static_cast<uint64_t>(number), static_cast<uint64_t>(p.step[last]), p.key, word);
      mask.apply(word, x + row * length + at, y + row * length + at, length - at < words ? length - at : words);
    }
  });
}

// All of one fate.
template <class T>
void scale_all(int64_t count, T scale, const T* x, T* y) {
  parallel_chunks(count, grain, [&](int64_t begin, int64_t end) {
    for_vectors<T>(end - begin, [&](int64_t i, auto n) ARRAYNN_LAMBDA {
      vec<T> v = load_count(x + begin + i, n);
      store_count(y + begin + i, scale != T(0) ? v * scale : vec<T>{}, n);
    });
  });
}

}  // namespace

void dropout_forward(const DropoutParams& p, const void* x, void* y) {
  auto threshold = static_cast<uint64_t>(p.p * 4294967296.0);
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* in = static_cast<const T*>(x);
    T* out = static_cast<T*>(y);
    Mask<T> mask{static_cast<uint32_t>(threshold), static_cast<T>(p.p < 1 ? 1 / (1 - p.p) : 0)};
    if (p.count == 0) return;
    if (p.p == 0 || threshold > 0xffffffffu)
      scale_all(p.count, p.p == 0 ? T(1) : T(0), in, out);
    else if (p.ndim == 0)
      drop_in_order(p, mask, in, out);
    else
      drop_apart(p, mask, in, out);
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
