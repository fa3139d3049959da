#include "array.h"

#include <algorithm>

#include "core/halves.h"

namespace arraynn::python {

namespace {

using py::detail::npy_api;

const py::detail::PyArray_Proxy* proxy(py::handle array) { return py::detail::array_proxy(array.ptr()); }

bool is_bfloat16(const py::dtype& dtype) {
  return dtype.itemsize() == 2 && py::cast<std::string>(dtype.attr("name")) == "bfloat16";
}

py::object numpy(const char* name) { return py::module_::import("numpy").attr(name); }

py::object converted(py::handle array, const py::dtype& dtype) {
  return array.attr("astype")(dtype, py::arg("order") = "K", py::arg("copy") = true);
}

std::string text(py::handle value) { return py::cast<std::string>(py::str(value)); }

// As np.result_type has it.
DType promoted(const char* op, const char* name, DType so_far, DType dtype) {
  if (so_far == dtype) return dtype;
  for (DType wide : {DType::float64, DType::float32})
    if (so_far == wide || dtype == wide) return wide;
  type_error("%s: %s has dtype %s, which does not promote with %s; expected arrays of one 16-bit dtype", op, name,
             dtype_name(dtype), dtype_name(so_far));
}

// Dense strides with the axes laid down in the order of `axes`, the last one fastest.
void dense_strides(const int64_t* shape, int ndim, const int* axes, int64_t* strides) {
  int64_t step = 1;
  for (int i = ndim - 1; i >= 0; --i) {
    strides[axes[i]] = step;
    step *= std::max<int64_t>(shape[axes[i]], 1);
  }
}

void layout_strides(const int64_t* shape, int ndim, Layout layout, int64_t* strides) {
  int axes[max_dims];
  bool last = layout == Layout::channels_last && ndim >= 3;
  for (int i = 0; i < ndim; ++i) axes[i] = last && i > 0 ? (i == ndim - 1 ? 1 : i + 1) : i;
  dense_strides(shape, ndim, axes, strides);
}

}  // namespace

bool is_native(const py::dtype& dtype) {
  char order = dtype.byteorder();
  return order == '=' || order == '|' || order == (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? '<' : '>');
}

bool is_numpy(py::handle value) { return npy_api::get().PyArray_Check_(value.ptr()); }

bool is_floating(DType dtype) {
  return dtype == DType::float32 || dtype == DType::float64 || dtype == DType::float16 || dtype == DType::bfloat16;
}

namespace {

bool floating_dtype_of(const py::dtype& numpy, DType& dtype, bool& native) {
  native = is_native(numpy);
  int number = numpy.num();
  if (number == npy_api::NPY_FLOAT_)
    dtype = DType::float32;
  else if (number == npy_api::NPY_DOUBLE_)
    dtype = DType::float64;
  else if (numpy.kind() == 'f' && numpy.itemsize() == 2)
    dtype = DType::float16;
  else if (is_bfloat16(numpy))
    dtype = DType::bfloat16;
  else
    return false;
  return true;
}

// Between float32 and halves of the host, of one shape and the same dense order.
void convert(const Home& home, const Array& from, const Array& to) {
  int64_t count = element_count(from);
  home.run([&] {
    if (to.dtype == DType::float32)
      widen_halves(from.dtype, count, from.data, static_cast<float*>(to.data));
    else
      round_to_halves(to.dtype, count, static_cast<const float*>(from.data), to.data);
  });
}

// Like astype(order="K"), but that dense halves are converted by our kernels.
py::object converted(const Home& home, py::handle array, DType from, bool native, DType to) {
  bool widens = item_size(from) == 2 && to == DType::float32, rounds = from == DType::float32 && item_size(to) == 2;
  Array view;
  if (!(widens || rounds) || !native || !make_view(array, from, view) || !is_dense(view))
    return converted(array, numpy_dtype(to));
  int64_t strides[max_dims];
  like_strides(view, strides);
  py::object result = home.empty(to, view.shape, strides, view.ndim);
  convert(home, view, home.view_of(result));
  return result;
}

}  // namespace

bool floating_dtype(py::handle array, DType& dtype, bool& native) {
  native = true;
  for (DType common : {DType::float32, DType::float64})  // their descriptors are nearly always NumPy's own
    if (proxy(array)->descr == numpy_dtype(common).ptr()) {
      dtype = common;
      return true;
    }
  return floating_dtype_of(py::reinterpret_borrow<py::array>(array).dtype(), dtype, native);
}

py::object as_dtype(const py::array& array, const py::dtype& dtype) {
  DType from, to;
  bool native, wants_native;
  bool known = array.ndim() <= max_dims && floating_dtype(array, from, native) &&
               floating_dtype_of(dtype, to, wants_native) && wants_native;
  return known ? converted(Home("as_dtype"), array, from, native, to) : converted(array, dtype);
}

size_t Arguments::add_floating(Operand operand, bool has_dtype) {
  if (!has_dtype || !is_floating(operand.view.dtype))
    type_error("%s: %s has dtype %s, expected a floating dtype (float32, float64, float16, bfloat16)", op_,
               operand.name, home_.dtype_name(operand.original).c_str());
  operands_.push_back(std::move(operand));
  return operands_.size() - 1;
}

size_t Arguments::floating(const char* name, py::handle value) {
  auto array = py::reinterpret_borrow<py::object>(value);
  if (!is_numpy(value)) {
    Operand operand{name, array, {}, {}, true};
    bool has_dtype = home_.admit(name, value, "an array", operand.view, operand.holder);
    return add_floating(std::move(operand), has_dtype);
  }
  home_.admit_numpy(name);
  if (proxy(value)->nd > max_dims)
    value_error("%s: %s has %d dimensions, expected at most %d", op_, name, proxy(value)->nd, max_dims);
  operands_.push_back({name, array, array, {}, true});
  return operands_.size() - 1;
}

size_t Arguments::optional_floating(const char* name, py::handle value) {
  if (!value.is_none()) return floating(name, value);
  operands_.push_back({name, {}, {}, {}, true});
  return operands_.size() - 1;
}

size_t Arguments::optional_state(const char* name, py::handle value, bool written) {
  size_t i = optional_floating(name, value);
  Operand& operand = operands_[i];
  operand.is_floating = false;
  operand.is_state = true;
  operand.is_written = written;
  return i;
}

// Brings a state to a contiguous array of its dtype, or of float32 where the host's kernels have no such dtype.
void Arguments::settle_state(size_t i) {
  Operand& operand = operands_[i];
  Array& view = operand.view;
  if (!home_.on_device()) {
    if (!floating_dtype(operand.holder, view.dtype, operand.is_native))
      type_error("%s: %s has dtype %s, expected a floating dtype (float32, float64, float16, bfloat16)", op_,
                 operand.name, home_.dtype_name(operand.holder).c_str());
    DType dtype = item_size(view.dtype) == 2 ? DType::float32 : view.dtype;
    bool usable = dtype == view.dtype && operand.is_native && make_view(operand.holder, dtype, view);
    if (!usable) {
      operand.holder = converted(home_, operand.holder, view.dtype, operand.is_native, dtype);
      make_view(operand.holder, dtype, view);
    }
  }
  make_contiguous(i);
}

void Arguments::check_written(size_t i) const {
  const Operand& operand = operands_[i];
  if (!home_.writable(operand.original))
    value_error("%s: %s is read-only, expected a writable array", op_, operand.name);
  Array view;  // of the caller's memory; with strides in bytes on the host
  int64_t step = 1;
  if (home_.on_device()) {
    view = home_.view_of(operand.original);
  } else {
    make_view(operand.original, DType::uint8, view);
    step = py::reinterpret_borrow<py::array>(operand.original).itemsize();
  }
  for (int k = 0; k < view.ndim; ++k)
    if (view.shape[k] > 1 && view.strides[k] < step && view.strides[k] > -step)
      value_error("%s: %s has elements that share memory, expected memory for each", op_, operand.name);
  for (const Operand& other : operands_)
    if (&other != &operand && overlaps(other, operand.original, view))
      value_error("%s: %s overlaps %s, expected memory of its own", op_, operand.name, other.name);
}

void Arguments::write_back() const {
  for (const Operand& operand : operands_) {
    if (!operand.is_written || !operand.holder || operand.holder.is(operand.original)) continue;
    if (!home_.on_device()) {
      numpy("copyto")(operand.original, operand.holder, py::arg("casting") = "unsafe");
      continue;
    }
    Array original = home_.view_of(operand.original);
    if (original.data != operand.view.data) home_.copy(operand.view, original);
  }
}

size_t Arguments::add_integer(Operand operand, bool has_dtype) {
  if (!has_dtype || is_floating(operand.view.dtype))
    type_error("%s: %s has dtype %s, expected an integer dtype", op_, operand.name,
               home_.dtype_name(operand.original).c_str());
  size_t i = operands_.size();
  operands_.push_back(std::move(operand));
  if (operands_[i].view.dtype != DType::int64) {
    int64_t strides[max_dims];
    like_strides(operands_[i].view, strides);
    copy(i, DType::int64, strides);
  }
  return i;
}

size_t Arguments::integer(const char* name, py::handle value, bool or_host) {
  if (!is_numpy(value)) {
    Operand operand{name, py::reinterpret_borrow<py::object>(value), {}, {}, false};
    bool has_dtype = home_.admit(name, value, "an integer array", operand.view, operand.holder);
    return add_integer(std::move(operand), has_dtype);
  }
  if (!or_host) home_.admit_numpy(name);
  auto array = py::reinterpret_borrow<py::array>(value);
  py::dtype dtype = array.dtype();
  if (dtype.kind() != 'i' && dtype.kind() != 'u')
    type_error("%s: %s has dtype %s, expected an integer dtype", op_, name, text(dtype).c_str());
  if (array.ndim() > max_dims)
    value_error("%s: %s has %d dimensions, expected at most %d", op_, name, static_cast<int>(array.ndim()), max_dims);
  Operand operand{name, array, array, {}, false};
  bool plain = dtype.kind() == 'i' && dtype.itemsize() == 8 && is_native(dtype);
  if (!plain || !make_view(array, DType::int64, operand.view)) {
    if (dtype.kind() == 'u' && dtype.itemsize() == 8 && py::cast<bool>(py::bool_(array.attr("size"))) &&
        py::cast<bool>(py::bool_(array.attr("max")() > py::int_(INT64_MAX))))
      value_error("%s: %s holds a value of 2**63 or more, expected int64's range", op_, name);
    operand.holder = converted(array, numpy_dtype(DType::int64));
    make_view(operand.holder, DType::int64, operand.view);
  }
  operands_.push_back(std::move(operand));
  return operands_.size() - 1;
}

size_t Arguments::flags(const char* name, py::handle value) {
  auto array = py::reinterpret_borrow<py::object>(value);
  Operand operand{name, array, array, {}, false};
  if (!is_numpy(value)) {
    home_.admit(name, value, "a boolean array", operand.view, operand.holder);
  } else {
    home_.admit_numpy(name);
    if (proxy(value)->nd > max_dims)
      value_error("%s: %s has %d dimensions, expected at most %d", op_, name, proxy(value)->nd, max_dims);
    make_view(array, DType::uint8, operand.view);
  }
  operands_.push_back(std::move(operand));
  return operands_.size() - 1;
}

size_t Arguments::integer_or_floating(const char* name, py::handle value) {
  if (!is_numpy(value)) {
    Operand operand{name, py::reinterpret_borrow<py::object>(value), {}, {}, false};
    if (!home_.admit(name, value, "an array", operand.view, operand.holder))
      type_error("%s: %s has dtype %s, expected an integer or a floating dtype", op_, name,
                 home_.dtype_name(value).c_str());
    operand.is_floating = is_floating(operand.view.dtype);
    return operand.is_floating ? add_floating(std::move(operand), true) : add_integer(std::move(operand), true);
  }
  auto dtype = py::reinterpret_borrow<py::array>(value).dtype();
  char kind = dtype.kind();
  if (kind == 'i' || kind == 'u') return integer(name, value);
  if (kind != 'f' && !is_bfloat16(dtype))
    type_error("%s: %s has dtype %s, expected an integer or a floating dtype", op_, name, text(dtype).c_str());
  return floating(name, value);
}

DType Arguments::promote(Halves halves) {
  bool first = true;
  for (Operand& operand : operands_) {
    if (!operand.is_floating || !operand.holder) continue;
    DType& dtype = operand.view.dtype;
    if (!home_.on_device() && !floating_dtype(operand.holder, dtype, operand.is_native))
      type_error("%s: %s has dtype %s, expected a floating dtype (float32, float64, float16, bfloat16)", op_,
                 operand.name, home_.dtype_name(operand.holder).c_str());
    result_dtype_ = first ? dtype : promoted(op_, operand.name, result_dtype_, dtype);
    first = false;
  }
  for (size_t i = 0; i < operands_.size(); ++i) {
    if (!operands_[i].is_state || !operands_[i].holder) continue;
    settle_state(i);
    if (operands_[i].is_written) check_written(i);
  }
  bool as_they_are = home_.on_device()              ? halves != Halves::as_float32
                     : halves == Halves::multiplied ? result_dtype_ == DType::bfloat16 && multiplies_bfloat16()
                                                    : halves == Halves::moved;
  bool widens = item_size(result_dtype_) == 2 && !as_they_are;
  dtype_ = widens ? DType::float32 : result_dtype_;
  for (size_t i = 0; i < operands_.size(); ++i) {
    Operand& operand = operands_[i];
    if (!operand.is_floating || !operand.holder) continue;
    if (home_.on_device()) {
      if (operand.view.dtype == dtype_) continue;
      int64_t strides[max_dims];
      like_strides(operand.view, strides);
      copy(i, dtype_, strides);
    } else {
      if (operand.view.dtype == dtype_ && operand.is_native && make_view(operand.holder, dtype_, operand.view))
        continue;
      operand.holder = converted(home_, operand.holder, operand.view.dtype, operand.is_native, dtype_);
      make_view(operand.holder, dtype_, operand.view);
    }
  }
  return dtype_;
}

// Replaces a view by a copy with the given strides, which are dense.
void Arguments::copy(size_t i, DType dtype, const int64_t* strides) {
  Operand& operand = operands_[i];
  const Array from = operand.view;
  if (!from.place.on_device()) {
    py::object memory = Home(op_).empty(dtype, from.shape, strides, from.ndim);
    numpy("copyto")(memory, operand.holder);
    operand.holder = memory;
    make_view(memory, dtype, operand.view);
    return;
  }
  Array& to = operand.view;
  to.dtype = dtype;
  std::copy(strides, strides + to.ndim, to.strides);
  py::object holder;
  to.data = home_.bytes(static_cast<size_t>(element_count(to) * item_size(dtype)), holder);
  if (to.data) home_.copy(from, to);
  operand.holder = holder ? holder : py::object(operand.original);
}

void Arguments::make_strides(size_t i, const int64_t* strides) {
  if (!has_strides(operands_[i].view, strides)) copy(i, operands_[i].view.dtype, strides);
}

void Arguments::make_layout(size_t i, Layout layout) {
  if (!given(i)) return;
  int64_t strides[max_dims];
  layout_strides(operands_[i].view.shape, operands_[i].view.ndim, layout, strides);
  make_strides(i, strides);
}

void Arguments::make_like(size_t i, const Array& like) {
  int64_t strides[max_dims];
  like_strides(like, strides);
  make_strides(i, strides);
}

void Arguments::make_broadcast(size_t i, const int64_t* shape, int ndim) {
  Operand& operand = operands_[i];
  if (!operand.holder) return;
  Array& view = operand.view;
  if (view.ndim == ndim && std::equal(shape, shape + ndim, view.shape)) return;
  if (!home_.on_device()) {
    py::tuple wanted(static_cast<size_t>(ndim));
    for (int k = 0; k < ndim; ++k) wanted[static_cast<size_t>(k)] = py::int_(shape[k]);
    operand.holder = numpy("broadcast_to")(operand.holder, wanted);
    make_view(operand.holder, view.dtype, view);
    return;
  }
  int fewer = ndim - view.ndim;
  for (int k = ndim - 1; k >= 0; --k) {
    bool repeated = k < fewer || (view.shape[k - fewer] == 1 && shape[k] != 1);
    view.strides[k] = repeated ? 0 : view.strides[k - fewer];
    view.shape[k] = shape[k];
  }
  view.ndim = ndim;
}

void Arguments::upload(size_t i) {
  Operand& operand = operands_[i];
  Array& view = operand.view;
  if (!home_.on_device() || view.place.on_device()) return;
  const void* from = view.data;
  auto size = static_cast<size_t>(element_count(view) * item_size(view.dtype));
  py::object holder;
  void* to = home_.bytes(size, holder);
  if (size) home_.run([&] { cuda_backend()->upload(place(), from, to, size); });
  if (size) operand.holder = holder;
  view.data = to;
  view.place = place();
}

void Arguments::check_no_overlap(py::handle out, const Array& view) const {
  for (const Operand& operand : operands_)
    if (overlaps(operand, out, view)) value_error("%s: out overlaps %s, expected memory of its own", op_, operand.name);
}

// Whether the caller's array of an operand shares memory with an array, whose view is looked at on a device.
bool Arguments::overlaps(const Operand& operand, py::handle array, const Array& view) const {
  if (!operand.original || is_numpy(operand.original) == home_.on_device()) return false;
  if (home_.on_device()) return shares_memory(view, home_.view_of(operand.original));
  return py::cast<bool>(numpy("may_share_memory")(array, operand.original)) &&
         py::cast<bool>(numpy("shares_memory")(array, operand.original));
}

py::object Arguments::empty(DType dtype, const int64_t* shape, int ndim, Layout layout) const {
  int64_t strides[max_dims];
  layout_strides(shape, ndim, layout, strides);
  return home_.empty(dtype, shape, strides, ndim);
}

py::object Arguments::rounded(py::object result) const {
  if (!rounds_result()) return result;
  if (!home_.on_device()) return converted(home_, result, dtype_, true, result_dtype_);
  Array view = view_of(result);
  py::object narrow = home_.empty(result_dtype_, view.shape, view.strides, view.ndim);
  home_.copy(view, view_of(narrow));
  return narrow;
}

bool is_contiguous(const Array& array) {
  int64_t strides[max_dims];
  layout_strides(array.shape, array.ndim, Layout::contiguous, strides);
  return has_strides(array, strides);
}

bool is_channels_last(const Array& array) {
  if (array.ndim < 3 || is_contiguous(array)) return false;
  int64_t strides[max_dims];
  layout_strides(array.shape, array.ndim, Layout::channels_last, strides);
  return has_strides(array, strides);
}

bool is_dense(const Array& array) {
  int64_t strides[max_dims];
  like_strides(array, strides);
  return has_strides(array, strides);
}

void like_strides(const Array& array, int64_t* strides) {
  int axes[max_dims];
  memory_order(array.strides, array.ndim, axes);
  dense_strides(array.shape, array.ndim, axes, strides);
}

bool has_strides(const Array& array, const int64_t* strides) {
  for (int i = 0; i < array.ndim; ++i) {
    if (array.shape[i] == 0) return true;
    if (array.shape[i] > 1 && array.strides[i] != strides[i]) return false;
  }
  return true;
}

// Whether `out`, which is refused if it does not fit, lies in memory as a fresh output would.
bool Output::check(py::handle out, const int64_t* shape, const int64_t* strides, int ndim) {
  const char* op = arguments_.op();
  const Home& home = arguments_.home();
  const DType expected = arguments_.result_dtype();
  bool same = false, usable = true;
  if (is_numpy(out)) {
    home.check_numpy("out");
    auto dtype = py::reinterpret_borrow<py::array>(out).dtype();
    same = dtype.equal(numpy_dtype(expected));
    if (same && proxy(out)->nd > max_dims)
      value_error("%s: out has %d dimensions, expected %d", op, proxy(out)->nd, ndim);
    usable = same && make_view(out, expected, out_view_);
  } else {
    py::object holder;
    same = home.check("out", out, "an array", out_view_, holder) && out_view_.dtype == expected;
  }
  if (!same) type_error("%s: out has dtype %s, expected %s", op, home.dtype_name(out).c_str(), dtype_name(expected));
  if (out_view_.ndim != ndim || !std::equal(shape, shape + ndim, out_view_.shape))
    value_error("%s: out has shape %s, expected %s", op, shape_text(out_view_).c_str(),
                shape_text(shape, ndim).c_str());
  if (!home.writable(out)) value_error("%s: out is read-only, expected a writable array", op);
  arguments_.check_no_overlap(out, out_view_);
  return usable && has_strides(out_view_, strides);
}

void Output::open(py::handle out, const int64_t* shape, const int64_t* strides, int ndim) {
  bool in_place = false;
  if (!out.is_none()) {
    fits_ = check(out, shape, strides, ndim);
    in_place = fits_ && !arguments_.rounds_result();
    out_ = py::reinterpret_borrow<py::object>(out);
  }
  memory_ = in_place ? out_ : arguments_.home().empty(arguments_.dtype(), shape, strides, ndim);
  view_ = in_place ? out_view_ : arguments_.view_of(memory_);
}

Output::Output(const Arguments& arguments, py::handle out, const int64_t* shape, int ndim, Layout layout)
    : arguments_(arguments) {
  int64_t strides[max_dims];
  layout_strides(shape, ndim, layout, strides);
  open(out, shape, strides, ndim);
}

Output::Output(const Arguments& arguments, py::handle out, const Array& like) : arguments_(arguments) {
  int64_t strides[max_dims];
  like_strides(like, strides);
  open(out, like.shape, strides, like.ndim);
}

py::object Output::finish() {
  if (!out_) return arguments_.rounded(memory_);
  if (out_.is(memory_)) return out_;
  if (arguments_.place().on_device())
    arguments_.home().copy(view_, out_view_);
  else if (fits_)
    convert(arguments_.home(), view_, out_view_);
  else
    numpy("copyto")(out_, memory_, py::arg("casting") = "unsafe");
  return out_;
}

}  // namespace arraynn::python
