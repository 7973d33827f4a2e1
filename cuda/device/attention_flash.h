// Attention on tensor cores over an fp16 cache (the online softmax of FlashAttention-2, the split positions of
// flash-decoding): one kernel for a few queries, whose warps share out the positions, and for many, whose warps share out
// the queries.
//
// A block takes kRows queries of one kv head (query r: token r / group, head r % group, so that the heads of a group share
// what is loaded) and, tile by tile, a part of the positions.  K and V tiles lie in a ring of slots that asynchronous copies
// fill: K of tile 0, V of tile 0, K of tile 1 ...; one block barrier per slot.
//
// Exactness.  K and V are fp16 already.  A query is scaled by a power of two into fp16's range and cut into two fp16 numbers,
// as are the weights of the softmax (scaled by 2^14, so that small ones keep their bits): 22 bits of each, twice the products,
// fp32 sums.  What a query does not see gets the weight 0; positions beyond the last are read as zeros.
#pragma once

#include "cuda/device/attention_parts.h"

namespace hrun::gpu {

// kDim: at least k_dim and v_dim, which are multiples of 8.  kTile: positions per slot.
template <int kDim, int kRowWarps, int kPositionWarps, int kTile, int kSlots, int kResident>
struct FlashAttention {
  static_assert(kDim % 16 == 0 && kTile % (16 * kPositionWarps) == 0 && (kRowWarps == 1 || kPositionWarps == 1) && kSlots >= 2);
  static constexpr int kThreads = kRowWarps * kPositionWarps * kWarp, kBlocks = kResident;
  static constexpr int kRows = 16 * kRowWarps, kSlice = kTile / kPositionWarps;  // queries of a block; positions of a warp
  static constexpr const char* kName = "attention";
  // Rows are an odd number of 16 bytes apart: eight of them lie in different banks.  The last 16 are not used, but those of a
  // query, which hold its scale.
  static constexpr int kStride = kDim + 8;
  static constexpr int kQueryHalves = kRows * kStride, kSlotHalves = kTile * kStride;
  static constexpr size_t kSharedBytes = (2 * kQueryHalves + kSlots * kSlotHalves) * sizeof(uint16_t);
  static constexpr int kJoinStride = kDim + 8;  // floats: m, l and the values of a query, of one warp
  static_assert(kPositionWarps == 1 || kPositionWarps * kRows * kJoinStride * sizeof(float) <= kSharedBytes);
  static constexpr float kWeightScale = 16384, kWeightShift = 14;

  AttentionTask task;

  struct Work {
    int kv_head, split, row;  // the first query
    int n_rows;               // queries of the kv head
    int64_t first_position;   // of token 0
    int begin, end;           // positions that some query of the block sees
    int seen_begin, seen_end; // positions that all of them see
    int tile, tiles;          // the first of this split, and how many
  };
  // What a thread knows of its two queries, rows lane / 4 and lane / 4 + 8 of its warp.
  struct State {
    float o[kDim / 8][4];
    float m[2], l[2];
    float factor[2];  // of a product with the scaled query: makes it log2(e) * score
    int begin[2], end[2];
  };

  HRUN_HD Work work() const {
    Work w;
    const int n_kv = task.n_heads / task.group, n_row_tiles = grid_x() / n_kv;
    w.kv_head = block_x() % n_kv;
    w.row = (n_row_tiles - 1 - block_x() / n_kv) * kRows;  // late queries see most and go first
    w.split = block_y();
    w.n_rows = static_cast<int>(task.q.rows) * task.group;
    w.first_position = task.position_of(0);
    const int last = w.row + kRows < w.n_rows ? w.row + kRows - 1 : w.n_rows - 1;
    const int64_t first_token = w.row / task.group, last_token = last / task.group;
    w.begin = static_cast<int>(task.first_visible(w.first_position + first_token));
    w.seen_begin = static_cast<int>(task.first_visible(w.first_position + last_token));
    w.end = static_cast<int>(w.first_position + last_token + 1);
    w.seen_end = static_cast<int>(w.first_position + first_token + 1);
    const int first = w.begin / kTile, n = (w.end + kTile - 1) / kTile - first;
    w.tile = first + static_cast<int>(static_cast<int64_t>(n) * w.split / task.n_splits);
    w.tiles = first + static_cast<int>(static_cast<int64_t>(n) * (w.split + 1) / task.n_splits) - w.tile;
    return w;
  }

