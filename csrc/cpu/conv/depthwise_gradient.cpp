// The weights' gradient of a depthwise convolution: every tap's sum over images and pixels of the output's gradient
// times the input that the tap met. Lanes are pixels of contiguous images and channels of channels-last ones; in both,
// a register tile of taps shares the loads of the output's gradient. Sums are made in parts that depend on the shape
// alone, and added in their order.
#include "cpu/conv/planes.h"

namespace arraynn::cpu::ARRAYNN_ISA {

namespace {

constexpr int most_taps = 12;  // of a register tile

// How many parts `count` images, or rows, are cut into, where each part has so many tasks and sums.
template <class T>
int64_t parts_of(int64_t count, int64_t tasks, int64_t sums) {
  constexpr int64_t most_bytes = 8 << 20;
  int64_t most = std::min(count, most_bytes / (sums * static_cast<int64_t>(sizeof(T)) + 1));
  return std::clamp<int64_t>(64 / tasks, 1, std::max<int64_t>(most, 1));
}

template <class T>
void add_parts(int64_t parts, int64_t sums, const T* part, T* dw) {
  std::copy_n(part, sums, dw);
  for (int64_t i = 1; i < parts; ++i)
    for (int64_t k = 0; k < sums; ++k) dw[k] += part[i * sums + k];
}

// ---- contiguous ----------------------------------------------------------------------------------------

// acc[tap] += dy x[tap] over rows of `count` pixels.
template <class T, int Taps>
void over_rows(int64_t rows, int64_t count, const T* dy, int64_t dy_step, const T* x, int64_t x_step,
               const int64_t* taps, T* acc) {
  constexpr int V = lanes<T>;
  vec<T> total[Taps];
  static_for<Taps>([&](auto t) ARRAYNN_LAMBDA { total[t] = load(acc + t * V); });
  for (int64_t r = 0; r < rows; ++r, dy += dy_step, x += x_step)
    for_vectors<T>(count, [&](int64_t i, auto n) ARRAYNN_LAMBDA {
      vec<T> d = load_count(dy + i, n);
      static_for<Taps>([&](auto t) ARRAYNN_LAMBDA {
        total[t] = fma(d, load_count(x + taps[t] + i, n), total[t]);  // nothing beyond the row: it may be infinite
      });
    });
  static_for<Taps>([&](auto t) ARRAYNN_LAMBDA { store(acc + t * V, total[t]); });
}

template <class T>
struct Contiguous {
  const Gather<T>& g;
  Plan<T> plan;
  int64_t pairs, sums, parts;  // pairs of an output and an input channel, of a group

  explicit Contiguous(const Gather<T>& gather) : g(gather), plan(gather), pairs(gather.in_c * gather.out_c) {
    sums = g.groups * pairs * g.tap_count;
    parts = parts_of<T>(g.batch, g.groups, sums);
  }
  int64_t accumulators() const { return pairs * g.tap_count * lanes<T>; }
  int64_t worker_elements() const { return plan.planes(g.in_c) + round_up(accumulators(), 64); }
  int64_t elements() const {
    return 2 * round_up(g.tap_count, 64) + round_up(parts * sums, 64) + worker_elements() * num_threads();
  }

  void block(const Place& at, const T* dy, const int64_t* taps, T* planes, T* acc) const {
    copy_planes(g, plan, at, planes);
    for (int64_t pair = 0; pair < pairs; ++pair) {
      int64_t o = pair / g.in_c, i = pair % g.in_c;
      const T* d = dy + at.image * g.out_strides.n + (at.group * g.out_c + o) * g.out_strides.c +
                   at.slice * g.out_strides.d + at.row * g.out_strides.h;
      const T* x = planes + i * plan.plane_step;
      T* to = acc + pair * g.tap_count * lanes<T>;
      int64_t step = even_part(g.tap_count, most_taps);
      for (int64_t t = 0; t < g.tap_count; t += step)
        with_constant<most_taps>(static_cast<int>(std::min(step, g.tap_count - t)), [&](auto count) {
          over_rows<T, count>(at.rows, g.grid.w, d, g.out_strides.h, x, plan.pitch, taps + t, to + t * lanes<T>);
        });
    }
  }

