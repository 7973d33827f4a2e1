// Attention of some tokens, causal or to all positions, for the query heads of one kv head, block
// by block of 64 positions.
//
// The numeric contract.  Blocks start at multiples of 64.  Per block and query: the scores (fma
// over the dimensions in order, times the scale), their largest m, the exponentials of score - m,
// their sum l in 16 lanes, and the values o weighted with them, added in position order from zero.
// Blocks are then joined in order: with the new largest M, what was summed before is multiplied by
// exp(before - M) and m, l, o by exp(m - M).  Nothing depends on what else is in the batch, and as
// a block knows nothing of the others, long contexts can be cut between threads (`partial`) without
// a change of bits.
//
// With a window only the blocks that it touches count, and in its first one the positions from its
// beginning on; with a soft cap the scaled scores are capped; a sink is the maximum with which a
// query begins, and its sum is then 1.
//
// A block of the cache holds V as [position][v_dim], and K as [16 positions][k_dim][position]: so
// the lanes of a vector are positions, and a score is one chain of fma over the dimensions, from
// zero, without a horizontal sum.
//
// Queries, of several heads or tokens, go four at a time, so that they share the loads of K and V;
// where there are more than four, a block is converted to fp32 once for all.
#pragma once

#include "cpu/attention_kernels.h"
#include "cpu/kernels/attention_softmax.h"

namespace hrun {
namespace {

// The parts of the cache that are read next, while the keys or the values of a block are worked
// on.  `soon` goes to the first-level cache.  Half of the keys and half of the values of a later
// block go, in turns, to the second level, which has more lines under way.  Two streams side by
// side arrive a tenth faster than one after the other.  The processor's own prefetching ends at
// each page.
struct Ahead {
  const uint8_t* soon;
  const uint8_t* later_k;
  const uint8_t* later_v;
};
template <FloatFormat F, size_t kBytes>
HRUN_HD void prefetch(const Ahead& ahead, size_t offset) {
  constexpr size_t kLine = 64;
  if constexpr (F::kId != F32::kId) {  // floats are mostly a block that was converted, in the
                                       // first-level cache
#pragma GCC unroll 4
    for (size_t at = 0; at < kBytes; at += kLine)
      if (kBytes >= kLine || offset % kLine == 0) __builtin_prefetch(ahead.soon + offset + at);
#pragma GCC unroll 2
    for (size_t at = 0; at < kBytes; at += 2 * kLine)
      if (kBytes >= 2 * kLine || offset % (2 * kLine) == 0) {
        __builtin_prefetch(ahead.later_k + (offset + at) / 2, 0, 2);
        __builtin_prefetch(ahead.later_v + (offset + at) / 2, 0, 2);
      }
  }
}

// Computes the scores of the first 16 n_vectors positions, kVectors at once.  q: [k_dim] for each
// query.
template <FloatFormat F, int kQueries, int kVectors>
HRUN_HD void scores_of_positions(const AttentionTask& task, const float* const* q, const uint8_t* k,
                                 int n_vectors, const Ahead& ahead,
                                 float (&scores)[kTileQueries][kAttentionBlock]) {
  constexpr size_t kVectorBytes = kLanes * F::kBlockBytes;
  const size_t group_bytes = static_cast<size_t>(task.k_dim) * kVectorBytes;
  for (int first = 0; first < n_vectors; first += kVectors) {
    Lanes sums[kQueries][kVectors];
#pragma GCC unroll 4
    for (int h = 0; h < kQueries; ++h)
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) sums[h][c] = splat(0.0f);
    const size_t at = static_cast<size_t>(first) * group_bytes;
    const uint8_t* row = k + at;
    for (int d = 0; d < task.k_dim; ++d, row += kVectorBytes) {
      prefetch<F, kVectors * kVectorBytes>(ahead,
                                           at + static_cast<size_t>(d) * kVectors * kVectorBytes);
      Lanes key[kVectors];
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c)
        key[c] = load_weights<F>(row + static_cast<size_t>(c) * group_bytes, kLanes);
#pragma GCC unroll 4
      for (int h = 0; h < kQueries; ++h) {
        const Lanes x = splat(q[h][d]);
#pragma GCC unroll 4
        for (int c = 0; c < kVectors; ++c) sums[h][c] = fma(x, key[c], sums[h][c]);
      }
    }
#pragma GCC unroll 4
    for (int h = 0; h < kQueries; ++h)
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) {
        Lanes score = mul(sums[h][c], splat(task.scale));
        if (task.soft_cap != 0) score = soft_cap(score, splat(task.soft_cap));
        store(&scores[h][(first + c) * kLanes], score);
      }
  }
}

