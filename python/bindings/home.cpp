#include "home.h"

#include <pybind11/gil_safe_call_once.h>

#include <algorithm>

#include "array.h"
#include "core/errors.h"

namespace arraynn::python {

namespace {

using py::detail::npy_api;

// DLPack's structures (https://dmlc.github.io/dlpack/latest/c_api.html), as far as they are read here.
struct DLDevice {
  int32_t device_type, device_id;
};
struct DLDataType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct DLTensor {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor tensor;
  void* manager;
  void (*deleter)(DLManagedTensor*);
};
struct DLManagedTensorVersioned {
  uint32_t major, minor;
  void* manager;
  void (*deleter)(DLManagedTensorVersioned*);
  uint64_t flags;
  DLTensor tensor;
};

constexpr int dl_cuda = 2, dl_cuda_managed = 13;

const char* device_name(int type) {
  static const char* const names[] = {"unknown",   "CPU",          "CUDA",   "CUDA host", "OpenCL",  "unknown",
                                      "unknown",   "Vulkan",       "Metal",  "VPI",       "ROCm",    "ROCm host",
                                      "extension", "CUDA managed", "oneAPI", "WebGPU",    "Hexagon", "MAIA"};
  return type > 0 && type < static_cast<int>(std::size(names)) ? names[type] : "unknown";
}

// A major version that is newer may lay out anything behind its version number differently.
const DLTensor* tensor_of(py::handle capsule) {
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor"))
    return &static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"))->tensor;
  if (!PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) return nullptr;
  auto* managed = static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
  return managed->major == 1 ? &managed->tensor : nullptr;
}

bool dtype_of(const DLDataType& type, DType& dtype) {
  static constexpr struct {
    uint8_t code, bits;
    DType dtype;
  } known[] = {{2, 32, DType::float32}, {2, 64, DType::float64}, {2, 16, DType::float16}, {4, 16, DType::bfloat16},
               {0, 64, DType::int64},   {0, 32, DType::int32},   {0, 16, DType::int16},   {0, 8, DType::int8},
               {1, 64, DType::uint64},  {1, 32, DType::uint32},  {1, 16, DType::uint16},  {1, 8, DType::uint8}};
  for (const auto& k : known)
    if (k.code == type.code && k.bits == type.bits && type.lanes == 1) {
      dtype = k.dtype;
      return true;
    }
  return false;
}

// A function of arraynn/_device.py, which is imported when the first array of a device comes.
template <int which>
py::object function(const char* name) {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> found;
  return found.call_once_and_store_result([&] { return py::module_::import("arraynn._device").attr(name); })
      .get_stored();
}

std::string text(py::handle value) { return py::cast<std::string>(py::str(value)); }

// What an adapter says of an argument; or the library's words on why it has no answer, say for an array
// that lies on several devices.
py::object ask(const char* op, const char* name, const py::object& library, const char* what, py::handle value) {
  try {
    return library.attr(what)(value);
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_Exception)) throw;
    type_error("%s: %s cannot be read: %s: %s", op, name, text(error.type().attr("__name__")).c_str(),
               text(error.value()).c_str());
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

py::object empty_numpy(DType dtype, const int64_t* shape, const int64_t* strides, int ndim) {
  constexpr size_t recycled_from = size_t{64} << 10;  // below, NumPy's own allocator is as fast
  int64_t size = item_size(dtype);
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

// The bytes from the first element to behind the last; empty for an array without elements.
void extent(const Array& array, uintptr_t& begin, uintptr_t& end) {
  int64_t low = 0, high = item_size(array.dtype);
  for (int i = 0; i < array.ndim; ++i) {
    if (array.shape[i] == 0) high = low = 0;
    if (array.shape[i] == 0) break;
    int64_t reach = (array.shape[i] - 1) * array.strides[i] * item_size(array.dtype);
    (reach < 0 ? low : high) += reach;
  }
  begin = reinterpret_cast<uintptr_t>(array.data) + static_cast<uintptr_t>(low);
  end = reinterpret_cast<uintptr_t>(array.data) + static_cast<uintptr_t>(high);
}

py::tuple memory_of(const Array& array) {
  py::list shape, strides;
  for (int i = 0; i < array.ndim; ++i) {
    shape.append(array.shape[i]);
    strides.append(array.strides[i] * item_size(array.dtype));
  }
  return py::make_tuple(reinterpret_cast<uintptr_t>(array.data), py::tuple(shape), py::tuple(strides),
                        item_size(array.dtype));
}

}  // namespace

CudaOptions& cuda_options() {
  static CudaOptions options;
  return options;
}

void Home::refuse_numpy(const char* name) const {
  type_error("%s: %s is a numpy array, but %s is a %s array on CUDA device %d; expected all on one device", op_, name,
             first_.c_str(), text(library_.attr("name")).c_str(), place_.device);
}

// The adapter of the array's library, and the array's device.
py::object Home::identify(const char* name, py::handle value, const char* expected, int& device) const {
  if (!py::hasattr(value, "__dlpack_device__"))
    type_error("%s: %s must be %s, got %s", op_, name, expected, Py_TYPE(value.ptr())->tp_name);
  py::object library = function<0>("library_of")(value);
  if (library.is_none())
    type_error("%s: %s is a %s, expected a NumPy array, or a CUDA array of CuPy, PyTorch or JAX", op_, name,
               Py_TYPE(value.ptr())->tp_name);
  py::tuple where = ask(op_, name, library, "where", value);
  int type = py::cast<int>(where[0]);
  device = py::cast<int>(where[1]);
  if (type != dl_cuda && type != dl_cuda_managed)
    type_error("%s: %s is on DLPack device type %d (%s), expected a NumPy array or a CUDA array", op_, name, type,
               device_name(type));
  if (!cuda_backend())
    type_error("%s: %s is a %s array on CUDA device %d, but arraynn was built without CUDA", op_, name,
               text(library.attr("name")).c_str(), device);
  return library;
}

bool Home::read(const char* name, py::handle value, Array& view, py::object& holder) const {
  holder = ask(op_, name, library_, "dlpack", value);
  const DLTensor* tensor = tensor_of(holder);
  if (!tensor) type_error("%s: %s gave no DLPack capsule of a known version", op_, name);
  if (tensor->ndim > max_dims)
    value_error("%s: %s has %d dimensions, expected at most %d", op_, name, static_cast<int>(tensor->ndim), max_dims);
  view.data = tensor->data ? static_cast<char*>(tensor->data) + tensor->byte_offset : nullptr;
  view.place = place_;
  view.ndim = tensor->ndim;
  int64_t step = 1;
  for (int i = view.ndim - 1; i >= 0; --i) {
    view.shape[i] = tensor->shape[i];
    view.strides[i] = tensor->strides ? tensor->strides[i] : step;
    step *= std::max<int64_t>(view.shape[i], 1);
  }
  return dtype_of(tensor->dtype, view.dtype);
}

bool Home::admit(const char* name, py::handle value, const char* expected, Array& view, py::object& holder) {
  if (!first_.empty()) return check(name, value, expected, view, holder);
  int device = -1;
  library_ = identify(name, value, expected, device);
  first_ = name;
  place_.device = device;
  place_.stream = reinterpret_cast<void*>(py::cast<uintptr_t>(library_.attr("stream")(device)));
  place_.tf32 = cuda_options().tf32.load(std::memory_order_relaxed);
  place_.checks = cuda_options().checks.load(std::memory_order_relaxed);
  waits_ = py::cast<bool>(library_.attr("waits"));
  return read(name, value, view, holder);
}

bool Home::check(const char* name, py::handle value, const char* expected, Array& view, py::object& holder) const {
  int device = -1;
  py::object library = identify(name, value, expected, device);
  auto kind = [&] { return text(library.attr("name")); };
  if (!on_device())
    type_error("%s: %s is a %s array on CUDA device %d, but %s is a numpy array; expected all on one device", op_, name,
               kind().c_str(), device, first_.c_str());
  if (!library.is(library_))
    type_error("%s: %s is a %s array, but %s is a %s array; expected arrays of one library", op_, name, kind().c_str(),
               first_.c_str(), text(library_.attr("name")).c_str());
  if (device != place_.device)
    value_error("%s: %s is on CUDA device %d, but %s is on CUDA device %d; expected all on one device", op_, name,
                device, first_.c_str(), place_.device);
  return read(name, value, view, holder);
}

py::object Home::empty(DType dtype, const int64_t* shape, const int64_t* strides, int ndim) const {
  if (!on_device()) return empty_numpy(dtype, shape, strides, ndim);
  int axes[max_dims];
  memory_order(strides, ndim, axes);
  py::tuple sizes(static_cast<size_t>(ndim)), back(static_cast<size_t>(ndim));
  for (int i = 0; i < ndim; ++i) {
    sizes[static_cast<size_t>(i)] = py::int_(shape[axes[i]]);
    back[static_cast<size_t>(axes[i])] = py::int_(i);
  }
  py::object array = library_.attr("empty")(sizes, arraynn::dtype_name(dtype), place_.device);
  return std::is_sorted(axes, axes + ndim) ? array : library_.attr("permute")(array, back);
}

Array Home::view_of(py::handle array) const {
  Array view;
  if (!on_device()) {
    int number = py::reinterpret_borrow<py::array>(array).dtype().num();
    DType dtype = number == npy_api::NPY_FLOAT_    ? DType::float32
                  : number == npy_api::NPY_DOUBLE_ ? DType::float64
                  : number == npy_api::NPY_UBYTE_  ? DType::uint8
                                                   : DType::int64;
    if (dtype == DType::int64 && number != npy_api::NPY_INT64_) {
      bool native;
      floating_dtype(array, dtype, native);  // halves
    }
    make_view(array, dtype, view);
    return view;
  }
  py::object holder;  // the array itself keeps the memory
  read("a result", array, view, holder);
  return view;
}

void* Home::bytes(size_t count, py::object& holder) const {
  if (count == 0) return nullptr;
  int64_t size = static_cast<int64_t>(count), step = 1;
  holder = empty(DType::uint8, &size, &step, 1);
  return view_of(holder).data;
}

std::string Home::dtype_name(py::handle array) const {
  return on_device() ? text(library_.attr("dtype_name")(array)) : text(array.attr("dtype"));
}

bool Home::writable(py::handle array) const {
  if (on_device()) return py::cast<bool>(library_.attr("writable")(array));
  return (py::detail::array_proxy(array.ptr())->flags & npy_api::NPY_ARRAY_WRITEABLE_) != 0;
}

void Home::copy(const Array& from, const Array& to) const {
  run([&] { cuda_backend()->copy(from, to); });
}

const py::dtype& numpy_dtype(DType dtype) {
  static const py::dtype* table[12];
  const py::dtype*& entry = table[static_cast<int>(dtype)];
  if (!entry)
    entry = dtype == DType::bfloat16
                ? new py::dtype(py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16")))
                : new py::dtype(arraynn::dtype_name(dtype));
  return *entry;
}

bool make_view(py::handle array, DType dtype, Array& view) {
  const auto* a = py::detail::array_proxy(array.ptr());
  int64_t size = item_size(dtype), bits = size == 8 ? 3 : size == 4 ? 2 : size == 2 ? 1 : 0;
  view.data = a->data;
  view.dtype = dtype;
  view.ndim = a->nd;
  int64_t rest = static_cast<int64_t>(reinterpret_cast<uintptr_t>(a->data));
  for (int i = 0; i < a->nd; ++i) {
    view.shape[i] = a->dimensions[i];
    if (a->dimensions[i] > 1) rest |= a->strides[i];
    view.strides[i] = a->strides[i] >> bits;
  }
  return (rest & (size - 1)) == 0;
}

bool shares_memory(const Array& a, const Array& b) {
  uintptr_t a_begin, a_end, b_begin, b_end;
  extent(a, a_begin, a_end);
  extent(b, b_begin, b_end);
  if (a_begin >= b_end || b_begin >= a_end) return false;
  return py::cast<bool>(function<1>("shares_memory")(memory_of(a), memory_of(b)));
}

void memory_order(const int64_t* strides, int ndim, int* axes) {
  auto step = [&](int axis) {
    while (axis < ndim - 1 && strides[axis] == 0) ++axis;  // a repeated axis stays before the next one
    return strides[axis] < 0 ? -strides[axis] : strides[axis];
  };
  for (int i = 0; i < ndim; ++i) {  // by insertion: there are few
    int at = i;
    for (; at > 0 && step(axes[at - 1]) < step(i); --at) axes[at] = axes[at - 1];
    axes[at] = i;
  }
}

}  // namespace arraynn::python
