// Causal attention of one token for the query heads of one kv head: one pass over the positions, online softmax.
//
// Positions are taken in blocks of 64 that start at multiples of 64.  Per block and head: the scores (16-lane dot products
// times the scale), the new maximum, one rescaling of what was summed so far, the sum of the exponentials in 16 lanes, and
// the values added in position order.  Nothing depends on what else is in the batch.
#pragma once

#include "cpu/math.h"

namespace hrun {
namespace {

HRUN_HD int round_up_to_lanes(int n) { return (n + kLanes - 1) / kLanes * kLanes; }

// Dot products of kHeads queries with kKeys keys that are row_bytes apart: sums[head * kKeys + key].
template <FloatFormat F, int kHeads, int kKeys>
HRUN_HD void dot_keys(const AttentionTask& task, const float* q, const uint8_t* k, size_t row_bytes,
                      Lanes (&sums)[kHeads * kKeys]) {
  const int padded = round_up_to_lanes(task.k_dim);
#pragma GCC unroll 16
  for (Lanes& s : sums) s = splat(0.0f);
  for_lanes(task.k_dim, [&](int64_t i, int count) {
#pragma GCC unroll 16
    for (int j = 0; j < kKeys; ++j) {
      const Lanes key = load_weights<F>(k + static_cast<size_t>(j) * row_bytes + static_cast<size_t>(i) * F::kBlockBytes, count);
#pragma GCC unroll 4
      for (int h = 0; h < kHeads; ++h) sums[h * kKeys + j] = fma(load(q + h * padded + i), key, sums[h * kKeys + j]);
    }
  });
}

template <FloatFormat F, int kHeads>
HRUN_HD void scores_of_block(const AttentionTask& task, const float* q, int64_t first, int n,
                             float (&scores)[kHeads][kAttentionBlock]) {
  const size_t row_bytes = static_cast<size_t>(task.k_dim) * F::kBlockBytes;
  const uint8_t* k = static_cast<const uint8_t*>(task.k) + static_cast<size_t>(first) * row_bytes;
  int j = 0;
  if constexpr (kSixteenSums) {
    constexpr int kKeys = kLanes / kHeads;
    for (; j + kKeys <= n; j += kKeys) {
      Lanes sums[kLanes];
      dot_keys<F, kHeads, kKeys>(task, q, k + static_cast<size_t>(j) * row_bytes, row_bytes, sums);
      float scaled[kLanes];
      store(scaled, mul(reduce_add_16(sums), splat(task.scale)));
      for (int h = 0; h < kHeads; ++h) memcpy(&scores[h][j], scaled + h * kKeys, kKeys * sizeof(float));
    }
  }
  for (; j < n; ++j) {
    Lanes sums[kHeads];
    dot_keys<F, kHeads, 1>(task, q, k + static_cast<size_t>(j) * row_bytes, row_bytes, sums);
    for (int h = 0; h < kHeads; ++h) scores[h][j] = reduce_add(sums[h]) * task.scale;
  }
}

// scores become exponentials; returns the factor by which earlier sums shrink.
HRUN_HD float softmax_step(float (&scores)[kAttentionBlock], int n, float& largest, float& sum) {
  const float none = bits_to_float(0xff800000u);  // -infinity
  for (int j = n; j < kAttentionBlock; ++j) scores[j] = none;
  Lanes top = splat(largest);
  for (int j = 0; j < kAttentionBlock; j += kLanes) top = max(load(scores + j), top);
  const float now = reduce_max(top);
  const float shrink = first_lane(exp(splat(largest - now)));
  Lanes total = splat(0.0f);
  for (int j = 0; j < kAttentionBlock; j += kLanes) {
    const Lanes e = exp(sub(load(scores + j), splat(now)));
    store(scores + j, e);
    total = add(total, e);
  }
  largest = now;
  sum = __builtin_fmaf(sum, shrink, reduce_add(total));
  return shrink;
}

template <FloatFormat F, int kHeads>
HRUN_HD void add_values(const AttentionTask& task, const float (&weights)[kHeads][kAttentionBlock],
                        const float (&shrink)[kHeads], int64_t first, int n) {
  const size_t row_bytes = static_cast<size_t>(task.v_dim) * F::kBlockBytes;
  const uint8_t* v = static_cast<const uint8_t*>(task.v) + static_cast<size_t>(first) * row_bytes;
  for_lanes(task.v_dim, [&](int64_t i, int count) {
    const uint8_t* column = v + static_cast<size_t>(i) * F::kBlockBytes;
    Lanes acc[kHeads];
    for (int h = 0; h < kHeads; ++h) {
      const int head = h < task.n_heads ? h : 0;
      acc[h] = first == 0 ? splat(0.0f) : mul(load_n(task.out + head * task.v_dim + i, count), splat(shrink[head]));
    }
    for (int j = 0; j < n; ++j) {
      const Lanes value = load_weights<F>(column + static_cast<size_t>(j) * row_bytes, count);
      for (int h = 0; h < kHeads; ++h) acc[h] = fma(splat(weights[h][j]), value, acc[h]);
    }
    for (int h = 0; h < task.n_heads; ++h) store_n(task.out + h * task.v_dim + i, acc[h], count);
  });
}

// kHeads: query heads computed; those beyond task.n_heads are zeros.
template <FloatFormat K, FloatFormat V, int kHeads>
HRUN_HD void attend(const AttentionTask& task, float* q) {
  // The queries, each padded to whole groups of lanes; heads that do not exist are zeros.
  const int padded = round_up_to_lanes(task.k_dim);
  for (int h = 0; h < kHeads; ++h)
    for (int i = 0; i < padded; ++i) q[h * padded + i] = h < task.n_heads && i < task.k_dim ? task.q[h * task.k_dim + i] : 0.0f;
  alignas(64) float scores[kHeads][kAttentionBlock];
  float largest[kHeads], sum[kHeads] = {}, shrink[kHeads];
  for (int h = 0; h < kHeads; ++h) largest[h] = bits_to_float(0xff800000u);
  for (int64_t first = 0; first < task.n_positions; first += kAttentionBlock) {
    const int64_t left = task.n_positions - first;
    const int n = static_cast<int>(left < kAttentionBlock ? left : kAttentionBlock);
    scores_of_block<K, kHeads>(task, q, first, n, scores);
    for (int h = 0; h < kHeads; ++h) shrink[h] = softmax_step(scores[h], n, largest[h], sum[h]);
    add_values<V, kHeads>(task, scores, shrink, first, n);
  }
  for (int h = 0; h < task.n_heads; ++h)
    for (int i = 0; i < task.v_dim; ++i) task.out[h * task.v_dim + i] /= sum[h];
}

template <FloatFormat K, FloatFormat V>
void attention_kernel(const AttentionTask& task, float* scratch) {
  if (task.n_heads == 1) attend<K, V, 1>(task, scratch);
  else if (task.n_heads == 2) attend<K, V, 2>(task, scratch);
  else attend<K, V, kAttentionHeads>(task, scratch);
}

KernelTable::Attention find_attention(FormatId k_format, FormatId v_format) {
  const auto pair = [&]<class K, class V>() -> KernelTable::Attention {
    return k_format == K::kId && v_format == V::kId ? attention_kernel<K, V> : nullptr;
  };
  if (const auto found = pair.template operator()<F16, F16>()) return found;
  if (const auto found = pair.template operator()<F16, F32>()) return found;
  if (const auto found = pair.template operator()<F32, F16>()) return found;
  return pair.template operator()<F32, F32>();
}

}  // namespace
}  // namespace hrun
