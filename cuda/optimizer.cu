// Optimizer steps: one kernel for as many tensors as its parameters hold, each array read and written
// once. Bytes per element of float32: adam_step 28 (4 arrays read, 3 written), with maxes 36; sgd_step 12,
// with momentum 20; rmsprop_step and adagrad_step 20, with momentum 28, centered 36; sum_of_squares 4;
// scale_chunks and clamp_chunks 8. Tensors come as kernel parameters, so nothing is copied
// to the device before a launch and a CUDA graph may capture it.
#include "device/math.h"
#include "device/reduce.h"
#include "dispatch.h"
#include "kernels.h"

namespace arraynn::cuda {

namespace {

constexpr int threads = 256;
constexpr int64_t piece = 4096;  // elements of a block: 4 packs of float32 for each thread

constexpr int most_arrays = 5, most_tensors = 512;

// What one launch works on. Tensor t's pieces are the blocks from first[t] to before first[t + 1].
struct Batch {
  struct Tensor {
    int64_t count;
    void* data[most_arrays];
    int dtype;
    bool aligned;  // every array of it to 16 bytes
  };
  int tensors;
  unsigned first[most_tensors + 1];
  Tensor tensor[most_tensors];
};

// What kernels may be passed since CUDA 12.1, less room for the other parameters.
static_assert(sizeof(Batch) <= 32764 - 256);

// go(batch) for every launch that a list of chunks takes.
template <class F>
void for_batches(const TensorChunk* chunks, int64_t count, const F& go) {
  Batch b;
  b.tensors = 0;
  b.first[0] = 0;
  auto flush = [&] {
    if (b.tensors > 0) go(b);
    b.tensors = 0;
  };
  for (int64_t i = 0; i < count; ++i) {
    TensorChunk rest = chunks[i];
    while (rest.count > 0) {
      // So much of the tensor that the grid's size stays far inside its limit.
      int64_t taken = std::min<int64_t>(rest.count, piece << 20);
      if (b.tensors == most_tensors || (b.tensors > 0 && b.first[b.tensors] > 1u << 29)) flush();
      Batch::Tensor& t = b.tensor[b.tensors];
      t = {taken, {}, static_cast<int>(rest.dtype), true};
      for (int k = 0; k < most_arrays; ++k) {
        t.data[k] = rest.data[k];
        t.aligned = t.aligned && aligned16(static_cast<const char*>(t.data[k]));
        if (rest.data[k]) rest.data[k] = static_cast<char*>(rest.data[k]) + taken * item_size(rest.dtype);
      }
      b.first[b.tensors + 1] = b.first[b.tensors] + static_cast<unsigned>(ceil_div(taken, piece));
      ++b.tensors;
      rest.count -= taken;
    }
  }
  flush();
}

unsigned pieces_of(const Batch& b) { return b.first[b.tensors]; }

// Where one piece lies: which tensor, and which of its elements.
struct Piece {
  int tensor;
  int64_t begin, end;
};

__device__ __forceinline__ Piece find(const Batch& b, unsigned number) {
  int low = 0, high = b.tensors;  // first[low] <= number < first[high]
  while (high - low > 1) {
    int middle = (low + high) / 2;
    if (b.first[middle] <= number)
      low = middle;
    else
      high = middle;
  }
  int64_t begin = (number - b.first[low]) * piece, count = b.tensor[low].count;
  return {low, begin, begin + piece < count ? begin + piece : count};
}

// f(T{}) with the element type of a tensor; in a kernel, which may meet tensors of several.
template <class F>
__device__ __forceinline__ void with_type(int dtype, const F& f) {
  switch (static_cast<DType>(dtype)) {
    case DType::float64: return f(double{});
    case DType::float16: return f(float16{});
    case DType::bfloat16: return f(bfloat16{});
    default: return f(float{});
  }
}

// f(n, i) for the elements of a piece, n of them from i on: whole packs, then one by one. Pieces begin at
// multiples of a pack.
template <class T, class F>
__device__ __forceinline__ void for_packs(const Piece& p, bool aligned, const F& f) {
  constexpr int width = pack_size<T>;
  int64_t packed = aligned ? p.begin + (p.end - p.begin) / width * width : p.begin;
  for (int64_t i = p.begin + static_cast<int64_t>(threadIdx.x) * width; i < packed; i += threads * width)
    f(std::integral_constant<int, width>{}, i);
  for (int64_t i = packed + threadIdx.x; i < p.end; i += threads) f(std::integral_constant<int, 1>{}, i);
}

// Adds to a gradient those of decay / 2 p^2 and l1 |p|.
template <class C>
struct Penalties {
  C decay, l1;