  // Grid: x over kv heads and, slower, groups of kRows queries; y over splits.
  HRUN_HD void operator()() const {
    const Work w = work();
    if (w.tiles == 0) {  // a part that sees nothing; only where there are several
      const int row = w.row + thread();
      if (thread() < kRows && row < w.n_rows) put_sums(w, query_of(w, row), minus_infinity(), 0);
      return;
    }
    auto* const queries = reinterpret_cast<uint16_t*>(shared());
    uint16_t* const slots = queries + 2 * kQueryHalves;
    const int n_items = 2 * w.tiles;
#pragma unroll
    for (int i = 0; i < kSlots - 1; ++i) {
      if (i < n_items) ask_for(w, i, slots + i * kSlotHalves);
      commit_copies();
    }
    put_queries(w, queries);
    sync_block();
    State s;
    start(w, queries, s);
    uint32_t high[kSlice / 16][4], low[kSlice / 16][4];  // the weights of a tile, as left operands
    int slot = 0;
    for (int tile = 0; tile < w.tiles; ++tile) {
      next_slot(w, 2 * tile, slot, slots);
      weigh(w, w.tile + tile, queries, slots + slot * kSlotHalves, s, high, low);
      slot = slot + 1 == kSlots ? 0 : slot + 1;
      next_slot(w, 2 * tile + 1, slot, slots);
      add_values(slots + slot * kSlotHalves, s, high, low);
      slot = slot + 1 == kSlots ? 0 : slot + 1;
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      s.l[r] += shuffle_xor(s.l[r], 1);
      s.l[r] += shuffle_xor(s.l[r], 2);
      s.l[r] *= 1 / kWeightScale;
    }
    if constexpr (kPositionWarps > 1) finish_together(w, s);
    else finish(w, s);
  }

  // Item i is there, everybody is done with item i - 1, and its slot is filled again.
  HRUN_HD void next_slot(const Work& w, int item, int slot, uint16_t* slots) const {
    wait_copies<kSlots - 2>();
    sync_block();
    const int next = item + kSlots - 1, free = slot == 0 ? kSlots - 1 : slot - 1;
    if (next < 2 * w.tiles) ask_for(w, next, slots + free * kSlotHalves);
    commit_copies();
  }

  HRUN_HD void ask_for(const Work& w, int item, uint16_t* slot) const {
    constexpr int kPieces = kDim / 8;  // of 16 bytes, per position
    const bool values = item % 2 != 0;
    const int dim = values ? task.v_dim : task.k_dim, first = (w.tile + item / 2) * kTile, left = w.end - first;
    const auto* const from = static_cast<const uint16_t*>(values ? task.v : task.k) + (w.kv_head * task.capacity + first) * dim;
    if constexpr (kThreads % kPieces == 0) {  // a thread has the same piece of every so many positions
      constexpr int kStep = kThreads / kPieces;
      const int row = thread() / kPieces, piece = thread() % kPieces;
      const int inside = piece * 8 < dim ? left : 0;
      const uint16_t* at = from + row * dim + piece * 8;
      uint16_t* const to = slot + row * kStride + piece * 8;
#pragma unroll
      for (int i = 0; i < kTile / kStep; ++i, at += kStep * dim) copy_async(to + i * kStep * kStride, at, row + i * kStep < inside);
    } else {
#pragma unroll
      for (int i = 0; i < kTile * kPieces / kThreads; ++i) {
        const int at = i * kThreads + thread(), row = at / kPieces, piece = at % kPieces;
        copy_async(slot + row * kStride + piece * 8, from + row * dim + piece * 8, row < left && piece * 8 < dim);
      }
    }
    static_assert(kTile * kPieces % kThreads == 0);
  }

