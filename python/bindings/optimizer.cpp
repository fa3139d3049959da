#include "ops/optimizer.h"

#include <algorithm>

#include "array.h"

namespace arraynn::python {

namespace {

using py::detail::npy_api;

struct List {
  const char* name;
  py::object arrays;  // a list or tuple
  bool written;
};

// The tensors of one step: lists of arrays that go together, checked, and their chunks. Arrays that
// the kernels cannot write in place (16-bit, or of different strides) have a copy that write_back()
// brings home.
class Tensors {
 public:
  Tensors(const char* op, std::vector<List> lists) : op_(op), lists_(std::move(lists)) {
    check_lists();
    for (size_t i = 0; i < count_; ++i) check_tensor(i);
    check_overlap();
    for (size_t i = 0; i < count_; ++i) add(i);
    table.finish();
  }

  void write_back() const {
    for (const Copy& copy : copies_)
      py::module_::import("numpy").attr("copyto")(copy.original, copy.data, py::arg("casting") = "unsafe");
  }

  ChunkTable table;

 private:
  struct Copy {
    py::object original, data;
  };
  struct Extent {
    const char *begin, *end;
    size_t list, tensor;
  };

  PyObject* item(size_t list, size_t tensor) const {
    return PyTuple_GET_ITEM(lists_[list].arrays.ptr(), static_cast<Py_ssize_t>(tensor));
  }
  std::string label(size_t list, size_t tensor) const {
    return std::string(lists_[list].name) + "[" + std::to_string(tensor) + "]";
  }
  static const py::detail::PyArray_Proxy* proxy(PyObject* array) { return py::detail::array_proxy(array); }
  static py::dtype dtype_of(PyObject* array) { return py::reinterpret_borrow<py::array>(array).dtype(); }

  void check_lists() {
    for (List& list : lists_) {
      PyObject* arrays = list.arrays.ptr();
      if (!PyList_Check(arrays) && !PyTuple_Check(arrays))
        type_error("%s: %s must be a list of arrays, got %s", op_, list.name, Py_TYPE(arrays)->tp_name);
      auto size = static_cast<size_t>(Py_SIZE(arrays));
      // A tuple of our own holds the arrays while the GIL is away.
      if (PyList_Check(arrays)) list.arrays = py::reinterpret_steal<py::object>(PyList_AsTuple(arrays));
      if (&list == &lists_[0]) count_ = size;
      if (size != count_)
        value_error("%s: %s has %zu arrays, expected %zu as %s has", op_, list.name, size, count_, lists_[0].name);
    }
  }

  void check_tensor(size_t tensor) {
    PyObject* first = nullptr;
    for (size_t k = 0; k < lists_.size(); ++k) {
      PyObject* array = item(k, tensor);
      if (!npy_api::get().PyArray_Check_(array))
        type_error("%s: %s must be an array, got %s", op_, label(k, tensor).c_str(), Py_TYPE(array)->tp_name);
      const auto* a = proxy(array);
      py::dtype dtype = dtype_of(array);
      int number = dtype.num();
      if (number != npy_api::NPY_FLOAT_ && number != npy_api::NPY_DOUBLE_ && !is_floating(dtype))
        type_error("%s: %s has dtype %s, expected a floating dtype", op_, label(k, tensor).c_str(),
                   py::cast<std::string>(py::str(dtype)).c_str());
      if (k == 0) {
        first = array;
      } else {
        check_alike(tensor, k, array, first);
      }
      if (lists_[k].written && !(a->flags & npy_api::NPY_ARRAY_WRITEABLE_))
        value_error("%s: %s is read-only, expected a writable array", op_, label(k, tensor).c_str());
      add_extent(k, tensor, a, dtype.itemsize());
    }
  }

  void check_alike(size_t tensor, size_t list, PyObject* array, PyObject* first) const {
    const auto *a = proxy(array), *b = proxy(first);
    if (a->nd != b->nd || !std::equal(a->dimensions, a->dimensions + a->nd, b->dimensions))
      value_error("%s: %s has shape %s, expected %s as %s has", op_, label(list, tensor).c_str(),
                  py::cast<std::string>(py::str(py::handle(array).attr("shape"))).c_str(),
                  py::cast<std::string>(py::str(py::handle(first).attr("shape"))).c_str(), label(0, tensor).c_str());
    if (a->descr != b->descr && dtype_of(array).num() != dtype_of(first).num())
      type_error("%s: %s has dtype %s, expected %s as %s has", op_, label(list, tensor).c_str(),
                 py::cast<std::string>(py::str(dtype_of(array))).c_str(),
                 py::cast<std::string>(py::str(dtype_of(first))).c_str(), label(0, tensor).c_str());
  }

  void add_extent(size_t list, size_t tensor, const py::detail::PyArray_Proxy* a, py::ssize_t itemsize) {
    const char *begin = a->data, *end = a->data + itemsize;
    py::ssize_t bytes = itemsize;
    for (int i = 0; i < a->nd; ++i) {
      if (a->dimensions[i] == 0) return;
      bytes *= a->dimensions[i];
      py::ssize_t reach = (a->dimensions[i] - 1) * a->strides[i];
      (reach < 0 ? begin : end) += reach;
    }
    if (lists_[list].written && end - begin < bytes)
      value_error("%s: %s has elements that share memory, expected memory for each", op_, label(list, tensor).c_str());
    extents_.push_back({begin, end, list, tensor});
  }