  __device__ Penalties(double decay_, double l1_) : decay(static_cast<C>(decay_)), l1(static_cast<C>(l1_)) {}
  __device__ __forceinline__ C operator()(C g, C p) const {
    if (decay != C(0)) g = fma(decay, p, g);
    if (l1 != C(0)) g += p > C(0) ? l1 : p < C(0) ? -l1 : C(0);
    return g;
  }
};

template <class T>
struct AdamStep {
  using C = compute_t<T>;
  C beta1, beta2, rest1, rest2, size, root, eps, scale, shrink;
  Penalties<C> penalized;

  __device__ explicit AdamStep(const AdamParams& a)
      : beta1(static_cast<C>(a.beta1)),
        beta2(static_cast<C>(a.beta2)),
        rest1(static_cast<C>(1 - a.beta1)),
        rest2(static_cast<C>(1 - a.beta2)),
        size(static_cast<C>(a.size)),
        root(static_cast<C>(a.root)),
        eps(static_cast<C>(a.eps)),
        scale(static_cast<C>(a.grad_scale)),
        shrink(static_cast<C>(a.shrink)),
        penalized(a.decay, a.l1) {}

  // One element; `largest` counts where maxes are kept.
  __device__ __forceinline__ void operator()(T& param, T grad, T& mean, T& square, T& largest, bool keeps) const {
    C p = widen(param), g = widen(grad);
    if (scale != C(1)) g /= scale;
    g = penalized(g, p);
    C m = fma(beta1, widen(mean), g * rest1), v = fma(beta2, widen(square), g * g * rest2);
    mean = narrow<T>(m);
    square = narrow<T>(v);
    if (keeps) {
      v = Max{}(widen(largest), v);
      largest = narrow<T>(v);
    }
    param = narrow<T>(p * shrink - m * size / (square_root(v) / root + eps));
  }
};

__global__ void __launch_bounds__(threads) adam_kernel(const __grid_constant__ Batch b, AdamParams a) {
  Piece place = find(b, blockIdx.x);
  const Batch::Tensor& tensor = b.tensor[place.tensor];
  with_type(tensor.dtype, [&](auto zero) {
    using T = decltype(zero);
    AdamStep<T> step(a);
    auto *p = static_cast<T*>(tensor.data[0]), *m = static_cast<T*>(tensor.data[2]),
         *v = static_cast<T*>(tensor.data[3]), *u = static_cast<T*>(tensor.data[4]);
    auto* g = static_cast<const T*>(tensor.data[1]);
    for_packs<T>(place, tensor.aligned, [&](auto n, int64_t i) {
      constexpr int N = decltype(n)::value;
      auto param = load_pack<N>(p + i), grad = load_pack<N>(g + i), mean = load_pack<N>(m + i),
           square = load_pack<N>(v + i);
      Pack<T, N> largest{};
      if (u) largest = load_pack<N>(u + i);
#pragma unroll
      for (int j = 0; j < N; ++j) step(param.v[j], grad.v[j], mean.v[j], square.v[j], largest.v[j], u != nullptr);
      store_pack(p + i, param);
      store_pack(m + i, mean);
      store_pack(v + i, square);
      if (u) store_pack(u + i, largest);
    });
  });
}

__global__ void __launch_bounds__(threads) sgd_kernel(const __grid_constant__ Batch b, SgdParams s) {
  Piece place = find(b, blockIdx.x);
  const Batch::Tensor& tensor = b.tensor[place.tensor];
  with_type(tensor.dtype, [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    auto lr = static_cast<C>(s.lr), momentum = static_cast<C>(s.momentum), rest = static_cast<C>(1 - s.dampening);
    Penalties<C> penalized(s.weight_decay, s.l1);
    auto *p = static_cast<T*>(tensor.data[0]), *buffers = static_cast<T*>(tensor.data[2]);
    auto* g = static_cast<const T*>(tensor.data[1]);
    bool moves = s.momentum != 0;
    for_packs<T>(place, tensor.aligned, [&](auto n, int64_t i) {
      constexpr int N = decltype(n)::value;
      auto param = load_pack<N>(p + i), grad = load_pack<N>(g + i);
      Pack<T, N> buffer{};
      if (moves) buffer = load_pack<N>(buffers + i);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        C x = widen(param.v[j]), d = penalized(widen(grad.v[j]), x);
        if (moves) {
          C moved = fma(momentum, widen(buffer.v[j]), d * rest);
          buffer.v[j] = narrow<T>(moved);
          d = s.nesterov ? fma(momentum, moved, d) : moved;
        }
        param.v[j] = narrow<T>(x - d * lr);
      }
      store_pack(p + i, param);
      if (moves) store_pack(buffers + i, buffer);
    });
  });
}

__global__ void __launch_bounds__(threads) rmsprop_kernel(const __grid_constant__ Batch b, RmspropParams r) {
  Piece place = find(b, blockIdx.x);
  const Batch::Tensor& tensor = b.tensor[place.tensor];
  with_type(tensor.dtype, [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    auto lr = static_cast<C>(r.lr), alpha = static_cast<C>(r.alpha), rest = static_cast<C>(1 - r.alpha),
         eps = static_cast<C>(r.eps), momentum = static_cast<C>(r.momentum);
    Penalties<C> penalized(r.weight_decay, r.l1);
    auto *p = static_cast<T*>(tensor.data[0]), *s = static_cast<T*>(tensor.data[2]),
         *buffers = static_cast<T*>(tensor.data[3]), *a = static_cast<T*>(tensor.data[4]);
    auto* g = static_cast<const T*>(tensor.data[1]);
    bool moves = r.momentum != 0;
    for_packs<T>(place, tensor.aligned, [&](auto n, int64_t i) {
      constexpr int N = decltype(n)::value;
      auto param = load_pack<N>(p + i), grad = load_pack<N>(g + i), square = load_pack<N>(s + i);
      Pack<T, N> buffer{}, mean{};
      if (moves) buffer = load_pack<N>(buffers + i);
      if (a) mean = load_pack<N>(a + i);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        C x = widen(param.v[j]), d = penalized(widen(grad.v[j]), x), v = fma(alpha, widen(square.v[j]), d * d * rest);
        square.v[j] = narrow<T>(v);
        if (a) {
          C m = fma(alpha, widen(mean.v[j]), d * rest);
          mean.v[j] = narrow<T>(m);
          v = Max{}(v - m * m, C(0));  // rounding alone makes it negative
        }
        d /= square_root(v) + eps;
        if (moves) {
          d = fma(momentum, widen(buffer.v[j]), d);
          buffer.v[j] = narrow<T>(d);
        }
        param.v[j] = narrow<T>(x - d * lr);
      }
      store_pack(p + i, param);
      store_pack(s + i, square);
      if (moves) store_pack(buffers + i, buffer);
      if (a) store_pack(a + i, mean);
    });
  });
}

