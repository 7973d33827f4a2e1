// Causal attention of some tokens for the query heads of one kv head, block by block of 64 positions.
//
// The numeric contract.  Blocks start at multiples of 64.  Per block and query: the scores (16-lane dot products times the
// scale), their largest m, the exponentials of score - m, their sum l in 16 lanes, and the values o weighted with them, added
// in position order from zero.  Blocks are then joined in order: with the new largest M, what was summed before is multiplied
// by exp(before - M) and m, l, o by exp(m - M).  Nothing depends on what else is in the batch, and as a block knows nothing of
// the others, long contexts can be cut between threads (`partial`) without a change of bits.
//
// With a window only the blocks that it touches count, and in its first one the positions from its beginning on; with a soft
// cap the scaled scores are capped; a sink is the maximum with which a query begins, and its sum is then 1.
//
// Queries, of several heads or tokens, go four at a time, so that they share the loads of K and V; where there are more
// than four, a block is converted to fp32 once for all.
#pragma once

#include "cpu/math.h"

namespace hrun {
namespace {

inline constexpr int kTileQueries = 4;

HRUN_HD int round_up_to_lanes(int n) { return (n + kLanes - 1) / kLanes * kLanes; }

// Running or block-wise maximum and sum of up to 16 queries, a lane each.
struct SoftmaxState {
  alignas(64) float largest[kLanes];
  alignas(64) float sum[kLanes];
};
// What earlier values and those of the block are multiplied by when they are joined.
struct JoinFactors {
  alignas(64) float before[kLanes];
  alignas(64) float block[kLanes];
};

HRUN_HD void join(SoftmaxState& state, const SoftmaxState& block, JoinFactors& factors) {
  const Lanes largest = load(state.largest), top = load(block.largest);
  const Lanes now = max(top, largest);
  const Lanes before = exp(sub(largest, now)), here = exp(sub(top, now));
  store(state.sum, fma(load(state.sum), before, mul(load(block.sum), here)));
  store(state.largest, now);
  store(factors.before, before);
  store(factors.block, here);
}

// Dot products of kQueries queries with kKeys keys that are row_bytes apart: sums[query * kKeys + key].
template <FloatFormat F, int kQueries, int kKeys>
HRUN_HD void dot_keys(int k_dim, const float* q, const uint8_t* k, size_t row_bytes, Lanes (&sums)[kQueries * kKeys]) {
  const int padded = round_up_to_lanes(k_dim);
#pragma GCC unroll 16
  for (Lanes& s : sums) s = splat(0.0f);
  for_lanes(k_dim, [&](int64_t i, int count) {
    Lanes query[kQueries];
#pragma GCC unroll 4
    for (int h = 0; h < kQueries; ++h) query[h] = load(q + h * padded + i);
#pragma GCC unroll 16
    for (int j = 0; j < kKeys; ++j) {
      const Lanes key = load_weights<F>(k + static_cast<size_t>(j) * row_bytes + static_cast<size_t>(i) * F::kBlockBytes, count);
#pragma GCC unroll 4
      for (int h = 0; h < kQueries; ++h) sums[h * kKeys + j] = fma(query[h], key, sums[h * kKeys + j]);
    }
  });
}

// The line of a later row of the cache, for one that is read now: K and V take turns, which the processor's own prefetching
// does not follow.  Two distances: the second-level cache has more lines under way than the first.
HRUN_HD void prefetch_later_row(const uint8_t* line, size_t row_bytes) {
  __builtin_prefetch(line + 16 * row_bytes);
  __builtin_prefetch(line + 2 * kAttentionBlock * row_bytes, 0, 2);
}
template <FloatFormat F>
HRUN_HD void prefetch_later_rows(const uint8_t* row, size_t row_bytes, int n_rows) {
  if constexpr (F::kId != F32::kId)  // floats are mostly a block that was converted, in the first-level cache
    for (size_t line = 0; line < row_bytes * static_cast<size_t>(n_rows); line += 64) prefetch_later_row(row + line, row_bytes);
}

// Scores of the positions begin .. n - 1 of the n at k, else -infinity.
template <FloatFormat F, int kQueries>
[[gnu::noinline]] void scores_of_block(int k_dim, float scale, float cap, const float* q, const uint8_t* k, int begin, int n,
                                       float (&scores)[kTileQueries][kAttentionBlock]) {
  const size_t row_bytes = static_cast<size_t>(k_dim) * F::kBlockBytes;
  int j = 0;
  if constexpr (kSixteenSums) {
    constexpr int kKeys = kLanes / kQueries;
    for (; j + kKeys <= n; j += kKeys) {
      Lanes sums[kLanes];
      prefetch_later_rows<F>(k + static_cast<size_t>(j) * row_bytes, row_bytes, kKeys);
      dot_keys<F, kQueries, kKeys>(k_dim, q, k + static_cast<size_t>(j) * row_bytes, row_bytes, sums);
      alignas(64) float scaled[kLanes];
      store(scaled, mul(reduce_add_16(sums), splat(scale)));
#pragma GCC unroll 4
      for (int h = 0; h < kQueries; ++h) memcpy(&scores[h][j], scaled + h * kKeys, kKeys * sizeof(float));
    }
  }
  for (; j < n; ++j) {
    Lanes sums[kQueries];
    prefetch_later_rows<F>(k + static_cast<size_t>(j) * row_bytes, row_bytes, 1);
    dot_keys<F, kQueries, 1>(k_dim, q, k + static_cast<size_t>(j) * row_bytes, row_bytes, sums);
    for (int h = 0; h < kQueries; ++h) scores[h][j] = reduce_add(sums[h]) * scale;
  }
  const float none = bits_to_float(0xff800000u);  // -infinity
  for (int h = 0; h < kQueries; ++h) {
    if (cap != 0)
      for_lanes(n, [&](int64_t i, int count) { store_n(scores[h] + i, soft_cap(load_n(scores[h] + i, count), splat(cap)), count); });
    for (j = 0; j < begin; ++j) scores[h][j] = none;
    for (j = n; j < kAttentionBlock; ++j) scores[h][j] = none;
  }
}

// Scores become exponentials.
HRUN_HD void softmax_of_block(float (&scores)[kAttentionBlock], float& largest, float& sum) {
  Lanes top = load(scores);
  for (int j = kLanes; j < kAttentionBlock; j += kLanes) top = max(load(scores + j), top);
  largest = reduce_max(top);
  Lanes total = splat(0.0f);
  for (int j = 0; j < kAttentionBlock; j += kLanes) {
    const Lanes e = exp(sub(load(scores + j), splat(largest)));
    store(scores + j, e);
    total = add(total, e);
  }
  sum = reduce_add(total);
}

// Where the values of a tile's queries go: joined with what is there, or, without factors, stored.
struct ValueTarget {
  float* out[kTileQueries];
  const JoinFactors* factors;
};

template <FloatFormat F, int kQueries, int kColumns>
HRUN_HD void add_values_at(int64_t i, int count, const float (&weights)[kTileQueries][kAttentionBlock], const uint8_t* v,
                           size_t row_bytes, int begin, int n, const ValueTarget& to) {
  Lanes acc[kQueries][kColumns];
#pragma GCC unroll 4
  for (int h = 0; h < kQueries; ++h)
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) acc[h][c] = splat(0.0f);
  const uint8_t* at = v + static_cast<size_t>(i) * F::kBlockBytes + static_cast<size_t>(begin) * row_bytes;
  [[maybe_unused]] const bool first_of_line = static_cast<size_t>(i) * F::kBlockBytes % 64 == 0;
  for (int j = begin; j < n; ++j, at += row_bytes) {
    if constexpr (F::kId != F32::kId)
      if (first_of_line)
#pragma GCC unroll 4
        for (size_t line = 0; line < kColumns * kLanes * F::kBlockBytes; line += 64) prefetch_later_row(at + line, row_bytes);
    Lanes value[kColumns];
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) value[c] = load_weights<F>(at + static_cast<size_t>(c) * kLanes * F::kBlockBytes, count);
#pragma GCC unroll 4
    for (int h = 0; h < kQueries; ++h) {
      const Lanes weight = splat(weights[h][j]);
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; ++c) acc[h][c] = fma(weight, value[c], acc[h][c]);
    }
  }
