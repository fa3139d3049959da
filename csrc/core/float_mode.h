// How this thread's CPU treats subnormal numbers. They take some CPUs a hundred times as long as others, so sums
// of products are made with them counted as zero, as operands and as results.
#pragma once
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace arraynn {

using FloatMode = uint64_t;

#if defined(__x86_64__)
inline FloatMode float_mode() { return _mm_getcsr(); }
inline void set_float_mode(FloatMode mode) { _mm_setcsr(static_cast<unsigned>(mode)); }
constexpr FloatMode subnormals_are_zero = 0x8040;  // flush to zero, denormals are zero
#elif defined(__aarch64__)
inline FloatMode float_mode() {
  FloatMode mode;
  asm volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
inline void set_float_mode(FloatMode mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
constexpr FloatMode subnormals_are_zero = 1 << 24;  // FZ
#else
inline FloatMode float_mode() { return 0; }
inline void set_float_mode(FloatMode) {}
constexpr FloatMode subnormals_are_zero = 0;
#endif

// Sets the mode of this thread while it lives.
class WithFloatMode {
 public:
  explicit WithFloatMode(FloatMode mode) : before_(float_mode()) {
    if (mode != before_) set_float_mode(mode);
  }
  ~WithFloatMode() {
    if (float_mode() != before_) set_float_mode(before_);
  }
  WithFloatMode(const WithFloatMode&) = delete;
  WithFloatMode& operator=(const WithFloatMode&) = delete;

 private:
  FloatMode before_;
};

}  // namespace arraynn
