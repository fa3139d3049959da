// All steps of a layer and direction, forward, in one launch. A block keeps its hidden units' weights under
// all gates in shared memory; per step it multiplies its rows of the state with them, finishes the gates,
// and hands its part of the new state to the others through the L2 cache, two buffers in turns. Per step
// and sequence that reads the state once for each group of units and 4 H (3 H) input products, and writes
// the state twice, and the gates and c if they are saved.
#include "rnn/persistent.h"

namespace arraynn::cuda::rnn {

namespace {

template <Cell cell, class S>
struct ForwardTile {
  static constexpr int gates = gates_of<cell>, units = S::width / gates;
  static constexpr int items = S::rows * units, per_thread = (items + threads - 1) / threads;
};

template <Cell cell, class S>
class ForwardBlock {
 public:
  using Part = ForwardTile<cell, S>;

  __device__ ForwardBlock(const Forward<float>& a, const ForwardBuffers& buffers, const Cut& cut)
      : a_(a), buffers_(buffers), cut_(cut), share_(cut) {
    weights_ = shared<float>();
    sums_ = weights_ + share_.slices * slice_size();
    biases_ = reinterpret_cast<float4*>(sums_ + warps * S::rows * S::stride);
  }

  __device__ void run() {
    fill();
    barrier_.wait(cut_, share_);
    if (share_.passes() > 0) look(a_.first, 0);
    for (int64_t s = a_.first; s < a_.end; ++s) {
      for (int64_t i = 0; i < share_.passes(); ++i) {
        multiply_rows<S>(a_.tf32, buffer(s), cut_.step, row(i), a_.batch, weights_ + share_.slice(i) * slice_size(),
                         cut_.k_groups, sums_);
        __syncthreads();
        finish(s, i);
        bool more = i + 1 < share_.passes();
        if (more || s + 1 < a_.end) look(more ? s : s + 1, more ? i + 1 : 0);
        if (more) __syncthreads();
      }
      if (s + 1 < a_.end) barrier_.wait(cut_, share_);
    }
  }

 private:
  __device__ int slice_size() const { return 16 * cut_.k_groups * S::width; }
  __device__ int64_t row(int64_t i) const { return share_.row(cut_, i, S::rows); }
  __device__ float* buffer(int64_t s) const { return buffers_.exchange + (s - a_.first) % 2 * a_.batch * cut_.step; }

  // f(item, sequence, unit) for the thread's items of pass i.
  template <class F>
  __device__ __forceinline__ void each(int64_t i, const F& f) const {
    int64_t first_row = row(i), first_unit = share_.unit(cut_, share_.slice(i), Part::units);
#pragma unroll
    for (int j = 0; j < Part::per_thread; ++j) {
      int item = static_cast<int>(threadIdx.x) + j * threads;
      int64_t n = first_row + item / Part::units, unit = first_unit + item % Part::units;
      if ((Part::items % threads == 0 || item < Part::items) && n < a_.batch && unit < a_.hidden) f(j, item, n, unit);
    }
  }

  __device__ void fill() {
    for (int slice = 0; slice < share_.slices; ++slice) {
      int64_t first_unit = share_.unit(cut_, slice, Part::units);
      fill_weights_along_k<S>(weights_, slice, cut_.k_groups, a_.hidden, cut_.packs, [&](int column) -> const float* {
        int64_t unit = first_unit + column / Part::gates, gate = column % Part::gates;
        if (column >= Part::units * Part::gates || unit >= a_.hidden) return nullptr;
        return a_.w_hh + (gate * a_.hidden + unit) * a_.hidden;
      });
      for (int i = static_cast<int>(threadIdx.x); i < Part::units; i += threads) {
        float bias[4] = {0, 0, 0, 0};
        if (first_unit + i < a_.hidden) load_biases<cell>(a_, first_unit + i, bias);
        biases_[slice * Part::units + i] = make_float4(bias[0], bias[1], bias[2], bias[3]);
      }
    }
    for (int64_t i = 0; i < share_.passes(); ++i)
      each(i, [&](int, int, int64_t n, int64_t unit) {
        buffer(a_.first)[n * cut_.step + unit] = buffers_.start[n * a_.hidden + unit];
        if (unit + 1 < a_.hidden) return;
        for (int64_t k = a_.hidden; k < cut_.step; ++k)
          buffer(a_.first)[n * cut_.step + k] = buffer(a_.first + 1)[n * cut_.step + k] = 0;
      });
  }

