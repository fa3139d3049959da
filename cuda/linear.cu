// Linear layers are three strided products and a sum over rows. The bias is added where the product is rounded.
#include "channel_sums.h"
#include "dispatch.h"
#include "gemm.h"
#include "kernels.h"

namespace arraynn::cuda {

namespace {

// Each operand's rows and columns in the order of struct Gemm: A, then B, then C.
Gemm forward_product(const LinearParams& p, const void* input, const void* weight, const void* bias, void* output) {
  return {p.dtype, p.place, p.rows,  p.out_features, p.in_features,  input, p.in_features, 1,
          weight,  p.w_in,  p.w_out, output,         p.out_features, 1,     bias,          false};
}

Gemm input_product(const LinearParams& p, const void* d_output, const void* weight, void* d_input) {
  return {p.dtype, p.place, p.rows, p.in_features, p.out_features, d_output, p.out_features, 1,
          weight,  p.w_out, p.w_in, d_input,       p.in_features,  1,        nullptr,        false};
}

Gemm weight_product(const LinearParams& p, const void* d_output, const void* input, void* d_weight) {
  return {p.dtype,       p.place, p.out_features, p.in_features, p.rows, d_output, 1,           p.out_features, input,
          p.in_features, 1,       d_weight,       p.in_features, 1,      nullptr,  p.add_weight};
}

ChannelSums bias_sums(const LinearParams& p) { return {p.dtype, p.place, p.rows, p.out_features, 1}; }

}  // namespace

size_t linear_scratch(const LinearParams& p) {
  return std::max({gemm_scratch(forward_product(p, nullptr, nullptr, nullptr, nullptr)),
                   gemm_scratch(input_product(p, nullptr, nullptr, nullptr)),
                   gemm_scratch(weight_product(p, nullptr, nullptr, nullptr)), channel_sums_scratch(bias_sums(p))});
}

void linear_forward(const LinearParams& p, const void* input, const void* weight, const void* bias, void* output,
                    void* scratch) {
  gemm(forward_product(p, input, weight, bias, output), scratch);
}

void linear_backward_input(const LinearParams& p, const void* d_output, const void* weight, void* d_input,
                           void* scratch) {
  gemm(input_product(p, d_output, weight, d_input), scratch);
}

void linear_backward_weight(const LinearParams& p, const void* d_output, const void* input, void* d_weight,
                            void* d_bias, void* scratch) {
  if (d_weight) gemm(weight_product(p, d_output, input, d_weight), scratch);
  if (d_bias) channel_sums(bias_sums(p), d_output, d_bias, scratch);
}

}  // namespace arraynn::cuda
