// All attention kernels share this: which span, queries and positions a block of threads has, and
// the order in which parts are joined.
//
// Positions are cut at multiples of a split's length, counted from position 0.  Each kernel
// computes a split from nothing.  Joined joins the splits one after the other.  For spans of many
// rows, whose blocks are enough to fill the device, the block itself goes on to the next split.
// For spans of few rows, whose splits are blocks of their own, JoinParts does it.  So the bits of a
// query depend on its own positions alone.
#pragma once

#include "cuda/device/math.h"
#include "cuda/device/thread.h"
#include "cuda/kernels/attention.h"

namespace hrun::gpu {

inline constexpr float kLog2E = 1.44269504088896341f;
HRUN_HD float minus_infinity() { return bits_to_float(0xff800000u); }

// 2^(m - top), 0 for a part that saw nothing.
HRUN_HD float join_factor(float m, float top) {
  return m == minus_infinity() ? 0.0f : exp2_fast(m - top);
}

// The splits of a span: the first one, and their number.
struct Splits {
  int first, n;
};

// Item `item` of count(span) for each span in turn; span -1: there is none.  Whole warps.
struct SpanItem {
  int span, item;
};
template <class Count>
HRUN_HD SpanItem find_item(const BatchOnDevice& batch, int item, const Count& count) {
  int before = 0;
  for (int first = 0; first < batch.n_spans; first += kWarp) {
    const int s = first + lane(), own = s < batch.n_spans ? count(batch.spans[s]) : 0;
    int sum = own;  // up to this lane's
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const int other = static_cast<int>(shuffle_bits(static_cast<uint32_t>(sum), lane() - step));
      if (lane() >= step) sum += other;
    }
    const uint32_t reached = ballot(item < before + sum);
    if (reached != 0) {
      const int at = lowest_bit(reached);
      const auto start = static_cast<int>(shuffle_bits(static_cast<uint32_t>(sum - own), at));
      return {first + at, item - before - start};
    }
    before += static_cast<int>(shuffle_bits(static_cast<uint32_t>(sum), kWarp - 1));
  }
  return {-1, 0};
}

struct AttentionTask {
  FloatView q, out;
  const void* k;
  const void* v;
  bool half_k, half_v;  // fp16, else fp32
  uint32_t page_bytes;
  int n_heads, group;  // group: query heads per kv head
  int k_dim, v_dim;
  BatchOnDevice batch;
  float scale, soft_cap;
  int64_t window;
  bool causal;
  const float* sinks;
  float max_alibi_bias;  // in plain attention alone
  int split;             // its length
  int least, most;       // rows of the spans that this launch is for
  bool apart;            // splits are blocks of their own
  float* values;         // of splits that are apart: [part][head][v_dim]
  float* sums;           // [part][head][2]: m and l; with m = -infinity the values do not count

  HRUN_HD bool is_for(const SpanOnDevice& span) const {
    return span.n_rows >= least && span.n_rows <= most;
  }
  HRUN_HD Splits splits_of(const SpanOnDevice& span) const {
    const int first = static_cast<int>(first_visible(span.first_position)) / split,
              last = span.first_position + span.n_rows - 1;
    return {first, (end_visible(last, last + 1) - 1) / split + 1 - first};
  }
  // The keys, or values, of a head from a position on, up to the end of its page.
  HRUN_HD const uint8_t* at(const void* base, const int32_t* pages, bool half, int dim, int kv_head,
                            int position) const {
    const auto place = static_cast<uint32_t>(position);
    const auto page = static_cast<uint32_t>(pages[place / kPagePositions]);
    const uint32_t row = static_cast<uint32_t>(kv_head * kPagePositions) + place % kPagePositions;
    return static_cast<const uint8_t*>(base) + static_cast<uint64_t>(page) * page_bytes +
           row * static_cast<uint32_t>(dim) * (half ? 2u : 4u);
  }
  // The positions that a query sees: of a window, or of half of it to either side where attention
  // is not causal.
  HRUN_HD int64_t first_visible(int64_t position) const {
    const int64_t before = causal ? window - 1 : window / 2;
    return window > 0 && position > before ? position - before : 0;
  }
  HRUN_HD int end_visible(int position, int end_of_span) const {
    if (causal) return position + 1;
    const int64_t end = position + window / 2 + 1;
    return window > 0 && end < end_of_span ? static_cast<int>(end) : end_of_span;
  }
  // c tanh(s / c) = c (1 - 2 / (1 + e^(2 s / c)))
  HRUN_HD float capped(float score) const {
    const float e = exp2_fast(2 * kLog2E * (score / soft_cap));
    return soft_cap * (1 - 2 / (1 + e));
  }
  HRUN_HD float* values_at(int64_t part, int head) const {
    return values + (part * n_heads + head) * v_dim;
  }
  HRUN_HD float* sums_at(int64_t part, int head) const {
    return sums + (part * n_heads + head) * 2;
  }
  // Parts lie span by span, split by split, row by row.  Needs the whole warp.
  HRUN_HD int64_t first_part(int span) const {
    int64_t parts = 0;
    for (int s = lane(); s < span; s += kWarp) {
      const SpanOnDevice other = batch.spans[s];
      if (is_for(other)) parts += static_cast<int64_t>(splits_of(other).n) * other.n_rows;
    }
    return static_cast<int64_t>(warp_sum(static_cast<double>(parts)));  // exact
  }

