// Attention over coded keys and values.
//
// A query reads its own block of 64 positions and the kExactPositions first ones as they are, and
// all others as codes.  This depends on positions alone.  A query is computed in this order: the
// coded blocks are joined in order in the basis of the codes; their result is turned back once;
// then the exact positions and its own block follow.
//
// For keys k whose mean before their rotary embedding is mu, the codes hold H (s (k - c_b)).  H is
// the rotation, s is the balance, and c_b is the mean of mu turned by the positions of block b.  A
// score is <H (q / s), code> scale + <q, c_b>.  The first product is exact in int32, with the query
// made int8 by its largest value.  The second comes from one row of the rotary table's means per
// block.  Softmax weights times the scales of values become bytes by the largest of their block,
// and their products with the levels are exact again.
#pragma once

#include "cpu/attention_kernels.h"
#include "cpu/kernels/attention.h"
#include "cpu/kernels/cache_codes.h"
#include "cpu/kernels/cache_rotation.h"

namespace hrun {
namespace {

// A query for coded keys.
struct CodedQuery {
  int32_t* codes;  // [k_coded / 4], four stretches of dimensions in each
  float* turned;   // [2][pair_floats]: products with cosines and sines
  float* numbers;  // scale of the codes, what is never turned; then the sum of the codes
  HRUN_HD float scale() const { return numbers[0]; }
  HRUN_HD float constant() const { return numbers[1]; }
  HRUN_HD int32_t sum() const {
    int32_t value;
    memcpy(&value, numbers + 2, sizeof value);
    return value;
  }
};

HRUN_HD CodedQuery coded_query(const CodedAttentionTask& task, float* queries, int i) {
  float* const at = queries + static_cast<size_t>(i) * task.query_floats();
  float* const turned = at + task.k_coded / 4;
  return {reinterpret_cast<int32_t*>(at), turned, turned + 2 * task.pair_floats()};
}

struct CodedScratch {
  const CodedAttentionTask& coded;
  bool k_few, v_few;  // levels are stored nowhere, as one tile needs them
  uint8_t *k_levels, *v_levels;
  float* plain;  // [64 positions][k_dim - k_coded] as [16 positions][value][position]
  float* exact;  // keys [k_dim][kLanes], then values [kExactPositions][v_dim]
  float* row;    // of either size
  float* queries;

