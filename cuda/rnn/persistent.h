// The kernels that do all steps of a layer and direction in one launch, and how their work is cut.
#pragma once
#include "rnn/cell.h"
#include "rnn/product.h"

namespace arraynn::cuda::rnn {

struct ForwardBuffers {
  const float* start;  // the state before the first step, (N, H)
  float* exchange;     // two matrices of rows of the state, rows `step` apart
};

using ForwardKernel = void (*)(Forward<float>, ForwardBuffers, Cut);
using BackwardKernel = void (*)(Backward<float>, Cut);

// Null where there is no kernel of that tile.
ForwardKernel forward_kernel_of(Cell cell, TileSize tile);
BackwardKernel backward_kernel_of(Cell cell, TileSize tile);

// The products of one step: of `batch` rows with k elements each by the weights of `hidden` units, each of
// which has so many columns.
struct Problem {
  Place place;
  Cell cell;
  bool backward;
  int64_t batch, hidden;
  int columns() const { return backward ? 1 : gate_count(cell); }
  int64_t k() const { return backward ? gate_count(cell) * hidden : hidden; }
};

struct Plan {
  bool found;  // the weights fit in the device's shared memory, and its tensor cores will do
  TileSize tile;
  Cut cut;
  size_t shared_bytes;
  unsigned blocks() const { return static_cast<unsigned>(cut.unit_groups * cut.row_groups); }
  bool alone() const { return cut.unit_groups == 1; }  // no block has to do with another
};

Plan plan_of(const Problem& p);

}  // namespace arraynn::cuda::rnn
