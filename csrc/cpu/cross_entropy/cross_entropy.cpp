// Softmax-cross-entropy. A row of adjacent logits is read once, block by block: each block's maximum
// and its sum of exponentials while it lies in L1, the sum so far rescaled where the maximum grows
// (Milakov and Gimelshein, Online normalizer calculation for softmax, 2018). Labels with the classes
// a stride apart, and rows of few classes, are vectorised over the labels.
//
// The maximum passes over NaN; the sum does not, so that NaN reaches the loss.
#include <cmath>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/simd/math.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int64_t block = 1024;         // logits of a row per step: they stay in L1
constexpr int64_t grain = 16 << 10;     // logits per task
constexpr int64_t long_row = 64 << 10;  // from here on a few rows are cut into chunks
constexpr int64_t few_rows = 16;
constexpr int64_t few_classes = 24;  // up to here rows are vectorised over the labels

template <class T>
struct Call {
  const CrossEntropyParams& p;
  const T* x;
  const int64_t* labels;  // one of these two
  const T* probabilities;
  const T* weight;     // null: ones
  const T* cotangent;  // null: one
  T* losses;           // null: not wanted one by one
  T* dx;               // null: not wanted

  T spread() const { return static_cast<T>(p.smoothing / static_cast<double>(p.classes)); }
  T kept() const { return static_cast<T>(1 - p.smoothing); }
  T weight_of(int64_t label) const { return weight ? weight[label] : T(1); }
  // What the loss of label `at` counts in the gradient.
  T scale(int64_t at) const {
    double dl = cotangent ? static_cast<double>(cotangent[p.reduction == Reduction::none ? at : 0]) : 1.0;
    return static_cast<T>(p.reduction == Reduction::mean ? dl / p.divisor : dl);
  }
};

template <class T>
Call<T> call_of(const CrossEntropyParams& p, const void* input, const void* target, const void* weight) {
  Call<T> c{p,      static_cast<const T*>(input), nullptr, nullptr, static_cast<const T*>(weight), nullptr, nullptr,
            nullptr};
  if (p.probabilities)
    c.probabilities = static_cast<const T*>(target);
  else
    c.labels = static_cast<const int64_t*>(target);
  return c;
}

// ---- rows of adjacent logits --------------------------------------------------------------------

template <class T>
struct Softmax {
  T max = -INFINITY;
  double sum = 0;       // of exp(x - max)
  int64_t settled = 0;  // the maximum did not change behind this logit

  void join(T other_max, double other_sum, int64_t begin) {
    if (other_max > max) {
      if (sum != 0) sum *= std::exp(static_cast<double>(max) - static_cast<double>(other_max));
      max = other_max;
      settled = begin;
    } else if (other_max < max) {
      other_sum *= other_sum != 0 ? std::exp(static_cast<double>(other_max) - static_cast<double>(max)) : 1.0;
    }
    sum += other_sum;
  }
};

template <class T>
T block_max(const T* x, int64_t n) {
  vec<T> m[4];
  static_for<4>([&](auto j) ARRAYNN_LAMBDA { m[j] = broadcast<T>(-INFINITY); });
  int64_t i = 0;
  for (; i + 4 * lanes<T> <= n; i += 4 * lanes<T>)
    static_for<4>([&](auto j) ARRAYNN_LAMBDA { m[j] = max(load(x + i + j * lanes<T>), m[j]); });
  for_vectors<T>(n - i, [&](int64_t k, auto count) ARRAYNN_LAMBDA {
    m[0] = max(keep_count<T>(load_count(x + i + k, count), count, m[0]), m[0]);
  });
  return max_lane<T>(max(max(m[0], m[1]), max(m[2], m[3])));
}

// The sum of exp(x - m), which are stored in e if it is not null.
template <class T>
T exp_sum(const T* x, int64_t n, T m, T* e) {
  vec<T> total{};
  for_vectors<T>(n, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
    vec<T> v = exp_nonpositive<T>(load_count(x + i, count) - m);
    if (e) store_count(e + i, v, count);
    total += keep_count<T>(v, count, vec<T>{});
  });
  return sum<T>(total);
}