  // `floats`: [64 positions][k_dim], which attend_plain() uses when the codes were read.
  HRUN_HD CodedScratch(const CodedAttentionTask& task, float* floats, float* at)
      : coded(task), plain(floats) {
    at += (kLanes - reinterpret_cast<uintptr_t>(at) / sizeof(float) % kLanes) % kLanes;
    const int k_dim = task.task.k_dim, v_dim = task.task.v_dim;
    k_levels = reinterpret_cast<uint8_t*>(at), at += kAttentionBlock / 4 * k_dim;
    v_levels = reinterpret_cast<uint8_t*>(at), at += kAttentionBlock / 4 * v_dim;
    exact = at, at += kLanes * (k_dim + v_dim);
    row = at, at += k_dim + v_dim;
    queries = at;
    const bool few = task.task.n_queries() <= kTileQueries;
    k_few = few && task.k_coded == k_dim && has_four_levels<true>(task.k_type, k_dim);
    v_few = few && has_four_levels<false>(task.v_type, v_dim);
  }
  HRUN_HD CodedQuery query(int i) const {
    return coded_query(coded, coded.prepared ? coded.prepared : queries, i);
  }
  // Its values so far, in the order and basis of the codes.
  HRUN_HD float* values(int i) const {
    return queries + static_cast<size_t>(coded.task.n_queries()) * coded.query_floats() +
           i * coded.task.v_dim;
  }
};

// The dimensions of pair j of a rotary embedding.
struct RotaryPair {
  int a, b;
};
HRUN_HD RotaryPair rotary_pair(const CodedAttentionTask& task, int j) {
  const int a = task.first_rot + (task.interleaved ? 2 * j : j);
  return {a, a + (task.interleaved ? 1 : task.n_rot / 2)};
}

[[gnu::noinline]] void prepare_query(const CodedAttentionTask& task, const float* q, float* row,
                                     const CodedQuery& to) {
  const int dim = task.k_coded, n_pairs = task.n_rot / 2, stride = task.pair_floats();
  memset(to.turned, 0, 2 * static_cast<size_t>(stride) * sizeof(float));
  for (int j = 0; j < n_pairs; ++j) {
    const auto [a, b] = rotary_pair(task, j);
    to.turned[j] = q[a] * task.mean[a] + q[b] * task.mean[b];
    to.turned[stride + j] = q[b] * task.mean[a] - q[a] * task.mean[b];
  }
  float constant = 0;
  for (int i = 0; i < dim; ++i)
    if (i < task.first_rot || i >= task.first_rot + task.n_rot) constant += q[i] * task.mean[i];
  for (int i = 0; i < dim; i += kLanes) store(row + i, div(load(q + i), load(task.balance + i)));
  rotate_row(row, dim);
  Lanes largest = splat(0.0f);
  for (int i = 0; i < dim; i += kLanes)
    largest = max(as_float(bit_and(as_int(load(row + i)), splat_int(0x7fffffff))), largest);
  const float top = reduce_max(largest);
  const Lanes factor = splat(top > 1e-30f ? 127.0f / top : 0.0f);
  IntLanes sum = splat_int(0);
  auto* const codes = reinterpret_cast<int8_t*>(row);  // over what was read already
  for (int i = 0; i < dim; i += kLanes) {
    const Lanes x = mul(load(row + i), factor);
    const IntLanes code = round_to_int(min(max(x, splat(-127.0f)), splat(127.0f)));
    sum = add(sum, code);
    store_int8(codes + i, code);
  }
  auto* const bytes = reinterpret_cast<int8_t*>(to.codes);
  const int steps = dim / 4;
  for (int j = 0; j < 4; ++j)
    for (int i = 0; i < steps; ++i) bytes[4 * i + j] = codes[j * steps + i];
  const int32_t total = reduce_add(sum);
  to.numbers[0] = top / (127.0f * kCacheScaleUnit);
  to.numbers[1] = constant;
  memcpy(to.numbers + 2, &total, sizeof total);
}

// <q, c_b> of each query.
template <int kQueries>
HRUN_HD void centre_scores(const CodedAttentionTask& task, const CodedQuery* queries, int64_t block,
                           float* scores) {
  const int n_pairs = task.n_rot / 2, stride = task.pair_floats();
  Lanes sums[kQueries];
#pragma GCC unroll 4
  for (int h = 0; h < kQueries; ++h) sums[h] = splat(0.0f);
  if (n_pairs > 0) {
    const float* const cos = task.block_cos + block * n_pairs;
    const float* const sin = task.block_sin + block * n_pairs;
    for_lanes(n_pairs, [&](int64_t j, int n) {
      const Lanes c = load_n(cos + j, n), s = load_n(sin + j, n);
#pragma GCC unroll 4
      for (int h = 0; h < kQueries; ++h) {
        sums[h] = fma(c, load(queries[h].turned + j), sums[h]);
        sums[h] = fma(s, load(queries[h].turned + stride + j), sums[h]);
      }
    });
  }
  reduce_add_each(sums, scores);
#pragma GCC unroll 4
  for (int h = 0; h < kQueries; ++h) scores[h] += queries[h].constant();
}

// The sums of a tile's queries with no levels yet.
template <int kQueries, int kVectors>
HRUN_HD void begin_sums(const CodedQuery* queries, IntLanes (&sums)[kQueries][kVectors]) {
#pragma GCC unroll 4
  for (int h = 0; h < kQueries; ++h)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[h][v] = splat_int(-kKeyBias * queries[h].sum());
}
// The scores of kVectors times 16 positions from vector c on, by their sums of products.  kPlain:
// `scores` has the products with the values that are no codes.
template <int kQueries, int kVectors, bool kPlain>
HRUN_HD void scores_of_sums(const AttentionTask& task, const CodedQuery* queries,
                            const float* centre, const IntLanes (&sums)[kQueries][kVectors],
                            const uint8_t* scales, int c,
                            float (&scores)[kTileQueries][kAttentionBlock]) {
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const Lanes scale = load_f16(scales + 2 * kLanes * (c + v));
#pragma GCC unroll 4
    for (int h = 0; h < kQueries; ++h) {
      const Lanes product = mul(to_float(sums[h][v]), scale);
      Lanes score = fma(product, splat(queries[h].scale()), splat(centre[h]));
      if constexpr (kPlain) score = add(score, load(&scores[h][(c + v) * kLanes]));
      score = mul(score, splat(task.scale));
      if (task.soft_cap != 0) score = soft_cap(score, splat(task.soft_cap));
      store(&scores[h][(c + v) * kLanes], score);
    }
  }
}
// The same from levels.
template <int kQueries, int kVectors, bool kPlain>
HRUN_HD void scores_of_levels(const CodedAttentionTask& coded, const CodedQuery* queries,
                              const float* centre, const uint8_t* levels, const uint8_t* scales,
                              int c, float (&scores)[kTileQueries][kAttentionBlock]) {
  const int steps = coded.k_coded / 4;
  IntLanes sums[kQueries][kVectors];
  begin_sums(queries, sums);
  const uint8_t* at = levels + c * steps * kLaneBytes;
  for (int i = 0; i < steps; ++i, at += kLaneBytes) {
    ByteLanes level[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) level[v] = load_byte_lanes(at + v * steps * kLaneBytes);
#pragma GCC unroll 4
    for (int h = 0; h < kQueries; ++h)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        add_key_products(sums[h][v], level[v], queries[h].codes[i]);
  }
  scores_of_sums<kQueries, kVectors, kPlain>(coded.task, queries, centre, sums, scales, c, scores);
}
// The same of a whole block from its codes, whose levels are stored nowhere.
template <int kBits, int kQueries>
[[gnu::noinline]] void scores_of_codes(const CodedAttentionTask& coded, const CodedQuery* queries,
                                       const float* centre, const uint8_t* codes, CodesAhead ahead,
                                       float (&scores)[kTileQueries][kAttentionBlock]) {
  const auto steps = static_cast<size_t>(coded.k_coded / 4);
  const uint8_t* const scales = codes + codes_bytes(coded.k_type, coded.k_coded);
  const FourLevels<kBits, true> four(codes, coded.k_coded, kKeyBias, ahead);
  for (int c = 0; c < kBlockVectors; c += 2) {
    IntLanes sums[kQueries][2];
    begin_sums(queries, sums);
    const size_t first = static_cast<size_t>(c) * steps;
    for (size_t i = 0; i < steps; i += 4) {
      ByteLanes one[4], other[4];
      four(first, i, one);
      four(first + steps, i, other);
#pragma GCC unroll 4
      for (size_t j = 0; j < 4; ++j)
#pragma GCC unroll 4
        for (int h = 0; h < kQueries; ++h) {
          add_key_products(sums[h][0], one[j], queries[h].codes[i + j]);
          add_key_products(sums[h][1], other[j], queries[h].codes[i + j]);
        }
    }
    ahead.fetch(scales + c * kLanes * 2);
    scores_of_sums<kQueries, 2, false>(coded.task, queries, centre, sums, scales, c, scores);
  }
}

// q: of the tile, where keys have values that are no codes.
template <int kQueries, bool kPlain>
[[gnu::noinline]] void coded_scores(const CodedScratch& scratch, const float* const* q, int query,
                                    int64_t block, const uint8_t* codes, CodesAhead ahead,
                                    Visible seen, float (&scores)[kTileQueries][kAttentionBlock]) {
  const CodedAttentionTask& task = scratch.coded;
  if constexpr (kPlain) {
    AttentionTask others = task.task;
    others.k_dim -= task.k_coded;
    others.scale = 1;
    others.soft_cap = 0;
    const float* rest[kQueries];
    for (int h = 0; h < kQueries; ++h) rest[h] = q[h] + task.k_coded;
    scores_of_positions<F32, kQueries, kSixteenSums ? kBlockVectors : 1>(
        others, rest, reinterpret_cast<const uint8_t*>(scratch.plain), kBlockVectors, {}, scores);
  }
  CodedQuery queries[kQueries];
  float centre[kQueries];
  for (int h = 0; h < kQueries; ++h) queries[h] = scratch.query(query + h);
  centre_scores<kQueries>(task, queries, block, centre);
  const uint8_t* const scales = codes + codes_bytes(task.k_type, task.k_coded);
  if (!kPlain && scratch.k_few) {
    call_with_four_levels(task.k_type, [&]<int kBits>() {
      scores_of_codes<kBits, kQueries>(task, queries, centre, codes, ahead, scores);
    });
  } else if (kSixteenSums && seen.first_vector() == 0 && seen.end_vector() == kBlockVectors) {
    scores_of_levels<kQueries, kBlockVectors, kPlain>(task, queries, centre, scratch.k_levels,
                                                      scales, 0, scores);
  } else {
    for (int c = seen.first_vector(); c < seen.end_vector(); ++c)
      scores_of_levels<kQueries, 1, kPlain>(task, queries, centre, scratch.k_levels, scales, c,
                                            scores);
  }
  hide_unseen<kQueries>(seen, scores);
}

// Weights of a block as bytes, in positions: [query][position].
struct ByteWeights {
  alignas(64) int32_t quads[kTileQueries][kAttentionBlock / 4];
  float factor[kTileQueries];
};
template <int kQueries>
HRUN_HD void weights_to_bytes(const float (&weights)[kTileQueries][kAttentionBlock],
                              const uint8_t* scales, Visible seen, ByteWeights& out) {
  const int first = seen.first_vector(), end = seen.end_vector();
  Lanes scaled[kQueries][kBlockVectors], largest[kQueries];
#pragma GCC unroll 4
  for (int h = 0; h < kQueries; ++h) largest[h] = splat(0.0f);
#pragma GCC unroll 4
  for (int c = 0; c < kBlockVectors; ++c) {
    if (c < first || c >= end) continue;
    const Lanes scale = load_f16(scales + 2 * kLanes * c);
#pragma GCC unroll 4
    for (int h = 0; h < kQueries; ++h) {
      scaled[h][c] = mul(load(&weights[h][c * kLanes]), scale);
      largest[h] = max(scaled[h][c], largest[h]);
    }
  }
  float top[kQueries];
  reduce_max_each(largest, top);
#pragma GCC unroll 4
  for (int h = 0; h < kQueries; ++h) {
    const Lanes factor = splat(top[h] > 1e-30f ? 255.0f / top[h] : 0.0f);
    IntLanes bytes[kBlockVectors];
#pragma GCC unroll 4
    for (int c = 0; c < kBlockVectors; ++c)
      bytes[c] = c < first || c >= end ? splat_int(0) : round_to_int(mul(scaled[h][c], factor));
    store_uint8(reinterpret_cast<uint8_t*>(out.quads[h]), bytes);
    out.factor[h] = top[h] / (255.0f * kCacheScaleUnit);
  }
}

// Values of kVectors times 16 dimensions from vector i on, by their sums of products.
template <int kQueries, int kVectors>
HRUN_HD void add_values_of_sums(int i, const ByteWeights& weights,
                                const IntLanes (&sums)[kQueries][kVectors], ValueTarget& to) {
  if (i == 0 && to.state) join(*to.state, to.block, to.factors);
#pragma GCC unroll 4
  for (int h = 0; h < kQueries; ++h)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const Lanes value = mul(to_float(sums[h][v]), splat(weights.factor[h]));
      float* const out = to.out[h] + (i + v) * kLanes;
      if (to.state) {
        const Lanes block = mul(value, splat(to.factors.block[h]));
        store(out, fma(load(out), splat(to.factors.before[h]), block));
      } else {
        store(out, value);
      }
    }
}
template <int kQueries, int kVectors>
HRUN_HD void add_products(const ByteLanes (&level)[kVectors], const ByteWeights& weights, int group,
                          IntLanes (&sums)[kQueries][kVectors]) {
#pragma GCC unroll 4
  for (int h = 0; h < kQueries; ++h)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      add_value_products(sums[h][v], level[v], weights.quads[h][group]);
}

