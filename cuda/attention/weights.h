// Of one score at a time: the mask, causality and dropout.
#pragma once
#include "device/philox.h"
#include "device/reduce.h"
#include "device/softmax.h"
#include "ops/attention.h"

namespace arraynn::cuda {

// Where the matrix of a head of queries begins, whose last batch axis counts in groups.
__device__ inline int64_t head_offset(const AttentionParams& p, const AttentionMatrix& m, int64_t head, int64_t group) {
  int64_t offset = 0;
  for (int i = p.ndim - 3; i >= 0; --i) {
    int64_t index = head % p.shape[i];
    offset += (i == p.ndim - 3 ? index / group : index) * m.batch[i];
    head /= p.shape[i];
  }
  return offset;
}

template <class T>
class Weights {
 public:
  using C = compute_t<T>;

  __device__ Weights(const AttentionParams& p, const void* mask, int64_t head)
      : p_(p), mask_(mask), mask_at_(mask ? head_offset(p, p.mask, head, 1) : 0), first_(head * p.queries * p.keys) {
    auto threshold = static_cast<uint64_t>(p.dropout * 4294967296.0);
    all_ = threshold > 0xFFFFFFFFu;
    threshold_ = static_cast<uint32_t>(threshold);
    scale_ = static_cast<C>(1 / (1 - p.dropout));
  }

  // Of query i and key j, from the product of their rows; -inf for a key that takes no part.
  __device__ __forceinline__ C score(C product, int64_t i, int64_t j) const {
    constexpr C lowest = -static_cast<C>(INFINITY);
    if (p_.causal && j > i) return lowest;
    product *= static_cast<C>(p_.scale);
    if (p_.mask_kind == AttentionMask::none) return product;
    int64_t at = mask_at_ + i * p_.mask.row + j * p_.mask.column;
    if (p_.mask_kind == AttentionMask::flags) return static_cast<const uint8_t*>(mask_)[at] ? product : lowest;
    C bias = widen(static_cast<const T*>(mask_)[at]);
    return bias == lowest ? lowest : product + bias;
  }

  // x times what dropout multiplies the weight of query i and key j with.
  __device__ __forceinline__ C kept(int64_t i, int64_t j, C x) {
    if (p_.dropout == 0) return x;
    if (all_) return 0;
    auto number = static_cast<uint64_t>(first_ + i * p_.keys + j);
    if (number / 4 != counter_) {  // neighbours share a block
      counter_ = number / 4;
      words_ = philox(counter_, p_.dropout_key);
    }
    return words_.get(number & 3) >= threshold_ ? x * scale_ : 0;
  }

 private:
  const AttentionParams& p_;
  const void* mask_;
  int64_t mask_at_, first_;
  uint32_t threshold_;
  C scale_;
  bool all_;
  uint64_t counter_ = ~uint64_t{0};
  Words words_;
};

}  // namespace arraynn::cuda
