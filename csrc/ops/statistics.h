// What normalization keeps of the numbers that it was taken over.
#pragma once

namespace arraynn {

// In double for every dtype: what is left of x - mean where the mean is large depends on it.
struct Statistics {
  double mean, rstd;  // rstd = 1 / sqrt(variance + eps)
};

}  // namespace arraynn