template <int kQueries, int kVectors>
HRUN_HD void add_values_of_levels_at(int i, int steps, const ByteWeights& weights,
                                     const uint8_t* levels, ValueTarget& to) {
  IntLanes sums[kQueries][kVectors] = {};
  const uint8_t* at = levels + i * kLaneBytes;
  for (int group = 0; group < kAttentionBlock / 4; ++group, at += steps * kLaneBytes) {
    ByteLanes level[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) level[v] = load_byte_lanes(at + v * kLaneBytes);
    add_products(level, weights, group, sums);
  }
  add_values_of_sums(i, weights, sums, to);
}
template <int kQueries>
[[gnu::noinline]] void add_values_of_levels(int v_dim, const ByteWeights& weights,
                                            const uint8_t* levels, ValueTarget& to) {
  constexpr int kVectors = kSixteenSums ? 4 : 1;
  const int steps = v_dim / kLanes;
  int i = 0;
  for (; i + kVectors <= steps; i += kVectors)
    add_values_of_levels_at<kQueries, kVectors>(i, steps, weights, levels, to);
  for (; i < steps; ++i) add_values_of_levels_at<kQueries, 1>(i, steps, weights, levels, to);
}
// The same from codes, whose levels are stored nowhere.
template <int kBits, int kQueries>
[[gnu::noinline]] void add_values_of_codes(int v_dim, const ByteWeights& weights,
                                           const uint8_t* codes, CodesAhead ahead,
                                           ValueTarget& to) {
  const auto steps = static_cast<size_t>(v_dim / kLanes);
  const FourLevels<kBits, false> four(codes, v_dim, 0, ahead);
  for (size_t i = 0; i < steps; i += 4) {
    IntLanes sums[kQueries][4] = {};
    for (int group = 0; group < kAttentionBlock / 4; ++group) {
      ByteLanes level[4];
      four(static_cast<size_t>(group) * steps, i, level);
      add_products(level, weights, group, sums);
    }
    add_values_of_sums(static_cast<int>(i), weights, sums, to);
  }
}