  // The queries of the block in two fp16 parts, and 1 / scale.
  HRUN_HD void put_queries(const Work& w, uint16_t* queries) const {
    for (int r = warp(); r < kRows; r += kThreads / kWarp) {
      const int row = w.row + r;
      const bool real = row < w.n_rows;
      const float* const q = real ? task.q.row(row / task.group) + static_cast<int64_t>(w.kv_head * task.group + row % task.group) * task.k_dim : nullptr;
      float values[kDim / kWarp], largest = 0;
#pragma unroll
      for (int i = 0; i < kDim / kWarp; ++i) {
        const int at = i * kWarp + lane();
        values[i] = real && at < task.k_dim ? q[at] : 0.0f;
        largest = largest_of(values[i] < 0 ? -values[i] : values[i], largest);
      }
      // The largest becomes 2^8 .. 2^9: far from overflow, and the second part of a value that matters far from fp16's end.
      const int exponent = static_cast<int>(float_to_bits(warp_max(largest)) >> 23);
      const int shift = exponent == 255 ? 0 : 8 + 127 - (exponent < 10 ? 10 : exponent);
      const float up = power_of_two(shift), sign = task.scale < 0 ? -up : up;
#pragma unroll
      for (int i = 0; i < kDim / kWarp; ++i) {
        const float v = values[i] * sign;
        const uint32_t high = two_halves(v, 0);
        const uint32_t low = two_halves(v - low_half(high), 0);
        queries[r * kStride + i * kWarp + lane()] = static_cast<uint16_t>(high);
        queries[kQueryHalves + r * kStride + i * kWarp + lane()] = static_cast<uint16_t>(low);
      }
      if (lane() == 0) {
        const float down = power_of_two(-shift);
        memcpy(queries + r * kStride + kDim, &down, sizeof down);
      }
    }
  }
  static HRUN_HD float power_of_two(int n) { return bits_to_float(static_cast<uint32_t>(127 + n) << 23); }

  HRUN_HD int first_row_of_warp() const { return kRowWarps > 1 ? 16 * warp() : 0; }

