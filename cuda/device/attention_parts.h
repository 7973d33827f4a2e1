// What the attention kernels share: their arguments, which positions a query sees, and how parts of
// a softmax are joined.
//
// Scores live in the domain of powers of two: u = log2(e) * score, and a part of the positions
// leaves per query
//   m  the largest u, l  the sum of 2^(u - m), o  the values weighted with 2^(u - m).
// Parts join in order of positions: M = max m, then the sums of 2^(m - M) l and 2^(m - M) o.  A
// sink adds 2^(sink - M) to l.
#pragma once

#include "backend/backend.h"
#include "cuda/device/thread.h"
#include "cuda/kernels/attention.h"

namespace hrun::gpu {

// What a block of threads sees where positions are split, from multiples of it on.
inline constexpr int kSplitPositions = 256;
inline constexpr float kLog2E = 1.44269504088896341f;
HRUN_HD float minus_infinity() { return bits_to_float(0xff800000u); }

struct AttentionTask {
  FloatView q, out;
  const void* k;
  const void* v;
  bool half_k, half_v;  // fp16, else fp32
  uint32_t page_bytes;
  int n_heads, group;  // group: query heads per kv head
  int k_dim, v_dim;
  SpanOnDevice span;
  float scale, soft_cap;
  int64_t window;
  const float* sinks;
  int n_splits;   // 1: all positions, and out is written; else kSplitPositions each, and partial
  float* values;  // [n_splits][n_queries][v_dim], query = token * n_heads + head
  float* sums;  // [n_splits][n_queries][2]: m and l; with m = -infinity the values are not written

  HRUN_HD int64_t n_queries() const { return q.rows * n_heads; }
  HRUN_HD int64_t position_of(int64_t token) const { return span.positions[0] + token; }
  // The keys, or values, of a head from a position on, up to the end of its page.
  HRUN_HD const uint8_t* at(const void* base, bool half, int dim, int kv_head, int position) const {
    const auto place = static_cast<uint32_t>(position);
    const auto page = static_cast<uint32_t>(span.pages[place / kPagePositions]);
    const uint32_t row = static_cast<uint32_t>(kv_head * kPagePositions) + place % kPagePositions;
    return static_cast<const uint8_t*>(base) + static_cast<uint64_t>(page) * page_bytes +
           row * static_cast<uint32_t>(dim) * (half ? 2u : 4u);
  }
  HRUN_HD int64_t first_visible(int64_t position) const {
    return window > 0 && position + 1 > window ? position + 1 - window : 0;
  }
  // c tanh(s / c) = c (1 - 2 / (1 + e^(2 s / c)))
  HRUN_HD float capped(float score) const {
    const float e = exp2_fast(2 * kLog2E * (score / soft_cap));
    return soft_cap * (1 - 2 / (1 + e));
  }
  // The positions of a split within [begin, end).
  HRUN_HD int64_t split_begin(int split, int64_t begin) const {
    const int64_t at = static_cast<int64_t>(split) * kSplitPositions;
    return n_splits > 1 && at > begin ? at : begin;
  }
  HRUN_HD int64_t split_end(int split, int64_t end) const {
    const int64_t at = (static_cast<int64_t>(split) + 1) * kSplitPositions;
    return n_splits > 1 && at < end ? at : end;
  }
  HRUN_HD float* values_at(int split, int64_t query) const {
    return values + (split * n_queries() + query) * v_dim;
  }
  HRUN_HD float* sums_at(int split, int64_t query) const {
    return sums + (split * n_queries() + query) * 2;
  }
};

// 2^(m - top), 0 for a part that saw nothing.
HRUN_HD float join_factor(float m, float top) {
  return m == minus_infinity() ? 0.0f : exp2_fast(m - top);
}

// What makes a query's only part the whole, by the operations of JoinParts.
struct WholeFactor {
  float factor, total;
  HRUN_HD WholeFactor(const AttentionTask& task, int64_t query, float m, float l) {
    const float sink = task.sinks ? task.sinks[query % task.n_heads] * kLog2E : minus_infinity(),
                top = largest_of(sink, m);
    factor = join_factor(m, top);
    total = fused_multiply_add(l, factor, join_factor(sink, top));
  }
  HRUN_HD float value(float part) const { return fused_multiply_add(part, factor, 0.0f) / total; }
};

// The whole of one query from its parts: a block per query.
struct JoinParts {
  static constexpr int kThreads = 128, kBlocks = 1;
  static constexpr const char* kName = "the join of attention's parts";
  AttentionTask task;

  HRUN_HD void operator()() const {
    auto* const factors = reinterpret_cast<float*>(shared());  // [n_splits], then their sums
    const int64_t query = block_x();
    const int n = task.n_splits;
    float* const sums = factors + n;
    for (int s = thread(); s < n; s += kThreads) {
      factors[s] = task.sums_at(s, query)[0];
      sums[s] = task.sums_at(s, query)[1];
    }
    sync_block();
    const float sink = task.sinks ? task.sinks[query % task.n_heads] * kLog2E : minus_infinity();
    float top = sink;
    for (int s = 0; s < n; ++s) top = largest_of(top, factors[s]);
    float total = join_factor(sink, top);
    for (int s = 0; s < n; ++s)
      total = fused_multiply_add(sums[s], join_factor(factors[s], top), total);
    sync_block();
    for (int s = thread(); s < n; s += kThreads) factors[s] = join_factor(factors[s], top);
    sync_block();
    float* const out = task.out.row(query / task.n_heads) + query % task.n_heads * task.v_dim;
    for (int i = thread(); i < task.v_dim; i += kThreads) {
      float sum = 0;
#pragma unroll 8
      for (int s = 0; s < n; ++s) {
        const float value = factors[s] != 0 ? task.values_at(s, query)[i]
                                            : 0.0f;  // a load under a condition, not a jump
        sum = factors[s] != 0 ? fused_multiply_add(value, factors[s], sum) : sum;
      }
      out[i] = sum / total;
    }
  }
};

}  // namespace hrun::gpu
