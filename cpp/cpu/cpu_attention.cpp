// Keys and values on the CPU, and attention over them.
//
// The cache goes in blocks of kCacheBlock positions (KVLayer).  A block holds, head by head, the
// keys as [16 positions][k_dim][position], as the kernels want them (attention.h), and the values
// as [position][v_dim].
#include <algorithm>

#include "cpu/cpu_backend_parts.h"

namespace hrun {
namespace {

// The keys, or the values, of a layer.
struct CacheBlocks {
  uint8_t* base;
  size_t head_stride;  // from head to head of a block
  size_t stride;       // from block to block

  CacheBlocks(const KVLayer& cache, void* first, const FormatInfo& format, int dim)
      : base(static_cast<uint8_t*>(first)),
        head_stride(cache.head_stride
                        ? cache.head_stride
                        : static_cast<size_t>(kCacheBlock * dim) * format.block_bytes),
        stride(cache.block_stride ? cache.block_stride
                                  : head_stride * static_cast<size_t>(cache.n_kv_heads)) {}
  uint8_t* block(int64_t b, int64_t head) const {
    return base + static_cast<size_t>(b) * stride + static_cast<size_t>(head) * head_stride;
  }
};

const FormatInfo& cache_format(FormatId id) {
  const FormatInfo* info = find_format(id);
  if (!info || (id != F16::kId && id != F32::kId))
    throw UnsupportedModelError("the CPU keeps keys and values as f16 or f32, not as format {}",
                                info ? info->name : std::to_string(id));
  return *info;
}

void require_blocks(const KVLayer& cache, std::string_view operation) {
  require(cache.capacity % kCacheBlock == 0, operation, "a cache of whole blocks of positions");
}

// values[i] to column `position` of [kLanes positions][dim][position].
template <class T>
void put_column(const T* values, int dim, int64_t position, uint8_t* block) {
  T* const to = reinterpret_cast<T*>(block) + position / kLanes * kLanes * dim + position % kLanes;
  for (int i = 0; i < dim; ++i) to[i * kLanes] = values[i];
}

}  // namespace

void CpuBackend::kv_append(const KVLayer& cache, FloatView k, FloatView v, int64_t first_position) {
  const Turn turn(*this, Operation::kv_append);
  checks::kv_append(cache, k, v, first_position);
  require_blocks(cache, "kv_append");
  const CacheBlocks keys(cache, cache.k, cache_format(cache.k_format), cache.k_dim);
  const CacheBlocks values(cache, cache.v, cache_format(cache.v_format), cache.v_dim);
  const int64_t end = first_position + k.rows, begin_block = first_position / kCacheBlock;
  const int64_t n_blocks = (end + kCacheBlock - 1) / kCacheBlock - begin_block;
  // A head's part of a block is one thread's: neighbouring positions share cache lines.
  parallel(
      n_blocks * cache.n_kv_heads,
      std::min<int64_t>(k.rows, kCacheBlock) * (cache.k_dim + cache.v_dim),
      [&](int64_t i, int worker) {
        const int64_t b = begin_block + i / cache.n_kv_heads, head = i % cache.n_kv_heads,
                      first = b * kCacheBlock;
        uint8_t *const key_block = keys.block(b, head), *const value_block = values.block(b, head);
        auto* const halves = worker_scratch_[static_cast<size_t>(worker)].get<uint16_t>(
            static_cast<size_t>(cache.k_dim), "a key");
        for (int64_t p = std::max(first, first_position); p < std::min(first + kCacheBlock, end);
             ++p) {
          const float* const key = k.row(p - first_position) + head * cache.k_dim;
          const float* const value = v.row(p - first_position) + head * cache.v_dim;
          if (cache.k_format == F16::kId) {
            kernels_.to_fp16(key, cache.k_dim, halves);
            put_column(halves, cache.k_dim, p - first, key_block);
          } else {
            put_column(key, cache.k_dim, p - first, key_block);
          }
          const auto at = static_cast<size_t>((p - first) * cache.v_dim);
          if (cache.v_format == F16::kId)
            kernels_.to_fp16(value, cache.v_dim, reinterpret_cast<uint16_t*>(value_block) + at);
          else
            std::copy(value, value + cache.v_dim, reinterpret_cast<float*>(value_block) + at);
        }
      });
}

void CpuBackend::attention(FloatView q, const KVLayer& cache, int64_t first_position,
                           const AttentionShape& shape, FloatView out) {
  const Turn turn(*this, Operation::attention);
  checks::attention(q, cache, first_position, shape, out);
  require_blocks(cache, "attention");
  const auto kernel = kernels_.attention(cache.k_format, cache.v_format);
  const int group = shape.n_heads / cache.n_kv_heads;
  const float* const sinks = shape.sinks ? on_cpu(*shape.sinks).vector.data() : nullptr;
  // The block in which the window of the token at this position begins.
  const auto first_block_of = [&](int64_t position) {
    return shape.window > 0 ? std::max<int64_t>(0, position + 1 - shape.window) / kAttentionBlock
                            : 0;
  };
  const int64_t end = first_position + q.rows, begin_block = first_block_of(first_position);
  const int64_t n_blocks = (end + kAttentionBlock - 1) / kAttentionBlock - begin_block;
  const CacheBlocks keys(cache, cache.k, cache_format(cache.k_format), cache.k_dim);
  const CacheBlocks values(cache, cache.v, cache_format(cache.v_format), cache.v_dim);
  const auto task_of = [&](int64_t kv_head, int64_t first_token, int64_t n_tokens) {
    const int64_t head = kv_head * group;
    return AttentionTask{
        .q = {q.row(first_token) + head * cache.k_dim, n_tokens, group * cache.k_dim, q.stride},
        .out = {out.row(first_token) + head * cache.v_dim, n_tokens, group * cache.v_dim,
                out.stride},
        .n_heads = group,
        .k = keys.block(0, kv_head),
        .v = values.block(0, kv_head),
        .k_stride = keys.stride,
        .v_stride = values.stride,
        .k_dim = cache.k_dim,
        .v_dim = cache.v_dim,
        .first_position = first_position + first_token,
        .scale = shape.scale,
        .window = shape.window,
        .soft_cap = shape.soft_cap,
        .sinks = sinks ? sinks + head : nullptr,
        .first_block = first_block_of(first_position + first_token),
        .n_blocks =
            (first_position + first_token + n_tokens + kAttentionBlock - 1) / kAttentionBlock -
            first_block_of(first_position + first_token),
    };
  };
  const auto run = [&](const AttentionTask& task, int worker) {
    kernel(task, worker_scratch_[static_cast<size_t>(worker)].get<float>(task.scratch_floats(),
                                                                         "the queries of a head"));
  };
  // Some tokens together, so that a block of the cache is converted once for all their heads.
  constexpr int64_t kQueriesTogether = 64, kBlocksTogether = 4;
  const int64_t span = std::clamp<int64_t>(kQueriesTogether / group, 1, q.rows);
  const int64_t spans = (q.rows + span - 1) / span, n_tasks = spans * cache.n_kv_heads;
  const int64_t seen_by_most =
      std::min(first_position + q.rows / 2 + 1, n_blocks * kAttentionBlock);
  const int64_t cost = seen_by_most * (cache.k_dim + cache.v_dim) * group * span;
  if (spans > 1 || n_tasks >= 2 * n_threads() || n_threads() == 1 ||
      n_blocks < 2 * kBlocksTogether) {
    const int64_t chunk = tasks_together(n_tasks, cost);
    parallel(n_tasks, cost, [&](int64_t i, int worker) {
      // Late tokens see more positions: they go first, so that no thread ends up alone with a long
      // task.
      const int64_t first = (spans - 1 - i / cache.n_kv_heads) * span, head = i % cache.n_kv_heads;
      AttentionTask task = task_of(head, first, std::min(span, q.rows - first));
      const int64_t next = (i + 1) % chunk != 0
                               ? i + 1
                               : i + 1 + chunk * (n_threads() - 1);  // if the others are as fast
      if (next < n_tasks && q.rows == 1 && keys.head_stride == values.head_stride)
        task.to_next = keys.block(0, next) - keys.block(0, head);
      run(task, worker);
    });
    return;
  }
  // More threads than heads: each takes some blocks of positions, and what they found is joined.
  const int64_t pieces = (n_blocks + kBlocksTogether - 1) / kBlocksTogether;
  const int64_t n_queries = q.rows * group, stride = n_queries * (2 + cache.v_dim);
  float* const partial = partial_.get<float>(
      static_cast<size_t>(cache.n_kv_heads * n_blocks * stride), "the attention of a long context");
  parallel(cache.n_kv_heads * pieces, cost / pieces, [&](int64_t i, int worker) {
    AttentionTask task = task_of(i / pieces, 0, q.rows);
    const int64_t first = i % pieces * kBlocksTogether;
    task.first_block = begin_block + first;
    task.n_blocks = std::min(kBlocksTogether, n_blocks - first);
    task.partial = partial + (i / pieces * n_blocks + first) * stride;
    run(task, worker);
  });
  parallel(cache.n_kv_heads * n_queries, n_blocks * cache.v_dim, [&](int64_t i, int) {
    const int64_t query = i % n_queries;
    const AttentionTask task = task_of(i / n_queries, 0, q.rows);
    const int64_t position = first_position + query / group, first = first_block_of(position);
    const float* const found = partial + (i / n_queries * n_blocks + first - begin_block) * stride +
                               query * task.partial_floats();
    kernels_.join_attention(found, position / kAttentionBlock + 1 - first, stride, cache.v_dim,
                            task.sinks ? task.sinks + query % group : nullptr,
                            task.out_of(static_cast<int>(query)));
  });
}

}  // namespace hrun