// Maximum and sum of n logits. Where e is not null, it holds exp(x - max) from `settled` on.
template <class T>
Softmax<T> softmax_of(const T* x, int64_t n, T* e) {
  Softmax<T> s;
  for (int64_t i = 0; i < n; i += block) {
    int64_t size = n - i < block ? n - i : block;
    T top = block_max(x + i, size);
    if (top > s.max) s.join(top, 0, i);
    // All -inf so far: any finite number gives the zeros that are right, and keeps NaN.
    s.sum += static_cast<double>(exp_sum(x + i, size, s.max == -INFINITY ? T(0) : s.max, e ? e + i : nullptr));
  }
  return s;
}

// q of the logits [i, i + count) of a row, but for its label's own share.
template <class T, class Count>
ARRAYNN_INLINE vec<T> share(const Call<T>& c, const T* t, int64_t i, Count count, T kept, T spread) {
  vec<T> q = broadcast<T>(spread);
  if (t) q = fma(broadcast<T>(kept), load_count(t + i, count), q);
  return c.weight ? q * load_count(c.weight + i, count) : q;
}

struct Shares {
  double total = 0;  // sum q
  double dot = 0;    // sum q (x - max)
};

// Over the logits [begin, end) of a row.
template <class T>
Shares shares_of(const Call<T>& c, const T* x, const T* t, int64_t begin, int64_t end, T m) {
  Shares s;
  T kept = c.kept(), spread = c.spread();
  for (int64_t b = begin; b < end; b += block) {
    vec<T> total{}, dot{};
    for_vectors<T>(end - b < block ? end - b : block, [&](int64_t i, auto count) ARRAYNN_LAMBDA {
      vec<T> q = share(c, t, b + i, count, kept, spread);
      total += keep_count<T>(q, count, vec<T>{});
      dot += keep_count<T>(q * (load_count(x + b + i, count) - m), count, vec<T>{});
    });
    s.total += static_cast<double>(sum<T>(total));
    s.dot += static_cast<double>(sum<T>(dot));
  }
  return s;
}

// dx = exp(x - m) factor - scale q over [begin, end), but for the label's own share. From `settled`
// on dx holds the exponentials already.
template <class T>
void row_gradient(const Call<T>& c, const T* x, const T* t, T* dx, int64_t begin, int64_t end, int64_t settled, T m,
                  T factor, T scale) {
  bool shared = t || c.p.smoothing != 0;
  T kept = c.kept(), spread = c.spread();
  auto over = [&](int64_t from, int64_t to, auto exponential) ARRAYNN_LAMBDA {
    for_vectors<T>(to - from, [&](int64_t k, auto count) ARRAYNN_LAMBDA {
      int64_t i = from + k;
      vec<T> d = exponential(i, count) * factor;
      if (shared) d -= share(c, t, i, count, kept, spread) * scale;
      store_count(dx + i, d, count);
    });
  };
  int64_t middle = settled < begin ? begin : settled < end ? settled : end;
  over(begin, middle,
       [&](int64_t i, auto count) ARRAYNN_LAMBDA { return exp_nonpositive<T>(load_count(x + i, count) - m); });
  over(middle, end, [&](int64_t i, auto count) ARRAYNN_LAMBDA { return load_count(dx + i, count); });
}

