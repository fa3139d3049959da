// Optimizer steps: memory speed, whatever the arithmetic, since every array is read and written once.
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/simd/vec.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

// f(chunk, zero) for the chunks of a task, zero of the chunk's type.
template <class F>
void for_chunks(const TensorChunk* chunks, const int64_t* first, int64_t task, const F& f) {
  for (int64_t i = first[task]; i < first[task + 1]; ++i)
    dispatch_float(chunks[i].dtype, [&](auto zero) { f(chunks[i], zero); });
}

// The gradient with those of decay / 2 p^2 and l1 |p|.
template <class T>
ARRAYNN_INLINE vec<T> penalized(vec<T> grad, vec<T> param, T decay, T l1) {
  if (decay != T(0)) grad = fma(broadcast<T>(decay), param, grad);
  if (l1 != T(0)) grad += param > T(0) ? broadcast<T>(l1) : param < T(0) ? broadcast<T>(-l1) : vec<T>{};
  return grad;
}

template <bool KeepsMax, class T>
void adam_chunk(const AdamParams& a, const TensorChunk& chunk) {
  T *p = static_cast<T*>(chunk.data[0]), *m = static_cast<T*>(chunk.data[2]), *v = static_cast<T*>(chunk.data[3]);
  const T* g = static_cast<const T*>(chunk.data[1]);
  T* largest = static_cast<T*>(chunk.data[4]);
  T beta1 = static_cast<T>(a.beta1), beta2 = static_cast<T>(a.beta2);
  T rest1 = static_cast<T>(1 - a.beta1), rest2 = static_cast<T>(1 - a.beta2);
  T size = static_cast<T>(a.size), root = static_cast<T>(a.root), eps = static_cast<T>(a.eps);
  T scale = static_cast<T>(a.grad_scale), decay = static_cast<T>(a.decay), shrink = static_cast<T>(a.shrink);
  T l1 = static_cast<T>(a.l1);
  for_vectors<T>(chunk.count, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    vec<T> param = load_count(p + i, count), grad = load_count(g + i, count);
    if (scale != T(1)) grad /= scale;
    grad = penalized<T>(grad, param, decay, l1);
    vec<T> mean = fma(broadcast<T>(beta1), load_count(m + i, count), grad * rest1);
    vec<T> square = fma(broadcast<T>(beta2), load_count(v + i, count), grad * grad * rest2);
    store_count(m + i, mean, count);
    store_count(v + i, square, count);
    if constexpr (KeepsMax) {
      square = maximum<T>(load_count(largest + i, count), square);
      store_count(largest + i, square, count);
    }
    store_count(p + i, param * shrink - mean * size / (sqrt(square) / root + eps), count);
  });
}

template <class T>
void sgd_chunk(const SgdParams& s, const TensorChunk& chunk) {
  T *p = static_cast<T*>(chunk.data[0]), *b = s.momentum != 0 ? static_cast<T*>(chunk.data[2]) : nullptr;
  const T* g = static_cast<const T*>(chunk.data[1]);
  T lr = static_cast<T>(s.lr), momentum = static_cast<T>(s.momentum), rest = static_cast<T>(1 - s.dampening);
  T decay = static_cast<T>(s.weight_decay), l1 = static_cast<T>(s.l1);
  for_vectors<T>(chunk.count, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    vec<T> param = load_count(p + i, count), grad = penalized<T>(load_count(g + i, count), param, decay, l1);
    if (b) {
      vec<T> buffer = fma(broadcast<T>(momentum), load_count(b + i, count), grad * rest);
      store_count(b + i, buffer, count);
      grad = s.nesterov ? fma(broadcast<T>(momentum), buffer, grad) : buffer;
    }
    store_count(p + i, param - grad * lr, count);
  });
}

template <class T>
void rmsprop_chunk(const RmspropParams& r, const TensorChunk& chunk) {
  T *p = static_cast<T*>(chunk.data[0]), *s = static_cast<T*>(chunk.data[2]), *a = static_cast<T*>(chunk.data[4]);
  T* b = r.momentum != 0 ? static_cast<T*>(chunk.data[3]) : nullptr;
  const T* g = static_cast<const T*>(chunk.data[1]);
  T lr = static_cast<T>(r.lr), alpha = static_cast<T>(r.alpha), rest = static_cast<T>(1 - r.alpha);
  T eps = static_cast<T>(r.eps), momentum = static_cast<T>(r.momentum);
  T decay = static_cast<T>(r.weight_decay), l1 = static_cast<T>(r.l1);
  for_vectors<T>(chunk.count, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    vec<T> param = load_count(p + i, count), grad = penalized<T>(load_count(g + i, count), param, decay, l1);
    vec<T> square = fma(broadcast<T>(alpha), load_count(s + i, count), grad * grad * rest), variance = square;
    store_count(s + i, square, count);
    if (a) {
      vec<T> mean = fma(broadcast<T>(alpha), load_count(a + i, count), grad * rest);
      store_count(a + i, mean, count);
      variance = maximum<T>(square - mean * mean, vec<T>{});  // rounding alone makes it negative
    }
    vec<T> step = grad / (sqrt(variance) + eps);
    if (b) {
      step = fma(broadcast<T>(momentum), load_count(b + i, count), step);
      store_count(b + i, step, count);
    }
    store_count(p + i, param - step * lr, count);
  });
}

