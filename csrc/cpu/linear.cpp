// Linear layers are three strided products and a column sum.
#include "cpu/gemm.h"
#include "cpu/gemm_bfloat16.h"
#include "cpu/kernels.h"
#include "cpu/simd/halves.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

// C = A B + bias of a call: m x n, k steps, with the strides of Gemm.
void product(DType dtype, int64_t m, int64_t n, int64_t k, const void* a, int64_t a_row, int64_t a_k, const void* b,
             int64_t b_col, int64_t b_k, void* c, const void* bias, bool accumulate, void* scratch) {
  if (dtype == DType::bfloat16)  // which adds to nothing
    return gemm_bfloat16({m, n, k, static_cast<const uint16_t*>(a), a_row, a_k, static_cast<const uint16_t*>(b), b_col,
                          b_k, static_cast<uint16_t*>(c), static_cast<const uint16_t*>(bias)},
                         scratch);
  dispatch_float(dtype, [&](auto zero) {
    using T = decltype(zero);
    gemm<T>({m, n, k, static_cast<const T*>(a), a_row, a_k, static_cast<const T*>(b), b_col, b_k, static_cast<T*>(c), n,
             static_cast<const T*>(bias), accumulate},
            static_cast<T*>(scratch));
  });
}

size_t product_scratch(DType dtype, int64_t m, int64_t n, int64_t k) {
  if (dtype == DType::bfloat16) return gemm_bfloat16_scratch(m, n, k);
  int64_t elements = dtype == DType::float32 ? gemm_scratch<float>(m, n, k) : gemm_scratch<double>(m, n, k);
  return static_cast<size_t>(elements * item_size(dtype));
}

// db of bfloat16 numbers, summed in float32.
void bias_gradient(const LinearParams& p, const uint16_t* dy, uint16_t* db) {
  parallel_chunks(ceil_div(p.out_features, lanes<float>), 1 + 16384 / (p.rows + 1), [=](int64_t begin, int64_t end) {
    int64_t first = begin * lanes<float>, last = std::min(end * lanes<float>, p.out_features);
    for_vectors<float>(last - first, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
      vf32 total{};
      for (int64_t row = 0; row < p.rows; ++row)
        total += (vf32)BFloat16::widen(load_halves(dy + row * p.out_features + first + i, count));
      store_halves(db + first + i, BFloat16::round((vu32)total), count);
    });
  });
}

}  // namespace

size_t linear_scratch(const LinearParams& p) {
  return std::max({product_scratch(p.dtype, p.rows, p.out_features, p.in_features),
                   product_scratch(p.dtype, p.rows, p.in_features, p.out_features),
                   product_scratch(p.dtype, p.out_features, p.in_features, p.rows)});
}

void linear_forward(const LinearParams& p, const void* input, const void* weight, const void* bias, void* output,
                    void* scratch) {
  product(p.dtype, p.rows, p.out_features, p.in_features, input, p.in_features, 1, weight, p.w_out, p.w_in, output,
          bias, false, scratch);
}

void linear_backward_input(const LinearParams& p, const void* d_output, const void* weight, void* d_input,
                           void* scratch) {
  product(p.dtype, p.rows, p.in_features, p.out_features, d_output, p.out_features, 1, weight, p.w_in, p.w_out, d_input,
          nullptr, false, scratch);
}

void linear_backward_weight(const LinearParams& p, const void* d_output, const void* input, void* d_weight,
                            void* d_bias, void* scratch) {
  if (d_weight)
    product(p.dtype, p.out_features, p.in_features, p.rows, d_output, 1, p.out_features, input, 1, p.in_features,
            d_weight, nullptr, p.add_weight, scratch);
  if (!d_bias) return;
  if (p.dtype == DType::bfloat16)
    return bias_gradient(p, static_cast<const uint16_t*>(d_output), static_cast<uint16_t*>(d_bias));
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    column_sums(p.rows, p.out_features, static_cast<const T*>(d_output), static_cast<T*>(d_bias));
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
