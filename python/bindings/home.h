// Where the arrays of a call live: in NumPy on the host, or in a library of CUDA arrays on one device.
// Arrays of a device are read through DLPack; all else that is asked of their library is in
// python/arraynn/_device.py.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <atomic>
#include <string>

#include "core/array.h"
#include "core/backend.h"
#include "core/float_mode.h"
#include "core/memory.h"

namespace arraynn::python {

namespace py = pybind11;

// What the user chose for all calls on a device; copied into their places.
struct CudaOptions {
  std::atomic<bool> tf32{false};
  std::atomic<bool> checks{false};
};
CudaOptions& cuda_options();

class Home {
 public:
  explicit Home(const char* op) : op_(op) {}

  const Place& place() const { return place_; }
  bool on_device() const { return place_.on_device(); }

  // The first array of a call decides where it runs; one that lives elsewhere is refused.
  void admit_numpy(const char* name) {
    if (on_device()) refuse_numpy(name);
    if (first_.empty()) first_ = name;
  }
  // Views an array of a device; `expected` says what an argument that is no array should have been. The
  // holder keeps the memory. False if no DType stands for the array's: the view's is left alone then.
  bool admit(const char* name, py::handle value, const char* expected, Array& view, py::object& holder);
  // The same for an array that comes after the first, say a result.
  void check_numpy(const char* name) const {
    if (on_device()) refuse_numpy(name);
  }
  bool check(const char* name, py::handle value, const char* expected, Array& view, py::object& holder) const;

  // A fresh array of the library, of recycled memory on the host, dense in the order of the strides.
  py::object empty(DType dtype, const int64_t* shape, const int64_t* strides, int ndim) const;
  // The view of an array that `empty` made or that is known to be native and aligned.
  Array view_of(py::handle array) const;
  // Memory of the device alone; the holder keeps it.
  void* bytes(size_t count, py::object& holder) const;
  std::string dtype_name(py::handle array) const;
  bool writable(py::handle array) const;

  // Runs a kernel without the GIL.
  template <class F>
  void run(const F& f) const {
    py::gil_scoped_release release;
    f();
    if (waits_) cuda_backend()->synchronize(place_);
  }
  // The same with subnormal numbers counting as zero: for sums of products, to which they add nothing but time.
  template <class F>
  void run_flushed(const F& f) const {
    WithFloatMode mode(float_mode() | subnormals_are_zero);
    run(f);
  }
  // On a device, between arrays of one shape.
  void copy(const Array& from, const Array& to) const;

 private:
  [[noreturn]] void refuse_numpy(const char* name) const;
  py::object identify(const char* name, py::handle value, const char* expected, int& device) const;
  bool read(const char* name, py::handle value, Array& view, py::object& holder) const;

  const char* op_;
  std::string first_;   // the argument that decided
  py::object library_;  // null: NumPy
  Place place_;
  bool waits_ = false;  // the library has no stream to queue work on
};

// Memory for the length of a call, where the call runs.
class Workspace {
 public:
  Workspace(const Home& home, size_t bytes)
      : host_(home.on_device() ? 0 : bytes), data_(home.on_device() ? home.bytes(bytes, device_) : host_.data()) {}
  void* data() const { return data_; }

 private:
  Scratch host_;
  py::object device_;
  void* data_;
};

const py::dtype& numpy_dtype(DType dtype);
// The view of a native, aligned NumPy array, or false if it has to be copied first.
bool make_view(py::handle array, DType dtype, Array& view);
// Whether two arrays of a device have a byte in common.
bool shares_memory(const Array& a, const Array& b);
// The axes from the largest stride to the smallest, C order among equals and around repeated axes.
void memory_order(const int64_t* strides, int ndim, int* axes);

}  // namespace arraynn::python
