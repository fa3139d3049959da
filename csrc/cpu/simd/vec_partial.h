// Part-vector loads and stores for instruction sets without masks: lane by lane.
#pragma once

namespace arraynn::cpu::ARRAYNN_ISA {
namespace {

// Lanes lo <= i < hi of p[0..lanes); the others are zero and their memory is not touched.
template <class T>
ARRAYNN_INLINE vec<T> load_range(const T* p, int lo, int hi) {
  vec<T> v{};
  for (int i = lo; i < hi; ++i) v[i] = p[i];
  return v;
}
template <class T>
ARRAYNN_INLINE vec<T> load_first(const T* p, int n) {
  return load_range(p, 0, n);
}
template <class T>
ARRAYNN_INLINE void store_first(T* p, vec<T> v, int n) {
  for (int i = 0; i < n; ++i) p[i] = v[i];
}

}  // namespace
}  // namespace arraynn::cpu::ARRAYNN_ISA
