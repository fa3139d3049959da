// Steps of optimizers, in place, one pass over all tensors. With g the gradient, to which every step first
// adds the gradients of the penalties, decay p and l1 sign(p) (both: an elastic net):
// adam_step:      g /= grad_scale before that; p *= 1 - lr decay (decoupled), and then no decay p;
//                 m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; u = max(u, v) where u is kept, else v;
//                 p -= lr / (1 - b1^step) m / (sqrt(u) / sqrt(1 - b2^step) + eps).
// sgd_step:       b = momentum b + (1 - dampening) g, then g = b, or g + momentum b (Nesterov); p -= lr g.
// rmsprop_step:   s = alpha s + (1 - alpha) g^2; where grad_avgs are kept (centered) a = alpha a + (1 - alpha) g,
//                 else a = 0; d = g / (sqrt(max(s - a^2, 0)) + eps); with momentum b = momentum b + d, d = b;
//                 p -= lr d.
// adagrad_step:   s += g^2; p -= lr / (1 + (step - 1) lr_decay) g / (sqrt(s) + eps).
// clip_grad_norm: g *= min(1, max_norm / (norm + 1e-6)), norm that of all tensors as one vector.
// clip_grad_value: g = min(max(g, -bound), bound).
// Sources: Kingma and Ba 2015, Loshchilov and Hutter 2019, Reddi et al. 2018, Tieleman and Hinton 2012, Graves
// 2013 (centered), Duchi et al. 2011, in PyTorch's form.
#pragma once
#include <cstdint>
#include <vector>

#include "core/array.h"

namespace arraynn {

struct AdamOptions {
  Place place;
  int64_t step;
  double lr, beta1, beta2, eps, weight_decay;
  bool decoupled;
  double grad_scale, l1;
};

struct AdamParams {
  Place place;
  double beta1, beta2, eps, grad_scale;
  double size;    // lr / (1 - b1^step)
  double root;    // sqrt(1 - b2^step)
  double decay;   // of the gradient
  double shrink;  // of the parameter
  double l1;
};

struct SgdParams {
  Place place;
  double lr, momentum, dampening, weight_decay;
  bool nesterov;
  double l1;
};

struct RmspropParams {
  Place place;
  double lr, alpha, eps, momentum, weight_decay, l1;
};

struct AdagradParams {
  Place place;
  double lr;  // that of this step
  double eps, weight_decay, l1;
};

// A stretch of one tensor, the same elements of each of its arrays: in the order of the step's lists, null
// for a list that is not given.
struct TensorChunk {
  DType dtype;
  int64_t count;
  void* data[5];
};

// Chunks of bounded size, and tasks of about that size: task i takes the chunks first[i] to
// first[i + 1] - 1. Many small tensors make one task.
struct ChunkTable {
  Place place;
  std::vector<TensorChunk> chunks;
  std::vector<int64_t> first;

  // Arrays of one tensor, dense in the same order; unused places of the five in `data` are null.
  void add(DType dtype, int64_t count, void* const* data);
  void finish();
  int64_t tasks() const { return static_cast<int64_t>(first.size()) - 1; }

 private:
  int64_t filled_ = 0;
};

AdamParams adam_params(const AdamOptions& options);
void check_sgd(const SgdParams& p, bool buffers);
void check_rmsprop(const RmspropParams& p, bool buffers);
AdagradParams adagrad_params(const Place& place, int64_t step, double lr, double lr_decay, double eps,
                             double weight_decay, double l1);

// Lists: params, grads, exp_avgs, exp_avg_sqs, and the maxes or nothing.
void adam_step(const AdamParams& p, const ChunkTable& table);
// Lists: params, grads, and the momentum buffers or nothing.
void sgd_step(const SgdParams& p, const ChunkTable& table);
// Lists: params, grads, square_avgs, the momentum buffers or nothing, the grad_avgs or nothing.
void rmsprop_step(const RmspropParams& p, const ChunkTable& table);
// Lists: params, grads, state_sums.
void adagrad_step(const AdagradParams& p, const ChunkTable& table);
// The norm before, and the factor that brings it to max_norm. scratch: reduction_scratch(table.place)
// bytes. On a device the norm, which the host needs, waits for its stream.
double grad_norm(const ChunkTable& table, void* scratch);
double clip_factor(double norm, double max_norm);
void scale_grads(const ChunkTable& table, double factor);
void check_clip_value(double bound);
void clamp_grads(const ChunkTable& table, double bound);

}  // namespace arraynn