  HRUN_HD void start(const Work& w, const uint16_t* queries, State& s) const {
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) s.o[i][j] = 0;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      s.m[r] = minus_infinity();
      s.l[r] = 0;
      const int at = first_row_of_warp() + lane() / 4 + 8 * r;
      const int row = w.row + at < w.n_rows ? w.row + at : w.n_rows - 1;
      const int64_t position = w.first_position + row / task.group;
      s.begin[r] = static_cast<int>(task.first_visible(position));
      s.end[r] = static_cast<int>(position) + 1;
      float down;
      memcpy(&down, queries + at * kStride + kDim, sizeof down);
      const float scale = task.scale < 0 ? -task.scale : task.scale;
      s.factor[r] = largest_of(task.soft_cap != 0 ? scale * down : scale * kLog2E * down, 1.2e-38f);
    }
  }

  // Products of the warp's queries with its slice of the tile, softmax so far, and the weights as left operands.
  HRUN_HD void weigh(const Work& w, int tile, const uint16_t* queries, const uint16_t* keys, State& s, uint32_t (&high)[kSlice / 16][4],
                     uint32_t (&low)[kSlice / 16][4]) const {
    const int slice = kPositionWarps > 1 ? warp() * kSlice : 0;
    float u[kSlice / 8][4];
#pragma unroll
    for (int i = 0; i < kSlice / 8; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) u[i][j] = 0;
    const uint16_t* const q = queries + (first_row_of_warp() + lane() % 16) * kStride + lane() / 16 * 8;
    const uint16_t* const k = keys + (slice + lane() / 16 * 8 + lane() % 8) * kStride + lane() / 8 % 2 * 8;
#pragma unroll
    for (int d = 0; d < kDim; d += 16) {
      uint32_t a[4], b[4];
      load_matrices(a, q + d);
      load_matrices(b, q + kQueryHalves + d);
#pragma unroll
      for (int i = 0; i < kSlice / 16; ++i) {
        uint32_t r[4];
        load_matrices(r, k + i * 16 * kStride + d);
        const uint32_t left[2] = {r[0], r[1]}, right[2] = {r[2], r[3]};
        mma_f16(u[2 * i], a, left);
        mma_f16(u[2 * i + 1], a, right);
        mma_f16(u[2 * i], b, left);
        mma_f16(u[2 * i + 1], b, right);
      }
    }

    float factor[2] = {s.factor[0], s.factor[1]};
    if (task.soft_cap != 0) {
#pragma unroll
      for (int i = 0; i < kSlice / 8; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) u[i][j] = task.capped(u[i][j] * factor[j / 2]);
      factor[0] = factor[1] = kLog2E;
    }
    const int first = tile * kTile;
    if (first < w.seen_begin || first + kTile > w.seen_end) {
#pragma unroll
      for (int i = 0; i < kSlice / 8; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int position = first + slice + 8 * i + lane() % 4 * 2 + j % 2;
          if (position < s.begin[j / 2] || position >= s.end[j / 2]) u[i][j] = minus_infinity();
        }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = u[0][2 * r];
#pragma unroll
      for (int i = 0; i < kSlice / 8; ++i) top = largest_of(largest_of(u[i][2 * r], u[i][2 * r + 1]), top);
      top = largest_of(shuffle_xor(top, 1), top);
      top = largest_of(shuffle_xor(top, 2), top);
      top = largest_of(top * factor[r], s.m[r]);
      const float before = join_factor(s.m[r], top), base = top == minus_infinity() ? 0.0f : kWeightShift - top;
      s.m[r] = top;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < kSlice / 8; ++i)
#pragma unroll
        for (int j = 2 * r; j < 2 * r + 2; ++j) {
          u[i][j] = exp2_fast(fused_multiply_add(u[i][j], factor[r], base));
          sum += u[i][j];
        }
      s.l[r] = fused_multiply_add(s.l[r], before, sum);
#pragma unroll
      for (int i = 0; i < kDim / 8; ++i) {
        s.o[i][2 * r] *= before;
        s.o[i][2 * r + 1] *= before;
      }
    }
#pragma unroll
    for (int i = 0; i < kSlice / 16; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float x = u[2 * i + j / 2][j % 2 * 2], y = u[2 * i + j / 2][j % 2 * 2 + 1];
        high[i][j] = two_halves(x, y);
        low[i][j] = two_halves(x - low_half(high[i][j]), y - high_half(high[i][j]));
      }
  }

  HRUN_HD void add_values(const uint16_t* values, State& s, const uint32_t (&high)[kSlice / 16][4], const uint32_t (&low)[kSlice / 16][4]) const {
    const int slice = kPositionWarps > 1 ? warp() * kSlice : 0;
    const uint16_t* const v = values + (slice + lane() % 16) * kStride + lane() / 16 * 8;
#pragma unroll
    for (int i = 0; i < kSlice / 16; ++i)
#pragma unroll
      for (int d = 0; d < kDim / 16; ++d) {
        uint32_t r[4];
        load_matrices_transposed(r, v + i * 16 * kStride + d * 16);
        const uint32_t left[2] = {r[0], r[1]}, right[2] = {r[2], r[3]};
        mma_f16(s.o[2 * d], high[i], left);
        mma_f16(s.o[2 * d + 1], high[i], right);
        mma_f16(s.o[2 * d], low[i], left);
        mma_f16(s.o[2 * d + 1], low[i], right);
      }
  }

  HRUN_HD int64_t query_of(const Work& w, int row) const {
    return static_cast<int64_t>(row / task.group) * task.n_heads + w.kv_head * task.group + row % task.group;
  }
  // Of a whole query: what m becomes with its sink, and what its values are multiplied by.
  HRUN_HD float whole_factor(int64_t query, float m, float l) const {
    const float sink = task.sinks ? task.sinks[query % task.n_heads] * kLog2E : minus_infinity(), top = largest_of(m, sink);
    const float here = join_factor(m, top);
    return here / fused_multiply_add(l, here, join_factor(sink, top));
  }
  HRUN_HD float* target(const Work& w, int64_t query) const {
    if (task.n_splits > 1) return task.values_at(w.split, query);
    return task.out.row(query / task.n_heads) + query % task.n_heads * task.v_dim;
  }
  HRUN_HD void put_sums(const Work& w, int64_t query, float m, float l) const {
    task.sums_at(w.split, query)[0] = m;
    task.sums_at(w.split, query)[1] = l;
  }

  HRUN_HD void finish(const Work& w, State& s) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = w.row + first_row_of_warp() + lane() / 4 + 8 * r;
      if (row >= w.n_rows) continue;
      const int64_t query = query_of(w, row);
      const bool whole = task.n_splits == 1;
      const float factor = (whole ? whole_factor(query, s.m[r], s.l[r]) : 1.0f) / kWeightScale;
      float* const to = target(w, query);
