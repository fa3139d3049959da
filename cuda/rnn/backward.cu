// All steps of a layer and direction, backward, in one launch. A block keeps the weights that lead back to
// its hidden units in shared memory; per step it multiplies the later step's gate gradients with them and
// finishes its units' own gate gradients, which the other blocks read in the next step out of the L2 cache.
// Per step and sequence that reads 4 H (3 H) gate gradients once for each group of units, and reads and
// writes what a step by itself would: the gates, states and the output's gradient, 4 H gate gradients.
#include "rnn/persistent.h"

namespace arraynn::cuda::rnn {

namespace {

template <Cell cell, class S>
class BackwardBlock {
 public:
  static constexpr int units = S::width, items = S::rows * units, per_thread = (items + threads - 1) / threads;

  __device__ BackwardBlock(const Backward<float>& a, const Cut& cut) : a_(a), cut_(cut), share_(cut) {
    weights_ = shared<float>();
    sums_ = weights_ + share_.slices * slice_size();
  }

  __device__ void run() {
    for (int slice = 0; slice < share_.slices; ++slice)
      fill_weights_along_columns<S>(weights_, slice, cut_.k_groups, a_.w_hh, gates_of<cell> * a_.hidden, a_.hidden,
                                    share_.unit(cut_, slice, units), cut_.packs);
    __syncthreads();
    if (share_.passes() > 0) look(0, 0);
    for (int64_t s = 0; s <= a_.steps; ++s) {  // the last one of no step is for the initial state's gradient
      for (int64_t i = 0; i < share_.passes(); ++i) {
        if (s > 0) {
          multiply_rows<S>(a_.tf32, a_.gradients(s - 1), a_.d_step, row(i), a_.batch,
                           weights_ + share_.slice(i) * slice_size(), cut_.k_groups, sums_);
          __syncthreads();
        }
        finish(s, i);
        bool more = i + 1 < share_.passes();
        if (more || s < a_.steps) look(more ? s : s + 1, more ? i + 1 : 0);
        if (more && s > 0) __syncthreads();
      }
      if (s < a_.steps) barrier_.wait(cut_, share_);
    }
  }

 private:
  __device__ int slice_size() const { return 16 * cut_.k_groups * S::width; }
  __device__ int64_t row(int64_t i) const { return share_.row(cut_, i, S::rows); }

  template <class F>
  __device__ __forceinline__ void each(int64_t i, const F& f) const {
    int64_t first_row = row(i), first_unit = share_.unit(cut_, share_.slice(i), units);
#pragma unroll
    for (int j = 0; j < per_thread; ++j) {
      int item = static_cast<int>(threadIdx.x) + j * threads;
      int64_t n = first_row + item / units, unit = first_unit + item % units;
      if ((items % threads == 0 || item < items) && n < a_.batch && unit < a_.hidden) f(j, item, n, unit);
    }
  }

  __device__ __forceinline__ void look(int64_t s, int64_t i) {
    each(i, [&](int j, int, int64_t n, int64_t unit) {
      if (s < a_.steps)
        behind_[j] = look_behind<cell>(a_, s, n, unit);
      else
        behind_[j].carry = a_.carry[n * a_.hidden + unit];
    });
  }

  __device__ __forceinline__ void finish(int64_t s, int64_t i) {
    each(i, [&](int j, int item, int64_t n, int64_t unit) {
      float product[1] = {0};
      if (s > 0) sum_of<S>(sums_, item / units, item % units, product);
      if (s < a_.steps)
        finish_backward<cell>(a_, s, n, unit, behind_[j], product[0]);
      else
        a_.carry[n * a_.hidden + unit] = behind_[j].carry + product[0];
    });
  }

  const Backward<float>& a_;
  const Cut& cut_;
  Share share_;
  StepBarrier barrier_;
  float *weights_, *sums_;
  Behind<cell, float> behind_[per_thread];  // of the pass that comes next
};

template <Cell cell, class S>
__global__ void __launch_bounds__(threads, 1) backward_kernel(Backward<float> a, Cut cut) {
  BackwardBlock<cell, S>(a, cut).run();
}

template <Cell cell>
BackwardKernel find_kernel(TileSize tile) {
  switch (tile.tiles * 16 + tile.columns) {
    case 0x01: return backward_kernel<cell, Tile<1, 1, true>>;
    case 0x02: return backward_kernel<cell, Tile<2, 1, true>>;
    case 0x03: return backward_kernel<cell, Tile<3, 1, true>>;
    case 0x11: return backward_kernel<cell, Tile<1, 1, false>>;
    case 0x12: return backward_kernel<cell, Tile<2, 1, false>>;
    case 0x13: return backward_kernel<cell, Tile<3, 1, false>>;
    case 0x14: return backward_kernel<cell, Tile<4, 1, false>>;
    case 0x21: return backward_kernel<cell, Tile<1, 2, false>>;
    case 0x22: return backward_kernel<cell, Tile<2, 2, false>>;
    case 0x23: return backward_kernel<cell, Tile<3, 2, false>>;
    case 0x24: return backward_kernel<cell, Tile<4, 2, false>>;
    default: return nullptr;
  }
}

}  // namespace

BackwardKernel backward_kernel_of(Cell cell, TileSize tile) {
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