// The row of label `at`: returns its loss and writes its gradient. With `split`, its chunks are tasks.
template <class T>
T row(const Call<T>& c, int64_t at, bool split) {
  const CrossEntropyParams& p = c.p;
  int64_t n = p.classes, label = c.labels ? c.labels[at] : -1;
  const T* x = c.x + at * n;
  const T* t = c.probabilities ? c.probabilities + at * n : nullptr;
  T* dx = c.dx ? c.dx + at * n : nullptr;
  if (c.labels && label == p.ignore_index) {
    if (dx) for_vectors<T>(n, [&](int64_t i, auto count) ARRAYNN_LAMBDA { store_count(dx + i, vec<T>{}, count); });
    return T(0);
  }
  int64_t cut = split ? chunk_size(n, grain) : n;
  Softmax<T> s;
  Shares shares;
  if (split) {
    Softmax<T> parts[max_chunks];
    parallel_chunks(n, cut, [&](int64_t begin, int64_t end) {
      parts[begin / cut] = softmax_of<T>(x + begin, end - begin, nullptr);
    });
    for (int64_t begin = 0; begin < n; begin += cut) s.join(parts[begin / cut].max, parts[begin / cut].sum, begin);
    s.settled = n;  // no exponentials were kept
  } else {
    s = softmax_of(x, n, dx);
  }
  if (t || p.smoothing != 0) {
    Shares parts[max_chunks];
    auto body = [&](int64_t begin, int64_t end) { parts[begin / cut] = shares_of(c, x, t, begin, end, s.max); };
    if (split)
      parallel_chunks(n, cut, body);
    else
      body(0, n);
    for (int64_t begin = 0; begin < n; begin += cut) {
      shares.total += parts[begin / cut].total;
      shares.dot += parts[begin / cut].dot;
    }
  }
  double log_sum = std::log(s.sum), hit = 0;
  double loss = shares.total * log_sum - shares.dot;
  if (!t) {
    hit = static_cast<double>(c.kept() * c.weight_of(label));
    double own = hit * (log_sum - static_cast<double>(x[label] - s.max));
    loss = p.smoothing != 0 ? loss + own : own;
  }
  if (dx) {
    double scale = static_cast<double>(c.scale(at));
    T factor = static_cast<T>((shares.total + hit) * scale / s.sum);
    auto body = [&](int64_t begin, int64_t end) {
      row_gradient(c, x, t, dx, begin, end, s.settled, s.max, factor, static_cast<T>(scale));
    };
    if (split)
      parallel_chunks(n, cut, body);
    else
      body(0, n);
    if (!t) dx[label] -= static_cast<T>(hit * scale);
  }
  return static_cast<T>(loss);
}

// ---- vectors of labels --------------------------------------------------------------------------

constexpr int64_t room = 16 << 10;  // logits in the buffer of one block of labels
constexpr int most = 256;           // labels per block

// Where a block of labels lies: logit (class i, label j) at x[i * class_step + j * label_step].
struct Block {
  int64_t first_logit, first_label, class_step, label_step;
  int count;   // of labels
  int stride;  // of classes in the buffer; 0: the logits are too many for it
};

// How many labels a block takes, whether they fit the buffer or not.
int block_labels(int64_t classes) {
  int64_t fit = room / classes / 16 * 16;
  return fit < 64 ? 64 : fit > most ? most : static_cast<int>(fit);
}

