// LSTM, GRU and plain recurrent layers, a sequence (T, N, I) through layers and directions. Per layer
// and direction, with gate order i f g o and r z n (PyTorch's):
//   LSTM  i, f, o = sigmoid(W_i x + b_i + W_h h + b_h), g = tanh(same), c' = f c + i g, h' = o tanh(c')
//   GRU   r, z = sigmoid(same), n = tanh(W_in x + b_in + r (W_hn h + b_hn)), h' = (1 - z) n + z h,
//         or, its reset gate before the product, n = tanh(W_in x + b_in + W_hn (r h) + b_hn)
//   RNN   h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or max(0, same)
// (Hochreiter and Schmidhuber 1997; Cho et al. 2014, whose reset gate comes first, and
// cuDNN's form of it; Elman 1990.) Past a sequence's length the
// output is zero and the state stays. Where `reset` is set, a sequence's state is zero before that step.
// A cell is a layer of one step.
//
// input is C-contiguous in (T, N, I) order; states are (layers x directions, N, H), parameters
// C-contiguous; output and its cotangent have rows of D H adjacent elements at steps out_t, out_n.
// `saved` is what the forward pass leaves for the backward one: activated gates, states, and the
// input of every layer but the first. It is null in inference.
#pragma once
#include <cstddef>

#include "core/array.h"

namespace arraynn {

enum class Cell : int { lstm, gru, gru_reset_first, rnn, rnn_relu };
constexpr bool is_gru(Cell cell) { return cell == Cell::gru || cell == Cell::gru_reset_first; }
constexpr int gate_count(Cell cell) { return cell == Cell::lstm ? 4 : is_gru(cell) ? 3 : 1; }

struct RnnParams {
  DType dtype;
  Place place;
  Cell cell;
  int64_t steps, batch, input_size, hidden, layers, directions;
  int64_t arrays_per_layer;  // per layer and direction: w_ih, w_hh and, if 4, b_ih, b_hh
  int64_t out_t, out_n;
  const int64_t* lengths;  // N of them, or null
  const int64_t* reset;    // at steps reset_t, reset_n, or null; not looked at past a sequence's end
  int64_t reset_t, reset_n;
  double dropout;        // between layers; 0 in inference
  const uint64_t* keys;  // one per layer but the last, if dropout > 0
  int64_t gates() const { return gate_count(cell); }
};

// One layer and direction, as the kernels see it.
struct RnnLayer {
  DType dtype;
  Place place;
  Cell cell;
  int64_t steps, batch, input_size, hidden;
  int64_t out_t, out_n;
  const int64_t* lengths;
  const int64_t* reset;
  int64_t reset_t, reset_n;
  bool reverse;
};

// Slot s of the states is the state before step s of a forward pass over time, and slot s + 1 the
// one after it; a reverse direction goes from slot T down to 0. Without saving there are two slots
// of h, used in turns, and one of c. A slot of h is zero where the step that comes next resets it; a slot
// of c is not, as the backward pass looks at it for the step before too.
struct RnnForward {
  const void *input, *w_ih, *w_hh, *b_ih, *b_hh;  // biases may be null
  const void *h0, *c0;
  void *output, *h_n, *c_n;
  void* gates;     // T x N x gates x H, activated; null: not saved
  void* hidden_n;  // GRU: T x N x H of W_hn h + b_hn, or of r h where the reset gate comes first
  void *h, *c;     // (T + 1) x N x H each; null: not saved
};
struct RnnBackward {
  const void *input, *w_ih, *w_hh;
  const void *gates, *hidden_n, *h, *c;
  const void *d_output, *d_h_n, *d_c_n;
  void* d_input;  // null: not wanted
  bool add_to_d_input;
  void *d_h0, *d_c0;
  void *d_w_ih, *d_w_hh, *d_b_ih, *d_b_hh;  // null: not wanted
};

// Checks the arrays of a call. `sequence`: input is (T, N, I), or (T, I) unbatched, and states are
// (layers x directions, N, H); else a cell's (N, I) and (N, H). h and c may be null (c always, but for an LSTM).
struct RnnArguments {
  const char* op;
  Cell cell;
  bool sequence, batched;
  int64_t layers, directions;
  const Array *input, *h, *c;
  const Array* const* params;
  const char* const* names;  // of the parameters
  int64_t param_count;
  const Array* lengths;  // dense; may lie on the host where the rest is on a device
  const Array* reset;    // (T, N), or (N, T) with batch_first, or (T,) unbatched
  bool batch_first;
};
RnnParams rnn_params(const RnnArguments& a);

size_t rnn_saved_elements(const RnnParams& p);
size_t rnn_scratch(const RnnParams& p, bool backward);

// params: layers x directions x arrays_per_layer pointers.
void rnn_forward(const RnnParams& p, const void* input, const void* const* params, const void* h0, const void* c0,
                 void* output, void* h_n, void* c_n, void* saved, void* scratch);
// d_h_n and d_c_n may be null: zero; d_input: not wanted; d_params: not wanted, and in places.
void rnn_backward(const RnnParams& p, const void* input, const void* const* params, const void* saved,
                  const void* d_output, const void* d_h_n, const void* d_c_n, void* d_input, void* d_h0, void* d_c0,
                  void* const* d_params, void* scratch);

}  // namespace arraynn
