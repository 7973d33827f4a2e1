// Attention for every head size and cache format, in fp32: a block per query and split, a warp per
// position.
//
// The reference, and what runs where the cache is fp32 or a head has an odd size.
#pragma once

#include "cuda/device/attention_parts.h"

namespace hrun::gpu {

struct PlainAttention {
  static constexpr int kWarps = 4, kThreads = kWarps * kWarp, kBlocks = 4;
  static constexpr int kMaxDim = 576, kPerLane = kMaxDim / kWarp;
  static constexpr size_t kSharedBytes = kWarps * (kMaxDim + 2) * sizeof(float);
  static constexpr const char* kName = "attention";
  AttentionTask task;

  static HRUN_HD float load(const void* base, bool half, int i) {
    return half ? low_half(static_cast<const uint16_t*>(base)[i])
                : static_cast<const float*>(base)[i];
  }

  // Grid: x over queries, y over splits.
  HRUN_HD void operator()() const {
    const int64_t query = block_x(), token = query / task.n_heads;
    const auto head = static_cast<int>(query % task.n_heads);
    const int64_t position = task.position_of(token);
    const int split = block_y();
    const int64_t from = task.split_begin(split, task.first_visible(position)),
                  to = task.split_end(split, position + 1);
    const int kv_head = head / task.group;

    float q[kPerLane], o[kPerLane];
    const float* const q_row = task.q.row(token) + static_cast<int64_t>(head) * task.k_dim;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int at = i * kWarp + lane();
      q[i] = at < task.k_dim ? q_row[at] : 0.0f;
      o[i] = 0;
    }
    float m = minus_infinity(), l = 0;
    for (int64_t p = from + warp(); p < to; p += kWarps) {
      const auto at_p = static_cast<int>(p);
      const uint8_t *const key = task.at(task.k, task.half_k, task.k_dim, kv_head, at_p),
                           *const value = task.at(task.v, task.half_v, task.v_dim, kv_head, at_p);
      float dot = 0;
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        const int at = i * kWarp + lane();
        if (at < task.k_dim) dot = fused_multiply_add(q[i], load(key, task.half_k, at), dot);
      }
      float score = warp_sum(dot) * task.scale;
      if (task.soft_cap != 0) score = task.capped(score);
      const float u = score * kLog2E, top = largest_of(m, u), before = join_factor(m, top);
      const float e =
          top == minus_infinity() ? 0.0f : exp2_fast(fused_multiply_add(score, kLog2E, -top));
      m = top;
      l = fused_multiply_add(l, before, e);
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        const int at = i * kWarp + lane();
        if (at < task.v_dim)
          o[i] = fused_multiply_add(e, load(value, task.half_v, at), o[i] * before);
      }
    }

    // The warps joined in order.
    auto* const parts = reinterpret_cast<float*>(shared());
    float* const mine = parts + warp() * (kMaxDim + 2);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) mine[2 + i * kWarp + lane()] = o[i];
    if (lane() == 0) mine[0] = m, mine[1] = l;
    sync_block();
    float top = minus_infinity(), total = 0, factors[kWarps];
    for (int w = 0; w < kWarps; ++w) top = largest_of(top, parts[w * (kMaxDim + 2)]);
    const bool whole = task.n_splits == 1;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      factors[w] = join_factor(parts[w * (kMaxDim + 2)], top);
      total = fused_multiply_add(parts[w * (kMaxDim + 2) + 1], factors[w], total);
    }
    const WholeFactor all(task, query, top, total);
    float* const out = whole ? task.out.row(token) + static_cast<int64_t>(head) * task.v_dim
                             : task.values_at(split, query);
    for (int i = thread(); i < task.v_dim; i += kThreads) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w)
        sum = fused_multiply_add(parts[w * (kMaxDim + 2) + 2 + i], factors[w], sum);
      out[i] = whole ? all.value(sum) : sum;
    }
    if (!whole && thread() == 0) {
      task.sums_at(split, query)[0] = top;
      task.sums_at(split, query)[1] = total;
    }
  }
};

}  // namespace hrun::gpu