// Puts -infinity into positions that are not seen but share a vector with some that are.
template <int kQueries>
HRUN_HD void hide_unseen(Visible seen, float (&scores)[kTileQueries][kAttentionBlock]) {
  for (int c = seen.first_vector(); c < seen.end_vector(); ++c) {
    if (seen.whole_vector(c)) continue;
    const IntLanes lanes = seen_lanes(seen, c),
                   none = splat_int(static_cast<int32_t>(0xff800000u));  // -infinity
    for (int h = 0; h < kQueries; ++h) {
      float* const at = &scores[h][c * kLanes];
      store(at, as_float(add(bit_and(as_int(load(at)), lanes), sub(none, bit_and(none, lanes)))));
    }
  }
}

// Computes the block's scores.  They are -infinity for positions that are not seen but share a
// vector with some that are.
template <FloatFormat F, int kQueries>
[[gnu::noinline]] void scores_of_block(const AttentionTask& task, const float* const* q,
                                       const uint8_t* k, Visible seen, const Ahead& ahead,
                                       float (&scores)[kTileQueries][kAttentionBlock]) {
  const int vectors =
      seen.end_vector();  // of the others nothing is read: a short context is not in a cache
  if (kSixteenSums && vectors > kBlockVectors / 2)
    scores_of_positions<F, kQueries, kBlockVectors>(task, q, k, kBlockVectors, ahead, scores);
  else
    scores_of_positions<F, kQueries, 1>(task, q, k, vectors, ahead, scores);
  hide_unseen<kQueries>(seen, scores);
}

// Takes each head's slope times the distance to the query's position off the scores, with one fused
// multiply-add each.
template <int kQueries>
HRUN_HD void shrink_by_distance(const AttentionTask& task, int query, int64_t first_of_block,
                                Visible seen, float (&scores)[kTileQueries][kAttentionBlock]) {
  alignas(64) static constexpr float kNumbers[kLanes] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                         8, 9, 10, 11, 12, 13, 14, 15};
  for (int h = 0; h < kQueries; ++h) {
    const int64_t position = task.first_position + (query + h) / task.n_heads;
    const Lanes slope = splat(-task.slopes[(query + h) % task.n_heads]);
    for (int c = seen.first_vector(); c < seen.end_vector(); ++c) {
      const auto behind = static_cast<float>(first_of_block + c * kLanes - position);
      const Lanes from = add(load(kNumbers), splat(behind)),
                  distance = max(from, sub(splat(0.0f), from));
      float* const at = &scores[h][c * kLanes];
      store(at, fma(slope, distance, load(at)));
    }
  }
}

// The place for the values of a tile's queries: they are stored, or, with a state, joined with the
// values that are there.
struct ValueTarget {
  float* out[kTileQueries];
  SoftmaxState* state;
  SoftmaxState block;
  JoinFactors factors;
};

template <FloatFormat F, int kQueries, int kColumns>
HRUN_HD void add_values_at(int64_t i, int count,
                           const float (&weights)[kTileQueries][kAttentionBlock], const uint8_t* v,
                           size_t row_bytes, Visible seen, const Ahead& ahead, ValueTarget& to) {
  Lanes acc[kQueries][kColumns];
#pragma GCC unroll 4
  for (int h = 0; h < kQueries; ++h)
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) acc[h][c] = splat(0.0f);
  const uint8_t* at =
      v + static_cast<size_t>(i) * F::kBlockBytes + static_cast<size_t>(seen.begin) * row_bytes;
  for (int j = seen.begin; j < seen.end; ++j, at += row_bytes) {
    prefetch<F, kColumns * kLanes * F::kBlockBytes>(ahead, static_cast<size_t>(at - v));
    Lanes value[kColumns];
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c)
      value[c] = load_weights<F>(at + static_cast<size_t>(c) * kLanes * F::kBlockBytes, count);