// The values that the coded blocks gave, in the order of dimensions and in their own basis.
HRUN_HD void values_turned_back(const float* values, int v_dim, float* out) {
  const int steps = v_dim / kLanes;
  for (int i = 0; i < steps; ++i)
    for (int l = 0; l < kLanes; ++l) out[l * steps + i] = values[i * kLanes + l];
  rotate_row(out, v_dim);
}

HRUN_HD size_t plain_bytes(CacheType type) {
  return type == CacheType::f32 ? F32::kBlockBytes : F16::kBlockBytes;
}

// Fetches codes into the second-level cache.
HRUN_HD void prefetch_codes(const uint8_t* block, CacheType type, int dim, int n_plain = 0) {
  const size_t bytes = codes_bytes(type, dim) +
                       kAttentionBlock * sizeof(uint16_t) * static_cast<size_t>(1 + n_plain);
  for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(block + at, 0, 2);
}

// A tile over a block whose keys, values or both are codes.
template <int kQueries>
HRUN_HD void coded_tile(const CodedScratch& scratch, const BlockOfCache& block, CodesAhead ahead,
                        int query, Visible seen, const Queries& all) {
  const CodedAttentionTask& coded = scratch.coded;
  const AttentionTask& task = coded.task;
  alignas(64) float scores[kTileQueries][kAttentionBlock];
  const Ahead none{block.k, block.k, block.k};
  if (is_coded(coded.k_type))
    (coded.k_coded < task.k_dim ? coded_scores<kQueries, true>
                                : coded_scores<kQueries, false>)(scratch, all.places.q + query,
                                                                 query,
                                                                 block.first / kAttentionBlock,
                                                                 block.k, ahead, seen, scores);
  else if (coded.k_type == CacheType::f16)
    scores_of_block<F16, kQueries>(task, all.places.q + query, block.k, seen, none, scores);
  else
    scores_of_block<F32, kQueries>(task, all.places.q + query, block.k, seen, none, scores);
  ValueTarget to{};
  SoftmaxState state{};
  softmax_of_block<kQueries>(scores, seen, to.block);
  float* out[kTileQueries];
  for (int h = 0; h < kQueries; ++h) out[h] = scratch.values(query + h);
  begin_values<kQueries>(task, block, query, out - query, all.states, state, to);
  const Ahead none_v{block.v, block.v, block.v};
  if (is_coded(coded.v_type)) {
    ByteWeights weights;
    weights_to_bytes<kQueries>(scores, block.v + codes_bytes(coded.v_type, task.v_dim), seen,
                               weights);
    if (scratch.v_few)
      call_with_four_levels(coded.v_type, [&]<int kBits>() {
        add_values_of_codes<kBits, kQueries>(task.v_dim, weights, block.v, ahead, to);
      });
    else
      add_values_of_levels<kQueries>(task.v_dim, weights, scratch.v_levels, to);
  } else if (coded.v_type == CacheType::f16) {
    add_values<F16, kQueries>(task.v_dim, scores, block.v, seen, none_v, to);
  } else {
    add_values<F32, kQueries>(task.v_dim, scores, block.v, seen, none_v, to);
  }
  end_values<kQueries>(task, query, all.states, state);
}

