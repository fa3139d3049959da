// The kernel of attention, for the sources beside this one: each holds the instances of one way to multiply, so that
// they compile side by side.
#pragma once
#include "attention/tiles.h"
#include "dispatch.h"

namespace arraynn::cuda {

// One kind of results of one call.
struct AttentionCall {
  Results kind;
  const AttentionParams* p;
  const void *query, *key, *value, *mask, *d_output, *saved, *delta;
  AttentionMatrix d_output_at;
  void *results, *save, *wide_output;
};

void attention_float32(const AttentionCall& call);
void attention_tf32(const AttentionCall& call);
void attention_float16(const AttentionCall& call);  // the output alone: gradients of scores may be too small for it
void attention_bfloat16(const AttentionCall& call);
void attention_plain(const AttentionCall& call);  // without tensor cores

namespace {

template <class T>
Operand<T> operand_of(const AttentionParams& p, const void* data, const AttentionMatrix& at, int64_t rows,
                      int64_t columns, int64_t group) {
  auto aligned = [&](int bytes) {
    auto steps = static_cast<int64_t>(bytes / sizeof(T));
    bool all = at.column == 1 && at.row % steps == 0 && reinterpret_cast<uintptr_t>(data) % bytes == 0;
    for (int i = 0; i < p.ndim - 2; ++i) all = all && at.batch[i] % steps == 0;
    return all;
  };
  int bytes = aligned(16) ? 16 : sizeof(T) == 2 && aligned(4) ? 4 : static_cast<int>(sizeof(T));
  return {static_cast<const T*>(data), at, group, rows, columns, bytes};
}

template <class Math, template <class, class> class Matrix, Results kind, int wide>
__global__ void __launch_bounds__(Math::Shape::threads) attention_kernel(AttentionTiles<typename Math::T> a) {
  Attention<Math, Matrix, kind, wide>(a).run();
}

template <class Math, template <class, class> class Matrix, Results kind, int wide>
void launch_attention(const AttentionTiles<typename Math::T>& tiles) {
  AttentionTiles<typename Math::T> a = tiles;
  using Kernel = Attention<Math, Matrix, kind, wide>;
  const AttentionParams& p = a.p;
  int64_t columns = kind == Results::output || kind == Results::d_value ? p.value_depth : p.depth;
  a.tiles = ceil_div(Kernel::queries_own ? p.queries : p.keys, tile_rows);
  a.chunks = ceil_div(columns, wide * tile_rows);
  int64_t heads = Kernel::queries_own ? p.heads : p.heads / p.group;
  // Without columns there are still rows to save.
  if (kind == Results::output && a.save && a.chunks == 0) a.chunks = 1;
  launch(attention_kernel<Math, Matrix, kind, wide>, dim3(static_cast<unsigned>(heads * a.tiles * a.chunks)),
         Math::Shape::threads, Kernel::bytes, p.place, a);
}

template <class Math, template <class, class> class Matrix, int wide>
void launch_kinds(Results kind, const AttentionTiles<typename Math::T>& a) {
  if constexpr (std::is_same_v<typename Math::T, float16>) {
    return launch_attention<Math, Matrix, Results::output, wide>(a);
  } else {
    switch (kind) {
      case Results::output: return launch_attention<Math, Matrix, Results::output, wide>(a);
      case Results::d_query: return launch_attention<Math, Matrix, Results::d_query, wide>(a);
      case Results::d_key: return launch_attention<Math, Matrix, Results::d_key, wide>(a);
      default: return launch_attention<Math, Matrix, Results::d_value, wide>(a);
    }
  }
}

template <class T>
AttentionTiles<T> tiles_of(const AttentionCall& c) {
  using C = compute_t<T>;
  const AttentionParams& p = *c.p;
  return {p,
          operand_of<T>(p, c.query, p.query, p.queries, p.depth, 1),
          operand_of<T>(p, c.key, p.key, p.keys, p.depth, p.group),
          operand_of<T>(p, c.value, p.value, p.keys, p.value_depth, p.group),
          operand_of<T>(p, c.d_output, c.d_output_at, p.queries, p.value_depth, 1),
          c.mask,
          static_cast<const C*>(c.saved),
          static_cast<const C*>(c.delta),
          static_cast<T*>(c.results),
          static_cast<C*>(c.save),
          static_cast<C*>(c.wide_output),
          0,
          0};
}

// Whether all that a call reads can be copied by 16 bytes.
template <class T>
bool all_packed(const AttentionTiles<T>& a, Results kind) {
  return a.query.bytes == 16 && a.key.bytes == 16 && a.value.bytes == 16 &&
         (kind == Results::output || a.d_output.bytes == 16);
}

template <class Math>
void attention_on_tensor_cores(const AttentionCall& call) {
  auto a = tiles_of<typename Math::T>(call);
  if (!all_packed(a, call.kind)) return launch_kinds<Math, AnyMatrix, 1>(call.kind, a);
  bool from_values = call.kind == Results::output || call.kind == Results::d_value;
  if ((from_values ? a.p.value_depth : a.p.depth) > tile_rows) return launch_kinds<Math, PackedMatrix, 2>(call.kind, a);
  launch_kinds<Math, PackedMatrix, 1>(call.kind, a);
}

}  // namespace

}  // namespace arraynn::cuda
