// Chooses the kernel that attends, and how the work is cut.
#include "cuda/kernels/attention.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/error.h"
#include "cuda/device/attention_coded.h"
#include "cuda/device/attention_flash.h"
#include "cuda/device/attention_plain.h"
#include "cuda/device/attention_wide.h"
#include "cuda/device/prepare.h"
#include "cuda/kernels/coded_cache.h"

namespace hrun::gpu {
namespace {

// In spans of up to so many rows, splits are blocks of their own.  Longer spans have blocks enough,
// and their parts would not fit into memory.
constexpr int kFewRows = 16;

// The sizes of heads that the tensor core kernels are compiled for; a smaller head is padded with
// zeros in shared memory.
constexpr int kDims[] = {64, 96, 128, 256};

// PlainAttention; FewQueries and ManyQueries; WideAttention; CodedAttention.
enum class Way : uint8_t { plain, flash, wide, coded };

struct Plan {
  Way way = Way::plain;
  int dim = 0;      // of kDims
  int split = 256;  // positions
};

// The device may decide: if it cannot use one kernel, another computes the result with other bits.
Plan plan_for(const Gpu& gpu, const KVPages& cache) {
  Plan plan;
  if (cache.coded.beside) return {Way::coded, 0, CodedAttention::kSplit};
  const auto pieces = [](const void* p, int dim) {
    return dim % 8 == 0 && reinterpret_cast<uintptr_t>(p) % 16 == 0;
  };
  if (cache.k_type != CacheType::f16 || cache.v_type != CacheType::f16 ||
      !pieces(cache.k, cache.k_dim) || !pieces(cache.v, cache.v_dim))
    return plan;
  for (const int dim : kDims)
    if (plan.dim == 0 && std::max(cache.k_dim, cache.v_dim) <= dim) plan.dim = dim;
  if (plan.dim > 0) {
    plan.way = Way::flash;
    plan.split = kUnitsPerSplit * (plan.dim <= 128 ? kAttentionUnit<128> : kAttentionUnit<256>);
  } else if (gpu.info().block_shared_bytes >= WideAttention::kSharedBytes &&
             cache.k_dim <= WideAttention::kKeyDim && cache.v_dim <= WideAttention::kValueDim) {
    plan.way = Way::wide;
    plan.split = WideAttention::kSplit;
  }
  return plan;
}

// A bound of at least as many splits as AttentionTask::splits_of() finds.
int64_t splits_bound(const SpanBound& span, int64_t window, int split) {
  const int64_t all = (std::max<int64_t>(span.end, 1) + split - 1) / split;
  if (window <= 0) return all;
  return std::min(all, (window + span.n_rows) / split + 2);
}

// The spans of one launch: how many blocks and parts they have, for `rows` queries in each block.
struct Launch {
  int64_t blocks = 0, parts = 0, most_splits = 1;
};
Launch count(std::span<const SpanBound> bounds, bool few, int group, int rows, int64_t window,
             int split) {
  Launch launch;
  for (const SpanBound& span : bounds) {
    if ((span.n_rows <= kFewRows) != few) continue;
    const int64_t splits = few ? splits_bound(span, window, split) : 1;
    launch.blocks += (span.n_rows * group + rows - 1) / rows * splits;
    launch.parts += span.n_rows * splits;
    launch.most_splits = std::max(launch.most_splits, splits);
  }
  return launch;
}

template <class Kernel>
void launch(Gpu& gpu, const AttentionTask& task, std::span<const SpanBound> bounds, int rows) {
  const Launch l = count(bounds, task.apart, task.group, rows, task.window, task.split);
  if (l.blocks > 0)
    gpu.launch(Kernel{{{task}}}, Grid{static_cast<int>(l.blocks * (task.n_heads / task.group))},
               Kernel::kSharedBytes);
}

template <int kDim>
void launch_flash(Gpu& gpu, const AttentionTask& task, std::span<const SpanBound> bounds) {
  if (task.apart)
    launch<FewQueries<kDim>>(gpu, task, bounds, FewQueries<kDim>::kRows);
  else
    launch<ManyQueries<kDim>>(gpu, task, bounds, ManyQueries<kDim>::kRows);
}

void launch(Gpu& gpu, const AttentionTask& task, const KVPages& cache, const Rope* rope,
            const Plan& plan, std::span<const SpanBound> bounds, int64_t most_splits) {
  if (plan.way == Way::coded) {
    const Launch l =
        count(bounds, task.apart, task.group, CodedAttention::kRows, task.window, task.split);
    return launch_coded_attention(gpu, task, cache, rope, l.blocks);
  }
  if (plan.way == Way::wide) {
    const Launch l =
        count(bounds, task.apart, task.group, WideAttention::kRows, task.window, task.split);
    return gpu.launch(WideAttention{{task}},
                      Grid{static_cast<int>(l.blocks * (task.n_heads / task.group))},
                      WideAttention::kSharedBytes);
  }
  if (plan.way == Way::plain)
    return gpu.launch(
        PlainAttention{task},
        Grid{static_cast<int>(task.q.rows * task.n_heads), static_cast<int>(most_splits)},
        PlainAttention::kSharedBytes);
  const auto try_dim = [&]<int kDim>() {
    if (plan.dim == kDim) launch_flash<kDim>(gpu, task, bounds);
  };
  [&]<size_t... i>(std::index_sequence<i...>) {
    (try_dim.template operator()<kDims[i]>(), ...);
  }(std::make_index_sequence<std::size(kDims)>());
}

}  // namespace

size_t attention_scratch_bytes(const KVPages& cache, const AttentionShape& shape,
                               std::span<const SpanBound> bounds) {
  // The shortest splits that there are.
  const int split =
      kUnitsPerSplit *
      (std::max(cache.k_dim, cache.v_dim) > 128 ? kAttentionUnit<256> : kAttentionUnit<128>);
  const Launch l = count(bounds, true, 1, 1, shape.window, split);
  if (l.most_splits == 1) return 0;
  return static_cast<size_t>(l.parts * shape.n_heads * (cache.v_dim + 2)) * sizeof(float);
}

namespace {

// A warp joins 256 columns of a token and makes them ready for a product.
struct JoinAndPrepare {
  static constexpr int kThreads = 128, kBlocks = 1;
  static constexpr int kWarps = kThreads / kWarp;
  static constexpr const char* kName = "the join of attention's parts, quantized";
  JoinEight join;
  PrepareRow<false, true> row;
  int blocks_per_token;