// Attends to rows that are kept as they are, in fp16 or fp32 by their types.  Many queries share
// one conversion.
void attend_plain(const CodedAttentionTask& coded, const BlockOfCache& block, int64_t n,
                  float* floats, const Queries& all) {
  const AttentionTask& task = coded.task;
  if (task.n_queries() <= kTileQueries && coded.k_type != CacheType::f32 &&
      coded.v_type != CacheType::f32) {
    BlockOfCache here = block;
    here.k_ahead = {block.k, block.k, block.k};
    here.v_ahead = {block.v, block.v, block.v};
    return attend_block<F16, F16>(task, here, all.places, all.states);
  }
  const int64_t vectors = (n + kLanes - 1) / kLanes * kLanes;
  float* const v_floats = floats + kAttentionBlock * task.k_dim;
  BlockOfCache converted = block;
  converted.k = coded.k_type == CacheType::f32
                    ? block.k
                    : rows_as_floats<F16>(block.k, vectors * task.k_dim, floats);
  converted.v = coded.v_type == CacheType::f32
                    ? block.v
                    : rows_as_floats<F16>(block.v, n * task.v_dim, v_floats);
  attend_block<F32, F32>(task, converted, all.places, all.states);
}

// Attends to the exact positions as one block.
void attend_exact(const CodedAttentionTask& coded, const CodedScratch& scratch,
                  const Queries& all) {
  const AttentionTask& task = coded.task;
  float *const keys = scratch.exact, *const values = keys + kLanes * task.k_dim;
  const auto sixteen = [](CacheType type, const uint8_t* rows, int i) {
    const uint8_t* const at = rows + static_cast<size_t>(i) * plain_bytes(type);
    return type == CacheType::f32 ? load_f32(at) : load_f16(at);
  };
  memset(keys, 0, sizeof(float) * kLanes * static_cast<size_t>(task.k_dim));
  for (int p = 0; p < kExactPositions; ++p)
    for (int i = 0; i < task.k_dim; i += kLanes) {
      float column[kLanes];
      store(column, sixteen(coded.k_type, coded.exact_k, p * task.k_dim + i));
      for (int l = 0; l < kLanes; ++l) keys[(i + l) * kLanes + p] = column[l];
    }
  for (int i = 0; i < kExactPositions * task.v_dim; i += kLanes)
    store(values + i, sixteen(coded.v_type, coded.exact_v, i));
  BlockOfCache block{
      reinterpret_cast<const uint8_t*>(keys), reinterpret_cast<const uint8_t*>(values), 0, {}, {}};
  block.end = kExactPositions;
  block.entry = task.n_blocks;
  attend_block<F32, F32>(task, block, all.places, all.states);
}

