// nll_loss: picks the labels' elements. Its gradient is zeros, written in order, and one number for each label.
#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int64_t grain = 16 << 10;

template <class T>
struct Call {
  const CrossEntropyParams& p;
  const int64_t* labels;
  const T *weight, *cotangent;  // null: ones

  bool used(int64_t at) const { return labels[at] != p.ignore_index; }
  T weight_of(int64_t at) const { return weight ? weight[labels[at]] : T(1); }
  // The place of label `at` = outer * inner + i among the elements.
  int64_t element(int64_t at) const { return (at / p.inner * p.classes + labels[at]) * p.inner + at % p.inner; }
  T slope(int64_t at) const {
    double dl = cotangent ? static_cast<double>(cotangent[p.reduction == Reduction::none ? at : 0]) : 1;
    return -weight_of(at) * static_cast<T>(p.reduction == Reduction::mean ? dl / p.divisor : dl);
  }
};

template <class T>
void zero(T* x, int64_t n) {
  __builtin_memset(x, 0, static_cast<size_t>(n) * sizeof(T));
}

// In blocks of labels, each with all its elements: rows, or columns of classes.
template <class T>
void gradient(const Call<T>& c, T* dx) {
  const CrossEntropyParams& p = c.p;
  int64_t size = grain / p.classes + 1, inner = p.inner == 1 ? p.outer : p.inner, images = p.inner == 1 ? 1 : p.outer;
  int64_t blocks = (inner + size - 1) / size;
  parallel_chunks(images * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      int64_t first = k % blocks * size, count = inner - first < size ? inner - first : size;
      if (p.inner == 1)
        zero(dx + first * p.classes, count * p.classes);
      else
        for (int64_t i = 0; i < p.classes; ++i) zero(dx + (k / blocks * p.classes + i) * inner + first, count);
      int64_t label = k / blocks * inner + first;
      for (int64_t at = label; at < label + count; ++at)
        if (c.used(at)) dx[c.element(at)] = c.slope(at);
    }
  });
}

}  // namespace

void nll_forward(const CrossEntropyParams& p, const void* input, const void* target, const void* weight, void* output,
                 void* d_input, void*) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    Call<T> c{p, static_cast<const int64_t*>(target), static_cast<const T*>(weight), nullptr};
    const T* x = static_cast<const T*>(input);
    T* y = static_cast<T*>(output);
    auto loss = [&](int64_t at) { return c.used(at) ? -c.weight_of(at) * x[c.element(at)] : T(0); };
    if (p.reduction == Reduction::none) {
      parallel_chunks(p.outer * p.inner, grain, [&](int64_t begin, int64_t end) {
        for (int64_t at = begin; at < end; ++at) y[at] = loss(at);
      });
    } else {
      double total = parallel_sum(p.outer * p.inner, grain, [&](int64_t begin, int64_t end) {
        double sum = 0;
        for (int64_t at = begin; at < end; ++at) sum += static_cast<double>(loss(at));
        return sum;
      });
      *y = static_cast<T>(p.reduction == Reduction::mean ? total / p.divisor : total);
    }
    if (d_input) gradient(c, static_cast<T*>(d_input));
  });
}

void nll_backward(const CrossEntropyParams& p, const void* target, const void* weight, const void* cotangent,
                  void* d_input, bool unit, void*) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* dl = static_cast<const T*>(cotangent);
    if (unit && *dl == T(1)) return;
    gradient(Call<T>{p, static_cast<const int64_t*>(target), static_cast<const T*>(weight), dl},
             static_cast<T*>(d_input));
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