#pragma GCC unroll 4
  for (int h = 0; h < kQueries; ++h)
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) {
      float* const out = to.out[h] + i + c * kLanes;
      if (to.factors) {
        const Lanes block = mul(acc[h][c], splat(to.factors->block[h]));
        store_n(out, fma(load_n(out, count), splat(to.factors->before[h]), block), count);
      } else {
        store_n(out, acc[h][c], count);
      }
    }
}

template <FloatFormat F, int kQueries>
[[gnu::noinline]] void add_values(int v_dim, const float (&weights)[kTileQueries][kAttentionBlock], const uint8_t* v, int begin, int n,
                                  const ValueTarget& to) {
  constexpr int kColumns = kSixteenSums ? 4 : 1;  // 16 sums in registers, or 4
  const size_t row_bytes = static_cast<size_t>(v_dim) * F::kBlockBytes;
  int64_t i = 0;
  for (; i + kColumns * kLanes <= v_dim; i += kColumns * kLanes)
    add_values_at<F, kQueries, kColumns>(i, kLanes, weights, v, row_bytes, begin, n, to);
  for (; i + kLanes <= v_dim; i += kLanes) add_values_at<F, kQueries, 1>(i, kLanes, weights, v, row_bytes, begin, n, to);
  if (i < v_dim) add_values_at<F, kQueries, 1>(i, static_cast<int>(v_dim - i), weights, v, row_bytes, begin, n, to);
}