#pragma GCC unroll 4
    for (int h = 0; h < kQueries; ++h) {
      const Lanes weight = splat(weights[h][j]);
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; ++c) acc[h][c] = fma(weight, value[c], acc[h][c]);
    }
  }
  // It is not done earlier: the numbers of the queries were stored one by one, and a load of them
  // all would wait for the last.
  if (i == 0 && to.state) join(*to.state, to.block, to.factors);
#pragma GCC unroll 4
  for (int h = 0; h < kQueries; ++h)
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) {
      float* const out = to.out[h] + i + c * kLanes;
      if (to.state) {
        const Lanes block = mul(acc[h][c], splat(to.factors.block[h]));
        store_n(out, fma(load_n(out, count), splat(to.factors.before[h]), block), count);
      } else {
        store_n(out, acc[h][c], count);
      }
    }
}

template <FloatFormat F, int kQueries>
[[gnu::noinline]] void add_values(int v_dim, const float (&weights)[kTileQueries][kAttentionBlock],
                                  const uint8_t* v, Visible seen, const Ahead& ahead,
                                  ValueTarget& to) {
  constexpr int kColumns = kSixteenSums ? 4 : 1;  // 16 sums in registers, or 4
  const size_t row_bytes = static_cast<size_t>(v_dim) * F::kBlockBytes;
  int64_t i = 0;
  for (; i + kColumns * kLanes <= v_dim; i += kColumns * kLanes)
    add_values_at<F, kQueries, kColumns>(i, kLanes, weights, v, row_bytes, seen, ahead, to);
  for (; i + kLanes <= v_dim; i += kLanes)
    add_values_at<F, kQueries, 1>(i, kLanes, weights, v, row_bytes, seen, ahead, to);
  if (i < v_dim)
    add_values_at<F, kQueries, 1>(i, static_cast<int>(v_dim - i), weights, v, row_bytes, seen,
                                  ahead, to);
}

struct BlockOfCache {
  const uint8_t* k;
  const uint8_t* v;
  int64_t first;  // position
  Ahead k_ahead, v_ahead;
  int begin = 0, end = kAttentionBlock;  // the positions that count, if they are seen
  int64_t entry = -1;                    // in `partial`; -1: by its position
};

// The maximum and the sum of the blocks so far, for each query.
struct RunningStates {
  float* largest;
  float* sum;
};
// Where each query is, and where its values go.
struct QueryPlaces {
  const float** q;
  float** out;
};

// The place for the values of the queries from `query` on.  It is the block's entry of `partial`,
// or `out` and the states.  The states are gathered, joined and scattered, because a tile starts at
// any query.
template <int kQueries>
HRUN_HD void begin_values(const AttentionTask& task, const BlockOfCache& block, int query,
                          float* const* out, const RunningStates& states, SoftmaxState& state,
                          ValueTarget& to) {
  if (task.partial) {
    const int64_t entry =
        block.entry >= 0 ? block.entry : block.first / kAttentionBlock - task.first_block;
    float* part = task.partial + (entry * task.n_queries() + query) * task.partial_floats();
    for (int h = 0; h < kQueries; ++h, part += task.partial_floats()) {
      part[0] = to.block.largest[h];
      part[1] = to.block.sum[h];
      to.out[h] = part + 2;
    }
  } else {
    to.state = &state;
    for (int h = 0; h < kQueries; ++h) {
      state.largest[h] = states.largest[query + h];
      state.sum[h] = states.sum[query + h];
      to.out[h] = out[query + h];
    }
  }
}
template <int kQueries>
HRUN_HD void end_values(const AttentionTask& task, int query, const RunningStates& states,
                        const SoftmaxState& state) {
  if (task.partial) return;
  for (int h = 0; h < kQueries; ++h) {
    states.largest[query + h] = state.largest[h];
    states.sum[query + h] = state.sum[h];
  }
}

