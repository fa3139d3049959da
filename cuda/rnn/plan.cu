// How the work of the kernels that stay on the chip is cut: host code. Nothing of a cut shows in the
// results' bits but whether there are more than 8 rows. Whether to take these kernels at all does show, so
// that is decided by the shape, for a nominal chip; the chip at hand only has to have room for it.
#include "rnn/persistent.h"

namespace arraynn::cuda::rnn {

namespace {

struct Chip {
  int multiprocessors;
  size_t shared_bytes;  // of one block
};
constexpr Chip nominal{132, size_t{227} << 10};

// Rough clocks of one multiprocessor, to compare plans by.
constexpr double product_clocks = 1.8;  // of the tensor cores for 16 x 8 x 8
constexpr double shared_bytes_per_clock = 128, cache_bytes_per_clock = 32, all_cache_bytes_per_clock = 2640;
constexpr double pass_clocks = 900;  // until the first rows are there, and for the gates at the end
constexpr double group_barrier_clocks = 1700, block_barrier_clocks = 100;
constexpr double launches_clocks = 8000, products_per_clock = 132 * 0.4;  // of steps by themselves

double terms(const Problem& p) { return p.place.tf32 ? 1 : 3; }

double clocks_of_pass(const Problem& p, const Plan& plan) {
  double k = 16.0 * plan.cut.k_groups, row_bytes = k * plan.tile.rows() * 4;
  double products = plan.tile.columns * (k / 8) * product_clocks *
                    (plan.tile.tiles ? plan.tile.tiles * terms(p) : std::min(terms(p), 2.0));
  double weights = k * plan.tile.width() * 4 / shared_bytes_per_clock;
  double rows = std::max(row_bytes / cache_bytes_per_clock, row_bytes * plan.blocks() / all_cache_bytes_per_clock);
  double sums = 2 * static_cast<double>(plan.tile.sums_bytes()) / shared_bytes_per_clock;
  return std::max({products, weights, rows}) + sums + pass_clocks;
}

// Of a step that is a matrix product and a kernel to finish it.
double clocks_of_launches(const Problem& p) {
  double products = static_cast<double>(p.batch * p.hidden * p.columns()) * static_cast<double>(p.k()) / 1024;
  double weight_bytes = static_cast<double>(p.hidden * p.columns()) * static_cast<double>(p.k()) * 4;
  return launches_clocks + std::max(products * terms(p) / products_per_clock, weight_bytes / all_cache_bytes_per_clock);
}

bool resident(const Problem& p, const Plan& plan) {
  int blocks = p.backward ? resident_blocks(backward_kernel_of(p.cell, plan.tile), threads, plan.shared_bytes, p.place)
                          : resident_blocks(forward_kernel_of(p.cell, plan.tile), threads, plan.shared_bytes, p.place);
  return blocks > 0 && static_cast<unsigned>(blocks) >= plan.blocks();
}

// consider(plan, clocks of a step) for each number of slices that a block may have.
template <class F>
void each_plan(const Problem& p, TileSize tile, Chip chip, const F& consider) {
  if (p.backward ? !backward_kernel_of(p.cell, tile) : !forward_kernel_of(p.cell, tile)) return;
  int units = tile.width() / p.columns();
  int64_t slices = ceil_div(p.hidden, units), groups = ceil_div(p.batch, tile.rows()), k_groups = ceil_div(p.k(), 16);
  size_t slice_bytes = 64 * static_cast<size_t>(k_groups * tile.width());
  if (!p.backward) slice_bytes += 16 * static_cast<size_t>(units);
  for (int64_t each = 1; each <= slices; ++each) {
    size_t bytes = tile.sums_bytes() + static_cast<size_t>(each) * slice_bytes;
    if (bytes > chip.shared_bytes) return;
    int64_t unit_groups = ceil_div(slices, each);
    if (unit_groups > chip.multiprocessors) continue;
    bool alone = unit_groups == 1;
    int64_t abreast = std::min(chip.multiprocessors / unit_groups, int64_t{most_counters}),
            rounds = ceil_div(groups, abreast);
    int64_t row_groups = alone ? groups : ceil_div(groups, rounds);
    Plan plan{true, tile, Cut{}, bytes};
    plan.cut.slices = static_cast<int>(slices);
    plan.cut.unit_groups = static_cast<int>(unit_groups);
    plan.cut.k_groups = static_cast<int>(k_groups);
    plan.cut.row_groups = row_groups;
    plan.cut.groups = groups;
    plan.cut.step = 16 * k_groups;
    consider(plan, static_cast<double>(each * rounds) * clocks_of_pass(p, plan) +
                       (alone ? block_barrier_clocks : group_barrier_clocks));
  }
}

constexpr TileSize tiles[] = {{1, 0}, {2, 0}, {3, 0}, {4, 0}, {5, 0}, {1, 1}, {2, 1}, {3, 1}, {4, 1},
                              {5, 1}, {6, 1}, {8, 1}, {1, 2}, {2, 2}, {3, 2}, {4, 2}, {8, 2}};

Plan best_plan(const Problem& p, Chip chip, double most_clocks) {
  Plan best{};
  for (TileSize tile : tiles)
    if ((tile.tiles == 0) == (p.batch <= 8))
      each_plan(p, tile, chip, [&](const Plan& plan, double clocks) {
        if (clocks >= most_clocks) return;
        best = plan;
        most_clocks = clocks;
      });
  return best;
}

}  // namespace

Plan plan_of(const Problem& p) {
  if (p.batch == 0 || p.hidden == 0 || capability(p.place) < 80) return {};
  if (!best_plan(p, nominal, clocks_of_launches(p)).found) return {};
  Chip chip{multiprocessors(p.place), static_cast<size_t>(most_shared_bytes(p.place))};
  Plan plan = best_plan(p, chip, 1e300);
  if (plan.found && !plan.alone() && !resident(p, plan)) return {};
  return plan;
}

}  // namespace arraynn::cuda::rnn
