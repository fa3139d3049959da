#include "array.h"

namespace arraynn::python {

void bind_dropout(py::module_& m) { (void)m; }

}  // namespace arraynn::python