#pragma unroll
      for (int i = 0; i < kDim / 8; ++i) {
        const int at = 8 * i + lane() % 4 * 2;
        if (at < task.v_dim) {
          to[at] = s.o[i][2 * r] * factor;
          to[at + 1] = s.o[i][2 * r + 1] * factor;
        }
      }
      if (!whole && lane() % 4 == 0) put_sums(w, query, s.m[r], s.l[r]);
    }
  }

  // The warps saw different positions: joined in order, in shared memory.
  HRUN_HD void finish_together(const Work& w, State& s) const {
    auto* const parts = reinterpret_cast<float*>(shared());  // [warp][row][kJoinStride]
    sync_block();  // the last slots have been read
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float* const mine = parts + (warp() * kRows + lane() / 4 + 8 * r) * kJoinStride;
#pragma unroll
      for (int i = 0; i < kDim / 8; ++i) {
        mine[8 * i + lane() % 4 * 2] = s.o[i][2 * r];
        mine[8 * i + lane() % 4 * 2 + 1] = s.o[i][2 * r + 1];
      }
      if (lane() % 4 == 0) {
        mine[kDim] = s.m[r];
        mine[kDim + 1] = s.l[r];
      }
    }
    sync_block();
    for (int r = warp(); r < kRows && w.row + r < w.n_rows; r += kPositionWarps) {
      const float* const row = parts + r * kJoinStride;
      float factors[kPositionWarps], m = minus_infinity(), l = 0;
#pragma unroll
      for (int i = 0; i < kPositionWarps; ++i) m = largest_of(row[i * kRows * kJoinStride + kDim], m);
#pragma unroll
      for (int i = 0; i < kPositionWarps; ++i) {
        factors[i] = join_factor(row[i * kRows * kJoinStride + kDim], m);
        l = fused_multiply_add(row[i * kRows * kJoinStride + kDim + 1], factors[i], l);
      }
      const int64_t query = query_of(w, w.row + r);
      const bool whole = task.n_splits == 1;
      const float factor = (whole ? whole_factor(query, m, l) : 1.0f) / kWeightScale;
      float* const to = target(w, query);
      for (int at = lane(); at < task.v_dim; at += kWarp) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < kPositionWarps; ++i) sum = fused_multiply_add(row[i * kRows * kJoinStride + at], factors[i], sum);
        to[at] = sum * factor;
      }
      if (!whole && lane() == 0) put_sums(w, query, m, l);
    }
  }
};

// Up to 32 queries per kv head, the decoding of a token above all: bound by the cache's bytes, of which (kSlots - 1) tiles per
// resident block are under way.
template <int kDim>
using FewQueries = FlashAttention<kDim, 1, 4, 64, kDim <= 128 ? 3 : 2, kDim <= 64 ? 4 : kDim <= 128 ? 3 : 2>;
// Many: bound by tensor cores.
template <int kDim>
using ManyQueries = FlashAttention<kDim, 4, 1, kDim <= 128 ? 64 : 32, 2, kDim <= 128 ? 3 : 2>;

}  // namespace hrun::gpu
