// The labels of a call: whether they are classes, and what they count in a mean.
#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int64_t grain = 16 << 10;

}  // namespace

LabelSummary cross_entropy_labels(const CrossEntropyParams& p, const void* labels, const void* weight, void*) {
  const int64_t* label = static_cast<const int64_t*>(labels);
  int64_t count = p.outer * p.inner;
  auto classes = static_cast<uint64_t>(p.classes);
  double bad = parallel_sum(count, grain, [&](int64_t begin, int64_t end) {
    int64_t found = 0;
    for (int64_t i = begin; i < end; ++i)
      found += static_cast<uint64_t>(label[i]) >= classes && label[i] != p.ignore_index;
    return static_cast<double>(found);
  });
  if (bad > 0)
    for (int64_t i = 0; i < count; ++i)
      if (static_cast<uint64_t>(label[i]) >= classes && label[i] != p.ignore_index) return {label[i], true, 0};
  LabelSummary summary{0, false, 0};
  if (p.reduction != Reduction::mean) return summary;
  dispatch_float(p.dtype, [&](auto zero) {
    const auto* w = static_cast<const decltype(zero)*>(weight);
    summary.weight = parallel_sum(count, grain, [&](int64_t begin, int64_t end) {
      int64_t used = 0;
      for (int64_t i = begin; i < end; ++i) used += label[i] != p.ignore_index;
      double sum = 0;
      for (int64_t i = begin; w && i < end; ++i)
        if (label[i] != p.ignore_index) sum += static_cast<double>(w[label[i]]);
      return w ? sum : static_cast<double>(used);
    });
  });
  return summary;
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
