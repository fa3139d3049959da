#include "ops/rnn.h"

#include <pybind11/stl.h>

#include "array.h"

namespace arraynn::python {

namespace {

// RnnExtras with their keys, out of a tuple, or None.
struct Extras {
  RnnExtras values{};
  std::vector<uint64_t> recurrent_keys, zoneout_h_keys, zoneout_c_keys;

  Extras() = default;
  explicit Extras(py::handle from) {
    if (from.is_none()) return;
    auto t = py::reinterpret_borrow<py::tuple>(from);
    values.peepholes = t[0].cast<bool>();
    values.layer_norm = t[1].cast<bool>();
    values.training = t[2].cast<bool>();
    values.recurrent_dropout = t[3].cast<double>();
    values.zoneout_h = t[4].cast<double>();
    values.zoneout_c = t[5].cast<double>();
    recurrent_keys = t[6].cast<std::vector<uint64_t>>();
    zoneout_h_keys = t[7].cast<std::vector<uint64_t>>();
    zoneout_c_keys = t[8].cast<std::vector<uint64_t>>();
  }
};

// What Python says of a call besides its arrays. A cell is a sequence of one step without the axis.
struct Options {
  const char* op;
  Cell cell;
  bool sequence = false;
  int64_t layers = 1, directions = 1;
  bool batch_first = false;
  double dropout = 0;
  std::vector<uint64_t> keys = {};
  Extras extras = {};
};

// The arrays of a call, promoted and checked; made alike for both passes.
class Call {
 public:
  Call(const Options& o, py::handle input, py::handle h, py::handle c, const py::sequence& params, py::handle lengths,
       py::handle reset)
      : args(o.op), options(o) {
    x = args.floating("input", input);
    this->h = args.optional_floating("hx", h);
    this->c = args.optional_floating("hx", c);
    size_t count = params.size();
    names_.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      names_.push_back(o.sequence ? "params[" + std::to_string(i) + "]" : cell_names[i]);
      bool required = o.sequence || i < 2;  // a cell's biases may be left out one by one
      first_.push_back(required ? args.floating(names_[i].c_str(), params[i])
                                : args.optional_floating(names_[i].c_str(), params[i]));
    }
    size_t l = lengths.is_none() ? 0 : args.integer("lengths", lengths, true);
    size_t r = reset.is_none() ? 0 : args.integer("reset", reset, true);
    args.promote(Halves::as_float32);

    std::vector<const Array*> views;
    std::vector<const char*> names;
    for (size_t i = 0; i < count; ++i) {
      views.push_back(args.optional(first_[i]));
      names.push_back(names_[i].c_str());
    }
    bool batched = args[x].ndim == (o.sequence ? 3 : 2);
    for (size_t marks : {l, r})
      if (marks) args.make_contiguous(marks);
    RnnArguments a{o.op,
                   o.cell,
                   o.sequence,
                   batched,
                   o.layers,
                   o.directions,
                   &args[x],
                   args.optional(this->h),
                   args.optional(this->c),
                   views.data(),
                   names.data(),
                   static_cast<int64_t>(count),
                   l ? &args[l] : nullptr,
                   r ? &args[r] : nullptr,
                   o.batch_first,
                   o.extras.values};
    p = rnn_params(a);
    if (l) {
      args.upload(l);
      p.lengths = static_cast<const int64_t*>(args[l].data);
    }
    if (r) {
      args.upload(r);
      p.reset = static_cast<const int64_t*>(args[r].data);
    }
    args.make_contiguous(x);
    args.make_contiguous(this->h);
    args.make_contiguous(this->c);
    for (size_t i = 0; i < count; ++i) {
      args.make_contiguous(first_[i]);
      pointers.push_back(args[first_[i]].data);
    }
    is_batched = batched;
    int64_t width = p.directions * p.width;
    bool swapped = o.batch_first && batched;
    p.out_t = swapped ? width : p.batch * width;
    p.out_n = swapped ? p.steps * width : width;
    p.reset_t = swapped ? 1 : p.batch;
    p.reset_n = swapped ? p.steps : 1;
    p.dropout = o.dropout;
    p.keys = options.keys.data();
    const Extras& extras = options.extras;
    auto keys = [](const std::vector<uint64_t>& k) { return k.empty() ? nullptr : k.data(); };
    p.extras.recurrent_keys = keys(extras.recurrent_keys);
    p.extras.zoneout_h_keys = keys(extras.zoneout_h_keys);
    p.extras.zoneout_c_keys = keys(extras.zoneout_c_keys);
  }