// The queries from `query` on, all of which see the same positions of the block.
template <FloatFormat K, FloatFormat V, int kQueries>
HRUN_HD void attend_tile(const AttentionTask& task, const BlockOfCache& block, int query,
                         Visible seen, const QueryPlaces& queries, const RunningStates& states) {
  alignas(64) float scores[kTileQueries][kAttentionBlock];
  scores_of_block<K, kQueries>(task, queries.q + query, block.k, seen, block.k_ahead, scores);
  if (task.slopes) shrink_by_distance<kQueries>(task, query, block.first, seen, scores);
  ValueTarget to{};
  SoftmaxState state{};
  softmax_of_block<kQueries>(scores, seen, to.block);
  begin_values<kQueries>(task, block, query, queries.out, states, state, to);
  add_values<V, kQueries>(task.v_dim, scores, block.v, seen, block.v_ahead, to);
  end_values<kQueries>(task, query, states, state);
}

// Calls attend<n>(query, seen) for the queries of a task: up to four at a time, which see the same
// positions.
template <class Function>
HRUN_HD void for_tiles(const AttentionTask& task, const BlockOfCache& block, Function&& attend) {
  const auto inside = [&](int64_t n) {
    return static_cast<int>(n < block.begin ? block.begin : n < block.end ? n : block.end);
  };
  const auto visible = [&](int64_t token) {
    return Visible{inside(task.first_visible(token) - block.first),
                   inside(task.end_visible(token) - block.first)};
  };
  int64_t next;
  for (int64_t token = 0; token < task.q.rows; token = next) {
    const Visible seen = visible(token);
    for (next = token + 1; next < task.q.rows && visible(next) == seen;) ++next;
    if (seen.begin >= seen.end) continue;
    const int end = static_cast<int>(next) * task.n_heads;
    for (int query = static_cast<int>(token) * task.n_heads; query < end;) {
      if (end - query >= 4)
        attend.template operator()<4>(query, seen), query += 4;
      else if (end - query >= 2)
        attend.template operator()<2>(query, seen), query += 2;
      else
        attend.template operator()<1>(query, seen), ++query;
    }
  }
}

template <FloatFormat K, FloatFormat V>
void attend_block(const AttentionTask& task, const BlockOfCache& block, const QueryPlaces& queries,
                  const RunningStates& states) {
  for_tiles(task, block, [&]<int kQueries>(int query, Visible seen) {
    attend_tile<K, V, kQueries>(task, block, query, seen, queries, states);
  });
}

template <FloatFormat F>
HRUN_HD const uint8_t* rows_as_floats(const uint8_t* rows, int64_t values, float* out) {
  for_lanes(values, [&](int64_t i, int n) {
    store_n(out + i, load_weights<F>(rows + static_cast<size_t>(i) * F::kBlockBytes, n), n);
  });
  return reinterpret_cast<const uint8_t*>(out);
}

// The bytes from page 0 to the block that is read kBlocks after the b-th, of this task or of the
// one after it.  It is the b-th block's own offset where nothing new is known.
template <int kBlocks>
ptrdiff_t ahead_of(const AttentionTask& task, int64_t b) {
  const int64_t beyond = b + kBlocks - task.first_block - task.n_blocks;
  if (beyond < 0) return task.page_offset(b + kBlocks);
  if (task.to_next == 0 || beyond >= task.n_blocks) return task.page_offset(b);
  return task.to_next + task.page_offset(task.first_block + beyond);
}

struct Queries {
  RunningStates states;
  QueryPlaces places;
};
// Places of a task's queries, in scratch, and their states before the first block.
HRUN_HD Queries begin_queries(const AttentionTask& task, float* scratch) {
  const int n_queries = task.n_queries();
  const RunningStates states{scratch, scratch + n_queries};
  const QueryPlaces queries{reinterpret_cast<const float**>(states.sum + n_queries),
                            reinterpret_cast<float**>(states.sum + n_queries) + n_queries};
  for (int64_t token = 0, query = 0; token < task.q.rows; ++token)
    for (int head = 0; head < task.n_heads; ++head, ++query) {
      queries.q[query] = task.q.row(token) + head * task.k_dim;
      queries.out[query] = task.out.row(token) + head * task.v_dim;
      states.largest[query] =
          task.sinks ? task.sinks[head] : bits_to_float(0xff800000u);  // -infinity
      states.sum[query] = task.sinks ? 1.0f : 0.0f;
      if (!task.partial)
        memset(queries.out[query], 0, static_cast<size_t>(task.v_dim) * sizeof(float));
    }
  return {states, queries};
}
// Divides the sums of each query by the sum of its weights.
HRUN_HD void end_queries(const AttentionTask& task, const Queries& all) {
  if (task.partial) return;
  for (int query = 0; query < task.n_queries(); ++query) {
    const Lanes sum = splat(all.states.sum[query]);
    float* const out = all.places.out[query];
    for_lanes(task.v_dim,
              [&](int64_t i, int n) { store_n(out + i, div(load_n(out + i, n), sum), n); });
  }
}

