// LSTM, GRU and plain recurrent layers, a sequence (T, N, I) through layers and directions. Per layer
// and direction, with gate order i f g o and r z n (PyTorch's):
//   LSTM  i, f, o = sigmoid(W_i x + b_i + W_h h + b_h), g = tanh(same), c' = f c + i g, h' = o tanh(c')
//   GRU   r, z = sigmoid(same), n = tanh(W_in x + b_in + r (W_hn h + b_hn)), h' = (1 - z) n + z h,
//         or, its reset gate before the product, n = tanh(W_in x + b_in + W_hn (r h) + b_hn)
//   RNN   h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or max(0, same)
// (Hochreiter and Schmidhuber 1997; Cho et al. 2014, whose reset gate comes first, and
// cuDNN's form of it; Elman 1990.) Past a sequence's length the
// output is zero and the state stays. Where `reset` is set, a sequence's state is zero before that step.
// A cell is a layer of one step. RnnExtras says what may be added to that.
//
// input is C-contiguous in (T, N, I) order; states are (layers x directions, N, H), with a projection h as wide as
// that, parameters C-contiguous; output and its cotangent have rows of D width adjacent elements at steps out_t, out_n.
// `saved` is what the forward pass leaves for the backward one: activated gates, states, and the
// input of every layer but the first. It is null in inference.
#pragma once
#include <cstddef>

#include "core/array.h"

namespace arraynn {

enum class Cell : int { lstm, gru, gru_reset_first, rnn, rnn_relu };
constexpr bool is_gru(Cell cell) { return cell == Cell::gru || cell == Cell::gru_reset_first; }
constexpr int gate_count(Cell cell) { return cell == Cell::lstm ? 4 : is_gru(cell) ? 3 : 1; }

// What the steps may have besides; a layer with any of it runs step by step (rnn/stepwise.*). An LSTM with all of it:
//   a = N(W_ih x) + b_ih + N(W_hh (m h)) + b_hh
//   i = sigmoid(a_i + p_i c), f = sigmoid(a_f + p_f c), g = tanh(a_g), c~ = f c + i g, o = sigmoid(a_o + p_o c~)
//   c' = z_c c + (1 - z_c) c~, h' = z_h h + (1 - z_h) W_hr (o tanh(N(c~) + b_c))
// W_hr: a projection (Sak et al. 2014). p_i, p_f, p_o: peepholes (Gers et al. 2002). m: recurrent dropout, one mask
// of 0 and 1 / (1 - p) for all steps of a sequence (Gal and Ghahramani 2016). z: zoneout (Krueger et al. 2017), 0 or 1
// in training and its mean otherwise. N: layer normalization with a gain and no bias but those there are (Ba et al.
// 2016), of all gates at once; of a GRU, of r and z at once and of n, the latter inside the reset gate.
struct RnnExtras {
  bool peepholes, layer_norm;
  bool training;  // zoneout draws
  double recurrent_dropout, zoneout_h, zoneout_c;
  // One for each layer and direction where something is drawn: masks of (N, width), (T, N, width) and (T, N, H).
  const uint64_t *recurrent_keys, *zoneout_h_keys, *zoneout_c_keys;
  bool any() const { return peepholes || layer_norm || recurrent_dropout > 0 || zoneout_h > 0 || zoneout_c > 0; }
};
inline constexpr double rnn_norm_eps = 1e-5;
// What is normalized at once: a GRU's n by itself.
constexpr int norm_groups(Cell cell) { return is_gru(cell) ? 2 : 1; }

// Where a layer and direction's arrays stand among its own; -1: not there.
struct RnnPlaces {
  int count, biases, projection, peepholes, norm;  // norm: the gains of W_ih x and W_hh h; an LSTM's of c, and b_c
};

struct RnnParams {
  DType dtype;
  Place place;
  Cell cell;
  int64_t steps, batch, input_size, hidden, layers, directions;
  int64_t width;     // of h: hidden, or that of a projection
  RnnPlaces places;  // per layer and direction: w_ih, w_hh and what else there is
  int64_t out_t, out_n;
  const int64_t* lengths;  // N of them, or null
  const int64_t* reset;    // at steps reset_t, reset_n, or null; not looked at past a sequence's end
  int64_t reset_t, reset_n;
  double dropout;        // between layers; 0 in inference
  const uint64_t* keys;  // one per layer but the last, if dropout > 0
  RnnExtras extras;
  int64_t gates() const { return gate_count(cell); }
  bool projects() const { return places.projection >= 0; }
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
  bool projects;
  int64_t width;
  RnnExtras extras;  // with the keys of this layer and direction
  bool stepwise() const { return projects || extras.any(); }
};

// The arrays of what a step has besides; null: not there.
template <class Pointer>
struct RnnMore {
  Pointer w_hr, peepholes, gain_ih, gain_hh, gain_c, b_c;
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
  void *h, *c;     // (T + 1) x N x width, and H, each; null: not saved
  RnnMore<const void*> more;
  void* projected;                // T x N x H of what W_hr takes
  void *input_norm, *state_norm;  // T x N x gates x H, normalized
  void* rstd;                     // T x N x 2 groups: of the input's product, then of the state's
};
struct RnnBackward {
  const void *input, *w_ih, *w_hh;
  const void *gates, *hidden_n, *h, *c;
  const void *d_output, *d_h_n, *d_c_n;
  void* d_input;  // null: not wanted
  bool add_to_d_input;
  void *d_h0, *d_c0;
  void *d_w_ih, *d_w_hh, *d_b_ih, *d_b_hh;  // null: not wanted
  RnnMore<const void*> more;
  const void *projected, *input_norm, *state_norm, *rstd;
  RnnMore<void*> d_more;  // null: not wanted
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
  RnnExtras extras;
};
RnnParams rnn_params(const RnnArguments& a);

size_t rnn_saved_elements(const RnnParams& p);
size_t rnn_scratch(const RnnParams& p, bool backward);

// params: layers x directions x places.count pointers.
void rnn_forward(const RnnParams& p, const void* input, const void* const* params, const void* h0, const void* c0,
                 void* output, void* h_n, void* c_n, void* saved, void* scratch);
// d_h_n and d_c_n may be null: zero; d_input: not wanted; d_params: not wanted, and in places.
void rnn_backward(const RnnParams& p, const void* input, const void* const* params, const void* saved,
                  const void* d_output, const void* d_h_n, const void* d_c_n, void* d_input, void* d_h0, void* d_c0,
                  void* const* d_params, void* scratch);

}  // namespace arraynn
