// Two sums at a time of what a loop over vectors gives.
#pragma once
#include "cpu/simd/vec.h"

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

struct Sums {
  double first = 0, second = 0;

  void add(const Sums& s) {
    first += s.first;
    second += s.second;
  }
};

// The sums over [0, n) of two vectors that terms(i, count, first, second) gives; behind the end they do not count.
// Blocks are summed in T, and their sums in double.
template <class T, class F>
Sums sums_of(int64_t n, const F& terms) {
  constexpr int64_t block = 2048;
  constexpr int ways = 4;
  Sums total;
  for (int64_t begin = 0; begin < n; begin += block) {
    vec<T> first[ways] = {}, second[ways] = {};
    for_vectors_in_turns<T, ways>(n - begin < block ? n - begin : block,
                                  [&](int64_t i, auto way, auto count) ARRAYNN_LAMBDA {
                                    vec<T> a, b;
                                    terms(begin + i, count, a, b);
                                    first[way] += keep_count<T>(a, count, vec<T>{});
                                    second[way] += keep_count<T>(b, count, vec<T>{});
                                  });
    total.add({static_cast<double>(sum<T>((first[0] + first[1]) + (first[2] + first[3]))),
               static_cast<double>(sum<T>((second[0] + second[1]) + (second[2] + second[3])))});
  }
  return total;
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
