// The one way to refuse an argument: "op: argument, what came, what was expected".
#pragma once
#include <stdexcept>
#include <string>

#include "core/array.h"

namespace arraynn {

struct ValueError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
struct TypeError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

[[noreturn]] void value_error(const char* format, ...) __attribute__((format(printf, 1, 2)));
[[noreturn]] void type_error(const char* format, ...) __attribute__((format(printf, 1, 2)));

// "(8, 3, 3, 3)", as NumPy prints it.
std::string shape_text(const int64_t* shape, int ndim);
std::string shape_text(const Array& array);
const char* dtype_name(DType dtype);

int64_t element_count(const Array& array);
bool same_shape(const Array& a, const Array& b);
void check_ndim(const char* op, const char* name, const Array& array, int ndim);
void check_shape(const char* op, const char* name, const Array& array, const int64_t* expected, int ndim);
void check_shape(const char* op, const char* name, const Array& array, std::initializer_list<int64_t> expected);

}  // namespace arraynn