// As `row`, for a block of labels; returns the sum of their losses.
template <class T>
double columns(const Call<T>& c, const Block& b) {
  const CrossEntropyParams& p = c.p;
  alignas(64) T buffer[room], top[most], total[most] = {}, dot[most] = {}, shared[most] = {};
  alignas(64) T own[most] = {}, hit[most] = {};  // the label's logit less the maximum; its share
  const T* x = c.x + b.first_logit;
  const T* t = c.probabilities ? c.probabilities + b.first_logit : nullptr;
  T* dx = c.dx ? c.dx + b.first_logit : nullptr;
  const int64_t* labels = c.labels ? c.labels + b.first_label : nullptr;
  int64_t n = p.classes;
  T kept = c.kept(), spread = c.spread();
  bool smooth = t || p.smoothing != 0;

  for (int j = 0; j < b.count; ++j) top[j] = -INFINITY;
  if (b.label_step != 1)
    for (int j = 0; j < b.count; ++j)
      for (int64_t i = 0; i < n; ++i) buffer[i * b.stride + j] = x[i + j * b.label_step];
  const T* source = b.label_step != 1 ? buffer : x;
  int64_t step = b.label_step != 1 ? b.stride : b.class_step;
  for (int64_t i = 0; i < n; ++i)
    for_vectors<T>(b.count, [&](int64_t j, auto count) ARRAYNN_LAMBDA {
      vec<T> v = load_count(source + i * step + j, count);
      if (b.stride) store_count(buffer + i * b.stride + j, v, count);
      store_count(top + j, max(v, load_count(top + j, count)), count);
    });
  bool ignores = false;
  for (int j = 0; labels && j < b.count; ++j) {
    bool used = labels[j] != p.ignore_index;
    int64_t label = used ? labels[j] : 0;
    T v = x[label * b.class_step + j * b.label_step] - top[j], share = kept * c.weight_of(label);
    own[j] = used ? v : T(0);
    hit[j] = used ? share : T(0);
    ignores |= !used;
  }

  // A gradient needs the exponentials: they replace the logits in the buffer or, without one, go to dx.
  if (b.stride) source = buffer, step = b.stride;
  T* e = dx && b.stride ? buffer : dx;
  constexpr int64_t run = 128;  // classes added up before they join the total, which bounds the rounding
  for (int64_t begin = 0; begin < n; begin += run) {
    alignas(64) T part[most] = {};
    for (int64_t i = begin; i < n && i < begin + run; ++i) {
      T w = c.weight ? c.weight[i] : T(1);
      for_vectors<T>(b.count, [&](int64_t j, auto count) ARRAYNN_LAMBDA {
        vec<T> v = load_count(source + i * step + j, count) - load_count(top + j, count);
        if (smooth) {
          vec<T> q = broadcast<T>(spread);
          if (t) q = fma(broadcast<T>(kept), load_count(t + i * b.class_step + j, count), q);
          q *= w;
          store_count(shared + j, load_count(shared + j, count) + q, count);
          store_count(dot + j, load_count(dot + j, count) + q * v, count);
        }
        v = exp_nonpositive<T>(v);
        if (e) store_count(e + i * step + j, v, count);
        store_count(part + j, load_count(part + j, count) + v, count);
      });
    }
    for_vectors<T>(b.count, [&](int64_t j, auto count) ARRAYNN_LAMBDA {
      store_count(total + j, load_count(total + j, count) + load_count(part + j, count), count);
    });
  }

  alignas(64) T loss[most];
  for_vectors<T>(b.count, [&](int64_t j, auto count) ARRAYNN_LAMBDA {
    vec<T> logs = log<T>(keep_count<T>(load_count(total + j, count), count, broadcast<T>(T(1))));
    vec<T> v = load_count(hit + j, count) * (logs - load_count(own + j, count));
    if (!labels) v = vec<T>{};
    if (smooth) v += load_count(shared + j, count) * logs - load_count(dot + j, count);
    store_count(loss + j, v, count);
  });
  for (int j = 0; ignores && j < b.count; ++j)
    if (labels[j] == p.ignore_index) loss[j] = T(0);
  vec<double> sums{};
  for_vectors<T>(b.count, [&](int64_t j, auto count) ARRAYNN_LAMBDA {
    vec<T> v = load_count(loss + j, count);
    if (c.losses) store_count(c.losses + b.first_label + j, v, count);
    as_doubles(v, [&](vec<double> d) ARRAYNN_LAMBDA { sums += d; });
  });
  double losses = sum<double>(sums);
  if (!dx) return losses;

  // What the gradient multiplies the exponentials and the shares by, in total and top; hit becomes the
  // label's own part of it.
  bool each = c.cotangent && p.reduction == Reduction::none;
  T common = each ? T(0) : c.scale(0);
  for_vectors<T>(b.count, [&](int64_t j, auto count) ARRAYNN_LAMBDA {
    vec<T> scale = each ? load_count(c.cotangent + b.first_label + j, count) : broadcast<T>(common);
    vec<T> h = load_count(hit + j, count);
    store_count(total + j, (load_count(shared + j, count) + h) * scale / load_count(total + j, count), count);
    store_count(top + j, scale, count);
    store_count(hit + j, h * scale, count);
  });
  if (!b.stride) source = dx;
  T* out = b.label_step != 1 ? buffer : dx;
  int64_t out_step = b.label_step != 1 ? b.stride : b.class_step;
  for (int64_t i = 0; i < n; ++i) {
    T w = c.weight ? c.weight[i] : T(1);
    for_vectors<T>(b.count, [&](int64_t j, auto count) ARRAYNN_LAMBDA {
      vec<T> d = load_count(source + i * step + j, count) * load_count(total + j, count);
      if (smooth) {
        vec<T> q = broadcast<T>(spread);
        if (t) q = fma(broadcast<T>(kept), load_count(t + i * b.class_step + j, count), q);
        d -= q * w * load_count(top + j, count);
      }
      store_count(out + i * out_step + j, d, count);
    });
  }
  if (b.label_step != 1)
    for (int j = 0; j < b.count; ++j)
      for (int64_t i = 0; i < n; ++i) dx[i + j * b.label_step] = buffer[i * b.stride + j];
  if (labels)
    for (int j = 0; j < b.count; ++j) {
      T* column = dx + j * b.label_step;
      if (labels[j] != p.ignore_index)
        column[labels[j] * b.class_step] -= hit[j];
      else
        for (int64_t i = 0; i < n; ++i) column[i * b.class_step] = T(0);
    }
  return losses;
}