template <class T>
void adagrad_chunk(const AdagradParams& a, const TensorChunk& chunk) {
  T *p = static_cast<T*>(chunk.data[0]), *s = static_cast<T*>(chunk.data[2]);
  const T* g = static_cast<const T*>(chunk.data[1]);
  T lr = static_cast<T>(a.lr), eps = static_cast<T>(a.eps);
  T decay = static_cast<T>(a.weight_decay), l1 = static_cast<T>(a.l1);
  for_vectors<T>(chunk.count, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    vec<T> param = load_count(p + i, count), grad = penalized<T>(load_count(g + i, count), param, decay, l1);
    vec<T> sum = fma(grad, grad, load_count(s + i, count));
    store_count(s + i, sum, count);
    store_count(p + i, param - grad * lr / (sqrt(sum) + eps), count);
  });
}

// f(gradient) in place of every gradient.
template <class F>
void for_gradients(const TensorChunk* chunks, const int64_t* first, int64_t tasks, const F& f) {
  parallel_for(tasks, [&](int64_t task, int) {
    for_chunks(chunks, first, task, [&](const TensorChunk& chunk, auto zero) {
      using T = decltype(zero);
      T* g = static_cast<T*>(chunk.data[0]);
      for_vectors<T>(chunk.count, [&](int64_t i, auto count)
                                      ARRAYNN_LAMBDA { store_count(g + i, f(load_count(g + i, count), zero), count); });
    });
  });
}

// In double: squares of floats are then exact, and neither overflow nor vanish.
template <class T>
double chunk_squares(const TensorChunk& chunk) {
  const T* g = static_cast<const T*>(chunk.data[0]);
  constexpr int ways = 4 * sizeof(double) / sizeof(T);
  vec<double> total[ways] = {};
  int64_t i = 0;
  for (; i + 4 * lanes<T> <= chunk.count; i += 4 * lanes<T>) {
    static_for<4>([&](auto j) ARRAYNN_LAMBDA {
      int k = j * (ways / 4);
      as_doubles(load(g + i + j * lanes<T>),
                 [&](vec<double> d) ARRAYNN_LAMBDA { total[k] = fma(d, d, total[k]), ++k; });
    });
  }
  for_vectors<T>(chunk.count - i, [&](int64_t k, auto count) ARRAYNN_LAMBDA {
    as_doubles(load_count(g + i + k, count), [&](vec<double> d) ARRAYNN_LAMBDA { total[0] = fma(d, d, total[0]); });
  });
  static_for<ways - 1>([&](auto j) ARRAYNN_LAMBDA { total[0] += total[j + 1]; });
  return sum<double>(total[0]);
}

}  // namespace

void adam_step(const AdamParams& p, const TensorChunk* chunks, const int64_t* first, int64_t tasks) {
  parallel_for(tasks, [&](int64_t task, int) {
    for_chunks(chunks, first, task, [&](const TensorChunk& chunk, auto zero) {
      using T = decltype(zero);
      chunk.data[4] ? adam_chunk<true, T>(p, chunk) : adam_chunk<false, T>(p, chunk);
    });
  });
}

void sgd_step(const SgdParams& p, const TensorChunk* chunks, const int64_t* first, int64_t tasks) {
  parallel_for(tasks, [&](int64_t task, int) {
    for_chunks(chunks, first, task, [&](const TensorChunk& chunk, auto zero) { sgd_chunk<decltype(zero)>(p, chunk); });
  });
}

void rmsprop_step(const RmspropParams& p, const TensorChunk* chunks, const int64_t* first, int64_t tasks) {
  parallel_for(tasks, [&](int64_t task, int) {
    for_chunks(chunks, first, task,
               [&](const TensorChunk& chunk, auto zero) { rmsprop_chunk<decltype(zero)>(p, chunk); });
  });
}

void adagrad_step(const AdagradParams& p, const TensorChunk* chunks, const int64_t* first, int64_t tasks) {
  parallel_for(tasks, [&](int64_t task, int) {
    for_chunks(chunks, first, task,
               [&](const TensorChunk& chunk, auto zero) { adagrad_chunk<decltype(zero)>(p, chunk); });
  });
}

double sum_of_squares(const Place&, const TensorChunk* chunks, const int64_t* first, int64_t tasks, void*) {
  return parallel_sum(tasks, 1, [&](int64_t begin, int64_t end) {
    double total = 0;
    for (int64_t task = begin; task < end; ++task)
      for_chunks(chunks, first, task,
                 [&](const TensorChunk& chunk, auto zero) { total += chunk_squares<decltype(zero)>(chunk); });
    return total;
  });
}

void scale_chunks(const Place&, double factor, const TensorChunk* chunks, const int64_t* first, int64_t tasks) {
  for_gradients(chunks, first, tasks,
                [=](auto g, auto zero) ARRAYNN_LAMBDA { return g * static_cast<decltype(zero)>(factor); });
}

void clamp_chunks(const Place&, double bound, const TensorChunk* chunks, const int64_t* first, int64_t tasks) {
  for_gradients(chunks, first, tasks, [=](auto g, auto zero) ARRAYNN_LAMBDA {
    using T = decltype(zero);
    T most = static_cast<T>(bound);
    return g > most ? broadcast<T>(most) : g < -most ? broadcast<T>(-most) : g;  // NaN is neither, and stays
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
