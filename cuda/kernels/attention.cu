// Which kernel attends, and how the work is cut.
#include "cuda/kernels/attention.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "cuda/device/attention_flash.h"
#include "cuda/device/attention_plain.h"
#include "cuda/device/attention_wide.h"

namespace hrun::gpu {
namespace {

// Spans of up to so many tokens are cut at multiples of kSplitPositions, whatever the device, the
// bound and the rest of the batch: a token has the same bits alone and among others.  Longer spans
// have blocks enough, and their parts would not fit into memory.
constexpr int64_t kFewTokens = 16;

// The sizes of heads that the tensor core kernels are compiled for; a smaller head is padded with
// zeros in shared memory.
constexpr int kDims[] = {64, 96, 128, 256};

enum class Way : uint8_t {
  plain,
  few,
  many,
  wide
};  // PlainAttention, FewQueries, ManyQueries, WideAttention

struct Plan {
  Way way = Way::plain;
  int dim = 0;  // of kDims
  int n_splits = 1;
  Grid grid;
};

// n_queries per kv head and token by token.
Plan plan_for(const Gpu& gpu, const KVPages& cache, const AttentionShape& shape, int64_t n_tokens,
              int64_t positions) {
  const int64_t rows = n_tokens * (shape.n_heads / cache.n_kv_heads);
  Plan plan;
  const auto pieces = [](const void* p, int dim) {
    return dim % 8 == 0 && reinterpret_cast<uintptr_t>(p) % 16 == 0;
  };
  if (cache.k_type == CacheType::f16 && cache.v_type == CacheType::f16 &&
      pieces(cache.k, cache.k_dim) && pieces(cache.v, cache.v_dim)) {
    for (const int dim : kDims)
      if (plan.dim == 0 && std::max(cache.k_dim, cache.v_dim) <= dim) plan.dim = dim;
    // Its shared memory is more than a block has on consumer cards.
    const bool large_memory = gpu.info().block_shared_bytes >= WideAttention::kSharedBytes;
    if (plan.dim > 0)
      plan.way = n_tokens <= kFewTokens ? Way::few : Way::many;
    else if (large_memory && cache.k_dim <= WideAttention::kKeyDim &&
             cache.v_dim <= WideAttention::kValueDim)
      plan.way = Way::wide;
  }
  const auto blocks_of = [&](int block_rows) {
    return (rows + block_rows - 1) / block_rows * cache.n_kv_heads;
  };
  int64_t blocks = n_tokens * shape.n_heads;
  if (plan.way == Way::few) blocks = blocks_of(FewQueries<64>::kRows);
  if (plan.way == Way::many) blocks = blocks_of(ManyQueries<64>::kRows);
  if (plan.way == Way::wide) blocks = blocks_of(WideAttention::kRows);
  if (n_tokens <= kFewTokens)
    plan.n_splits =
        static_cast<int>(std::max<int64_t>(1, (positions + kSplitPositions - 1) / kSplitPositions));
  plan.grid = {static_cast<int>(blocks), plan.n_splits};
  return plan;
}

template <int kDim>
void launch_flash(Gpu& gpu, const AttentionTask& task, const Plan& plan) {
  if (plan.way == Way::few)
    gpu.launch(FewQueries<kDim>{{task}}, plan.grid, FewQueries<kDim>::kSharedBytes);
  else
    gpu.launch(ManyQueries<kDim>{{task}}, plan.grid, ManyQueries<kDim>::kSharedBytes);
}

void launch(Gpu& gpu, const AttentionTask& task, const Plan& plan) {
  if (plan.way == Way::wide)
    return gpu.launch(WideAttention{{task}}, plan.grid, WideAttention::kSharedBytes);
  if (plan.way == Way::plain)
    return gpu.launch(PlainAttention{task}, plan.grid, PlainAttention::kSharedBytes);
  const auto try_dim = [&]<int kDim>() {
    if (plan.dim == kDim) launch_flash<kDim>(gpu, task, plan);
  };
  [&]<size_t... i>(std::index_sequence<i...>) {
    (try_dim.template operator()<kDims[i]>(), ...);
  }(std::make_index_sequence<std::size(kDims)>());
}

}  // namespace

size_t attention_scratch_bytes(const Gpu& gpu, const KVPages& cache, const AttentionShape& shape,
                               int64_t n_tokens, int64_t positions) {
  const Plan plan = plan_for(gpu, cache, shape, n_tokens, positions);
  if (plan.n_splits == 1) return 0;
  return static_cast<size_t>(plan.n_splits * n_tokens * shape.n_heads * (cache.v_dim + 2)) *
         sizeof(float);
}

void attention(Gpu& gpu, FloatView q, const KVPages& cache, SpanOnDevice span, int64_t positions,
               const AttentionShape& shape, const float* sinks, FloatView out, void* scratch) {
  if (shape.n_heads <= 0 || cache.n_kv_heads <= 0 || shape.n_heads % cache.n_kv_heads != 0)
    throw ArgumentError("attention: {} query heads for {} kv heads", shape.n_heads,
                        cache.n_kv_heads);
  if (q.cols != static_cast<int64_t>(shape.n_heads) * cache.k_dim ||
      out.cols != static_cast<int64_t>(shape.n_heads) * cache.v_dim || q.rows != out.rows)
    throw ArgumentError("attention: q of [{}, {}] and out of [{}, {}] for {} heads of {} and {}",
                        q.rows, q.cols, out.rows, out.cols, shape.n_heads, cache.k_dim,
                        cache.v_dim);
  if (std::max(cache.k_dim, cache.v_dim) > PlainAttention::kMaxDim)
    throw UnsupportedModelError(
        "attention on the GPU: heads of {} and {} values, at most {} are possible", cache.k_dim,
        cache.v_dim, PlainAttention::kMaxDim);
  if (q.rows == 0) return;
  const Plan plan = plan_for(gpu, cache, shape, q.rows, positions);
  auto* const values = static_cast<float*>(scratch);
  const int64_t n_queries = q.rows * shape.n_heads;
  const AttentionTask task{
      .q = q,
      .out = out,
      .k = cache.k,
      .v = cache.v,
      .half_k = cache.k_type == CacheType::f16,
      .half_v = cache.v_type == CacheType::f16,
      .page_bytes = static_cast<uint32_t>(cache.page_bytes),
      .n_heads = shape.n_heads,
      .group = shape.n_heads / cache.n_kv_heads,
      .k_dim = cache.k_dim,
      .v_dim = cache.v_dim,
      .span = span,
      .scale = shape.scale,
      .soft_cap = shape.soft_cap,
      .window = shape.window,
      .sinks = sinks,
      .n_splits = plan.n_splits,
      .values = values,
      .sums = plan.n_splits > 1 ? values + plan.n_splits * n_queries * cache.v_dim : nullptr,
  };
  launch(gpu, task, plan);
  if (plan.n_splits > 1)
    gpu.launch(JoinParts{task}, Grid{static_cast<int>(n_queries)},
               2 * sizeof(float) * static_cast<size_t>(plan.n_splits));
}

}  // namespace hrun::gpu
