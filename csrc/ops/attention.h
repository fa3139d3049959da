// O = D(softmax(scale Q K^T + mask)) V, for each head: Q is L x E, K is S x E, V is S x Ev (Dao et al.,
// FlashAttention, 2022). The softmax is over the keys, of which the masked ones take no part: those that a
// flag says no to, those to which the bias is -inf, and, if causal, those after the query, row for row from
// the top left. A query without a key gives zeros. D is dropout: a weight is kept, and divided by 1 - p, as
// ops/dropout.h has it for an array of (heads, L, S).
//
// With P the weights and M what D multiplies them with, forward saves for each query its largest score and one
// over the sum of the exponentials, t_i and r_i, both 0 without a key, so that P_ij = exp(s_ij - t_i) r_i: not
// the logarithm of the sum added to the score, which a bias of -1e30 for all keys would swallow. Backward is, with
// d_i = sum over the value columns of dO O,
//   dV = (M P)^T dO,  dS = P (M (dO V^T) - d),  dQ = scale dS K,  dK = scale dS^T Q.
// A tile of P is computed again from its queries and keys; no more than tiles of L x S numbers are ever held.
//
// Query, key, value, mask and dO have any strides. O, dQ, dK and dV are C-contiguous over all axes, the keys'
// heads those of `group` heads of queries each. No array may be another's.
#pragma once
#include <cstddef>

#include "core/array.h"

namespace arraynn {

// The strides of an array of (..., rows, columns); zero where it is repeated.
struct AttentionMatrix {
  int64_t batch[max_dims];
  int64_t row, column;
};

enum class AttentionMask : int { none, flags, bias };

struct AttentionParams {
  DType dtype;
  Place place;
  int ndim;                 // of the output
  int64_t shape[max_dims];  // of the output: its batch axes, L, Ev
  int64_t heads, group;     // of queries, all batch axes together; and how many share a head of keys and values
  int64_t queries, keys, depth, value_depth;
  AttentionMatrix query, key, value, mask;
  AttentionMask mask_kind;
  double scale;
  bool causal;
  double dropout;
  uint64_t dropout_key;
};

struct AttentionForward {
  const void *query, *key, *value, *mask;
  void* output;
  // What backward needs, or null: t and r, (2, heads, L) of the computing dtype, and the output in that dtype
  // where `output` is of 16 bits.
  void *saved, *wide_output;
};

// On a device gradients of float16 are computed as float32, into which the caller converts all.
struct AttentionBackward {
  const void *query, *key, *value, *mask;
  const void *output, *saved, *d_output;  // the output in the computing dtype
  AttentionMatrix d_output_at;
  void *d_query, *d_key, *d_value;  // null: not wanted
};

struct AttentionOptions {
  bool has_scale;  // else 1 / sqrt(E)
  double scale;
  bool causal, grouped;
  double dropout;
  uint64_t dropout_key;
};

// mask may be null; one of uint8 holds flags.
AttentionParams attention_params(const Array& query, const Array& key, const Array& value, const Array* mask,
                                 const AttentionOptions& options);
// Refuses a cotangent that is not of the output's shape.
AttentionMatrix attention_cotangent(const AttentionParams& p, const Array& d_output);

size_t attention_forward_scratch(const AttentionParams& p);
size_t attention_backward_scratch(const AttentionParams& p);
void attention_forward(const AttentionParams& p, const AttentionForward& b, void* scratch);
void attention_backward(const AttentionParams& p, const AttentionBackward& b, void* scratch);

}  // namespace arraynn
