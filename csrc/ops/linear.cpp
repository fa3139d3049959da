#include "ops/linear.h"

#include "core/backend.h"
#include "core/errors.h"
#include "cpu/table.h"

namespace arraynn {

LinearParams linear_params(const Array& input, const Array& weight, const Array* bias) {
  check_ndim("linear", "weight", weight, 2);
  if (input.ndim == 0) value_error("linear: input has shape (), expected at least 1 dimension");
  int64_t features = input.shape[input.ndim - 1];
  if (features != weight.shape[1])
    value_error("linear: input has %lld features, but weight of shape %s takes %lld", static_cast<long long>(features),
                shape_text(weight).c_str(), static_cast<long long>(weight.shape[1]));
  if (bias) check_shape("linear", "bias", *bias, {weight.shape[0]});
  LinearParams p{};
  p.dtype = input.dtype;
  p.place = input.place;
  p.rows = 1;
  p.in_features = features;
  p.out_features = weight.shape[0];
  p.w_out = weight.strides[0];
  p.w_in = weight.strides[1];
  p.ndim = input.ndim;
  for (int i = 0; i < input.ndim - 1; ++i) p.rows *= p.output_shape[i] = input.shape[i];
  p.output_shape[p.ndim - 1] = p.out_features;
  return p;
}

void check_linear_cotangent(const LinearParams& p, const Array& d_output) {
  check_shape("linear", "cotangent", d_output, p.output_shape, p.ndim);
}

size_t linear_scratch(const LinearParams& p) { return kernels(p.place).linear_scratch(p); }

void linear_forward(const LinearParams& p, const void* input, const void* weight, const void* bias, void* output,
                    void* scratch) {
  kernels(p.place).linear_forward(p, input, weight, bias, output, scratch);
}

void linear_backward_input(const LinearParams& p, const void* d_output, const void* weight, void* d_input,
                           void* scratch) {
  kernels(p.place).linear_backward_input(p, d_output, weight, d_input, scratch);
}

void linear_backward_weight(const LinearParams& p, const void* d_output, const void* input, void* d_weight,
                            void* d_bias, void* scratch) {
  kernels(p.place).linear_backward_weight(p, d_output, input, d_weight, d_bias, scratch);
}

}  // namespace arraynn