  __device__ __forceinline__ void look(int64_t s, int64_t i) {
    each(i, [&](int j, int, int64_t n, int64_t unit) {
      ahead_[j] = look_ahead<cell>(a_, s, n, unit, static_cast<const float*>(buffer(s)), cut_.step);
    });
  }

  __device__ __forceinline__ void finish(int64_t s, int64_t i) {
    each(i, [&](int j, int item, int64_t n, int64_t unit) {
      float product[Part::gates];
      sum_of<S>(sums_, item / Part::units, item % Part::units * Part::gates, product);
      float4 b = biases_[share_.slice(i) * Part::units + item % Part::units];
      const float bias[4] = {b.x, b.y, b.z, b.w};
      float h = finish_forward<cell>(a_, s, n, unit, ahead_[j], product, bias);
      buffer(s + 1)[n * cut_.step + unit] = h;
    });
  }

  const Forward<float>& a_;
  const ForwardBuffers& buffers_;
  const Cut& cut_;
  Share share_;
  StepBarrier barrier_;
  float *weights_, *sums_;
  float4* biases_;
  Ahead<cell, float> ahead_[Part::per_thread];  // of the pass that comes next
};

template <Cell cell, class S>
__global__ void __launch_bounds__(threads, 1) forward_kernel(Forward<float> a, ForwardBuffers buffers, Cut cut) {
  ForwardBlock<cell, S>(a, buffers, cut).run();
}

template <Cell cell>
ForwardKernel find_kernel(TileSize tile) {
  switch (tile.tiles * 16 + tile.columns) {
    case 0x01: return forward_kernel<cell, Tile<1, 1, true>>;
    case 0x02: return forward_kernel<cell, Tile<2, 1, true>>;
    case 0x03: return forward_kernel<cell, Tile<3, 1, true>>;
    case 0x04: return forward_kernel<cell, Tile<4, 1, true>>;
    case 0x05: return forward_kernel<cell, Tile<5, 1, true>>;
    case 0x11: return forward_kernel<cell, Tile<1, 1, false>>;
    case 0x12: return forward_kernel<cell, Tile<2, 1, false>>;
    case 0x13: return forward_kernel<cell, Tile<3, 1, false>>;
    case 0x14: return forward_kernel<cell, Tile<4, 1, false>>;
    case 0x15: return forward_kernel<cell, Tile<5, 1, false>>;
    case 0x16: return forward_kernel<cell, Tile<6, 1, false>>;
    case 0x18: return forward_kernel<cell, Tile<8, 1, false>>;
    case 0x22: return forward_kernel<cell, Tile<2, 2, false>>;
    case 0x24: return forward_kernel<cell, Tile<4, 2, false>>;
    case 0x28: return forward_kernel<cell, Tile<8, 2, false>>;
    default: return nullptr;
  }
}

}  // namespace

ForwardKernel forward_kernel_of(Cell cell, TileSize tile) {
  switch (cell) {
    case Cell::lstm: return find_kernel<Cell::lstm>(tile);
    case Cell::gru: return find_kernel<Cell::gru>(tile);
    case Cell::gru_reset_first: return nullptr;  // its steps are launched by themselves
    case Cell::rnn:
    case Cell::rnn_relu: return find_kernel<Cell::rnn>(tile);
  }
  return nullptr;
}

}  // namespace arraynn::cuda::rnn
