#include "array.h"

#include <algorithm>

namespace arraynn::python {

namespace {

using py::detail::npy_api;

constexpr size_t recycled_from = size_t{64} << 10;  // below, NumPy's own allocator is as fast

const py::detail::PyArray_Proxy* proxy(py::handle array) { return py::detail::array_proxy(array.ptr()); }

bool is_array(py::handle value) { return npy_api::get().PyArray_Check_(value.ptr()); }

// The view of a native, aligned array, or false if it has to be copied first.
bool make_view(py::handle array, DType dtype, Array& view) {
  const auto* a = proxy(array);
  int64_t size = dtype == DType::float32 ? 4 : 8;
  view.data = a->data;
  view.dtype = dtype;
  view.ndim = a->nd;
  if (reinterpret_cast<uintptr_t>(a->data) % static_cast<uintptr_t>(size)) return false;
  for (int i = 0; i < a->nd; ++i) {
    view.shape[i] = a->dimensions[i];
    if (a->strides[i] % size && a->dimensions[i] > 1) return false;
    view.strides[i] = a->strides[i] / size;
  }
  return true;
}

const py::dtype& numpy_dtype(DType dtype) {
  static const py::dtype* table[] = {new py::dtype("float32"), new py::dtype("float64"), new py::dtype("int64")};
  return *table[static_cast<int>(dtype)];
}

bool is_bfloat16(const py::dtype& dtype) {
  return dtype.itemsize() == 2 && py::cast<std::string>(dtype.attr("name")) == "bfloat16";
}

py::object numpy(const char* name) { return py::module_::import("numpy").attr(name); }

py::object converted(py::handle array, const py::dtype& dtype) {
  return array.attr("astype")(dtype, py::arg("order") = "K", py::arg("copy") = true);
}

py::dtype promoted(const char* op, const char* name, const py::dtype& so_far, const py::dtype& dtype) {
  try {
    return py::dtype::from_args(numpy("result_type")(so_far, dtype));
  } catch (py::error_already_set&) {
    type_error("%s: %s has dtype %s, which does not promote with %s; expected arrays of one 16-bit dtype", op, name,
               py::cast<std::string>(py::str(dtype)).c_str(), py::cast<std::string>(py::str(so_far)).c_str());
  }
}

// Recycled memory as an array's base: gives the block back when the last view dies.
py::object owner_of(Block block) {
  auto* held = new Block(block);
  return py::capsule(held, [](void* pointer) {
    auto* returned = static_cast<Block*>(pointer);
    release(*returned);
    delete returned;
  });
}

py::object empty_strided(DType dtype, const int64_t* shape, const int64_t* strides, int ndim) {
  int64_t size = dtype == DType::float32 ? 4 : 8;
  Py_intptr_t dimensions[max_dims], bytes[max_dims];
  int64_t total = size;
  for (int i = 0; i < ndim; ++i) {
    dimensions[i] = static_cast<Py_intptr_t>(shape[i]);
    bytes[i] = static_cast<Py_intptr_t>(strides[i] * size);
    total *= shape[i];
  }
  auto& api = npy_api::get();
  py::dtype descr = numpy_dtype(dtype);
  void* data = nullptr;
  py::object base;
  if (static_cast<size_t>(total) >= recycled_from) {
    Block block = acquire(static_cast<size_t>(total));
    base = owner_of(block);
    data = block.data;
  }
  constexpr int flags = npy_api::NPY_ARRAY_ALIGNED_ | npy_api::NPY_ARRAY_WRITEABLE_;
  auto array = py::reinterpret_steal<py::object>(api.PyArray_NewFromDescr_(
      api.PyArray_Type_, descr.release().ptr(), ndim, dimensions, bytes, data, data ? flags : 0, nullptr));
  if (!array) throw py::error_already_set();
  if (base) api.PyArray_SetBaseObject_(array.ptr(), base.release().ptr());
  return array;
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

// The axes of `array` from the largest stride to the smallest, C order among equals.
void memory_order(const Array& array, int* axes) {
  for (int i = 0; i < array.ndim; ++i) axes[i] = i;
  auto step = [&](int axis) { return array.strides[axis] < 0 ? -array.strides[axis] : array.strides[axis]; };
  std::stable_sort(axes, axes + array.ndim, [&](int a, int b) { return step(a) > step(b); });
}

// The strides of a dense array in the memory order of `array`.
void like_strides(const Array& array, int64_t* strides) {
  int axes[max_dims];
  memory_order(array, axes);
  dense_strides(array.shape, array.ndim, axes, strides);
}

bool has_strides(const Array& array, const int64_t* strides) {
  for (int i = 0; i < array.ndim; ++i) {
    if (array.shape[i] == 0) return true;
    if (array.shape[i] > 1 && array.strides[i] != strides[i]) return false;
  }
  return true;
}

}  // namespace

bool is_native(const py::dtype& dtype) {
  char order = dtype.byteorder();
  return order == '=' || order == '|' || order == (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? '<' : '>');
}

size_t Arguments::floating(const char* name, py::handle value) {
  if (!is_array(value)) type_error("%s: %s must be an array, got %s", op_, name, Py_TYPE(value.ptr())->tp_name);
  auto array = py::reinterpret_borrow<py::object>(value);
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

size_t Arguments::integer(const char* name, py::handle value) {
  if (!is_array(value)) type_error("%s: %s must be an integer array, got %s", op_, name, Py_TYPE(value.ptr())->tp_name);
  auto array = py::reinterpret_borrow<py::array>(value);
  py::dtype dtype = array.dtype();
  if (dtype.kind() != 'i' && dtype.kind() != 'u')
    type_error("%s: %s has dtype %s, expected an integer dtype", op_, name,
               py::cast<std::string>(py::str(dtype)).c_str());
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

size_t Arguments::integer_or_floating(const char* name, py::handle value) {
  if (!is_array(value)) return floating(name, value);
  auto dtype = py::reinterpret_borrow<py::array>(value).dtype();
  char kind = dtype.kind();
  if (kind == 'i' || kind == 'u') return integer(name, value);
  if (kind != 'f' && !is_bfloat16(dtype))
    type_error("%s: %s has dtype %s, expected an integer or a floating dtype", op_, name,
               py::cast<std::string>(py::str(dtype)).c_str());
  return floating(name, value);
}

DType Arguments::promote() {
  bool first = true;
  for (const Operand& operand : operands_) {
    if (!operand.is_floating || !operand.holder) continue;
    auto dtype = py::reinterpret_borrow<py::array>(operand.holder).dtype();
    bool native = is_native(dtype);
    int number = dtype.num();
    if (!native || (number != npy_api::NPY_FLOAT_ && number != npy_api::NPY_DOUBLE_)) {
      if (!is_floating(dtype))
        type_error("%s: %s has dtype %s, expected a floating dtype (float32, float64, float16, bfloat16)", op_,
                   operand.name, py::cast<std::string>(py::str(dtype)).c_str());
      if (!native) dtype = dtype.attr("newbyteorder")("=");
    }
    if (first)
      result_dtype_ = dtype;
    else if (!result_dtype_.is(dtype) && !result_dtype_.equal(dtype))
      result_dtype_ = promoted(op_, operand.name, result_dtype_, dtype);
    first = false;
  }
  rounds_ = result_dtype_.itemsize() == 2;
  dtype_ = result_dtype_.itemsize() == 8 ? DType::float64 : DType::float32;
  const py::dtype& compute = numpy_dtype(dtype_);
  for (Operand& operand : operands_) {
    if (!operand.is_floating || !operand.holder) continue;
    auto dtype = py::reinterpret_borrow<py::array>(operand.holder).dtype();
    bool same = dtype.num() == compute.num() && is_native(dtype);
    if (same && make_view(operand.holder, dtype_, operand.view)) continue;
    operand.holder = converted(operand.holder, compute);
    make_view(operand.holder, dtype_, operand.view);
  }
  return dtype_;
}

void Arguments::make_contiguous(size_t i) {
  Operand& operand = operands_[i];
  if (!operand.holder || is_contiguous(operand.view)) return;
  operand.holder = operand.holder.attr("copy")("C");
  make_view(operand.holder, operand.view.dtype, operand.view);
}

void Arguments::make_strides(size_t i, const int64_t* strides) {
  Operand& operand = operands_[i];
  if (has_strides(operand.view, strides)) return;
  py::object copy = empty_strided(operand.view.dtype, operand.view.shape, strides, operand.view.ndim);
  numpy("copyto")(copy, operand.holder);
  operand.holder = copy;
  make_view(operand.holder, operand.view.dtype, operand.view);
}

void Arguments::make_layout(size_t i, Layout layout) {
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
  if (operand.view.ndim == ndim && std::equal(shape, shape + ndim, operand.view.shape)) return;
  py::tuple wanted(static_cast<size_t>(ndim));
  for (int k = 0; k < ndim; ++k) wanted[static_cast<size_t>(k)] = py::int_(shape[k]);
  operand.holder = numpy("broadcast_to")(operand.holder, wanted);
  make_view(operand.holder, operand.view.dtype, operand.view);
}

void Arguments::make_rows_dense(size_t i) {
  Operand& operand = operands_[i];
  if (!operand.holder || operand.view.ndim == 0) return;
  int last = operand.view.ndim - 1;
  if (operand.view.strides[last] != 1 && operand.view.shape[last] > 1) make_contiguous(i);
}

void Arguments::check_no_overlap(py::handle out) const {
  for (const Operand& operand : operands_) {
    if (!operand.original) continue;
    if (py::cast<bool>(numpy("may_share_memory")(out, operand.original)) &&
        py::cast<bool>(numpy("shares_memory")(out, operand.original)))
      value_error("%s: out overlaps %s, expected memory of its own", op_, operand.name);
  }
}

Array view_of(py::handle array) {
  Array view;
  int number = py::reinterpret_borrow<py::array>(array).dtype().num();
  DType dtype = number == npy_api::NPY_FLOAT_    ? DType::float32
                : number == npy_api::NPY_DOUBLE_ ? DType::float64
                                                 : DType::int64;
  make_view(array, dtype, view);
  return view;
}

bool is_floating(const py::dtype& dtype) {
  return (dtype.kind() == 'f' && dtype.itemsize() <= 8) || is_bfloat16(dtype);
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

py::object empty(DType dtype, const int64_t* shape, int ndim, Layout layout) {
  int64_t strides[max_dims];
  layout_strides(shape, ndim, layout, strides);
  return empty_strided(dtype, shape, strides, ndim);
}

py::object empty_like(const Array& like, DType dtype) {
  int64_t strides[max_dims];
  like_strides(like, strides);
  return empty_strided(dtype, like.shape, strides, like.ndim);
}

void Output::open(const Arguments& arguments, py::handle out, const int64_t* shape, const int64_t* strides, int ndim) {
  dtype_ = arguments.result_dtype();
  rounds_ = arguments.rounds_result();
  if (!out.is_none()) {
    const char* op = arguments.op();
    if (!is_array(out)) type_error("%s: out must be an array, got %s", op, Py_TYPE(out.ptr())->tp_name);
    auto array = py::reinterpret_borrow<py::array>(out);
    if (!array.dtype().equal(dtype_))
      type_error("%s: out has dtype %s, expected %s", op, py::cast<std::string>(py::str(array.dtype())).c_str(),
                 py::cast<std::string>(py::str(dtype_)).c_str());
    bool same = array.ndim() == ndim;
    for (int i = 0; same && i < ndim; ++i) same = array.shape(i) == shape[i];
    if (!same)
      value_error("%s: out has shape %s, expected %s", op, py::cast<std::string>(py::str(array.attr("shape"))).c_str(),
                  shape_text(shape, ndim).c_str());
    if (!array.writeable()) value_error("%s: out is read-only, expected a writable array", op);
    arguments.check_no_overlap(array);
    out_ = array;
    // Written in place if it lies in memory as a fresh output would.
    if (!rounds_ && is_native(array.dtype()) && make_view(array, arguments.dtype(), view_) &&
        has_strides(view_, strides)) {
      memory_ = array;
      return;
    }
  }
  memory_ = empty_strided(arguments.dtype(), shape, strides, ndim);
  view_ = view_of(memory_);
}

Output::Output(const Arguments& arguments, py::handle out, const int64_t* shape, int ndim, Layout layout) {
  int64_t strides[max_dims];
  layout_strides(shape, ndim, layout, strides);
  open(arguments, out, shape, strides, ndim);
}

Output::Output(const Arguments& arguments, py::handle out, const Array& like) {
  int64_t strides[max_dims];
  like_strides(like, strides);
  open(arguments, out, like.shape, strides, like.ndim);
}

py::object Output::finish() {
  if (!out_) return rounds_ ? py::object(memory_.attr("astype")(dtype_)) : memory_;
  if (!out_.is(memory_)) numpy("copyto")(out_, memory_, py::arg("casting") = "unsafe");
  return out_;
}

py::object rounded(const Arguments& arguments, py::object result) {
  if (!arguments.rounds_result()) return result;
  return result.attr("astype")(arguments.result_dtype());
}

}  // namespace arraynn::python
