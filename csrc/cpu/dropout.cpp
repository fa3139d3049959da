// Dropout with counter-based random bits: every element's bits depend on its number and the key
// alone, so threads need no streams and the backward pass needs no mask.
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/simd/vec.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int W = lanes<float>;  // counters at a time
constexpr int block = 4 * W;     // elements they make

typedef uint64_t wide __attribute__((vector_size(2 * ARRAYNN_VECTOR_BYTES)));

ARRAYNN_INLINE void multiply(vu32 a, uint32_t b, vu32& high, vu32& low) {
  wide product = __builtin_convertvector(a, wide) * b;
  high = __builtin_convertvector(product >> 32, vu32);
  low = __builtin_convertvector(product, vu32);
}

// bits[0 .. block): the random words of elements 4 c .. 4 c + block, for counters from c on.
ARRAYNN_INLINE void philox(uint64_t counter, uint64_t key, uint32_t* bits) {
  vu32 step;
  for (int i = 0; i < W; ++i) step[i] = static_cast<uint32_t>(i);
  vu32 w0 = step + static_cast<uint32_t>(counter);
  // The low word may wrap inside the vector.
  vu32 carry = (vu32)(w0 < static_cast<uint32_t>(counter));
  vu32 w1 = static_cast<uint32_t>(counter >> 32) - carry, w2{}, w3{};
  auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    vu32 high0, low0, high1, low1;
    multiply(w0, 0xD2511F53u, high0, low0);
    multiply(w2, 0xCD9E8D57u, high1, low1);
    w0 = high1 ^ w1 ^ k0;
    w1 = low1;
    w2 = high0 ^ w3 ^ k1;
    w3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  using Lanes = lane_sequence<float>;
  vu32 even_lo = zip_lo_(w0, w2, Lanes{}), odd_lo = zip_lo_(w1, w3, Lanes{});
  vu32 even_hi = zip_hi_(w0, w2, Lanes{}), odd_hi = zip_hi_(w1, w3, Lanes{});
  vu32 ordered[4] = {zip_lo_(even_lo, odd_lo, Lanes{}), zip_hi_(even_lo, odd_lo, Lanes{}),
                     zip_lo_(even_hi, odd_hi, Lanes{}), zip_hi_(even_hi, odd_hi, Lanes{})};
  __builtin_memcpy(bits, ordered, sizeof ordered);
}

// All bits set where the element is kept.
ARRAYNN_INLINE mask<float> kept(const uint32_t* bits, uint32_t threshold, float) {
  vu32 v;
  __builtin_memcpy(&v, bits, sizeof v);
  return (mask<float>)(v >= threshold);
}
ARRAYNN_INLINE mask<double> kept(const uint32_t* bits, uint32_t threshold, double) {
  mask<double> v;
  for (int i = 0; i < lanes<double>; ++i) v[i] = bits[i];
  return v >= static_cast<int64_t>(threshold);
}

template <class T>
void drop(const DropoutParams& p, const T* x, T* y) {
  auto threshold = static_cast<uint32_t>(p.p * 4294967296.0);
  T scale = static_cast<T>(1.0 / (1.0 - p.p));
  int64_t blocks = (p.count + block - 1) / block;
  parallel_chunks(blocks, 512, [=](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      alignas(64) uint32_t bits[block];
      philox(static_cast<uint64_t>(b) * W, p.key, bits);
      int64_t first = b * block, size = p.count - first < block ? p.count - first : block;
      for_vectors<T>(size, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
        vec<T> v = load_count(x + first + i, count) * scale;
        store_count(y + first + i, kept(bits + i, threshold, T{}) ? v : vec<T>{}, count);
      });
    }
  });
}

}  // namespace

void dropout_forward(const DropoutParams& p, const void* x, void* y) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (p.p >= 1)
      parallel_chunks(p.count, 32 << 10, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) static_cast<T*>(y)[i] = 0;
      });
    else
      drop(p, static_cast<const T*>(x), static_cast<T*>(y));
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