struct BlockOfCache {
  const uint8_t* k;
  const uint8_t* v;
  int64_t first;  // position
};

// Positions of a block that a query sees: begin .. end - 1.
struct Visible {
  int begin, end;
  bool operator==(const Visible&) const = default;
};

// The queries from `query` on, all of which see the same positions of the block.
template <FloatFormat K, FloatFormat V, int kQueries>
HRUN_HD void attend_tile(const AttentionTask& task, const BlockOfCache& block, int query, Visible seen, const float* q,
                         SoftmaxState* states) {
  float(scores)[kTileQueries][kAttentionBlock];
  scores_of_block<K, kQueries>(task.k_dim, task.scale, task.soft_cap, q + query * round_up_to_lanes(task.k_dim), block.k,
                               seen.begin, seen.end, scores);
  SoftmaxState here{};
  for (int h = 0; h < kQueries; ++h) softmax_of_block(scores[h], here.largest[h], here.sum[h]);
  ValueTarget to{};
  JoinFactors factors;
  if (task.partial) {
    float* part = task.partial + ((block.first / kAttentionBlock - task.first_block) * task.n_queries() + query) * task.partial_floats();
    for (int h = 0; h < kQueries; ++h, part += task.partial_floats()) {
      part[0] = here.largest[h];
      part[1] = here.sum[h];
      to.out[h] = part + 2;
    }
  } else {
    // A tile's states start at any query: gathered, joined, scattered.
    SoftmaxState state{};
    for (int h = 0; h < kQueries; ++h) {
      const int at = query + h;
      state.largest[h] = states[at / kLanes].largest[at % kLanes];
      state.sum[h] = states[at / kLanes].sum[at % kLanes];
      to.out[h] = task.out_of(at);
    }
    join(state, here, factors);
    for (int h = 0; h < kQueries; ++h) {
      const int at = query + h;
      states[at / kLanes].largest[at % kLanes] = state.largest[h];
      states[at / kLanes].sum[at % kLanes] = state.sum[h];
    }
    to.factors = &factors;
  }
  add_values<V, kQueries>(task.v_dim, scores, block.v, seen.begin, seen.end, to);
}

template <FloatFormat K, FloatFormat V>
void attend_block(const AttentionTask& task, const BlockOfCache& block, const float* q, SoftmaxState* states) {
  const auto inside = [](int64_t n) { return static_cast<int>(n < 0 ? 0 : n < kAttentionBlock ? n : kAttentionBlock); };
  const auto visible = [&](int query) {
    return Visible{inside(task.first_visible(query) - block.first),
                   inside(task.first_position + query / task.n_heads + 1 - block.first)};
  };
  int count;
  for (int query = 0; query < task.n_queries(); query += count) {
    const Visible seen = visible(query);
    count = 1;
    while (count < kTileQueries && query + count < task.n_queries() && visible(query + count) == seen) ++count;
    if (seen.begin >= seen.end) continue;
    if (count == 3) count = 2;
    if (count == 4) attend_tile<K, V, 4>(task, block, query, seen, q, states);
    else if (count == 2) attend_tile<K, V, 2>(task, block, query, seen, q, states);
    else attend_tile<K, V, 1>(task, block, query, seen, q, states);
  }
}

