#include "ops/optimizer.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "core/backend.h"
#include "core/errors.h"
#include "cpu/table.h"

namespace arraynn {

namespace {

constexpr int64_t chunk_elements = 16 << 10;

}  // namespace

void ChunkTable::add(DType dtype, int64_t count, void* const* data) {
  int64_t size = item_size(dtype);
  int64_t most = place.on_device() ? INT64_MAX : chunk_elements;  // a device's kernels cut tensors themselves
  for (int64_t begin = 0; begin < count;) {
    TensorChunk chunk{dtype, std::min(most, count - begin), {}};
    for (size_t i = 0; i < std::size(chunk.data); ++i)
      if (data[i]) chunk.data[i] = static_cast<char*>(data[i]) + begin * size;
    if (first.empty() || filled_ > most - chunk.count) {
      first.push_back(static_cast<int64_t>(chunks.size()));
      filled_ = 0;
    }
    filled_ += chunk.count;
    chunks.push_back(chunk);
    begin += chunk.count;
  }
}

void ChunkTable::finish() { first.push_back(static_cast<int64_t>(chunks.size())); }

AdamParams adam_params(const AdamOptions& o) {
  if (o.step < 1) value_error("adam_step: step is %lld, expected at least 1", static_cast<long long>(o.step));
  if (!(o.beta1 >= 0 && o.beta1 < 1 && o.beta2 >= 0 && o.beta2 < 1))
    value_error("adam_step: betas is (%g, %g), expected two numbers of at least 0 and less than 1", o.beta1, o.beta2);
  AdamParams p{o.place, o.beta1, o.beta2, o.eps, o.grad_scale, 0, 0, 0, 1, o.l1};
  double step = static_cast<double>(o.step);
  p.size = o.lr / (1 - std::pow(o.beta1, step));
  p.root = std::sqrt(1 - std::pow(o.beta2, step));
  (o.decoupled ? p.shrink : p.decay) = o.decoupled ? 1 - o.lr * o.weight_decay : o.weight_decay;
  return p;
}

void check_sgd(const SgdParams& p, bool buffers) {
  if (p.momentum != 0 && !buffers)
    value_error("sgd_step: momentum_buffers is None, expected arrays with momentum=%g", p.momentum);
  if (p.nesterov && !(p.momentum > 0 && p.dampening == 0))
    value_error("sgd_step: nesterov is True with momentum=%g and dampening=%g, expected momentum and no dampening",
                p.momentum, p.dampening);
}

void check_rmsprop(const RmspropParams& p, bool buffers) {
  if (!(p.alpha >= 0 && p.alpha <= 1)) value_error("rmsprop_step: alpha is %g, expected 0 to 1", p.alpha);
  if (p.momentum != 0 && !buffers)
    value_error("rmsprop_step: momentum_buffers is None, expected arrays with momentum=%g", p.momentum);
}

AdagradParams adagrad_params(const Place& place, int64_t step, double lr, double lr_decay, double eps,
                             double weight_decay, double l1) {
  if (step < 1) value_error("adagrad_step: step is %lld, expected at least 1", static_cast<long long>(step));
  return {place, lr / (1 + static_cast<double>(step - 1) * lr_decay), eps, weight_decay, l1};
}

void check_clip_value(double bound) {
  if (!(bound >= 0)) value_error("clip_grad_value: clip_value is %g, expected at least 0", bound);
}

void adam_step(const AdamParams& p, const ChunkTable& table) {
  kernels(table.place).adam_step(p, table.chunks.data(), table.first.data(), table.tasks());
}

void sgd_step(const SgdParams& p, const ChunkTable& table) {
  kernels(table.place).sgd_step(p, table.chunks.data(), table.first.data(), table.tasks());
}

void rmsprop_step(const RmspropParams& p, const ChunkTable& table) {
  kernels(table.place).rmsprop_step(p, table.chunks.data(), table.first.data(), table.tasks());
}

void adagrad_step(const AdagradParams& p, const ChunkTable& table) {
  kernels(table.place).adagrad_step(p, table.chunks.data(), table.first.data(), table.tasks());
}

double grad_norm(const ChunkTable& table, void* scratch) {
  return std::sqrt(kernels(table.place)
                       .sum_of_squares(table.place, table.chunks.data(), table.first.data(), table.tasks(), scratch));
}

double clip_factor(double norm, double max_norm) {
  double factor = max_norm / (norm + 1e-6);
  return factor >= 1 ? 1 : factor;  // NaN stays
}

void scale_grads(const ChunkTable& table, double factor) {
  kernels(table.place).scale_chunks(table.place, factor, table.chunks.data(), table.first.data(), table.tasks());
}

void clamp_grads(const ChunkTable& table, double bound) {
  kernels(table.place).clamp_chunks(table.place, bound, table.chunks.data(), table.first.data(), table.tasks());
}

}  // namespace arraynn