  // What is written shares memory with nothing else. Stretches of memory that overlap are few, if any.
  void check_overlap() {
    std::sort(extents_.begin(), extents_.end(), [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
    for (size_t i = 0; i < extents_.size(); ++i)
      for (size_t j = i + 1; j < extents_.size() && extents_[j].begin < extents_[i].end; ++j) {
        const Extent &a = extents_[i], &b = extents_[j];
        if (!lists_[a.list].written && !lists_[b.list].written) continue;
        py::handle x = item(a.list, a.tensor), y = item(b.list, b.tensor);
        if (py::cast<bool>(py::module_::import("numpy").attr("shares_memory")(x, y)))
          value_error("%s: %s overlaps %s, expected memory of its own", op_, label(b.list, b.tensor).c_str(),
                      label(a.list, a.tensor).c_str());
      }
  }

  void add(size_t tensor) {
    constexpr int c_order = npy_api::NPY_ARRAY_C_CONTIGUOUS_, f_order = npy_api::NPY_ARRAY_F_CONTIGUOUS_;
    int common = c_order | f_order | npy_api::NPY_ARRAY_ALIGNED_;
    for (size_t k = 0; k < lists_.size(); ++k) common &= proxy(item(k, tensor))->flags;
    py::dtype dtype = dtype_of(item(0, tensor));
    DType compute = dtype.itemsize() == 8 ? DType::float64 : DType::float32;
    bool direct = dtype.itemsize() > 2 && (common & npy_api::NPY_ARRAY_ALIGNED_) && (common & (c_order | f_order));
    void* data[5] = {};
    for (size_t k = 0; k < lists_.size(); ++k) {
      PyObject* array = item(k, tensor);
      if (!direct || !is_native(dtype_of(array))) array = copy_of(array, compute, lists_[k].written, common & c_order);
      data[k] = proxy(array)->data;
    }
    const auto* a = proxy(item(0, tensor));
    int64_t count = 1;
    for (int i = 0; i < a->nd; ++i) count *= a->dimensions[i];
    table.add(compute, count, data, static_cast<int>(lists_.size()));
  }

  PyObject* copy_of(PyObject* array, DType compute, bool written, bool c_order) {
    py::object copy = py::handle(array).attr("astype")(compute == DType::float64 ? "float64" : "float32",
                                                       py::arg("order") = c_order ? "C" : "F");
    (written ? copies_ : read_).push_back({py::reinterpret_borrow<py::object>(array), copy});
    return copy.ptr();
  }

  const char* op_;
  std::vector<List> lists_;
  size_t count_ = 0;
  std::vector<Extent> extents_;
  std::vector<Copy> copies_, read_;
};

void adam(py::object params, py::object grads, py::object exp_avgs, py::object exp_avg_sqs, py::object amsgrad_maxes,
          int64_t step, double lr, double beta1, double beta2, double eps, double weight_decay, bool decoupled,
          double grad_scale) {
  std::vector<List> lists = {{"params", params, true},
                             {"grads", grads, false},
                             {"exp_avgs", exp_avgs, true},
                             {"exp_avg_sqs", exp_avg_sqs, true}};
  if (!amsgrad_maxes.is_none()) lists.push_back({"amsgrad_maxes", amsgrad_maxes, true});
  Tensors tensors("adam_step", std::move(lists));
  AdamParams p = adam_params({step, lr, beta1, beta2, eps, weight_decay, decoupled, grad_scale});
  without_gil([&] { adam_step(p, tensors.table); });
  tensors.write_back();
}

void sgd(py::object params, py::object grads, py::object momentum_buffers, double lr, double momentum, double dampening,
         double weight_decay, bool nesterov) {
  std::vector<List> lists = {{"params", params, true}, {"grads", grads, false}};
  if (!momentum_buffers.is_none()) lists.push_back({"momentum_buffers", momentum_buffers, momentum != 0});
  Tensors tensors("sgd_step", std::move(lists));
  SgdParams p{lr, momentum, dampening, weight_decay, nesterov};
  check_sgd(p, !momentum_buffers.is_none());
  without_gil([&] { sgd_step(p, tensors.table); });
  tensors.write_back();
}

double clip(py::object grads, double max_norm) {
  Tensors tensors("clip_grad_norm", {{"grads", grads, true}});
  double norm = 0, factor = 1;
  without_gil([&] {
    norm = grad_norm(tensors.table);
    factor = clip_factor(norm, max_norm);
    if (factor != 1) scale_grads(tensors.table, factor);
  });
  if (factor != 1) tensors.write_back();
  return norm;
}

}  // namespace

void bind_optimizer(py::module_& m) {
  m.def("adam_step", &adam);
  m.def("sgd_step", &sgd);
  m.def("clip_grad_norm", &clip);
}

}  // namespace arraynn::python
