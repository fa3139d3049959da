// A call of cross_entropy or nll_loss as its kernels see it: the arrays, the labels and what they count.
#pragma once
#include <cmath>

#include "device/reduce.h"
#include "dispatch.h"
#include "ops/cross_entropy.h"

namespace arraynn::cuda {
namespace {

constexpr int label_threads = 256, most_label_parts = 128, most_parts = 2048;
constexpr int64_t few_labels = 1024;  // up to here every block sums them itself
constexpr size_t sum_room = 32 * sizeof(double);

// What a block finds in its labels.
struct LabelPart {
  double weight;
  int64_t bad;  // the first place of a label out of range, or INT64_MAX
};
static_assert(most_parts * sizeof(double) + most_label_parts * sizeof(LabelPart) <=
              4 * reduction_blocks * sizeof(double));

template <class T>
struct Call {
  using C = compute_t<T>;
  Reduction reduction;
  int64_t outer, classes, inner, ignore_index;
  const T* x;
  const int64_t* labels;   // one of these two
  const int64_t* counted;  // the labels that a mean is over, `count` of them
  const T* probabilities;
  const T *weight, *cotangent;  // null: ones
  T *losses, *dx;               // null: not wanted
  double* parts;                // the sum of the losses of each block; null: not wanted
  const LabelPart* label_parts;
  int label_part_count;  // 0: the labels are few
  bool unit;             // dx holds the gradient for a cotangent of one
  double count;          // of rows that a mean is over
  C kept, spread;        // of a probability, with label smoothing

