// The tensor core kernels of attention share this: which queries and positions a block has, the
// tiles of keys and values that travel into a ring of slots in shared memory, queries in two fp16
// parts, and the step of the softmax.
#pragma once

#include "cuda/device/attention_parts.h"

namespace hrun::gpu {

// Sixteen columns of sums, as two tiles of eight.  The left operand, given in two fp16 parts, is
// multiplied by four matrices of load_matrices().
HRUN_HD void add_products(float (&left)[4], float (&right)[4], const uint32_t (&first)[4],
                          const uint32_t (&second)[4], const uint32_t (&r)[4]) {
  const uint32_t left_columns[2] = {r[0], r[1]}, right_columns[2] = {r[2], r[3]};
  mma_f16(left, first, left_columns);
  mma_f16(right, first, right_columns);
  mma_f16(left, second, left_columns);
  mma_f16(right, second, right_columns);
}

// kDim: at least k_dim and v_dim, which are multiples of 8.  kRows: queries of a block.  kTile:
// positions per slot.
template <int kDim, int kRows, int kTile, int kSlots, int kBlockThreads>
struct AttentionTiles {
  static constexpr int kThreads = kBlockThreads;
  // Rows are an odd number of 16 bytes apart: eight of them lie in different banks.  The last 16
  // bytes are not used, but those of a query, which hold its scale.
  static constexpr int kStride = kDim + 8;
  static constexpr int kQueryHalves = kRows * kStride, kSlotHalves = kTile * kStride;
  static constexpr size_t kTileBytes = (2 * kQueryHalves + kSlots * kSlotHalves) * sizeof(uint16_t);
  static constexpr float kWeightScale = 16384, kWeightShift = 14;
  static_assert(kDim % 32 == 0 && kSlots >= 2 && kDim / 8 * kTile % kThreads == 0);

  AttentionTask task;

  struct Work {
    int kv_head, row;    // the first query of the block
    int n_rows;          // queries of the kv head in the span
    int first_row;       // of the span in the batch
    int first_position;  // of the span
    const int32_t* pages;
    int begin, end;            // positions that some query of the block sees
    int seen_begin, seen_end;  // positions that all of them see
    int first, last;           // splits of the block, from first to before last
    bool whole;                // they are all that the span has
    int64_t part;              // else: of the block's split and the span's first row
  };
  // The facts that a thread keeps of its two queries, which are rows lane / 4 and lane / 4 + 8 of
  // sixteen: the left operands and sums of mma have them so.
  struct Rows {
    float factor[2];  // of a product with the scaled query; makes it log2(e) * score, or the score
                      // that is capped
    int begin[2], end[2];
  };

  // Grid: x over kv heads and, slower, the items of the spans; false where there is none.
  HRUN_HD bool work(Work& w) const {
    const int n_kv = task.n_heads / task.group, block = opaque(block_x());
    const auto count = [&](const SpanOnDevice& span) {
      const int blocks = (span.n_rows * task.group + kRows - 1) / kRows;
      return task.is_for(span) ? blocks * (task.apart ? task.splits_of(span).n : 1) : 0;
    };
    const SpanItem place = task.find(block / n_kv, count);
    if (place.span < 0) return false;
    const SpanOnDevice span = task.batch.spans[place.span];
    const Splits splits = task.splits_of(span);
    w.kv_head = block % n_kv;
    w.n_rows = span.n_rows * task.group;
    w.first_row = span.first_row;
    w.first_position = span.first_position;
    w.pages = task.batch.pages(place.span);
    w.whole = !task.apart || splits.n == 1;
    const int n_blocks = (w.n_rows + kRows - 1) / kRows,
              row_block = task.apart ? place.item / splits.n : place.item;
    w.row = (n_blocks - 1 - row_block) * kRows;  // late queries see most and go first
    const int last = w.row + kRows < w.n_rows ? w.row + kRows - 1 : w.n_rows - 1;
    const int first_token = w.row / task.group, last_token = last / task.group;
    w.begin = static_cast<int>(task.first_visible(w.first_position + first_token));
    w.seen_begin = static_cast<int>(task.first_visible(w.first_position + last_token));
    const int end_of_span = span.first_position + span.n_rows;
    w.end = task.end_visible(w.first_position + last_token, end_of_span);
    w.seen_end = task.end_visible(w.first_position + first_token, end_of_span);
    w.part = 0;
    if (w.whole) {
      w.first = w.begin / task.split;
      w.last = (w.end - 1) / task.split + 1;
    } else {
      w.first = splits.first + place.item % splits.n;
      w.last = w.first + 1;
      w.part =
          task.first_part(place.span) + static_cast<int64_t>(place.item % splits.n) * span.n_rows;
    }
    return true;
  }

