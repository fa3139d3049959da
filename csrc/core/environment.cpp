#include "core/environment.h"

#include <cstdlib>
#include <string>

#include "core/errors.h"

namespace arraynn {

bool winograd_allowed() {
  static const bool allowed = [] {
    const char* found = std::getenv("ARRAYNN_WINOGRAD");
    std::string said = found ? found : "";
    if (said == "" || said == "1") return true;
    if (said == "0") return false;
    value_error("ARRAYNN_WINOGRAD: got '%s', expected 0 or 1", said.c_str());
  }();
  return allowed;
}

}  // namespace arraynn
