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

void check_state(const RnnArguments& a, const RnnParams& p, int64_t width, const Array& state) {
  if (!a.sequence && a.batched)
    check_shape(a.op, "hx", state, {p.batch, width});
  else if (!a.sequence)
    check_shape(a.op, "hx", state, {width});
  else if (a.batched)
    check_shape(a.op, "hx", state, {p.layers * p.directions, p.batch, width});
  else
    check_shape(a.op, "hx", state, {p.layers * p.directions, width});
}

RnnPlaces places_of(const RnnArguments& a, bool biases, bool projects) {
  RnnPlaces p{2, -1, -1, -1, -1};
  auto take = [&](bool there, int arrays) {
    int at = there ? p.count : -1;
    if (there) p.count += arrays;
    return at;
  };
  p.biases = take(biases, 2);
  p.projection = take(projects, 1);
  p.peepholes = take(a.extras.peepholes, 1);
  p.norm = take(a.extras.layer_norm, a.cell == Cell::lstm ? (biases ? 4 : 3) : 2);
  return p;
}

// What the number of arrays says: each of the four kinds of an LSTM has another.
RnnPlaces find_places(const RnnArguments& a) {
  int64_t parts = a.layers * a.directions;
  if (!a.sequence) return places_of(a, true, false);
  for (bool projects : {false, true})
    for (bool biases : {false, true}) {
      RnnPlaces places = places_of(a, biases, projects);
      if ((a.cell == Cell::lstm || !projects) && a.param_count == parts * places.count) return places;
    }
  value_error("%s: params has %lld arrays, expected %lld, or %lld with biases%s", a.op, static_cast<ll>(a.param_count),
              static_cast<ll>(parts * places_of(a, false, false).count),
              static_cast<ll>(parts * places_of(a, true, false).count),
              a.cell == Cell::lstm ? ", and one more for each layer and direction with a projection" : "");
}

void check_param(const RnnArguments& a, const RnnParams& p, int64_t part, int k) {
  int64_t i = part * p.places.count + k, rows = p.gates() * p.hidden;
  int64_t in = part < p.directions ? p.input_size : p.directions * p.width;
  if (!a.params[i]) return;
  auto check = [&](std::initializer_list<int64_t> shape) { check_shape(a.op, a.names[i], *a.params[i], shape); };
  if (k == 0)
    check({rows, in});
  else if (k == 1)
    check({rows, p.width});
  else if (k == p.places.projection)
    check({p.width, p.hidden});
  else if (k == p.places.peepholes)
    check({3, p.hidden});
  else if (p.places.norm >= 0 && k >= p.places.norm + 2)
    check({p.hidden});
  else
    check({rows});
}

// Offsets, in elements, of one layer and direction's part of `saved`.
struct Saved {
  int64_t gates, hidden_n, h, c, projected, input_norm, state_norm, rstd, end;
};

Saved saved_parts(const RnnParams& p, int64_t start) {
  int64_t cell = p.batch * p.hidden, rows = p.steps * p.batch;
  Saved s{};
  auto take = [&](int64_t elements) {
    int64_t at = start;
    start += elements;
    return at;
  };
  s.gates = take(p.steps * p.gates() * cell);
  s.hidden_n = take(is_gru(p.cell) ? p.steps * cell : 0);
  s.h = take((p.steps + 1) * p.batch * p.width);
  s.c = take(p.cell == Cell::lstm ? (p.steps + 1) * cell : 0);
  s.projected = take(p.projects() ? p.steps * cell : 0);
  s.input_norm = take(p.extras.layer_norm ? p.steps * p.gates() * cell : 0);
  s.state_norm = take(p.extras.layer_norm ? p.steps * p.gates() * cell : 0);
  s.rstd = take(p.extras.layer_norm ? rows * 2 * norm_groups(p.cell) : 0);
  s.end = start;
  return s;
}

