// Linear layers are three strided products and a column sum.
#include "cpu/gemm.h"
#include "cpu/kernels.h"

namespace arraynn::cpu::ARRAYNN_ISA {

size_t linear_scratch(const LinearParams& p) {
  size_t bytes = 0;
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    int64_t elements = std::max({gemm_scratch<T>(p.rows, p.out_features, p.in_features),
                                 gemm_scratch<T>(p.rows, p.in_features, p.out_features),
                                 gemm_scratch<T>(p.out_features, p.in_features, p.rows)});
    bytes = static_cast<size_t>(elements) * sizeof(T);
  });
  return bytes;
}

void linear_forward(const LinearParams& p, const void* input, const void* weight, const void* bias, void* output,
                    void* scratch) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    gemm<T>({p.rows, p.out_features, p.in_features, static_cast<const T*>(input), p.in_features, 1,
             static_cast<const T*>(weight), p.w_out, p.w_in, static_cast<T*>(output), p.out_features,
             static_cast<const T*>(bias), false},
            static_cast<T*>(scratch));
  });
}

void linear_backward_input(const LinearParams& p, const void* d_output, const void* weight, void* d_input,
                           void* scratch) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    gemm<T>({p.rows, p.in_features, p.out_features, static_cast<const T*>(d_output), p.out_features, 1,
             static_cast<const T*>(weight), p.w_in, p.w_out, static_cast<T*>(d_input), p.in_features, nullptr, false},
            static_cast<T*>(scratch));
  });
}

void linear_backward_weight(const LinearParams& p, const void* d_output, const void* input, void* d_weight,
                            void* d_bias, void* scratch) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* dy = static_cast<const T*>(d_output);
    if (d_weight)
      gemm<T>({p.out_features, p.in_features, p.rows, dy, 1, p.out_features, static_cast<const T*>(input), 1,
               p.in_features, static_cast<T*>(d_weight), p.in_features, nullptr, p.add_weight},
              static_cast<T*>(scratch));
    if (d_bias) column_sums(p.rows, p.out_features, dy, static_cast<T*>(d_bias));
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
