// Which kernel computes a call, and what the backward pass needs beforehand.
#include "attention/launch.h"
#include "kernels.h"

namespace arraynn::cuda {

namespace {

constexpr int delta_threads = 128;

// The sum of dO O over each row of a query, by a warp.
template <class T, class C = compute_t<T>>
__global__ void __launch_bounds__(delta_threads)
    delta_kernel(AttentionParams p, AttentionMatrix at, const T* d_output, const C* output, C* delta) {
  int lane = static_cast<int>(threadIdx.x) % 32;
  int64_t rows = p.heads * p.queries, step = static_cast<int64_t>(gridDim.x) * delta_threads / 32;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * delta_threads + threadIdx.x) / 32; i < rows; i += step) {
    const T* from = d_output + head_offset(p, at, i / p.queries, 1) + i % p.queries * at.row;
    C sum = 0;
    for (int64_t c = lane; c < p.value_depth; c += 32)
      sum = fma(widen(from[c * at.column]), output[i * p.value_depth + c], sum);
    sum = warp_reduce(sum, Add{});
    if (lane == 0) delta[i] = sum;
  }
}

void run(const AttentionCall& call) {
  const AttentionParams& p = *call.p;
  if (p.dtype == DType::float64 || capability(p.place) < 80) return attention_plain(call);
  switch (p.dtype) {
    case DType::float16: return attention_float16(call);
    case DType::bfloat16: return attention_bfloat16(call);
    default: return p.place.tf32 ? attention_tf32(call) : attention_float32(call);
  }
}

size_t delta_bytes(const AttentionParams& p) {
  return static_cast<size_t>(p.heads * p.queries) * (p.dtype == DType::float64 ? 8 : 4);
}

}  // namespace

size_t attention_forward_scratch(const AttentionParams&) { return 0; }

size_t attention_backward_scratch(const AttentionParams& p) { return delta_bytes(p); }

void attention_forward(const AttentionParams& p, const AttentionForward& b, void*) {
  AttentionCall call{};
  call.kind = Results::output;
  call.p = &p;
  call.query = b.query;
  call.key = b.key;
  call.value = b.value;
  call.mask = b.mask;
  call.results = b.output;
  call.save = b.saved;
  call.wide_output = b.wide_output;
  run(call);
}

void attention_backward(const AttentionParams& p, const AttentionBackward& b, void* scratch) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    launch(delta_kernel<T, C>, grid_for(p.heads * p.queries, delta_threads / 32), delta_threads, 0, p.place, p,
           b.d_output_at, static_cast<const T*>(b.d_output), static_cast<const C*>(b.output), static_cast<C*>(scratch));
  });
  AttentionCall call{};
  call.p = &p;
  call.query = b.query;
  call.key = b.key;
  call.value = b.value;
  call.mask = b.mask;
  call.d_output = b.d_output;
  call.d_output_at = b.d_output_at;
  call.saved = b.saved;
  call.delta = scratch;
  const std::pair<Results, void*> wanted[] = {
      {Results::d_query, b.d_query}, {Results::d_key, b.d_key}, {Results::d_value, b.d_value}};
  for (auto [kind, results] : wanted) {
    if (!results) continue;
    call.kind = kind;
    call.results = results;
    run(call);
  }
}

}  // namespace arraynn::cuda