template <FloatFormat F>
HRUN_HD const uint8_t* rows_as_floats(const uint8_t* rows, int64_t values, float* out) {
  for_lanes(values, [&](int64_t i, int n) { store_n(out + i, load_weights<F>(rows + static_cast<size_t>(i) * F::kBlockBytes, n), n); });
  return reinterpret_cast<const uint8_t*>(out);
}

template <FloatFormat K, FloatFormat V>
void attention_kernel(const AttentionTask& task, float* scratch) {
  const int n_queries = task.n_queries(), padded = round_up_to_lanes(task.k_dim);
  const int state_count = (n_queries + kLanes - 1) / kLanes;
  auto* const states = reinterpret_cast<SoftmaxState*>(scratch);
  float* const q = scratch + state_count * static_cast<int>(sizeof(SoftmaxState) / sizeof(float));
  float* const k_floats = q + n_queries * padded;
  float* const v_floats = k_floats + kAttentionBlock * task.k_dim;
  for (int i = 0; i < state_count; ++i)
    for (int l = 0; l < kLanes; ++l) {
      states[i].largest[l] = bits_to_float(0xff800000u);  // -infinity
      states[i].sum[l] = 0;
    }
  for (int query = 0; query < n_queries; ++query) {
    const float* from = task.q.row(query / task.n_heads) + query % task.n_heads * task.k_dim;
    for_lanes(task.k_dim, [&](int64_t i, int n) { store(q + query * padded + i, load_n(from + i, n)); });
    if (task.sinks) {
      states[query / kLanes].largest[query % kLanes] = task.sinks[query % task.n_heads];
      states[query / kLanes].sum[query % kLanes] = 1;
    }
    if (!task.partial) memset(task.out_of(query), 0, static_cast<size_t>(task.v_dim) * sizeof(float));
  }
  const int64_t end = task.first_position + task.q.rows;  // of the positions that the last token sees
  for (int64_t b = task.first_block; b < task.first_block + task.n_blocks; ++b) {
    const int64_t first = b * kAttentionBlock;
    const int64_t n = end - first < kAttentionBlock ? end - first : kAttentionBlock;
    const uint8_t* const k = static_cast<const uint8_t*>(task.k) + static_cast<size_t>(first * task.k_dim) * K::kBlockBytes;
    const uint8_t* const v = static_cast<const uint8_t*>(task.v) + static_cast<size_t>(first * task.v_dim) * V::kBlockBytes;
    if (n_queries <= kTileQueries) {
      attend_block<K, V>(task, {k, v, first}, q, states);
    } else {
      const BlockOfCache block{rows_as_floats<K>(k, n * task.k_dim, k_floats), rows_as_floats<V>(v, n * task.v_dim, v_floats), first};
      attend_block<F32, F32>(task, block, q, states);
    }
  }
  if (task.partial) return;
  for (int query = 0; query < n_queries; ++query) {
    const Lanes sum = splat(states[query / kLanes].sum[query % kLanes]);
    float* const out = task.out_of(query);
    for_lanes(task.v_dim, [&](int64_t i, int n) { store_n(out + i, div(load_n(out + i, n), sum), n); });
  }
}

// The blocks of one query joined, as attention_kernel does without `partial`.
void join_attention_kernel(const float* partial, int64_t n_blocks, int64_t stride, int v_dim, const float* sink, float* out) {
  SoftmaxState state{};
  state.largest[0] = sink ? *sink : bits_to_float(0xff800000u);  // -infinity
  state.sum[0] = sink ? 1.0f : 0.0f;
  memset(out, 0, static_cast<size_t>(v_dim) * sizeof(float));
  for (int64_t b = 0; b < n_blocks; ++b, partial += stride) {
    SoftmaxState here{};
    here.largest[0] = partial[0];
    here.sum[0] = partial[1];
    JoinFactors factors;
    join(state, here, factors);
    const Lanes before = splat(factors.before[0]), block = splat(factors.block[0]);
    for_lanes(v_dim, [&](int64_t i, int n) {
      store_n(out + i, fma(load_n(out + i, n), before, mul(load_n(partial + 2 + i, n), block)), n);
    });
  }
  const Lanes sum = splat(state.sum[0]);
  for_lanes(v_dim, [&](int64_t i, int n) { store_n(out + i, div(load_n(out + i, n), sum), n); });
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