  // Asks for the rows of a slot, keys or values: row r is position_of(r), with zeros where no query
  // sees it.  kOnePage: they follow each other in one page.
  template <bool kOnePage, class PositionOf>
  HRUN_HD void ask_for(const Work& w, bool values, uint16_t* slot,
                       const PositionOf& position_of) const {
    constexpr int kPieces = kDim / 8;  // of 16 bytes, per position
    const int dim = values ? task.v_dim : task.k_dim;
    const void* const base = values ? task.v : task.k;
    const auto row_at = [&](int position) {
      return reinterpret_cast<const uint16_t*>(
          task.at(base, w.pages, true, dim, w.kv_head, position));
    };
    const uint16_t* const first = kOnePage ? row_at(position_of(0)) : nullptr;
#pragma unroll
    for (int i = 0; i < kTile * kPieces / kThreads; ++i) {
      const int at = i * kThreads + thread(), row = at / kPieces, piece = at % kPieces,
                position = position_of(row);
      const bool inside = position >= w.begin && position < w.end && piece * 8 < dim;
      const uint16_t* from = kOnePage ? first + row * dim : first;
      if (!kOnePage && inside) from = row_at(position);
      copy_async(slot + row * kStride + piece * 8,
                 inside ? static_cast<const void*>(from + piece * 8) : base, inside);
    }
    static_assert(kTile * kPieces % kThreads == 0);
  }

  // Items follow each other through the slots of the ring: ask(item, slot) for one.
  template <class Ask>
  HRUN_HD void begin_slots(int items, const Ask& ask) const {
#pragma unroll
    for (int i = 0; i < kSlots - 1; ++i) {
      if (i < items) ask(i, slots() + i * kSlotHalves);
      commit_copies();
    }
  }
  // Waits until item i is there and all threads are done with item i - 1, and fills that slot
  // again.
  template <class Ask>
  HRUN_HD void next_slot(int items, int item, int slot, const Ask& ask) const {
    wait_copies<kSlots - 2>();
    sync_block();
    const int next = item + kSlots - 1, free = slot == 0 ? kSlots - 1 : slot - 1;
    if (next < items) ask(next, slots() + free * kSlotHalves);
    commit_copies();
  }

  // The queries of the block in two fp16 parts, and 1 / scale.
  HRUN_HD void put_queries(const Work& w) const {
    for (int r = warp(); r < kRows; r += kThreads / kWarp) {
      const int row = w.row + r;
      const bool real = row < w.n_rows;
      const float* const q =
          real ? task.q.row(w.first_row + row / task.group) +
                     static_cast<int64_t>(w.kv_head * task.group + row % task.group) * task.k_dim
               : nullptr;
      float values[kDim / kWarp], largest = 0;
#pragma unroll
      for (int i = 0; i < kDim / kWarp; ++i) {
        const int at = i * kWarp + lane();
        values[i] = real && at < task.k_dim ? q[at] : 0.0f;
        largest = largest_of(values[i] < 0 ? -values[i] : values[i], largest);
      }
      // The largest becomes 2^8 .. 2^9: far from overflow, and the second part of a value that
      // matters far from fp16's end.
      const int exponent = static_cast<int>(float_to_bits(warp_max(largest)) >> 23);
      const int shift = exponent == 255 ? 0 : 8 + 127 - (exponent < 10 ? 10 : exponent);
      const float up = power_of_two(shift), sign = task.scale < 0 ? -up : up;
#pragma unroll
      for (int i = 0; i < kDim / kWarp; ++i) {
        const float v = values[i] * sign;
        const uint32_t high = two_halves(v, 0);
        const uint32_t low = two_halves(v - low_half(high), 0);
        queries()[r * kStride + i * kWarp + lane()] = static_cast<uint16_t>(high);
        queries()[kQueryHalves + r * kStride + i * kWarp + lane()] = static_cast<uint16_t>(low);
      }
      if (lane() == 0) {
        const float down = power_of_two(-shift);
        memcpy(queries() + r * kStride + kDim, &down, sizeof down);
      }
    }
  }
  static HRUN_HD float power_of_two(int n) {
    return bits_to_float(static_cast<uint32_t>(127 + n) << 23);
  }

  // Shared memory: the queries, then the slots.
  static HRUN_HD uint16_t* queries() { return reinterpret_cast<uint16_t*>(shared()); }
  static HRUN_HD uint16_t* slots() { return queries() + 2 * kQueryHalves; }