void prepare_coded_queries_kernel(const CodedAttentionTask& coded, float* scratch) {
  const AttentionTask& task = coded.task;
  for (int i = 0; i < task.n_queries(); ++i)
    prepare_query(coded, task.q.row(i / task.n_heads) + i % task.n_heads * task.k_dim, scratch,
                  coded_query(coded, coded.prepared, i));
}

CodedBlocks attention_coded_kernel(const CodedAttentionTask& coded, float* floats) {
  CodedBlocks read{};
  const AttentionTask& task = coded.task;
  const Queries all = begin_queries(task, floats + kAttentionBlock * (task.k_dim + task.v_dim));
  const CodedScratch scratch(coded, floats, floats + task.scratch_floats());
  const int k_plain = task.k_dim - coded.k_coded;
  const int64_t end_block = task.first_block + task.n_blocks;
  const int64_t end_coded = end_block < coded.own_block ? end_block : coded.own_block;
  const bool k_coded = is_coded(coded.k_type), v_coded = is_coded(coded.v_type);
  const int n_queries = task.n_queries();
  if (task.first_block < end_coded) {
    if (k_coded && !coded.prepared)
      for (int i = 0; i < n_queries; ++i)
        prepare_query(coded, all.places.q[i], scratch.row, scratch.query(i));
    if (!task.partial)
      for (int i = 0; i < n_queries; ++i)
        memset(scratch.values(i), 0, static_cast<size_t>(task.v_dim) * sizeof(float));
    const LevelsOfBlock k_levels = levels_of<true>(coded.k_type),
                        v_levels = levels_of<false>(coded.v_type);
    for (int64_t b = task.first_block; b < end_coded; ++b) {
      const ptrdiff_t offset = task.page_offset(b);
      BlockOfCache block{task.k + offset, task.v + offset, b * kAttentionBlock, {}, {}};
      if (b == 0) block.begin = kExactPositions;
      const auto bytes_to = [&](int64_t other) {
        return task.page_offset(other < end_coded ? other : end_coded - 1) - offset;
      };
      const CodesAhead ahead{bytes_to(b + 1), bytes_to(b + 2)};
      if (k_coded && !scratch.k_few) {
        prefetch_codes(block.k + ahead.next, coded.k_type, coded.k_coded, k_plain);
        k_levels(block.k, coded.k_coded, kKeyBias, scratch.k_levels);
        if (k_plain > 0)
          rows_as_floats<F16>(block.k + codes_bytes(coded.k_type, coded.k_coded) +
                                  kAttentionBlock * sizeof(uint16_t),
                              kAttentionBlock * k_plain, scratch.plain);
      }
      if (v_coded && !scratch.v_few) {
        prefetch_codes(block.v + ahead.next, coded.v_type, task.v_dim);
        v_levels(block.v, task.v_dim, 0, scratch.v_levels);
      }
      read.keys += k_coded, read.values += v_coded;
      for_tiles(task, block, [&]<int kQueries>(int query, Visible seen) {
        coded_tile<kQueries>(scratch, block, ahead, query, seen, all);
      });
    }
    if (!task.partial)
      for (int i = 0; i < n_queries; ++i) {
        if (v_coded)
          values_turned_back(scratch.values(i), task.v_dim, all.places.out[i]);
        else
          memcpy(all.places.out[i], scratch.values(i),
                 static_cast<size_t>(task.v_dim) * sizeof(float));
      }
  }
  if (end_block > coded.own_block) {
    if (coded.own_block > 0 && task.first_visible(0) < kExactPositions)
      attend_exact(coded, scratch, all);
    const int64_t first = coded.own_block * kAttentionBlock;
    attend_plain(coded, {coded.own_k, coded.own_v, first, {}, {}},
                 task.first_position + task.q.rows - first, floats, all);
  }
  end_queries(task, all);
  return read;
}

// Gives the result of attention_coded_kernel without `partial`.
void join_attention_coded_kernel(const float* partial, int64_t n_coded, const float* exact,
                                 int64_t stride, int v_dim, bool v_coded, const float* sink,
                                 float* scratch, float* out) {
  JoinedQuery query(v_dim, sink, out);
  for (int64_t b = 0; b < n_coded; ++b, partial += stride) query.join_block(partial);
  if (n_coded > 0 && v_coded) {
    memcpy(scratch, out, static_cast<size_t>(v_dim) * sizeof(float));
    values_turned_back(scratch, v_dim, out);
  }
  if (exact) query.join_block(exact);
  query.join_block(partial);  // its own block
  query.end();
}

}  // namespace
}  // namespace hrun