  py::object output() const {
    int64_t shape[3], n = 0;
    if (options.sequence && options.batch_first && is_batched) shape[n++] = p.batch;
    if (options.sequence) shape[n++] = p.steps;
    if (is_batched && !(options.sequence && options.batch_first)) shape[n++] = p.batch;
    shape[n++] = p.directions * p.width;
    return args.empty(p.dtype, shape, static_cast<int>(n));
  }
  py::object h_state() const { return state(p.width); }
  py::object c_state() const { return state(p.hidden); }

  Arguments args;
  const Options& options;
  RnnParams p{};
  size_t x, h, c;
  bool is_batched = false;
  std::vector<const void*> pointers;

  size_t parameter(size_t i) const { return first_[i]; }

 private:
  py::object state(int64_t width) const {
    int64_t shape[3], n = 0;
    if (options.sequence) shape[n++] = p.layers * p.directions;
    if (is_batched) shape[n++] = p.batch;
    shape[n++] = width;
    return args.empty(p.dtype, shape, static_cast<int>(n));
  }

  static constexpr const char* cell_names[] = {"w_ih", "w_hh", "b_ih", "b_hh", "peepholes"};
  std::vector<std::string> names_;
  std::vector<size_t> first_;
};

// (output, h_n, c_n, saved): c_n is None but for an LSTM, saved is None unless asked for.
py::object forward(const Options& o, py::handle input, py::handle h, py::handle c, const py::sequence& params,
                   py::handle lengths, py::handle reset, bool saving) {
  Call call(o, input, h, c, params, lengths, reset);
  const RnnParams& p = call.p;
  const Arguments& args = call.args;
  py::object output = call.output(), h_n = call.h_state(), c_n = py::none(), saved = py::none();
  if (p.cell == Cell::lstm) c_n = call.c_state();
  if (saving) {
    auto size = static_cast<int64_t>(rnn_saved_elements(p));
    saved = args.empty(p.dtype, &size, 1);
  }
  Workspace scratch = args.workspace(rnn_scratch(p, false));
  void *to = args.data_of(output), *to_h = args.data_of(h_n), *to_c = args.data_of(c_n),
       *to_saved = args.data_of(saved);
  args.run_flushed([&] {
    rnn_forward(p, args[call.x].data, call.pointers.data(), args[call.h].data, args[call.c].data, to, to_h, to_c,
                to_saved, scratch.data());
  });
  return py::make_tuple(args.rounded(output), args.rounded(h_n), c_n.is_none() ? c_n : args.rounded(c_n), saved);
}

// (d_input, d_h0, d_c0, list of d_params): input and its gradient with time first.
py::object backward(const Options& o, py::handle input, const py::sequence& params, py::handle lengths,
                    py::handle reset, const py::object& saved, py::handle d_output, py::handle d_h_n, py::handle d_c_n,
                    bool want_input, bool want_params) {
  Call call(o, input, py::none(), py::none(), params, lengths, reset);
  const RnnParams& p = call.p;
  const Arguments& args = call.args;
  Arguments cotangents(o.op);
  size_t dy = cotangents.floating("cotangent", d_output);
  size_t dh = cotangents.optional_floating("cotangent", d_h_n), dc = cotangents.optional_floating("cotangent", d_c_n);
  cotangents.promote(Halves::as_float32);
  for (size_t i : {dy, dh, dc}) cotangents.make_contiguous(i);

  py::object dx = py::none(), dh0 = call.h_state(), dc0 = py::none();
  if (want_input) dx = args.empty(p.dtype, args[call.x].shape, args[call.x].ndim);
  if (p.cell == Cell::lstm) dc0 = call.c_state();
  py::list d_params;
  std::vector<void*> targets;
  for (size_t i = 0; i < call.pointers.size(); ++i) {
    const Array& view = args[call.parameter(i)];
    bool wanted = want_params && args.given(call.parameter(i));
    d_params.append(wanted ? args.empty(p.dtype, view.shape, view.ndim) : py::none());
    targets.push_back(wanted ? args.view_of(d_params[i]).data : nullptr);
  }
  Workspace scratch = args.workspace(rnn_scratch(p, true));
  void *to = args.data_of(dx), *to_h = args.data_of(dh0), *to_c = args.data_of(dc0), *from = args.data_of(saved);
  args.run_flushed([&] {
    rnn_backward(p, args[call.x].data, call.pointers.data(), from, cotangents[dy].data, cotangents[dh].data,
                 cotangents[dc].data, to, to_h, to_c, targets.data(), scratch.data());
  });
  return py::make_tuple(dx, dh0, dc0, d_params);
}

// A kind of layer, and its other form where it has one.
struct Kind {
  Cell cell, other;
  Cell choose(bool the_other) const { return the_other ? other : cell; }
};

Options sequence_options(const char* op, Cell cell, int64_t layers, bool bidirectional, bool batch_first,
                         double dropout, std::vector<uint64_t> keys, py::handle extras) {
  return {op, cell, true, layers, bidirectional ? 2 : 1, batch_first, dropout, std::move(keys), Extras(extras)};
}

void bind_sequence(py::module_& m, const char* op, Kind kind) {
  m.def(op, [=](py::handle input, py::handle h, py::handle c, const py::sequence& params, bool other, int64_t layers,
                bool bidirectional, bool batch_first, py::handle lengths, py::handle reset, double dropout,
                std::vector<uint64_t> keys, py::handle extras, bool saving) {
    return forward(
        sequence_options(op, kind.choose(other), layers, bidirectional, batch_first, dropout, std::move(keys), extras),
        input, h, c, params, lengths, reset, saving);
  });
  m.def((std::string(op) + "_backward").c_str(),
        [=](py::handle input, const py::sequence& params, bool other, int64_t layers, bool bidirectional,
            bool batch_first, py::handle lengths, py::handle reset, double dropout, std::vector<uint64_t> keys,
            py::handle extras, const py::object& saved, py::handle d_output, py::handle d_h_n, py::handle d_c_n,
            bool want_input, bool want_params) {
          return backward(sequence_options(op, kind.choose(other), layers, bidirectional, batch_first, dropout,
                                           std::move(keys), extras),
                          input, params, lengths, reset, saved, d_output, d_h_n, d_c_n, want_input, want_params);
        });
}

// The one result of a cell without c may go to `out`; (h, saved) if saving.
py::object one_state_cell(const Options& o, py::handle input, py::handle h, const py::sequence& params, bool saving,
                          py::handle out) {
  Call call(o, input, h, py::none(), params, py::none(), py::none());
  const RnnParams& p = call.p;
  const Arguments& args = call.args;
  const Array& state = args[call.h];
  Output result(args, out, state.shape, state.ndim);
  py::object h_n = call.h_state(), saved = py::none();
  if (saving) {
    auto size = static_cast<int64_t>(rnn_saved_elements(p));
    saved = args.empty(p.dtype, &size, 1);
  }
  Workspace scratch = args.workspace(rnn_scratch(p, false));
  void *to_h = args.data_of(h_n), *to_saved = args.data_of(saved);
  args.run_flushed([&] {
    rnn_forward(p, args[call.x].data, call.pointers.data(), state.data, nullptr, result.view().data, to_h, nullptr,
                to_saved, scratch.data());
  });
  return saving ? py::object(py::make_tuple(result.finish(), saved)) : result.finish();
}

void bind_one_state_cell(py::module_& m, const char* op, Kind kind) {
  m.def(op, [=](py::handle input, py::handle h, const py::sequence& params, bool other, bool saving, py::handle out) {
    return one_state_cell({op, kind.choose(other)}, input, h, params, saving, out);
  });
}

// A fifth array of an LSTM cell is its peepholes.
Options cell_options(const char* op, Cell cell, const py::sequence& params) {
  Options o{op, cell};
  o.extras.values.peepholes = params.size() == 5;
  return o;
}

void bind_cell_backward(py::module_& m, const char* op, Kind kind) {
  m.def((std::string(op) + "_backward").c_str(),
        [=](py::handle input, const py::sequence& params, bool other, const py::object& saved, py::handle d_h,
            py::handle d_c, bool want_input, bool want_params) {
          return backward(cell_options(op, kind.choose(other), params), input, params, py::none(), py::none(), saved,
                          d_h, py::none(), d_c, want_input, want_params);
        });
}

}  // namespace

void bind_rnn(py::module_& m) {
  constexpr Kind lstm{Cell::lstm, Cell::lstm}, gru{Cell::gru, Cell::gru_reset_first}, rnn{Cell::rnn, Cell::rnn_relu};
  m.def("lstm_cell", [](py::handle input, py::handle h, py::handle c, const py::sequence& params, bool saving) {
    return forward(cell_options("lstm_cell", Cell::lstm, params), input, h, c, params, py::none(), py::none(), saving);
  });
  bind_one_state_cell(m, "gru_cell", gru);
  bind_one_state_cell(m, "rnn_cell", rnn);
  bind_cell_backward(m, "lstm_cell", lstm);
  bind_cell_backward(m, "gru_cell", gru);
  bind_cell_backward(m, "rnn_cell", rnn);
  bind_sequence(m, "lstm", lstm);
  bind_sequence(m, "gru", gru);
  bind_sequence(m, "rnn", rnn);
}

}  // namespace arraynn::python
