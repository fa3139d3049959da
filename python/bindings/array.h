// Python's arrays on their way to C++ and back: views, dtype promotion, outputs. No maths, no
// shapes: those are csrc/ops' business.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "core/array.h"
#include "core/errors.h"
#include "core/memory.h"
#include "core/threads.h"

namespace arraynn::python {

namespace py = pybind11;

// The array arguments of one call. Floating arguments are promoted together: to float32 or float64
// for the kernels, and `result_dtype` (which may be a 16-bit type) for what the user gets.
class Arguments {
 public:
  explicit Arguments(const char* op) : op_(op) { operands_.reserve(8); }

  // Each returns the argument's position. An optional argument may be None; its view has no data.
  size_t floating(const char* name, py::handle value);
  size_t optional_floating(const char* name, py::handle value);
  // An integer array, converted to int64 where it is another integer type.
  size_t integer(const char* name, py::handle value);
  // Class indices or class probabilities.
  size_t integer_or_floating(const char* name, py::handle value);

  // Settles the common dtype of the floating arguments and converts those that differ.
  // To be called once, after the last floating argument.
  DType promote();

  const Array& operator[](size_t i) const { return operands_[i].view; }
  bool given(size_t i) const { return operands_[i].holder.ptr() != nullptr; }
  const Array* optional(size_t i) const { return given(i) ? &operands_[i].view : nullptr; }
  // Replaces a view whose strides the kernel cannot read by a C-contiguous copy.
  void make_contiguous(size_t i);
  void make_layout(size_t i, Layout layout);
  // Replaces a view whose memory order is not the dense one of `like` by a copy that has it.
  void make_like(size_t i, const Array& like);
  // Replaces a view of another shape by one that repeats it along the axes NumPy broadcasts.
  void make_broadcast(size_t i, const int64_t* shape, int ndim);
  // Makes a C-contiguous copy of a view whose rows (last axis) are not dense.
  void make_rows_dense(size_t i);

  const char* op() const { return op_; }
  DType dtype() const { return dtype_; }
  const py::dtype& result_dtype() const { return result_dtype_; }
  bool rounds_result() const { return rounds_; }  // the result is narrower than the computation
  // Refuses an output that shares memory with an argument.
  void check_no_overlap(py::handle out) const;

 private:
  void make_strides(size_t i, const int64_t* strides);
  struct Operand {
    const char* name;
    py::object original;  // what the caller gave
    py::object holder;    // what the view looks into: the same, or a converted copy
    Array view;
    bool is_floating;
  };
  PinnedThreads threads_;
  const char* op_;
  std::vector<Operand> operands_;
  DType dtype_ = DType::float32;
  py::dtype result_dtype_;
  bool rounds_ = false;
};

// A fresh array of recycled memory in the order of `layout`, or in the memory order of `like`.
py::object empty(DType dtype, const int64_t* shape, int ndim, Layout layout = Layout::contiguous);
py::object empty_like(const Array& like, DType dtype);
// The view of an array that `empty` made or that is known to be native and aligned.
Array view_of(py::handle array);

// True for the dtypes that a floating argument may have; true for this machine's byte order.
bool is_floating(const py::dtype& dtype);
bool is_native(const py::dtype& dtype);
// True if the elements lie next to each other in some order of the axes, all strides positive.
bool is_dense(const Array& array);
bool is_contiguous(const Array& array);
// True for dense N, spatial..., C memory of at least three dimensions (ambiguous shapes, where a
// C-ordered array has the same strides, count as contiguous).
bool is_channels_last(const Array& array);

// The one output of an op: fresh, or `out` checked. The kernel writes to `view`, which is dense in
// the wished order; finish() rounds or copies where `out` or a 16-bit result asks for it.
class Output {
 public:
  Output(const Arguments& arguments, py::handle out, const int64_t* shape, int ndim,
         Layout layout = Layout::contiguous);
  Output(const Arguments& arguments, py::handle out, const Array& like);
  const Array& view() const { return view_; }
  py::object finish();

 private:
  void open(const Arguments& arguments, py::handle out, const int64_t* shape, const int64_t* strides, int ndim);
  py::object out_;     // the caller's array, if there is one
  py::object memory_;  // what the kernel writes
  py::dtype dtype_;
  bool rounds_ = false;
  Array view_;
};

// Several results of one kernel (states, gradients): rounds each as the arguments' result dtype asks.
py::object rounded(const Arguments& arguments, py::object result);

// Runs a kernel without the GIL.
template <class F>
void without_gil(const F& f) {
  py::gil_scoped_release release;
  f();
}

}  // namespace arraynn::python
