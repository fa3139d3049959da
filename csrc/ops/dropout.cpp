#include "ops/dropout.h"

#include "core/isa.h"
#include "cpu/table.h"

namespace arraynn {

void dropout_forward(const DropoutParams& p, const void* x, void* y) { cpu().dropout_forward(p, x, y); }

}  // namespace arraynn