  void run(const T* dy, T* dw, T* scratch) const {
    int64_t* taps = reinterpret_cast<int64_t*>(scratch);
    for (int64_t t = 0; t < g.tap_count; ++t) taps[t] = plan.distance(g, g.taps[t].offset);
    T* part_sums = scratch + 2 * round_up(g.tap_count, 64);
    T* rest = part_sums + round_up(parts * sums, 64);
    parallel_for(g.groups * parts, [&](int64_t index, int worker) {
      int64_t part = index / g.groups, group = index % g.groups;
      T *planes = rest + worker * worker_elements(), *acc = planes + plan.planes(g.in_c);
      std::fill_n(acc, accumulators(), T(0));
      for (int64_t image = g.batch * part / parts; image < g.batch * (part + 1) / parts; ++image)
        for (int64_t slice = 0; slice < g.grid.d; ++slice)
          for (int64_t row = 0; row < g.grid.h; row += plan.rows)
            block({group, image, slice, row, std::min(plan.rows, g.grid.h - row)}, dy, taps, planes, acc);
      T* to = part_sums + part * sums + group * pairs * g.tap_count;
      for (int64_t k = 0; k < pairs * g.tap_count; ++k) to[k] = sum<T>(load(acc + k * lanes<T>));
    });
    add_parts(parts, sums, part_sums, dw);
  }
};

// ---- channels-last -------------------------------------------------------------------------------------

// A tap of a row of outputs: its first pixel's input, the columns that find it inside, and its sums.
template <class T>
struct RowTap {
  const T* x;
  Columns columns;
  T* sums;
};

// sums += dy x of `Taps` taps, for a vector of channels: the columns that all share, then what each has besides.
template <class T, int Taps, class Count>
ARRAYNN_INLINE void channels_of_row(const RowTap<T>* taps, const T* dy, int64_t dy_step, int64_t x_step, int64_t c,
                                    Count n) {
  vec<T> total[Taps];
  Columns shared{0, INT64_MAX};
  static_for<Taps>([&](auto t) ARRAYNN_LAMBDA {
    total[t] = load_count(taps[t].sums + c, n);
    shared = {std::max(shared.begin, taps[t].columns.begin), std::min(shared.end, taps[t].columns.end)};
  });
  shared.end = std::max(shared.begin, shared.end);
  for (int64_t col = shared.begin; col < shared.end; ++col) {
    vec<T> d = load_count(dy + col * dy_step + c, n);
    static_for<Taps>([&](auto t)
                         ARRAYNN_LAMBDA { total[t] = fma(d, load_count(taps[t].x + col * x_step + c, n), total[t]); });
  }
  static_for<Taps>([&](auto t) ARRAYNN_LAMBDA {
    auto add = [&](int64_t begin, int64_t end) ARRAYNN_LAMBDA {
      for (int64_t col = begin; col < end; ++col)
        total[t] = fma(load_count(dy + col * dy_step + c, n), load_count(taps[t].x + col * x_step + c, n), total[t]);
    };
    add(taps[t].columns.begin, std::min(shared.begin, taps[t].columns.end));
    add(std::max(shared.end, taps[t].columns.begin), taps[t].columns.end);
    store_count(taps[t].sums + c, total[t], n);
  });
}

// A few columns at a time for all channels: pixels mostly lie at distances that share sets of the nearest cache.
template <class T>
void add_row(const Gather<T>& g, const RowTap<T>* taps, int count, const T* dy, const NextRow<T>& next) {
  constexpr int together = 8;
  int64_t x_step = g.stride.w * g.in_strides.w;
  with_constant<most_taps>(count, [&](auto constant) {
    for (int64_t col = 0; col < g.grid.w; col += together) {
      RowTap<T> some[constant()];
      for (int t = 0; t < constant(); ++t) {
        some[t] = taps[t];
        some[t].columns = {std::max(col, taps[t].columns.begin), std::min(col + together, taps[t].columns.end)};
        some[t].columns.end = std::max(some[t].columns.begin, some[t].columns.end);
      }
      NextRow<T> ahead{next.in ? next.in + col * x_step : nullptr,
                       next.out ? next.out + col * g.out_strides.w : nullptr};
      for_vectors<T>(g.groups, [&](int64_t c, auto n) ARRAYNN_LAMBDA {
        ahead.template prefetch<together, together, 0>(c, x_step, g.out_strides.w);
        channels_of_row<T, constant>(some, dy, g.out_strides.w, x_step, c, n);
      });
    }
  });
}

// One row of outputs, all taps; sums lie as (tap, channel).
template <class T>
void row_gradient(const Gather<T>& g, const T* dy, int64_t line, T* sums) {
  int64_t image = line / (g.grid.d * g.grid.h), slice = line / g.grid.h % g.grid.d, row = line % g.grid.h;
  const T* d = dy + image * g.out_strides.n + slice * g.out_strides.d + row * g.out_strides.h;
  RowTap<T> taps[most_taps];
  int count = 0;
  int64_t step = even_part(g.tap_count, most_taps);
  NextRow<T> next = next_row(g, g.in + image * g.in_strides.n, slice, row, 0, d);
  auto add = [&] {
    add_row(g, taps, count, d, next);
    count = 0, next = {};
  };
  for (int64_t t = 0; t < g.tap_count; ++t) {
    const Triple& o = g.taps[t].offset;
    int64_t z = slice * g.stride.d + o.d, y = row * g.stride.h + o.h;
    Columns columns = columns_of(g, o.w);
    if (z < 0 || z >= g.size.d || y < 0 || y >= g.size.h || columns.begin >= columns.end) continue;
    const T* x = g.in + image * g.in_strides.n + z * g.in_strides.d + y * g.in_strides.h + o.w * g.in_strides.w;
    taps[count++] = {x, columns, sums + t * g.groups};
    if (count == step) add();
  }
  if (count > 0) add();
}

template <class T>
int64_t lines_of(const Gather<T>& g) {
  return g.batch * g.grid.d * g.grid.h;
}
template <class T>
int64_t channels_last_parts(const Gather<T>& g) {
  return parts_of<T>(lines_of(g), 1, g.groups * g.tap_count);
}

template <class T>
void channels_last(const Gather<T>& g, const T* dy, T* dw, T* scratch) {
  int64_t lines = lines_of(g), parts = channels_last_parts(g), sums = g.groups * g.tap_count;
  parallel_for(parts, [&](int64_t part, int) {
    T* to = scratch + part * sums;
    std::fill_n(to, sums, T(0));
    for (int64_t line = lines * part / parts; line < lines * (part + 1) / parts; ++line) row_gradient(g, dy, line, to);
  });
  T* total = scratch + parts * sums;
  add_parts(parts, sums, scratch, total);
  for (int64_t c = 0; c < g.groups; ++c)
    for (int64_t t = 0; t < g.tap_count; ++t) dw[c * g.tap_count + t] = total[t * g.groups + c];
}

}  // namespace

template <class T>
bool takes_depthwise_gradient(const Gather<T>& g) {
  return g.layout == Layout::channels_last ? is_depthwise(g) : is_thin(g) && takes_planes(g);
}
template bool takes_depthwise_gradient(const Gather<float>&);
template bool takes_depthwise_gradient(const Gather<double>&);

template <class T>
int64_t weight_gradient_depthwise_scratch(const Gather<T>& g) {
  if (g.layout == Layout::contiguous) return Contiguous<T>(g).elements();
  return (channels_last_parts(g) + 1) * g.groups * g.tap_count;
}
template int64_t weight_gradient_depthwise_scratch(const Gather<float>&);
template int64_t weight_gradient_depthwise_scratch(const Gather<double>&);

template <class T>
void weight_gradient_depthwise(const Gather<T>& g, const T* dy, T* dw, T* scratch) {
  if (g.layout == Layout::contiguous)
    Contiguous<T>(g).run(dy, dw, scratch);
  else
    channels_last(g, dy, dw, scratch);
}
template void weight_gradient_depthwise(const Gather<float>&, const float*, float*, float*);
template void weight_gradient_depthwise(const Gather<double>&, const double*, double*, double*);

}  // namespace arraynn::cpu::ARRAYNN_ISA
