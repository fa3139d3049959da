#include "ops/rnn.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "core/backend.h"
#include "core/errors.h"
#include "cpu/table.h"
#include "ops/dropout.h"

namespace arraynn {

namespace {

using ll = long long;

void check_lengths(const RnnArguments& a, RnnParams& p) {
  if (!a.batched) value_error("%s: lengths needs a batched input", a.op);
  check_shape(a.op, "lengths", *a.lengths, {p.batch});
  const auto* values = static_cast<const int64_t*>(a.lengths->data);
  p.lengths = values;
  std::vector<int64_t> downloaded;
  if (a.lengths->place.on_device()) {  // to look at them is to wait; the kernels bound them
    if (!p.place.checks) return;
    downloaded.resize(static_cast<size_t>(p.batch));
    cuda_backend()->download(p.place, values, downloaded.data(), downloaded.size() * sizeof(int64_t));
    values = downloaded.data();
  }
  for (int64_t n = 0; n < p.batch; ++n) {
    int64_t length = values[n];
    if (length < 0 || length > p.steps)
      value_error("%s: lengths holds %lld, expected 0 to %lld", a.op, static_cast<ll>(length),
                  static_cast<ll>(p.steps));
  }
}

void check_reset(const RnnArguments& a, const RnnParams& p) {
  if (!a.batched)
    check_shape(a.op, "reset", *a.reset, {p.steps});
  else if (a.batch_first)
    check_shape(a.op, "reset", *a.reset, {p.batch, p.steps});
  else
    check_shape(a.op, "reset", *a.reset, {p.steps, p.batch});
}

void check_state(const RnnArguments& a, const RnnParams& p, const char* name, const Array& state) {
  if (!a.sequence && a.batched)
    check_shape(a.op, name, state, {p.batch, p.hidden});
  else if (!a.sequence)
    check_shape(a.op, name, state, {p.hidden});
  else if (a.batched)
    check_shape(a.op, name, state, {p.layers * p.directions, p.batch, p.hidden});
  else
    check_shape(a.op, name, state, {p.layers * p.directions, p.hidden});
}

// Offsets, in elements, of one layer and direction's part of `saved`.
struct Saved {
  int64_t gates, hidden_n, h, c, end;
};

Saved saved_parts(const RnnParams& p, int64_t start) {
  int64_t cell = p.batch * p.hidden;
  Saved s{};
  s.gates = start;
  s.hidden_n = s.gates + p.steps * p.gates() * cell;
  s.h = s.hidden_n + (is_gru(p.cell) ? p.steps * cell : 0);
  s.c = s.h + (p.steps + 1) * cell;
  s.end = s.c + (p.cell == Cell::lstm ? (p.steps + 1) * cell : 0);
  return s;
}

int64_t saved_size(const RnnParams& p) { return saved_parts(p, 0).end; }
int64_t between_size(const RnnParams& p) { return p.steps * p.batch * p.directions * p.hidden; }
int64_t element_size(const RnnParams& p) { return p.dtype == DType::float32 ? 4 : 8; }

// Where `saved` keeps the input of layer + 1: behind all layers' parts.
int64_t between_offset(const RnnParams& p, int64_t layer) {
  return p.layers * p.directions * saved_size(p) + layer * between_size(p);
}

template <class Pointer>
Pointer at(Pointer base, const RnnParams& p, int64_t elements) {
  using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const char, char>;
  return base ? static_cast<Byte*>(base) + elements * element_size(p) : nullptr;
}

RnnLayer layer_of(const RnnParams& p, int64_t layer, int64_t direction) {
  RnnLayer l{p.dtype,   p.place,       p.cell,  p.steps,   p.batch, layer ? p.directions * p.hidden : p.input_size,
             p.hidden,  p.out_t,       p.out_n, p.lengths, p.reset, p.reset_t,
             p.reset_n, direction == 1};
  if (layer + 1 < p.layers) {  // between layers, rows lie as (T, N, D H)
    l.out_n = p.directions * p.hidden;
    l.out_t = p.batch * l.out_n;
  }
  return l;
}

void drop(const RnnParams& p, int64_t layer, void* between) {
  if (p.dropout <= 0) return;
  dropout_forward({p.dtype, p.place, between_size(p), p.keys[layer], p.dropout}, between, between);
}

}  // namespace

RnnParams rnn_params(const RnnArguments& a) {
  RnnParams p{};
  p.dtype = a.input->dtype;
  p.place = a.input->place;
  p.cell = a.cell;
  p.layers = a.layers;
  p.directions = a.directions;
  int unbatched = a.sequence ? 2 : 1;
  if (a.input->ndim != unbatched + (a.batched ? 1 : 0))
    value_error("%s: input has shape %s, expected %d dimensions, or %d without a batch", a.op,
                shape_text(*a.input).c_str(), unbatched + 1, unbatched);
  const int64_t* shape = a.input->shape;
  p.steps = a.sequence ? *shape++ : 1;
  p.batch = a.batched ? *shape++ : 1;
  p.input_size = *shape;

  if (a.layers > a.param_count)  // and no product below can overflow
    value_error("%s: params has %lld arrays, too few for num_layers=%lld", a.op, static_cast<ll>(a.param_count),
                static_cast<ll>(a.layers));
  int64_t parts = p.layers * p.directions;
  p.arrays_per_layer = a.sequence ? (a.param_count == 4 * parts ? 4 : 2) : 4;
  if (a.param_count != parts * p.arrays_per_layer)
    value_error("%s: params has %lld arrays, expected %lld, or %lld with biases", a.op, static_cast<ll>(a.param_count),
                static_cast<ll>(2 * parts), static_cast<ll>(4 * parts));
  check_ndim(a.op, a.names[1], *a.params[1], 2);
  p.hidden = a.params[1]->shape[1];
  int64_t rows = p.gates() * p.hidden;
  for (int64_t part = 0; part < parts; ++part) {
    int64_t in = part < p.directions ? p.input_size : p.directions * p.hidden;
    for (int64_t k = 0; k < p.arrays_per_layer; ++k) {
      int64_t i = part * p.arrays_per_layer + k;
      if (!a.params[i]) continue;
      if (k >= 2)
        check_shape(a.op, a.names[i], *a.params[i], {rows});
      else
        check_shape(a.op, a.names[i], *a.params[i], {rows, k ? p.hidden : in});
    }
  }
  if (a.h) check_state(a, p, "hx", *a.h);
  if (a.c) check_state(a, p, "hx", *a.c);
  if (a.lengths) check_lengths(a, p);
  if (a.reset) check_reset(a, p);
  return p;
}

size_t rnn_saved_elements(const RnnParams& p) { return static_cast<size_t>(between_offset(p, p.layers - 1)); }

size_t rnn_scratch(const RnnParams& p, bool backward) {
  size_t most = 0;
  for (int64_t layer = 0; layer < std::min<int64_t>(p.layers, 2); ++layer)
    most = std::max({most, kernels(p.place).rnn_layer_scratch(layer_of(p, layer, 0), backward, true),
                     kernels(p.place).rnn_layer_scratch(layer_of(p, layer, 0), backward, false)});
  most = (most + 63) / 64 * 64;
  int64_t between = p.layers > 1 ? 2 * between_size(p) : 0;
  return most + static_cast<size_t>(between * element_size(p));
}

void rnn_forward(const RnnParams& p, const void* input, const void* const* params, const void* h0, const void* c0,
                 void* output, void* h_n, void* c_n, void* saved, void* scratch) {
  int64_t state = p.batch * p.hidden;
  int64_t between_bytes = between_size(p) * element_size(p);
  auto* between = static_cast<char*>(scratch);  // two buffers in turns, where nothing is saved
  auto* rest = between + (p.layers > 1 ? 2 * between_bytes : 0);
  for (int64_t layer = 0; layer < p.layers; ++layer) {
    bool last = layer + 1 == p.layers;
    void* out = last    ? output
                : saved ? at(saved, p, between_offset(p, layer))
                        : static_cast<void*>(between + layer % 2 * between_bytes);
    for (int64_t direction = 0; direction < p.directions; ++direction) {
      int64_t part = layer * p.directions + direction;
      Saved s = saved_parts(p, part * saved_size(p));
      const void* const* w = params + part * p.arrays_per_layer;
      bool biases = p.arrays_per_layer == 4;
      RnnForward b{};
      b.input = input;
      b.w_ih = w[0];
      b.w_hh = w[1];
      b.b_ih = biases ? w[2] : nullptr;
      b.b_hh = biases ? w[3] : nullptr;
      b.h0 = at(h0, p, part * state);
      b.c0 = at(c0, p, part * state);
      b.output = at(out, p, direction * p.hidden);
      b.h_n = at(h_n, p, part * state);
      b.c_n = at(c_n, p, part * state);
      b.gates = at(saved, p, s.gates);
      b.hidden_n = at(saved, p, s.hidden_n);
      b.h = at(saved, p, s.h);
      b.c = at(saved, p, s.c);
      kernels(p.place).rnn_layer_forward(layer_of(p, layer, direction), b, rest);
    }
    if (!last) drop(p, layer, out);
    input = out;
  }
}

void rnn_backward(const RnnParams& p, const void* input, const void* const* params, const void* saved,
                  const void* d_output, const void* d_h_n, const void* d_c_n, void* d_input, void* d_h0, void* d_c0,
                  void* const* d_params, void* scratch) {
  int64_t state = p.batch * p.hidden;
  int64_t between_bytes = between_size(p) * element_size(p);
  auto* between = static_cast<char*>(scratch);
  auto* rest = between + (p.layers > 1 ? 2 * between_bytes : 0);
  for (int64_t layer = p.layers - 1; layer >= 0; --layer) {
    void* dx = layer ? static_cast<void*>(between + layer % 2 * between_bytes) : d_input;
    for (int64_t direction = 0; direction < p.directions; ++direction) {
      int64_t part = layer * p.directions + direction;
      Saved s = saved_parts(p, part * saved_size(p));
      const void* const* w = params + part * p.arrays_per_layer;
      void* const* dw = d_params ? d_params + part * p.arrays_per_layer : nullptr;
      bool biases = p.arrays_per_layer == 4;
      RnnBackward b{};
      b.input = layer ? at(saved, p, between_offset(p, layer - 1)) : input;
      b.w_ih = w[0];
      b.w_hh = w[1];
      b.gates = at(saved, p, s.gates);
      b.hidden_n = at(saved, p, s.hidden_n);
      b.h = at(saved, p, s.h);
      b.c = at(saved, p, s.c);
      b.d_output = at(d_output, p, direction * p.hidden);
      b.d_h_n = at(d_h_n, p, part * state);
      b.d_c_n = at(d_c_n, p, part * state);
      b.d_input = dx;
      b.add_to_d_input = direction > 0;
      b.d_h0 = at(d_h0, p, part * state);
      b.d_c0 = at(d_c0, p, part * state);
      b.d_w_ih = dw ? dw[0] : nullptr;
      b.d_w_hh = dw ? dw[1] : nullptr;
      b.d_b_ih = dw && biases ? dw[2] : nullptr;
      b.d_b_hh = dw && biases ? dw[3] : nullptr;
      kernels(p.place).rnn_layer_backward(layer_of(p, layer, direction), b, rest);
    }
    if (layer) drop(p, layer - 1, dx);
    d_output = dx;
  }
}

}  // namespace arraynn