  template <class Count>
  HRUN_HD SpanItem find(int item, const Count& count) const {
    return find_item(batch, item, count);
  }
};

// A query's parts so far.
struct Joined {
  float m = minus_infinity(), l = 0;
  // Adds the next part.  `before` and `here` become the factors of the values so far and of its
  // own.
  HRUN_HD void add(float part_m, float part_l, float& before, float& here) {
    const float now = largest_of(part_m, m);
    before = join_factor(m, now);
    here = join_factor(part_m, now);
    l = fused_multiply_add(l, before, part_l * here);
    m = now;
  }
};
// A part without weight leaves the value that is there.  A value that is there without weight may
// be anything.
HRUN_HD float join_value(float so_far, float value, float before, float here) {
  return here == 0 ? so_far : fused_multiply_add(before == 0 ? 0.0f : so_far, before, value * here);
}

// Makes the joined parts of a query its result.
struct Whole {
  float factor, total;
  HRUN_HD Whole(const AttentionTask& task, int head, const Joined& all) {
    const float sink = task.sinks ? task.sinks[head] * kLog2E : minus_infinity(),
                top = largest_of(sink, all.m);
    factor = join_factor(all.m, top);
    total = fused_multiply_add(all.l, factor, join_factor(sink, top));
  }
  HRUN_HD float value(float joined) const { return joined * factor / total; }
};

// Makes eight values of one head of a query from their parts, where it has several.
struct JoinEight {
  AttentionTask task;

  HRUN_HD void operator()(int row, int column) const {
    const int head = column / task.v_dim, i = column % task.v_dim;
    const int span_number = task.batch.span_of_row[row];
    const SpanOnDevice span = task.batch.spans[span_number];
    const Splits splits = task.splits_of(span);
    const int64_t first = task.first_part(span_number) + row - span.first_row;  // by whole warps
    if (splits.n == 1 || column >= task.n_heads * task.v_dim) return;
    Joined all;
    float value[8] = {};
    for (int s = 0; s < splits.n; ++s) {
      const int64_t part = first + static_cast<int64_t>(s) * span.n_rows;
      const float* const sums = task.sums_at(part, head);
      const float* const values = task.values_at(part, head) + i;
      float before, here;
      all.add(sums[0], sums[1], before, here);
#pragma unroll
      for (int j = 0; j < 8; ++j) value[j] = join_value(value[j], values[j], before, here);
    }
    const Whole whole(task, head, all);
    float* const out = task.out.row(row) + column;
#pragma unroll
    for (int j = 0; j < 8; ++j) out[j] = whole.value(value[j]);
  }
};

// The whole of one query from its parts: a block per query.
struct JoinParts {
  static constexpr int kThreads = 128, kBlocks = 1;
  static constexpr const char* kName = "the join of attention's parts";
  AttentionTask task;

  HRUN_HD void operator()() const {
    const auto row = static_cast<int>(block_x() / task.n_heads), head = block_x() % task.n_heads;
    const int span_number = task.batch.span_of_row[row];
    const SpanOnDevice span = task.batch.spans[span_number];
    const Splits splits = task.splits_of(span);
    if (!task.is_for(span) || splits.n == 1) return;
    const int64_t first = task.first_part(span_number) + row - span.first_row;
    float* const out = task.out.row(row) + static_cast<int64_t>(head) * task.v_dim;
    for (int i = thread(); i < task.v_dim; i += kThreads) {
      Joined all;
      float value = 0;
#pragma unroll 4
      for (int s = 0; s < splits.n; ++s) {
        const int64_t part = first + static_cast<int64_t>(s) * span.n_rows;
        const float* const sums = task.sums_at(part, head);
        float before, here;
        all.add(sums[0], sums[1], before, here);
        value = join_value(value, task.values_at(part, head)[i], before, here);
      }
      out[i] = Whole(task, head, all).value(value);
    }
  }
};

}  // namespace hrun::gpu
