// Attention for every head size and cache format, in fp32: a block per query and split, a warp per
// position.
//
// It is the reference, and it runs where the cache is fp32, a head has an odd size, or scores
// shrink with distance.
#pragma once

#include "backend/alibi.h"
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

  struct Seen {  // positions of a query
    int begin, end;
  };

  // Grid: x over queries; y over splits where they are apart.
  HRUN_HD void operator()() const {
    const auto row = static_cast<int>(block_x() / task.n_heads), head = block_x() % task.n_heads;
    const int span_number = task.batch.span_of_row[row];
    const SpanOnDevice span = task.batch.spans[span_number];
    if (!task.is_for(span)) return;
    const int32_t* const pages = task.batch.pages(span_number);
    const Splits splits = task.splits_of(span);
    const int position = task.batch.positions[row];
    const Seen seen{static_cast<int>(task.first_visible(position)),
                    task.end_visible(position, span.first_position + span.n_rows)};
    float* const out = task.out.row(row) + static_cast<int64_t>(head) * task.v_dim;
    Joined all;
    if (!task.apart || splits.n == 1) {
      if (block_y() > 0) return;
      for (int s = 0; s < splits.n; ++s) {
        Joined part;
        attend(row, head, seen, splits.first + s, pages, part, [&](int i, float value) {
          float before, here;
          Joined joined = all;
          joined.add(part.m, part.l, before, here);
          value = join_value(s == 0 ? 0.0f : out[i], value, before, here);
          out[i] = s + 1 < splits.n ? value : Whole(task, head, joined).value(value);
        });
        float before, here;
        all.add(part.m, part.l, before, here);
      }
      return;
    }
    if (block_y() >= splits.n) return;
    const int64_t part = task.first_part(span_number) +
                         static_cast<int64_t>(block_y()) * span.n_rows + row - span.first_row;
    attend(row, head, seen, splits.first + block_y(), pages, all,
           [&](int i, float value) { task.values_at(part, head)[i] = value; });
    if (thread() == 0) {
      task.sums_at(part, head)[0] = all.m;
      task.sums_at(part, head)[1] = all.l;
    }
  }

  // One split: its m and l, and then put(i, value).
  template <class Put>
  HRUN_HD void attend(int row, int head, const Seen& seen, int split, const int32_t* pages,
                      Joined& joined, const Put& put) const {
    const int64_t first = static_cast<int64_t>(split) * task.split,
                  from = first > seen.begin ? first : seen.begin,
                  to = first + task.split < seen.end ? first + task.split : seen.end;
    const int kv_head = head / task.group, position = task.batch.positions[row];
    const float slope =
        task.max_alibi_bias > 0
            ? alibi_slope(head, task.n_heads, static_cast<double>(task.max_alibi_bias))
            : 0.0f;
    float q[kPerLane], o[kPerLane];
    const float* const q_row = task.q.row(row) + static_cast<int64_t>(head) * task.k_dim;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int at = i * kWarp + lane();
      q[i] = at < task.k_dim ? q_row[at] : 0.0f;
      o[i] = 0;
    }
    float m = minus_infinity(), l = 0;
    for (int64_t p = from + warp(); p < to; p += kWarps) {
      const auto at_p = static_cast<int>(p);
      const uint8_t *const key = task.at(task.k, pages, task.half_k, task.k_dim, kv_head, at_p),
                           *const value =
                               task.at(task.v, pages, task.half_v, task.v_dim, kv_head, at_p);
      float dot = 0;
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        const int at = i * kWarp + lane();
        if (at < task.k_dim) dot = fused_multiply_add(q[i], load(key, task.half_k, at), dot);
      }
      float score = warp_sum(dot) * task.scale;
      if (task.soft_cap != 0) score = task.capped(score);
      const auto behind = static_cast<float>(position - p);
      score = fused_multiply_add(-slope, behind < 0 ? -behind : behind, score);
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

    // Joins the warps in order.
    auto* const parts = reinterpret_cast<float*>(shared());
    float* const mine = parts + warp() * (kMaxDim + 2);
    sync_block();  // of the split before
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) mine[2 + i * kWarp + lane()] = o[i];
    if (lane() == 0) mine[0] = m, mine[1] = l;
    sync_block();
    float before[kWarps], here[kWarps];
    joined = {};
#pragma unroll
    for (int w = 0; w < kWarps; ++w)
      joined.add(parts[w * (kMaxDim + 2)], parts[w * (kMaxDim + 2) + 1], before[w], here[w]);
    for (int i = thread(); i < task.v_dim; i += kThreads) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w)
        sum = join_value(sum, parts[w * (kMaxDim + 2) + 2 + i], before[w], here[w]);
      put(i, sum);
    }
  }
};

}  // namespace hrun::gpu