__global__ void __launch_bounds__(threads) adagrad_kernel(const __grid_constant__ Batch b, AdagradParams a) {
  Piece place = find(b, blockIdx.x);
  const Batch::Tensor& tensor = b.tensor[place.tensor];
  with_type(tensor.dtype, [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    auto lr = static_cast<C>(a.lr), eps = static_cast<C>(a.eps);
    Penalties<C> penalized(a.weight_decay, a.l1);
    auto *p = static_cast<T*>(tensor.data[0]), *s = static_cast<T*>(tensor.data[2]);
    auto* g = static_cast<const T*>(tensor.data[1]);
    for_packs<T>(place, tensor.aligned, [&](auto n, int64_t i) {
      constexpr int N = decltype(n)::value;
      auto param = load_pack<N>(p + i), grad = load_pack<N>(g + i), sum = load_pack<N>(s + i);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        C x = widen(param.v[j]), d = penalized(widen(grad.v[j]), x), v = fma(d, d, widen(sum.v[j]));
        sum.v[j] = narrow<T>(v);
        param.v[j] = narrow<T>(x - d * lr / (square_root(v) + eps));
      }
      store_pack(p + i, param);
      store_pack(s + i, sum);
    });
  });
}

// In double, where squares of floats are exact and neither overflow nor vanish. Block k sums the pieces
// k, k + blocks, ... and adds that to partials[k], to which earlier batches added theirs.
__global__ void __launch_bounds__(threads) squares_kernel(const __grid_constant__ Batch b, double* partials) {
  double total = 0;
  for (unsigned number = blockIdx.x; number < b.first[b.tensors]; number += gridDim.x) {
    Piece place = find(b, number);
    const Batch::Tensor& tensor = b.tensor[place.tensor];
    with_type(tensor.dtype, [&](auto zero) {
      using T = decltype(zero);
      auto* g = static_cast<const T*>(tensor.data[0]);
      for_packs<T>(place, tensor.aligned, [&](auto n, int64_t i) {
        constexpr int N = decltype(n)::value;
        auto grad = load_pack<N>(g + i);
#pragma unroll
        for (int j = 0; j < N; ++j) {
          auto x = static_cast<double>(widen(grad.v[j]));
          total = fma(x, x, total);
        }
      });
    });
  }
  total = block_reduce(total, Add{}, shared<double>());
  if (threadIdx.x == 0) partials[blockIdx.x] += total;
}

