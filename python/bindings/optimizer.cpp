#include "ops/optimizer.h"

#include <algorithm>

#include "array.h"
#include "ops/reduction.h"

namespace arraynn::python {

namespace {

struct List {
  const char* name;
  py::object arrays;  // a list or tuple
  bool written;
  bool optional = false;  // None is no list, and leaves its place among the kernel's arrays null
  size_t slot = 0;        // that place
};

// The tensors of one step: lists of arrays that go together, checked, and their chunks. Arrays that
// the kernels cannot write in place (of different strides, or 16-bit ones of the host) have a copy that
// write_back() brings home.
class Tensors {
 public:
  Tensors(const char* op, std::vector<List> lists) : op_(op), home_(op) {
    for (size_t slot = 0; slot < lists.size(); ++slot) {
      lists[slot].slot = slot;
      if (!lists[slot].optional || !lists[slot].arrays.is_none()) lists_.push_back(std::move(lists[slot]));
    }
    check_lists();
    items_.reserve(count_ * lists_.size());
    for (size_t i = 0; i < count_; ++i) check_tensor(i);
    check_overlap();
    table.place = home_.place();
    for (size_t i = 0; i < count_; ++i) add(i);
    table.finish();
  }

  void write_back() const {
    for (const Copy& copy : copies_) {
      if (home_.on_device())
        home_.copy(copy.view, views_[copy.item].view);
      else
        py::module_::import("numpy").attr("copyto")(py::handle(items_[copy.item].array), copy.memory,
                                                    py::arg("casting") = "unsafe");
    }
  }
  const Home& home() const { return home_; }

  ChunkTable table;

 private:
  struct Item {
    PyObject* array;  // held by its list
    DType dtype;
    bool is_native;  // in its byte order
  };
  // Of an array of a device; NumPy's are looked at as they are, since steps are many and tensors small.
  struct DeviceView {
    Array view;
    py::object holder;
  };
  struct Copy {
    size_t item;
    py::object memory;
    Array view;
  };
  struct Extent {
    const char *begin, *end;
    size_t list, tensor;
  };

  size_t at(size_t list, size_t tensor) const { return tensor * lists_.size() + list; }
  std::string label(size_t list, size_t tensor) const {
    return std::string(lists_[list].name) + "[" + std::to_string(tensor) + "]";
  }
  const py::detail::PyArray_Proxy* proxy(size_t i) const { return py::detail::array_proxy(items_[i].array); }
  const char* data(size_t i) const {
    return home_.on_device() ? static_cast<const char*>(views_[i].view.data) : proxy(i)->data;
  }
  int ndim(size_t i) const { return home_.on_device() ? views_[i].view.ndim : proxy(i)->nd; }
  int64_t size(size_t i, int axis) const {
    return home_.on_device() ? views_[i].view.shape[axis] : proxy(i)->dimensions[axis];
  }
  int64_t step(size_t i, int axis) const {  // in bytes
    return home_.on_device() ? views_[i].view.strides[axis] * item_size(items_[i].dtype) : proxy(i)->strides[axis];
  }
  std::string shape_of(size_t i) const {
    int64_t shape[max_dims];
    for (int axis = 0; axis < ndim(i); ++axis) shape[axis] = size(i, axis);
    return shape_text(shape, ndim(i));
  }

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
    for (size_t k = 0; k < lists_.size(); ++k) {
      PyObject* array = PyTuple_GET_ITEM(lists_[k].arrays.ptr(), static_cast<Py_ssize_t>(tensor));
      items_.push_back({array, DType::float32, true});
      if (!look_at(k, tensor, items_.back()))
        type_error("%s: %s has dtype %s, expected a floating dtype", op_, label(k, tensor).c_str(),
                   home_.dtype_name(array).c_str());
      if (ndim(at(k, tensor)) > max_dims)
        value_error("%s: %s has %d dimensions, expected at most %d", op_, label(k, tensor).c_str(), ndim(at(k, tensor)),
                    max_dims);
      if (k > 0) check_alike(tensor, k);
      if (lists_[k].written && !home_.writable(array))
        value_error("%s: %s is read-only, expected a writable array", op_, label(k, tensor).c_str());
      add_extent(k, tensor);
    }
  }