  HRUN_HD void operator()() const {
    const int token = block_x() / blocks_per_token;
    const int first = (block_x() % blocks_per_token * kWarps + warp()) * kRotationBlock;
    if (first >= row.cols) return;
    join(token, first + lane() * kPerLane);
    row.block(token, first, 1);
  }
};

}  // namespace

void join_parts(Gpu& gpu, const AttentionTask& task) {
  gpu.launch(JoinParts{task}, Grid{static_cast<int>(task.q.rows * task.n_heads)});
}

bool can_join_and_quantize(const AttentionTask& task) { return task.v_dim % kPerLane == 0; }

void join_and_quantize(Gpu& gpu, const AttentionTask& task, InputForm kind,
                       const QuantizedRows& to) {
  using Kernel = JoinAndPrepare;
  const int64_t n_blocks = (task.out.cols + kRotationBlock - 1) / kRotationBlock;
  const Kernel k{{task},
                 {prepare_task({.x = task.out}, kind, to, {})},
                 static_cast<int>((n_blocks + Kernel::kWarps - 1) / Kernel::kWarps)};
  gpu.launch(k, Grid{static_cast<int>(task.out.rows * k.blocks_per_token)});
}

bool attention(Gpu& gpu, FloatView q, const KVPages& cache, const BatchOnDevice& batch,
               std::span<const SpanBound> bounds, const AttentionShape& shape, const float* sinks,
               FloatView out, void* scratch, AttentionTask* join_later) {
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
  if (q.rows == 0) return false;
  const Plan plan = shape.max_alibi_bias > 0 ? Plan{} : plan_for(gpu, cache);
  AttentionTask task{
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
      .batch = batch,
      .scale = shape.scale,
      .soft_cap = shape.soft_cap,
      .window = shape.window,
      .causal = shape.causal,
      .sinks = sinks,
      .max_alibi_bias = shape.max_alibi_bias,
      .split = plan.split,
      .least = 0,
      .most = 0,
      .apart = false,
      .values = nullptr,
      .sums = nullptr,
  };
  for (const bool few : {true, false}) {
    const Launch l = count(bounds, few, 1, 1, shape.window, plan.split);
    if (l.blocks == 0) continue;
    task.apart = few;
    task.least = few ? 0 : kFewRows + 1;
    task.most = few ? kFewRows : std::numeric_limits<int>::max();
    if (few && l.most_splits > 1) {
      task.values = static_cast<float*>(scratch);
      task.sums = task.values + l.parts * shape.n_heads * cache.v_dim;
    }
    launch(gpu, task, cache, shape.rope, plan, bounds, l.most_splits);
    if (few && l.most_splits > 1) {
      const bool all_few = count(bounds, false, 1, 1, shape.window, plan.split).blocks == 0;
      if (join_later && all_few) {
        *join_later = task;
        return true;
      }
      join_parts(gpu, task);
    }
  }
  return false;
}

}  // namespace hrun::gpu