  HRUN_HD void start(const Work& w, int first_row, Rows& rows) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int at = first_row + lane() / 4 + 8 * r;
      const int row = w.row + at < w.n_rows ? w.row + at : w.n_rows - 1;
      const int64_t position = w.first_position + row / task.group;
      rows.begin[r] = static_cast<int>(task.first_visible(position));
      rows.end[r] =
          task.end_visible(static_cast<int>(position), w.first_position + w.n_rows / task.group);
      float down;
      memcpy(&down, queries() + at * kStride + kDim, sizeof down);
      const float scale = task.scale < 0 ? -task.scale : task.scale;
      rows.factor[r] =
          largest_of(task.soft_cap != 0 ? scale * down : scale * kLog2E * down, 1.2e-38f);
    }
  }
  HRUN_HD float score_factor(const Rows& rows, int r) const {
    return task.soft_cap != 0 ? kLog2E : rows.factor[r];
  }

  // Products of 16 queries with 8 n positions from `first` on: capped, and -infinity where a query
  // does not see.
  template <int n>
  HRUN_HD void cap_and_hide(const Work& w, const Rows& rows, int first, float (&u)[n][4]) const {
    if (task.soft_cap != 0) {
#pragma unroll
      for (int i = 0; i < n; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) u[i][j] = task.capped(u[i][j] * rows.factor[j / 2]);
    }
    if (first < w.seen_begin || first + 8 * n > w.seen_end) {
#pragma unroll
      for (int i = 0; i < n; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int position = first + 8 * i + lane() % 4 * 2 + j % 2;
          if (position < rows.begin[j / 2] || position >= rows.end[j / 2])
            u[i][j] = minus_infinity();
        }
    }
  }
  // The largest of a query's products, in the four lanes that have some of them.
  template <int n>
  static HRUN_HD float top_of(const float (&u)[n][4], int r) {
    float top = u[0][2 * r];
#pragma unroll
    for (int i = 0; i < n; ++i) top = largest_of(largest_of(u[i][2 * r], u[i][2 * r + 1]), top);
    top = largest_of(shuffle_xor(top, 1), top);
    return largest_of(shuffle_xor(top, 2), top);
  }
  // Makes products weights, in units of 1 / kWeightScale and relative to the largest, m.  Returns
  // the sum of this thread's weights.
  template <int n>
  HRUN_HD float weights_of(const Rows& rows, int r, float m, float (&u)[n][4]) const {
    const float factor = score_factor(rows, r),
                base = m == minus_infinity() ? 0.0f : kWeightShift - m;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < n; ++i)
#pragma unroll
      for (int j = 2 * r; j < 2 * r + 2; ++j) {
        u[i][j] = exp2_fast(fused_multiply_add(u[i][j], factor, base));
        sum += u[i][j];
      }
    return sum;
  }
  // Sums over the four lanes of a query, in true size.
  static HRUN_HD float sum_of_query(float l) {
    l += shuffle_xor(l, 1);
    l += shuffle_xor(l, 2);
    return l * (1 / kWeightScale);
  }

  HRUN_HD int batch_row(const Work& w, int row) const { return w.first_row + row / task.group; }
  HRUN_HD int head_of(const Work& w, int row) const {
    return w.kv_head * task.group + row % task.group;
  }
  HRUN_HD float* out_of(const Work& w, int row) const {
    return task.out.row(batch_row(w, row)) + static_cast<int64_t>(head_of(w, row)) * task.v_dim;
  }
  HRUN_HD void put_sums(const Work& w, int row, const Joined& split) const {
    float* const sums = task.sums_at(w.part + row / task.group, head_of(w, row));
    sums[0] = split.m;
    sums[1] = split.l;
  }

  // The place for the values of a split.  They are a part, or they are joined to those before,
  // which wait in `out`.
  struct Target {
    float* to;
    bool part, first, last;
    float before, here;
    Whole whole;
    HRUN_HD void put(int i, float value) const {
      if (part) {
        to[i] = value;
        return;
      }
      value = join_value(first ? 0.0f : to[i], value, before, here);
      to[i] = last ? whole.value(value) : value;
    }
  };
  HRUN_HD Target target(const Work& w, int row, int split, const Joined& of_split,
                        Joined& all) const {
    float before, here;
    all.add(of_split.m, of_split.l, before, here);
    float* const to =
        w.whole ? out_of(w, row) : task.values_at(w.part + row / task.group, head_of(w, row));
    return {to,
            !w.whole,
            split == w.first,
            split + 1 == w.last,
            before,
            here,
            Whole(task, head_of(w, row), all)};
  }
};

}  // namespace hrun::gpu
