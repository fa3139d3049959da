#include "core/errors.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <initializer_list>

namespace arraynn {

namespace {

std::string vformat(const char* format, va_list arguments) {
  va_list again;
  va_copy(again, arguments);
  std::string text(static_cast<size_t>(std::vsnprintf(nullptr, 0, format, again)) + 1, '\0');
  va_end(again);
  std::vsnprintf(text.data(), text.size(), format, arguments);
  text.pop_back();
  return text;
}

}  // namespace

void value_error(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::string text = vformat(format, arguments);
  va_end(arguments);
  throw ValueError(text);
}

void type_error(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::string text = vformat(format, arguments);
  va_end(arguments);
  throw TypeError(text);
}

std::string shape_text(const int64_t* shape, int ndim) {
  std::string text = "(";
  for (int i = 0; i < ndim; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (ndim == 1 ? ",)" : ")");
}

std::string shape_text(const Array& array) { return shape_text(array.shape, array.ndim); }

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::float32: return "float32";
    case DType::float64: return "float64";
    case DType::int64: return "int64";
    case DType::float16: return "float16";
    case DType::bfloat16: return "bfloat16";
    case DType::int32: return "int32";
    case DType::int16: return "int16";
    case DType::int8: return "int8";
    case DType::uint64: return "uint64";
    case DType::uint32: return "uint32";
    case DType::uint16: return "uint16";
    default: return "uint8";
  }
}

int64_t item_size(DType dtype) {
  switch (dtype) {
    case DType::float64:
    case DType::int64:
    case DType::uint64: return 8;
    case DType::float32:
    case DType::int32:
    case DType::uint32: return 4;
    case DType::int8:
    case DType::uint8: return 1;
    default: return 2;
  }
}

int64_t element_count(const Array& array) {
  int64_t count = 1;
  for (int i = 0; i < array.ndim; ++i) count *= array.shape[i];
  return count;
}

bool same_shape(const Array& a, const Array& b) {
  if (a.ndim != b.ndim) return false;
  for (int i = 0; i < a.ndim; ++i)
    if (a.shape[i] != b.shape[i]) return false;
  return true;
}

void check_ndim(const char* op, const char* name, const Array& array, int ndim) {
  if (array.ndim != ndim)
    value_error("%s: %s has shape %s, expected %d dimensions", op, name, shape_text(array).c_str(), ndim);
}

void check_shape(const char* op, const char* name, const Array& array, const int64_t* expected, int ndim) {
  if (array.ndim != ndim || !std::equal(expected, expected + ndim, array.shape))
    value_error("%s: %s has shape %s, expected %s", op, name, shape_text(array).c_str(),
                shape_text(expected, ndim).c_str());
}

void check_shape(const char* op, const char* name, const Array& array, std::initializer_list<int64_t> expected) {
  check_shape(op, name, array, expected.begin(), static_cast<int>(expected.size()));
}

}  // namespace arraynn
