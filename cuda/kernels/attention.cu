// Which kernel attends, and how the work is cut.
#include "cuda/kernels/attention.h"

#include <algorithm>

#include "base/error.h"
#include "cuda/device/attention_parts.h"
#include "cuda/device/attention_plain.h"
#include "formats/list.h"

namespace hrun::gpu {
namespace {

// How many parts the positions are cut into, so that every multiprocessor has `per_multiprocessor` blocks, none of which
// sees less than `least` positions.
int count_splits(const Gpu& gpu, int64_t blocks, int64_t positions, int per_multiprocessor, int64_t least) {
  const int64_t wanted = static_cast<int64_t>(gpu.info().multiprocessors) * per_multiprocessor / std::max<int64_t>(1, blocks);
  return static_cast<int>(std::clamp<int64_t>(std::min(wanted, positions / least), 1, JoinParts::kMaxSplits));
}

struct Plan {
  int n_splits;
};

Plan plan_for(const Gpu& gpu, const KVLayer&, const AttentionShape& shape, int64_t n_tokens, int64_t positions) {
  const int64_t seen = shape.window > 0 ? std::min(positions, shape.window) : positions;
  return {count_splits(gpu, n_tokens * shape.n_heads, seen, 8, 64)};
}

}  // namespace

size_t attention_scratch_bytes(const Gpu& gpu, const KVLayer& cache, const AttentionShape& shape, int64_t n_tokens, int64_t positions) {
  const Plan plan = plan_for(gpu, cache, shape, n_tokens, positions);
  if (plan.n_splits == 1) return 0;
  return static_cast<size_t>(plan.n_splits * n_tokens * shape.n_heads * (cache.v_dim + 2)) * sizeof(float);
}

void attention(Gpu& gpu, FloatView q, const KVLayer& cache, Position first, int64_t positions, const AttentionShape& shape,
               const float* sinks, FloatView out, void* scratch) {
  if (shape.n_heads <= 0 || cache.n_kv_heads <= 0 || shape.n_heads % cache.n_kv_heads != 0)
    throw ArgumentError("attention: {} query heads for {} kv heads", shape.n_heads, cache.n_kv_heads);
  if (q.cols != static_cast<int64_t>(shape.n_heads) * cache.k_dim || out.cols != static_cast<int64_t>(shape.n_heads) * cache.v_dim || q.rows != out.rows)
    throw ArgumentError("attention: q of [{}, {}] and out of [{}, {}] for {} heads of {} and {}", q.rows, q.cols, out.rows, out.cols,
                        shape.n_heads, cache.k_dim, cache.v_dim);
  const auto is_half = [](FormatId format) {
    if (format != F16::kId && format != F32::kId) throw UnsupportedModelError("the GPU keeps keys and values as f16 or f32, not as format {}", format);
    return format == F16::kId;
  };
  if (std::max(cache.k_dim, cache.v_dim) > PlainAttention::kMaxDim)
    throw UnsupportedModelError("attention on the GPU: heads of {} and {} values, at most {} are possible", cache.k_dim, cache.v_dim, PlainAttention::kMaxDim);
  if (q.rows == 0) return;
  const Plan plan = plan_for(gpu, cache, shape, q.rows, positions);
  auto* const values = static_cast<float*>(scratch);
  const int64_t n_queries = q.rows * shape.n_heads;
  const AttentionTask task{
      .q = q,
      .out = out,
      .k = cache.k,
      .v = cache.v,
      .half_k = is_half(cache.k_format),
      .half_v = is_half(cache.v_format),
      .capacity = cache.capacity,
      .n_heads = shape.n_heads,
      .group = shape.n_heads / cache.n_kv_heads,
      .k_dim = cache.k_dim,
      .v_dim = cache.v_dim,
      .first = first,
      .scale = shape.scale,
      .soft_cap = shape.soft_cap,
      .window = shape.window,
      .sinks = sinks,
      .n_splits = plan.n_splits,
      .values = values,
      .sums = plan.n_splits > 1 ? values + plan.n_splits * n_queries * cache.v_dim : nullptr,
  };
  gpu.launch(PlainAttention{task}, Grid{static_cast<int>(n_queries), plan.n_splits}, PlainAttention::kSharedBytes);
  if (plan.n_splits > 1) gpu.launch(JoinParts{task}, Grid{static_cast<int>(n_queries)}, 2 * JoinParts::kMaxSplits * sizeof(float));
}

}  // namespace hrun::gpu
