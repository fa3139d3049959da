// Arrays of 16-bit floats to float32 and back.
#include "cpu/simd/halves.h"

#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int64_t grain = 32 << 10;

template <class Half>
void widen(int64_t count, const uint16_t* from, float* to) {
  parallel_chunks(count, grain, [=](int64_t begin, int64_t end) {
    for_vectors<float>(end - begin, [&](int64_t i, auto n) ARRAYNN_LAMBDA {
      store_count(to + begin + i, (vf32)Half::widen(load_halves(from + begin + i, n)), n);
    });
  });
}

template <class Half>
void round(int64_t count, const float* from, uint16_t* to) {
  parallel_chunks(count, grain, [=](int64_t begin, int64_t end) {
    for_vectors<float>(end - begin, [&](int64_t i, auto n) ARRAYNN_LAMBDA {
      store_halves(to + begin + i, Half::round((vu32)load_count(from + begin + i, n)), n);
    });
  });
}

}  // namespace

void widen_halves(DType half, int64_t count, const void* from, float* to) {
  const auto* in = static_cast<const uint16_t*>(from);
  half == DType::bfloat16 ? widen<BFloat16>(count, in, to) : widen<Float16>(count, in, to);
}

void round_to_halves(DType half, int64_t count, const float* from, void* to) {
  auto* out = static_cast<uint16_t*>(to);
  half == DType::bfloat16 ? round<BFloat16>(count, from, out) : round<Float16>(count, from, out);
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
