// What a loss does with its terms.
#pragma once

namespace arraynn {

enum class Reduction : int { none, mean, sum };

}  // namespace arraynn
