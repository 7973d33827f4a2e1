// Keys and values become codes on the CPU (kernels/attention_coded.h says what they mean).
//
// The values with which a sequence's codes are read are decided once, by its positions
// kExactPositions to 63.  They are the mean of the keys before they were turned, and the balance,
// which gives keys and queries equal parts in every channel: s_j^4 is the mean square of the
// queries over that of the centred keys.  Both are sums in the order of positions, so they are the
// same whatever the passes were.  A file may bring both (KeyContext), from calibration.
#include <algorithm>
#include <cstring>

#include "backend/key_statistics.h"
#include "base/half.h"
#include "cpu/backend/cpu_cache.h"
#include "cpu/backend/parallel.h"
#include "formats/cache_codes.h"

namespace hrun {
namespace {

// The mean of keys turned by the positions of a block.
void centre_of_block(const Rope* rope, const float* mean, int64_t block, int dim, float* out) {
  std::copy(mean, mean + dim, out);
  if (!rope) return;
  const int64_t row = block * (rope->n_rot / 2);
  for_pairs(rope, [&](int a, int b, int j) {
    const float c = rope->block_cos[row + j], s = rope->block_sin[row + j];
    out[a] = c * mean[a] - s * mean[b];
    out[b] = s * mean[a] + c * mean[b];
  });
}

float key_at(CacheType type, const uint8_t* keys, int dim, int64_t position, int i) {
  const int64_t at = (position / kLanes * dim + i) * kLanes + position % kLanes;
  if (type == CacheType::f32) return reinterpret_cast<const float*>(keys)[at];
  return fp16_to_fp32(reinterpret_cast<const uint16_t*>(keys)[at]);
}

// The mean of the keys of block 0, before they were turned.
void mean_of_keys(const Rope* rope, CacheType type, const uint8_t* keys, int dim, float* mean) {
  std::fill(mean, mean + dim, 0.0f);
  const int n_pairs = rope ? rope->n_rot / 2 : 0;
  for (int64_t p = kExactPositions; p < kPagePositions; ++p) {
    for (int i = 0; i < dim; ++i)
      if (!rope || i < rope->first || i >= rope->first + rope->n_rot)
        mean[i] += key_at(type, keys, dim, p, i);
    for_pairs(rope, [&](int a, int b, int j) {
      const float c = rope->cos[p * n_pairs + j], s = rope->sin[p * n_pairs + j];
      const float x = key_at(type, keys, dim, p, a), y = key_at(type, keys, dim, p, b);
      mean[a] += c * x + s * y;
      mean[b] += c * y - s * x;
    });
  }
  constexpr float kCount = kPagePositions - kExactPositions;
  for (int i = 0; i < dim; ++i) mean[i] /= kCount;
  // The rotary table may stretch the values that it turns.
  for_pairs(rope, [&](int a, int b, int j) {
    const float stretch = stretch_of(rope->cos, j);
    mean[a] /= stretch;
    mean[b] /= stretch;
  });
}

// squares: of the queries, [position][dim].  scratch: [2][dim].
void balance_of_keys(const Rope* rope, CacheType type, const uint8_t* keys, int dim,
                     const float* centre, const float* squares, float* scratch, float* balance) {
  float *const k2 = scratch, *const q2 = scratch + dim;
  std::fill(scratch, scratch + 2 * dim, 0.0f);
  for (int64_t p = kExactPositions; p < kPagePositions; ++p)
    for (int i = 0; i < dim; ++i) {
      const float x = key_at(type, keys, dim, p, i) - centre[i];
      k2[i] += x * x;
      q2[i] += squares[p * dim + i];
    }
  balance_of_squares(rope, dim, k2, q2, balance);
}

void copy_exact(CacheType type, const uint8_t* rows, int dim, bool keys, uint8_t* to) {
  const size_t value = row_bytes(type, 1);
  if (!keys) {
    std::memcpy(to, rows, kExactPositions * row_bytes(type, dim));
    return;
  }
  for (int p = 0; p < kExactPositions; ++p)
    for (int i = 0; i < dim; ++i)
      std::memcpy(to + static_cast<size_t>(p * dim + i) * value,
                  rows + static_cast<size_t>(i * kLanes + p) * value, value);
}

}  // namespace

void CpuBackend::append_coded(const CacheSlot& slot, const FloatView& k, const FloatView& v,
                              const Batch& batch, const KeyContext& keys) {
  auto& cache = static_cast<CpuCache&>(*slot.cache);
  const CacheLayer& layer = slot.layer();
  if (slot.index == 0)
    for (const RowSpan& span : batch.spans)
      cache.open_pages(span.pages, span.first_position, span.end_position());
  // The blocks after block 0 need the values that block 0 decides.
  const auto middle = std::stable_partition(append_parts_.begin(), append_parts_.end(),
                                            [](const AppendPart& part) { return part.page == 0; });
  const auto group = layer.n_kv_heads > 0 ? keys.n_heads / layer.n_kv_heads : 0;
  const auto some = [&](auto begin, auto end) {
    int64_t n_coded = 0;
    for (auto part = begin; part != end; ++part) n_coded += part->completes_page();
    cache.count_coded_blocks(n_coded * layer.n_kv_heads);
    const int64_t per_part =
        n_coded > 0 ? 8 * kPagePositions : std::min<int64_t>(k.rows, kPagePositions);
    parallel((end - begin) * layer.n_kv_heads, per_part * (layer.k_dim + layer.v_dim),
             [&](int64_t i, int worker) {
               const AppendPart& part = begin[i / layer.n_kv_heads];
               const int64_t head = i % layer.n_kv_heads;
               const CpuCache::Rows rows = cache.rows(slot.index, head, part.page_id());
               store_rows(layer, k, v, part, head, worker, rows.keys, rows.values);
               if (part.page == 0) {
                 float* const squares = cache.query_squares(slot.index, head, part.page_id());
                 for (int64_t p = part.first(); p < part.end(); ++p) {
                   float* const to = squares + p * layer.k_dim;
                   std::fill(to, to + layer.k_dim, group > 0 ? 0.0f : 1.0f);
                   for (int64_t h = head * group; h < (head + 1) * group; ++h) {
                     const float* const q = keys.q.row(part.row(p)) + h * layer.k_dim;
                     for (int j = 0; j < layer.k_dim; ++j) to[j] += q[j] * q[j];
                   }
                 }
               }
               if (part.completes_page()) code_page(slot, part, head, keys, worker);
             });
  };
  some(append_parts_.begin(), middle);
  some(middle, append_parts_.end());
}

void CpuBackend::code_page(const CacheSlot& slot, const AppendPart& part, int64_t head,
                           const KeyContext& keys, int worker) {
  const CpuCache& cache = on_cpu(slot);
  const CacheLayer& layer = slot.layer();
  const int k_dim = layer.k_dim;
  const CpuCache::Rows rows = cache.rows(slot.index, head, part.page_id());
  const CpuCache::Beginning beginning = cache.beginning(slot.index, head, part.span->pages.front());
  BlockToCode widest{};
  widest.dim = std::max(k_dim, layer.v_dim);
  float* const scratch = worker_scratch_[static_cast<size_t>(worker)].get<float>(
      widest.scratch_floats() + 3 * static_cast<size_t>(k_dim), "keys and values to be coded");
  float* const centre = scratch + widest.scratch_floats();  // then two rows more
  if (is_coded(layer.k_type)) {
    const auto table = [&](const DeviceTensor& of_layer, float* to) {
      const float* const from = on_cpu(of_layer).vector.data() + head * k_dim;
      std::copy(from, from + k_dim, to);
    };
    if (part.page == 0 && keys.mean)
      table(*keys.mean, beginning.mean);
    else if (part.page == 0)
      mean_of_keys(keys.rope, layer.k_type, rows.keys, k_dim, beginning.mean);
    centre_of_block(keys.rope, beginning.mean, part.page, k_dim, centre);
    if (part.page == 0) {
      const float* const squares = cache.query_squares(slot.index, head, part.page_id());
      if (keys.balance)
        table(*keys.balance, beginning.balance);
      else if (keys.n_heads > 0)
        balance_of_keys(keys.rope, layer.k_type, rows.keys, k_dim, centre, squares, centre + k_dim,
                        beginning.balance);
      else
        std::fill(beginning.balance, beginning.balance + k_dim, 1.0f);
    }
  }
  if (part.page == 0) {
    copy_exact(layer.k_type, rows.keys, k_dim, true, beginning.exact_keys);
    copy_exact(layer.v_type, rows.values, layer.v_dim, false, beginning.exact_values);
  }
  const CpuCache::Heads heads = cache.heads(slot.index);
  const size_t at = static_cast<size_t>(part.page_id()) * cache.page_bytes() +
                    static_cast<size_t>(head) * heads.head_stride;
  const auto put = [&](CacheType type, const uint8_t* from, int dim, int n_plain, bool is_keys,
                       uint8_t* to) {
    if (!is_coded(type)) {
      std::memcpy(to, from, row_bytes(type, dim) * kPagePositions);
      return;
    }
    const int n = dim - n_plain;
    kernels_.code_block({from, dim, n, is_keys, type, centre, beginning.balance, to}, scratch);
    uint8_t* plain = to + cache_position_bytes(type, n) * kPagePositions;
    const size_t vector = row_bytes(type, kLanes), bytes = static_cast<size_t>(n_plain) * vector;
    for (int64_t i = n; i < kPagePositions / kLanes * dim; i += dim, plain += bytes)
      std::memcpy(plain, from + static_cast<size_t>(i) * vector, bytes);
  };
  put(layer.k_type, rows.keys, k_dim, layer.k_plain, true, heads.keys + at);
  put(layer.v_type, rows.values, layer.v_dim, 0, false, heads.values + at);
}

CodedAttentionTask CpuBackend::coded_task(const CacheSlot& slot, std::span<const int32_t> pages,
                                          int64_t head, const Rope* rope,
                                          const AttentionTask& task) const {
  const CpuCache& cache = on_cpu(slot);
  const CacheLayer& layer = slot.layer();
  CodedAttentionTask coded{};
  coded.task = task;
  coded.k_type = layer.k_type;
  coded.v_type = layer.v_type;
  coded.k_coded = layer.k_coded();
  coded.own_block = task.first_position / kAttentionBlock;
  const CpuCache::Rows rows =
      cache.rows(slot.index, head, pages[static_cast<size_t>(coded.own_block)]);
  coded.own_k = rows.keys;
  coded.own_v = rows.values;
  if (coded.own_block == 0) return coded;
  const CpuCache::Beginning beginning = cache.beginning(slot.index, head, pages.front());
  coded.exact_k = beginning.exact_keys;
  coded.exact_v = beginning.exact_values;
  coded.mean = beginning.mean;
  coded.balance = beginning.balance;
  if (!rope || rope->first >= coded.k_coded) return coded;
  coded.block_cos = rope->block_cos;
  coded.block_sin = rope->block_sin;
  coded.n_rot = rope->n_rot;
  coded.first_rot = rope->first;
  coded.interleaved = rope->style == RopeStyle::interleaved;
  return coded;
}

}  // namespace hrun