int64_t saved_size(const RnnParams& p) { return saved_parts(p, 0).end; }
int64_t between_size(const RnnParams& p) { return p.steps * p.batch * p.directions * p.width; }
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
  RnnLayer l{};
  l.dtype = p.dtype;
  l.place = p.place;
  l.cell = p.cell;
  l.steps = p.steps;
  l.batch = p.batch;
  l.input_size = layer ? p.directions * p.width : p.input_size;
  l.hidden = p.hidden;
  l.width = p.width;
  l.out_t = p.out_t;
  l.out_n = p.out_n;
  if (layer + 1 < p.layers) {  // between layers, rows lie as (T, N, D width)
    l.out_n = p.directions * p.width;
    l.out_t = p.batch * l.out_n;
  }
  l.lengths = p.lengths;
  l.reset = p.reset;
  l.reset_t = p.reset_t;
  l.reset_n = p.reset_n;
  l.reverse = direction == 1;
  l.projects = p.projects();
  l.extras = p.extras;
  if (!l.stepwise()) return l;
  int64_t part = layer * p.directions + direction;
  for (const uint64_t** keys : {&l.extras.recurrent_keys, &l.extras.zoneout_h_keys, &l.extras.zoneout_c_keys})
    if (*keys) *keys += part;
  return l;
}

// The arrays behind the biases.
template <class Pointer>
RnnMore<Pointer> more_of(const RnnParams& p, const Pointer* w) {
  RnnMore<Pointer> m{};
  const RnnPlaces& places = p.places;
  if (!w) return m;
  if (places.projection >= 0) m.w_hr = w[places.projection];
  if (places.peepholes >= 0) m.peepholes = w[places.peepholes];
  if (places.norm < 0) return m;
  m.gain_ih = w[places.norm];
  m.gain_hh = w[places.norm + 1];
  if (p.cell != Cell::lstm) return m;
  m.gain_c = w[places.norm + 2];
  if (places.biases >= 0) m.b_c = w[places.norm + 3];
  return m;
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
  if (a.extras.layer_norm && a.cell == Cell::gru_reset_first)
    value_error("%s: layer_norm is True, but takes reset_after=True", a.op);
  p.places = find_places(a);
  p.extras = a.extras;
  int sized = p.projects() ? p.places.projection : 1;  // the array that says the sizes of the states
  check_ndim(a.op, a.names[sized], *a.params[sized], 2);
  p.hidden = a.params[sized]->shape[1];
  p.width = p.projects() ? a.params[sized]->shape[0] : p.hidden;
  for (int64_t part = 0; part < parts; ++part)
    for (int k = 0; k < p.places.count; ++k) check_param(a, p, part, k);
  if (a.h) check_state(a, p, p.width, *a.h);
  if (a.c) check_state(a, p, p.hidden, *a.c);
  if (a.lengths) check_lengths(a, p);
  if (a.reset) check_reset(a, p);
  return p;
}

size_t rnn_saved_elements(const RnnParams& p) { return static_cast<size_t>(between_offset(p, p.layers - 1)); }

size_t rnn_scratch(const RnnParams& p, bool backward) {
  size_t most = 0;
  for (int64_t layer = 0; layer < std::min<int64_t>(p.layers, 2); ++layer) {
    RnnLayer l = layer_of(p, layer, 0);
    for (bool saving : {true, false}) most = std::max(most, kernels(p.place).rnn_layer_scratch(l, backward, saving));
  }
  most = (most + 63) / 64 * 64;
  int64_t between = p.layers > 1 ? 2 * between_size(p) : 0;
  return most + static_cast<size_t>(between * element_size(p));
}