  // False for a dtype that is not floating.
  bool look_at(size_t list, size_t tensor, Item& item) {
    if (is_numpy(item.array)) {
      if (home_.on_device() || items_.size() == 1) home_.admit_numpy(label(list, tensor).c_str());
      return floating_dtype(item.array, item.dtype, item.is_native);
    }
    DeviceView& there = views_.emplace_back();
    bool known = home_.admit(label(list, tensor).c_str(), item.array, "an array", there.view, there.holder);
    item.dtype = there.view.dtype;
    return known && is_floating(item.dtype);
  }

  void check_alike(size_t tensor, size_t list) const {
    size_t a = at(list, tensor), b = at(0, tensor);
    bool same = ndim(a) == ndim(b);
    for (int i = 0; same && i < ndim(a); ++i) same = size(a, i) == size(b, i);
    if (!same)
      value_error("%s: %s has shape %s, expected %s as %s has", op_, label(list, tensor).c_str(), shape_of(a).c_str(),
                  shape_of(b).c_str(), label(0, tensor).c_str());
    if (items_[a].dtype != items_[b].dtype)
      type_error("%s: %s has dtype %s, expected %s as %s has", op_, label(list, tensor).c_str(),
                 dtype_name(items_[a].dtype), dtype_name(items_[b].dtype), label(0, tensor).c_str());
  }

  void add_extent(size_t list, size_t tensor) {
    size_t item = at(list, tensor);
    const char* begin = data(item);
    int64_t bytes = item_size(items_[item].dtype);
    const char* end = begin + bytes;
    for (int i = 0; i < ndim(item); ++i) {
      int64_t count = size(item, i), reach = (count - 1) * step(item, i);
      if (count == 0) return;
      bytes *= count;
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
        size_t x = at(a.list, a.tensor), y = at(b.list, b.tensor);
        bool shared = home_.on_device() ? shares_memory(views_[x].view, views_[y].view)
                                        : py::cast<bool>(py::module_::import("numpy").attr("shares_memory")(
                                              py::handle(items_[x].array), py::handle(items_[y].array)));
        if (shared)
          value_error("%s: %s overlaps %s, expected memory of its own", op_, label(b.list, b.tensor).c_str(),
                      label(a.list, a.tensor).c_str());
      }
  }

  // Kernels take what is dense in one order; copies have the order of the first array.
  void add(size_t tensor) {
    size_t first = at(0, tensor);
    DType dtype = items_[first].dtype;
    DType compute = home_.on_device() || item_size(dtype) > 2 ? dtype : DType::float32;
    Array like;
    if (home_.on_device())
      like = views_[first].view;
    else
      make_view(items_[first].array, dtype, like);
    int64_t strides[max_dims];
    like_strides(like, strides);
    bool direct = compute == dtype;
    for (size_t k = 0; k < lists_.size(); ++k) direct = direct && has_steps(at(k, tensor), strides);
    void* pointers[5] = {};
    for (size_t k = 0; k < lists_.size(); ++k) {
      size_t item = at(k, tensor);
      pointers[lists_[k].slot] = direct && items_[item].is_native
                                     ? const_cast<char*>(data(item))
                                     : copy_of(item, like, compute, strides, lists_[k].written);
    }
    table.add(compute, element_count(like), pointers);
  }

  // Whether an array lies aligned, and in these strides of elements.
  bool has_steps(size_t item, const int64_t* strides) const {
    int64_t bytes = item_size(items_[item].dtype);
    for (int i = 0; i < ndim(item); ++i) {
      if (size(item, i) == 0) return true;
      if (size(item, i) > 1 && step(item, i) != strides[i] * bytes) return false;
    }
    return (reinterpret_cast<uintptr_t>(data(item)) & static_cast<uintptr_t>(bytes - 1)) == 0;
  }

  void* copy_of(size_t item, const Array& like, DType compute, const int64_t* strides, bool written) {
    Copy copy{item, {}, like};
    copy.view.dtype = compute;
    std::copy(strides, strides + like.ndim, copy.view.strides);
    if (home_.on_device()) {
      copy.view.data = home_.bytes(static_cast<size_t>(element_count(like) * item_size(compute)), copy.memory);
      if (copy.view.data) home_.copy(views_[item].view, copy.view);
    } else {
      copy.memory = home_.empty(compute, like.shape, strides, like.ndim);
      py::module_::import("numpy").attr("copyto")(copy.memory, py::handle(items_[item].array));
      copy.view.data = py::detail::array_proxy(copy.memory.ptr())->data;
    }
    void* pointer = copy.view.data;
    (written ? copies_ : read_).push_back(std::move(copy));
    return pointer;
  }

