// What the environment asks of the kernels.
#pragma once

namespace arraynn {

// Whether convolutions may use Winograd's algorithm: not with ARRAYNN_WINOGRAD=0.
bool winograd_allowed();

}  // namespace arraynn