__global__ void __launch_bounds__(threads) total_kernel(const double* partials, double* result) {
  double total = block_sum(partials, static_cast<int>(reduction_blocks), shared<double>());
  if (threadIdx.x == 0) *result = total;
}

struct Scale {
  double by;
  template <class C>
  __device__ __forceinline__ C operator()(C g) const {
    return g * static_cast<C>(by);
  }
};

struct Clamp {
  double bound;
  template <class C>
  __device__ __forceinline__ C operator()(C g) const {
    auto most = static_cast<C>(bound);
    return g > most ? most : g < -most ? -most : g;  // NaN is neither, and stays
  }
};

template <class F>
__global__ void __launch_bounds__(threads) gradient_kernel(const __grid_constant__ Batch b, F f) {
  Piece place = find(b, blockIdx.x);
  const Batch::Tensor& tensor = b.tensor[place.tensor];
  with_type(tensor.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto* g = static_cast<T*>(tensor.data[0]);
    for_packs<T>(place, tensor.aligned, [&](auto n, int64_t i) {
      constexpr int N = decltype(n)::value;
      auto grad = load_pack<N>(g + i);
#pragma unroll
      for (int j = 0; j < N; ++j) grad.v[j] = narrow<T>(f(widen(grad.v[j])));
      store_pack(g + i, grad);
    });
  });
}

}  // namespace

void adam_step(const AdamParams& p, const TensorChunk* chunks, const int64_t* first, int64_t tasks) {
  for_batches(chunks, first[tasks],
              [&](const Batch& b) { launch(adam_kernel, pieces_of(b), threads, 0, p.place, b, p); });
}

void sgd_step(const SgdParams& p, const TensorChunk* chunks, const int64_t* first, int64_t tasks) {
  for_batches(chunks, first[tasks],
              [&](const Batch& b) { launch(sgd_kernel, pieces_of(b), threads, 0, p.place, b, p); });
}

void rmsprop_step(const RmspropParams& p, const TensorChunk* chunks, const int64_t* first, int64_t tasks) {
  for_batches(chunks, first[tasks],
              [&](const Batch& b) { launch(rmsprop_kernel, pieces_of(b), threads, 0, p.place, b, p); });
}

void adagrad_step(const AdagradParams& p, const TensorChunk* chunks, const int64_t* first, int64_t tasks) {
  for_batches(chunks, first[tasks],
              [&](const Batch& b) { launch(adagrad_kernel, pieces_of(b), threads, 0, p.place, b, p); });
}

double sum_of_squares(const Place& place, const TensorChunk* chunks, const int64_t* first, int64_t tasks,
                      void* scratch) {
  auto *partials = static_cast<double*>(scratch), *result = partials + reduction_blocks;
  constexpr size_t room = 32 * sizeof(double);
  fill_zero(place, partials, reduction_blocks * sizeof(double));
  for_batches(chunks, first[tasks], [&](const Batch& b) {
    auto blocks = static_cast<unsigned>(std::min<int64_t>(pieces_of(b), reduction_blocks));
    launch(squares_kernel, blocks, threads, room, place, b, partials);
  });
  launch(total_kernel, 1, threads, room, place, partials, result);
  double total = 0;
  copy_bytes(place, &total, result, sizeof total);
  synchronize(place);
  return total;
}

void scale_chunks(const Place& place, double factor, const TensorChunk* chunks, const int64_t* first, int64_t tasks) {
  for_batches(chunks, first[tasks], [&](const Batch& b) {
    launch(gradient_kernel<Scale>, pieces_of(b), threads, 0, place, b, Scale{factor});
  });
}

void clamp_chunks(const Place& place, double bound, const TensorChunk* chunks, const int64_t* first, int64_t tasks) {
  for_batches(chunks, first[tasks], [&](const Batch& b) {
    launch(gradient_kernel<Clamp>, pieces_of(b), threads, 0, place, b, Clamp{bound});
  });
}

}  // namespace arraynn::cuda