  const char* op_;
  Home home_;
  std::vector<List> lists_;
  size_t count_ = 0;
  std::vector<Item> items_;  // tensor by tensor
  std::vector<DeviceView> views_;
  std::vector<Extent> extents_;
  std::vector<Copy> copies_, read_;
};

void adam(py::object params, py::object grads, py::object exp_avgs, py::object exp_avg_sqs, py::object amsgrad_maxes,
          int64_t step, double lr, double beta1, double beta2, double eps, double weight_decay, bool decoupled,
          double grad_scale, double l1) {
  Tensors tensors("adam_step", {{"params", params, true},
                                {"grads", grads, false},
                                {"exp_avgs", exp_avgs, true},
                                {"exp_avg_sqs", exp_avg_sqs, true},
                                {"amsgrad_maxes", amsgrad_maxes, true, true}});
  AdamParams p =
      adam_params({tensors.table.place, step, lr, beta1, beta2, eps, weight_decay, decoupled, grad_scale, l1});
  tensors.home().run_flushed([&] { adam_step(p, tensors.table); });
  tensors.write_back();
}

void sgd(py::object params, py::object grads, py::object momentum_buffers, double lr, double momentum, double dampening,
         double weight_decay, bool nesterov, double l1) {
  Tensors tensors(
      "sgd_step",
      {{"params", params, true}, {"grads", grads, false}, {"momentum_buffers", momentum_buffers, momentum != 0, true}});
  SgdParams p{tensors.table.place, lr, momentum, dampening, weight_decay, nesterov, l1};
  check_sgd(p, !momentum_buffers.is_none());
  tensors.home().run_flushed([&] { sgd_step(p, tensors.table); });
  tensors.write_back();
}

void rmsprop(py::object params, py::object grads, py::object square_avgs, py::object momentum_buffers,
             py::object grad_avgs, double lr, double alpha, double eps, double weight_decay, double momentum,
             double l1) {
  Tensors tensors("rmsprop_step", {{"params", params, true},
                                   {"grads", grads, false},
                                   {"square_avgs", square_avgs, true},
                                   {"momentum_buffers", momentum_buffers, momentum != 0, true},
                                   {"grad_avgs", grad_avgs, true, true}});
  RmspropParams p{tensors.table.place, lr, alpha, eps, momentum, weight_decay, l1};
  check_rmsprop(p, !momentum_buffers.is_none());
  tensors.home().run_flushed([&] { rmsprop_step(p, tensors.table); });
  tensors.write_back();
}

void adagrad(py::object params, py::object grads, py::object state_sums, int64_t step, double lr, double lr_decay,
             double weight_decay, double eps, double l1) {
  Tensors tensors("adagrad_step",
                  {{"params", params, true}, {"grads", grads, false}, {"state_sums", state_sums, true}});
  AdagradParams p = adagrad_params(tensors.table.place, step, lr, lr_decay, eps, weight_decay, l1);
  tensors.home().run_flushed([&] { adagrad_step(p, tensors.table); });
  tensors.write_back();
}

void clip_value(py::object grads, double bound) {
  Tensors tensors("clip_grad_value", {{"grads", grads, true}});
  check_clip_value(bound);
  tensors.home().run([&] { clamp_grads(tensors.table, bound); });
  tensors.write_back();
}

double clip(py::object grads, double max_norm) {
  Tensors tensors("clip_grad_norm", {{"grads", grads, true}});
  Workspace scratch(tensors.home(), reduction_scratch(tensors.table.place));
  double norm = 0, factor = 1;
  tensors.home().run([&] {
    norm = grad_norm(tensors.table, scratch.data());
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
  m.def("rmsprop_step", &rmsprop);
  m.def("adagrad_step", &adagrad);
  m.def("clip_grad_norm", &clip);
  m.def("clip_grad_value", &clip_value);
}

}  // namespace arraynn::python
