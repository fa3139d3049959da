// Philox4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011): the generator of every dropout
// mask.
#pragma once
#include "device/types.h"

namespace arraynn::cuda {

struct Words {
  uint32_t of[4];

  __device__ __forceinline__ uint32_t get(uint64_t which) const {
    uint32_t low = which & 1 ? of[1] : of[0], high = which & 1 ? of[3] : of[2];
    return which & 2 ? high : low;
  }
};

// Philox4x32-10 with the counter in the two low words.
__device__ __forceinline__ Words philox(uint64_t counter, uint64_t key) {
  auto c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32);
  uint32_t c2 = 0, c3 = 0;
  auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    uint64_t a = static_cast<uint64_t>(0xD2511F53u) * c0, b = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(b);
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(a);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

}  // namespace arraynn::cuda