// ---- all labels ---------------------------------------------------------------------------------

// Returns the sum of the losses.
template <class T>
double all_rows(const Call<T>& c) {
  const CrossEntropyParams& p = c.p;
  auto rows = [&](int64_t begin, int64_t end, bool split) {
    double sum = 0;
    for (int64_t at = begin; at < end; ++at) {
      T loss = row(c, at, split);
      if (c.losses) c.losses[at] = loss;
      sum += static_cast<double>(loss);
    }
    return sum;
  };
  if (p.outer < few_rows && p.classes >= long_row) return rows(0, p.outer, true);
  return parallel_sum(p.outer, grain / p.classes + 1,
                      [&](int64_t begin, int64_t end) { return rows(begin, end, false); });
}

template <class T>
double all_columns(const Call<T>& c) {
  const CrossEntropyParams& p = c.p;
  bool rows = p.inner == 1;
  int64_t inner = rows ? p.outer : p.inner, outer = rows ? 1 : p.outer;
  int size = block_labels(p.classes);
  int stride = static_cast<int64_t>(size) * p.classes <= room ? size : 0;
  int64_t blocks = (inner + size - 1) / size;
  return parallel_sum(outer * blocks, grain / (size * p.classes) + 1, [&](int64_t begin, int64_t end) {
    double sum = 0;
    for (int64_t k = begin; k < end; ++k) {
      int64_t image = k / blocks, first = k % blocks * size;
      Block b{image * p.classes * inner + (rows ? first * p.classes : first),
              image * inner + first,
              rows ? 1 : inner,
              rows ? p.classes : 1,
              static_cast<int>(inner - first < size ? inner - first : size),
              stride};
      sum += columns(c, b);
    }
    return sum;
  });
}

template <class T>
double run(const Call<T>& c) {
  if (c.p.inner == 0 || c.p.outer == 0) return 0;
  if (c.p.inner > 1 || (c.labels && c.p.classes <= few_classes && c.p.outer > 1)) return all_columns(c);
  return all_rows(c);
}

}  // namespace

void cross_entropy_forward(const CrossEntropyParams& p, const void* input, const void* target, const void* weight,
                           void* output, void* d_input, void*) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    Call<T> c = call_of<T>(p, input, target, weight);
    c.dx = static_cast<T*>(d_input);
    T* out = static_cast<T*>(output);
    if (p.reduction == Reduction::none) {
      c.losses = out;
      run(c);
    } else {
      double total = run(c);
      *out = static_cast<T>(p.reduction == Reduction::mean ? total / p.divisor : total);
    }
  });
}

void cross_entropy_backward(const CrossEntropyParams& p, const void* input, const void* target, const void* weight,
                            const void* cotangent, void* d_input, bool unit, void*) {
  dispatch_float(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (unit && *static_cast<const T*>(cotangent) == T(1)) return;
    Call<T> c = call_of<T>(p, input, target, weight);
    c.dx = static_cast<T*>(d_input);
    c.cotangent = static_cast<const T*>(cotangent);
    run(c);
  });
}

}  // namespace arraynn::cpu::ARRAYNN_ISA