void rnn_forward(const RnnParams& p, const void* input, const void* const* params, const void* h0, const void* c0,
                 void* output, void* h_n, void* c_n, void* saved, void* scratch) {
  int64_t state = p.batch * p.hidden, h_state = p.batch * p.width;
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
      const void* const* w = params + part * p.places.count;
      int bias = p.places.biases;
      RnnForward b{};
      b.input = input;
      b.w_ih = w[0];
      b.w_hh = w[1];
      b.b_ih = bias >= 0 ? w[bias] : nullptr;
      b.b_hh = bias >= 0 ? w[bias + 1] : nullptr;
      b.h0 = at(h0, p, part * h_state);
      b.c0 = at(c0, p, part * state);
      b.output = at(out, p, direction * p.width);
      b.h_n = at(h_n, p, part * h_state);
      b.c_n = at(c_n, p, part * state);
      b.gates = at(saved, p, s.gates);
      b.hidden_n = at(saved, p, s.hidden_n);
      b.h = at(saved, p, s.h);
      b.c = at(saved, p, s.c);
      b.more = more_of(p, w);
      b.projected = at(saved, p, s.projected);
      b.input_norm = at(saved, p, s.input_norm);
      b.state_norm = at(saved, p, s.state_norm);
      b.rstd = at(saved, p, s.rstd);
      kernels(p.place).rnn_layer_forward(layer_of(p, layer, direction), b, rest);
    }
    if (!last) drop(p, layer, out);
    input = out;
  }
}

void rnn_backward(const RnnParams& p, const void* input, const void* const* params, const void* saved,
                  const void* d_output, const void* d_h_n, const void* d_c_n, void* d_input, void* d_h0, void* d_c0,
                  void* const* d_params, void* scratch) {
  int64_t state = p.batch * p.hidden, h_state = p.batch * p.width;
  int64_t between_bytes = between_size(p) * element_size(p);
  auto* between = static_cast<char*>(scratch);
  auto* rest = between + (p.layers > 1 ? 2 * between_bytes : 0);
  for (int64_t layer = p.layers - 1; layer >= 0; --layer) {
    void* dx = layer ? static_cast<void*>(between + layer % 2 * between_bytes) : d_input;
    for (int64_t direction = 0; direction < p.directions; ++direction) {
      int64_t part = layer * p.directions + direction;
      Saved s = saved_parts(p, part * saved_size(p));
      const void* const* w = params + part * p.places.count;
      void* const* dw = d_params ? d_params + part * p.places.count : nullptr;
      int bias = p.places.biases;
      RnnBackward b{};
      b.input = layer ? at(saved, p, between_offset(p, layer - 1)) : input;
      b.w_ih = w[0];
      b.w_hh = w[1];
      b.gates = at(saved, p, s.gates);
      b.hidden_n = at(saved, p, s.hidden_n);
      b.h = at(saved, p, s.h);
      b.c = at(saved, p, s.c);
      b.more = more_of(p, w);
      b.projected = at(saved, p, s.projected);
      b.input_norm = at(saved, p, s.input_norm);
      b.state_norm = at(saved, p, s.state_norm);
      b.rstd = at(saved, p, s.rstd);
      b.d_output = at(d_output, p, direction * p.width);
      b.d_h_n = at(d_h_n, p, part * h_state);
      b.d_c_n = at(d_c_n, p, part * state);
      b.d_input = dx;
      b.add_to_d_input = direction > 0;
      b.d_h0 = at(d_h0, p, part * h_state);
      b.d_c0 = at(d_c0, p, part * state);
      b.d_w_ih = dw ? dw[0] : nullptr;
      b.d_w_hh = dw ? dw[1] : nullptr;
      b.d_b_ih = dw && bias >= 0 ? dw[bias] : nullptr;
      b.d_b_hh = dw && bias >= 0 ? dw[bias + 1] : nullptr;
      b.d_more = more_of(p, static_cast<void* const*>(dw));
      kernels(p.place).rnn_layer_backward(layer_of(p, layer, direction), b, rest);
    }
    if (layer) drop(p, layer - 1, dx);
    d_output = dx;
  }
}

}  // namespace arraynn
