// What the tensor core kernels of attention share: which queries and positions a block has, the
// tiles of keys and values that travel into a ring of slots in shared memory, queries in two fp16
// parts, and the step of the softmax.
#pragma once

#include "cuda/device/attention_parts.h"

namespace hrun::gpu {

// Sixteen columns of sums, as two tiles of eight: the left operand, given in two fp16 parts, times
// four matrices of load_matrices().
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
    int kv_head, split, row;   // the first query
    int n_rows;                // queries of the kv head
    int first_position;        // of token 0
    int begin, end;            // positions that some query of the block sees
    int seen_begin, seen_end;  // positions that all of them see
    int tile, tiles;           // the first of this split, and how many
  };
  // What a thread knows of its two queries, rows lane / 4 and lane / 4 + 8 of sixteen: left
  // operands and sums of mma have them so.
  struct Rows {
    float m[2], l[2];  // l: of the thread's own columns, in units of 1 / kWeightScale
    float factor[2];   // of a product with the scaled query; makes it log2(e) * score, or the score
                       // that is capped
    int begin[2], end[2];
  };

  HRUN_HD Work work() const {
    Work w;
    const int n_kv = task.n_heads / task.group, n_row_tiles = grid_x() / n_kv;
    const int block = opaque(block_x());
    w.kv_head = block % n_kv;
    w.row = (n_row_tiles - 1 - block / n_kv) * kRows;  // late queries see most and go first
    w.split = block_y();
    w.n_rows = static_cast<int>(task.q.rows) * task.group;
    w.first_position = task.span.positions[0];
    const int last = w.row + kRows < w.n_rows ? w.row + kRows - 1 : w.n_rows - 1;
    const int64_t first_token = w.row / task.group, last_token = last / task.group;
    w.begin = static_cast<int>(task.first_visible(w.first_position + first_token));
    w.seen_begin = static_cast<int>(task.first_visible(w.first_position + last_token));
    w.end = static_cast<int>(w.first_position + last_token + 1);
    w.seen_end = static_cast<int>(w.first_position + first_token + 1);
    static_assert(kSplitPositions % kTile == 0);
    w.tile = static_cast<int>(task.split_begin(w.split, w.begin)) / kTile;
    const int end = (static_cast<int>(task.split_end(w.split, w.end)) + kTile - 1) / kTile;
    w.tiles = end > w.tile ? end - w.tile : 0;
    return w;
  }

  // Item i is there, everybody is done with item i - 1, and its slot is filled again.
  HRUN_HD void next_slot(const Work& w, int item, int slot) const {
    wait_copies<kSlots - 2>();
    sync_block();
    const int next = item + kSlots - 1, free = slot == 0 ? kSlots - 1 : slot - 1;
    if (next < 2 * w.tiles) ask_for(w, next, slots() + free * kSlotHalves);
    commit_copies();
  }

  HRUN_HD void ask_for(const Work& w, int item, uint16_t* slot) const {
    constexpr int kPieces = kDim / 8;  // of 16 bytes, per position
    const bool values = item % 2 != 0;
    const int dim = values ? task.v_dim : task.k_dim, first = (w.tile + item / 2) * kTile,
              left = w.end - first;
    static_assert(kPagePositions % kTile == 0);  // a tile lies in one page
    const auto* const from = reinterpret_cast<const uint16_t*>(
        task.at(values ? task.v : task.k, true, dim, w.kv_head, first));
    if constexpr (kThreads % kPieces ==
                  0) {  // a thread has the same piece of every so many positions
      constexpr int kStep = kThreads / kPieces;
      const int row = thread() / kPieces, piece = thread() % kPieces;
      const int inside = piece * 8 < dim ? left : 0;
      const uint16_t* at = from + row * dim + piece * 8;
      uint16_t* const to = slot + row * kStride + piece * 8;
#pragma unroll
      for (int i = 0; i < kTile / kStep; ++i, at += kStep * dim)
        copy_async(to + i * kStep * kStride, at, row + i * kStep < inside);
    } else {
#pragma unroll
      for (int i = 0; i < kTile * kPieces / kThreads; ++i) {
        const int at = i * kThreads + thread(), row = at / kPieces, piece = at % kPieces;
        copy_async(slot + row * kStride + piece * 8, from + row * dim + piece * 8,
                   row < left && piece * 8 < dim);
      }
    }
    static_assert(kTile * kPieces % kThreads == 0);
  }

  // The queries of the block in two fp16 parts, and 1 / scale.
  HRUN_HD void put_queries(const Work& w) const {
    for (int r = warp(); r < kRows; r += kThreads / kWarp) {
      const int row = w.row + r;
      const bool real = row < w.n_rows;
      const float* const q =
          real ? task.q.row(row / task.group) +
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

  // The first tiles are under way and the queries in place; false if this part has no tiles, which
  // it then has said.
  HRUN_HD bool begin(const Work& w) const {
    if (w.tiles == 0) {
      const int row = w.row + thread();
      if (thread() < kRows && row < w.n_rows) put_sums(w, query_of(w, row), minus_infinity(), 0);
      return false;
    }
#pragma unroll
    for (int i = 0; i < kSlots - 1; ++i) {
      if (i < 2 * w.tiles) ask_for(w, i, slots() + i * kSlotHalves);
      commit_copies();
    }
    put_queries(w);
    sync_block();
    return true;
  }

  HRUN_HD void start(const Work& w, int first_row, Rows& rows) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      rows.m[r] = minus_infinity();
      rows.l[r] = 0;
      const int at = first_row + lane() / 4 + 8 * r;
      const int row = w.row + at < w.n_rows ? w.row + at : w.n_rows - 1;
      const int64_t position = w.first_position + row / task.group;
      rows.begin[r] = static_cast<int>(task.first_visible(position));
      rows.end[r] = static_cast<int>(position) + 1;
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
  // The largest of a query's products, in the four lanes that have some.
  template <int n>
  static HRUN_HD float top_of(const float (&u)[n][4], int r) {
    float top = u[0][2 * r];
#pragma unroll
    for (int i = 0; i < n; ++i) top = largest_of(largest_of(u[i][2 * r], u[i][2 * r + 1]), top);
    top = largest_of(shuffle_xor(top, 1), top);
    return largest_of(shuffle_xor(top, 2), top);
  }
  // Products become weights, with the maximum so far; returns what earlier sums are multiplied by.
  template <int n>
  HRUN_HD float weights_of(Rows& rows, int r, float top, float (&u)[n][4]) const {
    const float factor = score_factor(rows, r), now = largest_of(top * factor, rows.m[r]);
    const float before = join_factor(rows.m[r], now),
                base = now == minus_infinity() ? 0.0f : kWeightShift - now;
    rows.m[r] = now;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < n; ++i)
#pragma unroll
      for (int j = 2 * r; j < 2 * r + 2; ++j) {
        u[i][j] = exp2_fast(fused_multiply_add(u[i][j], factor, base));
        sum += u[i][j];
      }
    rows.l[r] = fused_multiply_add(rows.l[r], before, sum);
    return before;
  }
  // The whole l, of true size.
  static HRUN_HD void sum_rows(Rows& rows) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      rows.l[r] += shuffle_xor(rows.l[r], 1);
      rows.l[r] += shuffle_xor(rows.l[r], 2);
      rows.l[r] *= 1 / kWeightScale;
    }
  }

  HRUN_HD int64_t query_of(const Work& w, int row) const {
    return static_cast<int64_t>(row / task.group) * task.n_heads + w.kv_head * task.group +
           row % task.group;
  }
  HRUN_HD float* target(const Work& w, int64_t query) const {
    if (task.n_splits > 1) return task.values_at(w.split, query);
    return task.out.row(query / task.n_heads) + query % task.n_heads * task.v_dim;
  }
  HRUN_HD void put_sums(const Work& w, int64_t query, float m, float l) const {
    task.sums_at(w.split, query)[0] = m;
    task.sums_at(w.split, query)[1] = l;
  }
};

}  // namespace hrun::gpu