template <FloatFormat K, FloatFormat V>
void attention_kernel(const AttentionTask& task, float* scratch) {
  const int n_queries = task.n_queries();
  float* const k_floats = scratch;
  float* const v_floats = k_floats + kAttentionBlock * task.k_dim;
  const auto [states, queries] = begin_queries(task, v_floats + kAttentionBlock * task.v_dim);
  const int64_t end = task.end_visible(task.q.rows - 1);
  const int64_t end_block = task.first_block + task.n_blocks;
  for (int64_t b = task.first_block; b < end_block; ++b) {
    const int64_t first = b * kAttentionBlock;
    const ptrdiff_t offset = task.page_offset(b);
    const uint8_t *const k = task.k + offset, *const v = task.v + offset;
    if (n_queries <= kTileQueries) {
      const ptrdiff_t later = ahead_of<2>(task, b);
      const Ahead k_ahead{v, task.k + later, task.v + later};
      const Ahead v_ahead{task.k + ahead_of<1>(task, b),
                          task.k + later + kAttentionBlock / 2 * task.k_dim * K::kBlockBytes,
                          task.v + later + kAttentionBlock / 2 * task.v_dim * V::kBlockBytes};
      attend_block<K, V>(task, {k, v, first, k_ahead, v_ahead}, queries, states);
    } else {
      const int64_t n = end - first < kAttentionBlock ? end - first : kAttentionBlock;
      const uint8_t* const keys =
          rows_as_floats<K>(k, (n + kLanes - 1) / kLanes * kLanes * task.k_dim, k_floats);
      const uint8_t* const values = rows_as_floats<V>(v, n * task.v_dim, v_floats);
      attend_block<F32, F32>(task, {keys, values, first, {}, {}}, queries, states);
    }
  }
  end_queries(task, {states, queries});
}

// One query whose blocks are joined.
struct JoinedQuery {
  int v_dim;
  float* out;
  SoftmaxState state;

  HRUN_HD JoinedQuery(int dim, const float* sink, float* to) : v_dim(dim), out(to), state{} {
    state.largest[0] = sink ? *sink : bits_to_float(0xff800000u);  // -infinity
    state.sum[0] = sink ? 1.0f : 0.0f;
    memset(out, 0, static_cast<size_t>(v_dim) * sizeof(float));
  }
  // largest, sum, values
  HRUN_HD void join_block(const float* partial) {
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
  HRUN_HD void end() const {
    const Lanes sum = splat(state.sum[0]);
    for_lanes(v_dim, [&](int64_t i, int n) { store_n(out + i, div(load_n(out + i, n), sum), n); });
  }
};

// Joins the blocks of one query, as attention_kernel does without `partial`.
void join_attention_kernel(const float* partial, int64_t n_blocks, int64_t stride, int v_dim,
                           const float* sink, float* out) {
  JoinedQuery query(v_dim, sink, out);
  for (int64_t b = 0; b < n_blocks; ++b, partial += stride) query.join_block(partial);
  query.end();
}

AttentionKernels::Attention find_attention(FormatId k_format, FormatId v_format) {
  const auto pair = [&]<class K, class V>() -> AttentionKernels::Attention {
    return k_format == K::kId && v_format == V::kId ? attention_kernel<K, V> : nullptr;
  };
  if (const auto found = pair.template operator()<F16, F16>()) return found;
  if (const auto found = pair.template operator()<F16, F32>()) return found;
  if (const auto found = pair.template operator()<F32, F16>()) return found;
  return pair.template operator()<F32, F32>();
}

}  // namespace
}  // namespace hrun
