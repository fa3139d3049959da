// The extension module: every family's bindings, and what the Python side asks about the machine.
#include "array.h"
#include "core/backend.h"
#include "core/halves.h"
#include "core/isa.h"
#include "core/roof.h"
#include "core/threads.h"

namespace arraynn::python {

void bind_activation(py::module_& m);
void bind_attention(py::module_& m);
void bind_channel_norm(py::module_& m);
void bind_conv(py::module_& m);
void bind_cross_entropy(py::module_& m);
void bind_dropout(py::module_& m);
void bind_embedding(py::module_& m);
void bind_linear(py::module_& m);
void bind_loss(py::module_& m);
void bind_optimizer(py::module_& m);
void bind_pool(py::module_& m);
void bind_rnn(py::module_& m);
void bind_row_norm(py::module_& m);

PYBIND11_MODULE(_core, m) {
  py::register_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const TypeError& e) {
      PyErr_SetString(PyExc_TypeError, e.what());
    } catch (const ValueError& e) {
      PyErr_SetString(PyExc_ValueError, e.what());
    }
  });
  current_isa();  // a wrong ARRAYNN_ISA fails the import, not the first call

  m.def("num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads);
  m.def("available_cpus", &available_cpus);
  m.def("isa", [] { return std::string(current_isa().name); });
  m.def("set_isa", &set_isa);
  m.def("isas", [] {
    py::list list;
    for (const Isa& isa : compiled_isas()) list.append(py::make_tuple(isa.name, isa.supported));
    return list;
  });
  m.def("cuda_status", [] {
    CudaStatus status = cuda_backend() ? cuda_backend()->status() : CudaStatus{false, "built without a CUDA compiler"};
    return py::make_tuple(status.available, status.detail);
  });
  m.def("load_cuda_backend", &load_cuda_backend);
  m.def("allow_tf32", [] { return cuda_options().tf32.load(); });
  m.def("set_allow_tf32", [](bool allow) { cuda_options().tf32.store(allow); });
  m.def("cuda_checks", [] { return cuda_options().checks.load(); });
  m.def("set_cuda_checks", [](bool check) { cuda_options().checks.store(check); });
  m.def("as_dtype", &as_dtype);
  m.def("multiplies_bfloat16", &multiplies_bfloat16);
  m.def("idle_bytes", &idle_bytes);
  m.def("trim", &trim);
  m.def("measure_fma_peak", [](const std::string& dtype, double seconds) {
    py::gil_scoped_release release;
    return measure_fma_peak(dtype == "float64" ? DType::float64 : DType::float32, seconds);
  });
  m.def("measure_copy_bandwidth", [](size_t bytes, double seconds) {
    py::gil_scoped_release release;
    return measure_copy_bandwidth(bytes, seconds);
  });

  bind_activation(m);
  bind_attention(m);
  bind_channel_norm(m);
  bind_conv(m);
  bind_cross_entropy(m);
  bind_dropout(m);
  bind_embedding(m);
  bind_linear(m);
  bind_loss(m);
  bind_optimizer(m);
  bind_pool(m);
  bind_rnn(m);
  bind_row_norm(m);
}

}  // namespace arraynn::python