  __device__ bool in_range(int64_t label) const { return label >= 0 && label < classes; }
  __device__ C weight_of(int64_t label) const { return weight ? widen(weight[label]) : C(1); }
  // q of a class of probability t, but for the label's own share.
  __device__ __forceinline__ C share(int64_t label, C t) const {
    C q = probabilities ? kept * t + spread : spread;
    return weight ? q * widen(weight[label]) : q;
  }
};

// A label and what its class counts by itself in the loss.
template <class C>
struct Target {
  int64_t label = -1;  // -1: no class
  C hit = 0;
  bool used = false;
};

template <class T>
__device__ __forceinline__ Target<compute_t<T>> target_of(const Call<T>& c, int64_t row, bool inside) {
  Target<compute_t<T>> target;
  target.used = inside;
  if (!inside || !c.labels) return target;
  int64_t label = c.labels[row];
  if (label == c.ignore_index) {
    target.used = false;
  } else if (c.in_range(label)) {
    target.label = label;
    target.hit = c.kept * c.weight_of(label);
  } else {
    target.hit = NAN;  // and so become loss and gradient
  }
  return target;
}

// ---- the labels of a call ----

// What label i counts in the divisor of a mean.
template <class T>
__device__ __forceinline__ double counts(const Call<T>& c, int64_t i) {
  int64_t label = c.counted[i];
  if (label == c.ignore_index || !c.in_range(label)) return 0;
  return static_cast<double>(c.weight_of(label));
}

struct Min {
  __device__ int64_t operator()(int64_t a, int64_t b) const { return a < b ? a : b; }
};

template <class T>
__device__ bool holds(const Call<T>& c) {
  return c.unit && widen(*c.cotangent) == 1;
}

template <class T>
__global__ __launch_bounds__(label_threads) void sum_labels(Call<T> c, LabelPart* parts) {
  if (holds(c)) return;
  int64_t rows = static_cast<int64_t>(c.count), step = static_cast<int64_t>(gridDim.x) * label_threads, bad = INT64_MAX;
  double weight = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * label_threads + threadIdx.x; i < rows; i += step) {
    weight += counts(c, i);
    int64_t label = c.counted[i];
    if (bad == INT64_MAX && label != c.ignore_index && !c.in_range(label)) bad = i;
  }
  weight = block_reduce(weight, Add{}, shared<double>());
  bad = block_reduce(bad, Min{}, shared<int64_t>());
  if (threadIdx.x == 0) parts[blockIdx.x] = {weight, bad};
}

// Of a mean; all threads get it.
template <class T>
__device__ double divisor_of(const Call<T>& c, double* room) {
  if (!c.labels) return c.count;
  double sum = 0;
  auto thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  if (c.label_part_count > 0)
    for (int i = thread; i < c.label_part_count; i += threads) sum += c.label_parts[i].weight;
  else
    for (int i = thread; i < static_cast<int>(c.count); i += threads) sum += counts(c, i);
  return block_reduce(sum, Add{}, room);
}

// What the gradient of every loss is multiplied with, unless each has a cotangent of its own.
template <class T>
__device__ compute_t<T> common_scale(const Call<T>& c, double* room) {
  if (!c.dx || c.reduction == Reduction::none) return 1;
  double dl = c.cotangent ? static_cast<double>(widen(*c.cotangent)) : 1;
  return static_cast<compute_t<T>>(c.reduction == Reduction::mean ? dl / divisor_of(c, room) : dl);
}

template <class T>
__device__ __forceinline__ compute_t<T> scale_of(const Call<T>& c, compute_t<T> common, int64_t row) {
  return c.cotangent && c.reduction == Reduction::none ? widen(c.cotangent[row]) : common;
}

template <class T>
__global__ __launch_bounds__(label_threads) void finish(Call<T> c, int blocks, T* output) {
  double* room = shared<double>();
  double total = block_sum(c.parts, blocks, room);
  if (c.reduction == Reduction::mean) total /= divisor_of(c, room);
  if (threadIdx.x == 0) *output = narrow<T>(static_cast<compute_t<T>>(total));
}

// ---- launching ----

inline int64_t counted(const CrossEntropyParams& p) { return p.mean_count > 0 ? p.mean_count : p.outer * p.inner; }

template <class T>
Call<T> call_of(const CrossEntropyParams& p, const void* input, const void* target, const void* weight) {
  using C = compute_t<T>;
  Call<T> c{};
  c.reduction = p.reduction;
  c.outer = p.outer;
  c.classes = p.classes;
  c.inner = p.inner;
  c.ignore_index = p.ignore_index;
  c.x = static_cast<const T*>(input);
  if (p.probabilities)
    c.probabilities = static_cast<const T*>(target);
  else
    c.labels = static_cast<const int64_t*>(target);
  c.weight = static_cast<const T*>(weight);
  c.counted = p.mean_labels ? p.mean_labels : c.labels;
  c.count = static_cast<double>(counted(p));
  c.kept = static_cast<C>(1 - p.smoothing);
  c.spread = static_cast<C>(p.smoothing / static_cast<double>(p.classes));
  return c;
}

LabelPart* label_parts_in(void* scratch) {
  return reinterpret_cast<LabelPart*>(static_cast<double*>(scratch) + most_parts);
}

template <class T>
int launch_labels(const CrossEntropyParams& p, const Call<T>& c, LabelPart* parts) {
  int64_t blocks = std::min<int64_t>(ceil_div(counted(p), label_threads * 8), most_label_parts);
  launch(sum_labels<T>, static_cast<unsigned>(blocks), label_threads, sum_room, p.place, c, parts);
  return static_cast<int>(blocks);
}

// The divisor's labels, where the gradient or the loss is divided by them.
template <class T>
void sum_ahead(const CrossEntropyParams& p, Call<T>& c, void* scratch) {
  if (!c.labels || p.reduction != Reduction::mean || counted(p) <= few_labels) return;
  c.label_parts = label_parts_in(scratch);
  c.label_part_count = launch_labels(p, c, label_parts_in(scratch));
}

template <class T>
void launch_finish(const CrossEntropyParams& p, const Call<T>& c, int blocks, void* output) {
  launch(finish<T>, 1, label_threads, sum_room, p.place, c, blocks, static_cast<T*>(output));
}

}  // namespace
}  // namespace arraynn::cuda
