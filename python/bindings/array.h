// Python's arrays on their way to C++ and back: views, dtype promotion, outputs. No maths, no
// shapes: those are csrc/ops' business.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "core/array.h"
#include "core/errors.h"
#include "core/threads.h"
#include "home.h"

namespace arraynn::python {

// How 16-bit floats are computed with on a device. The host's kernels take them as float32, unless they are only
// moved, or multiplied by a machine that does so with bfloat16.
enum class Halves : int { native, as_float32, moved, multiplied };

// The array arguments of one call. Floating arguments are promoted together, to what the kernels
// compute in and to `result_dtype` for what the user gets; the former is wider where kernels have no
// 16-bit floats.
class Arguments {
 public:
  explicit Arguments(const char* op) : op_(op), home_(op) { operands_.reserve(8); }

  // Each returns the argument's position. An optional argument may be None; its view has no data.
  size_t floating(const char* name, py::handle value);
  size_t optional_floating(const char* name, py::handle value);
  // An integer array, converted to int64 where it is another integer type. With `or_host` a NumPy array
  // may come with arrays of a device; its view is of the host until upload().
  size_t integer(const char* name, py::handle value, bool or_host = false);
  // A boolean array as bytes (_common.as_flags), in any strides; it takes no part in promote().
  size_t flags(const char* name, py::handle value);
  // Class indices or class probabilities.
  size_t integer_or_floating(const char* name, py::handle value);

  // A floating array that the op keeps from call to call, or None: it keeps its dtype and takes no part in the
  // promotion. One that is `written` must be writable, and share memory with nothing else of the call; where
  // kernels cannot write it in place, they write a copy that write_back() brings home.
  size_t optional_state(const char* name, py::handle value, bool written);
  void write_back() const;

  // Settles the common dtype of the floating arguments and converts those that differ; looks at states.
  // To be called once, after the last floating argument.
  DType promote(Halves halves = Halves::native);

  const Array& operator[](size_t i) const { return operands_[i].view; }
  bool given(size_t i) const { return operands_[i].holder.ptr() != nullptr; }
  const Array* optional(size_t i) const { return given(i) ? &operands_[i].view : nullptr; }
  // Replaces a view whose strides the kernel cannot read by a C-contiguous copy.
  void make_contiguous(size_t i) { make_layout(i, Layout::contiguous); }
  void make_layout(size_t i, Layout layout);
  // Replaces a view whose memory order is not the dense one of `like` by a copy that has it.
  void make_like(size_t i, const Array& like);
  // Replaces a view of another shape by one that repeats it along the axes NumPy broadcasts.
  void make_broadcast(size_t i, const int64_t* shape, int ndim);
  // Copies a C-contiguous array of the host to where the call runs.
  void upload(size_t i);

  const char* op() const { return op_; }
  const Home& home() const { return home_; }
  const Place& place() const { return home_.place(); }
  DType dtype() const { return dtype_; }
  DType result_dtype() const { return result_dtype_; }
  bool rounds_result() const { return result_dtype_ != dtype_; }  // the result is narrower than the computation
  // Refuses an output that shares memory with an argument; `view` is its own where it is of a device.
  void check_no_overlap(py::handle out, const Array& view) const;

  // A fresh array in the order of `layout`, where the call runs.
  py::object empty(DType dtype, const int64_t* shape, int ndim, Layout layout = Layout::contiguous) const;
  Array view_of(py::handle array) const { return home_.view_of(array); }
  // Null for None.
  void* data_of(py::handle array) const { return array.is_none() ? nullptr : view_of(array).data; }
  Workspace workspace(size_t bytes) const { return {home_, bytes}; }
  // One of several results of a kernel (states, gradients), rounded as the result dtype asks.
  py::object rounded(py::object result) const;

  template <class F>
  void run(const F& f) const {
    home_.run(f);
  }
  template <class F>
  void run_flushed(const F& f) const {
    home_.run_flushed(f);
  }

 private:
  struct Operand {
    const char* name;
    py::object original;  // what the caller gave
    py::object holder;    // what keeps the memory that the view looks into
    Array view;
    bool is_floating;
    bool is_native = true;  // in its byte order
    bool is_state = false, is_written = false;
  };
  size_t add_floating(Operand operand, bool has_dtype);
  size_t add_integer(Operand operand, bool has_dtype);
  void settle_state(size_t i);
  void check_written(size_t i) const;
  bool overlaps(const Operand& operand, py::handle array, const Array& view) const;
  void copy(size_t i, DType dtype, const int64_t* strides);
  void make_strides(size_t i, const int64_t* strides);

  PinnedThreads threads_;
  const char* op_;
  Home home_;
  std::vector<Operand> operands_;
  DType dtype_ = DType::float32, result_dtype_ = DType::float32;
};

// True for this machine's byte order.
bool is_native(const py::dtype& dtype);
bool is_numpy(py::handle value);
bool is_floating(DType dtype);
// The DType of a floating NumPy array and whether it has this machine's byte order; false for another dtype.
bool floating_dtype(py::handle numpy, DType& dtype, bool& native);
// A NumPy array as another dtype, as astype(order="K") does it.
py::object as_dtype(const py::array& array, const py::dtype& dtype);
// True if the elements lie next to each other in some order of the axes, all strides positive.
bool is_dense(const Array& array);
bool is_contiguous(const Array& array);
// True for dense N, spatial..., C memory of at least three dimensions (ambiguous shapes, where a
// C-ordered array has the same strides, count as contiguous).
bool is_channels_last(const Array& array);
// The strides of a dense array in the memory order of `array`.
void like_strides(const Array& array, int64_t* strides);
bool has_strides(const Array& array, const int64_t* strides);

// The one output of an op: fresh, or `out` checked. The kernel writes to `view`, which is dense in
// the wished order; finish() rounds or copies where `out` or a 16-bit result asks for it.
class Output {
 public:
  Output(const Arguments& arguments, py::handle out, const int64_t* shape, int ndim,
         Layout layout = Layout::contiguous);
  Output(const Arguments& arguments, py::handle out, const Array& like);
  // An array of a device that a former Output of the same op made.
  Output(const Arguments& arguments, const py::object& memory)
      : arguments_(arguments), memory_(memory), view_(arguments.view_of(memory)) {}
  const Array& view() const { return view_; }
  // What the kernel writes, not rounded.
  const py::object& memory() const { return memory_; }
  py::object finish();

 private:
  void open(py::handle out, const int64_t* shape, const int64_t* strides, int ndim);
  bool check(py::handle out, const int64_t* shape, const int64_t* strides, int ndim);
  const Arguments& arguments_;
  py::object out_;     // the caller's array, if there is one
  bool fits_ = false;  // it lies in memory as a fresh output would
  py::object memory_;  // what the kernel writes
  Array view_, out_view_;
};

}  // namespace arraynn::python
