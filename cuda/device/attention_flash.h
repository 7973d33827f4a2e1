// Attention on tensor cores over an fp16 cache (the online softmax of FlashAttention-2, the split
// positions of flash-decoding): one kernel for a few queries, whose warps share out the positions,
// and for many, whose warps share out the queries.
//
// A block takes kRows queries of one kv head (query r: token r / group, head r % group, so that the
// heads of a group share what is loaded) and, tile by tile, a part of the positions.  K and V tiles
// lie in a ring of slots that asynchronous copies fill: K of tile 0, V of tile 0, K of tile 1 ...;
// one block barrier per slot.
//
// Exactness.  K and V are fp16 already.  A query is scaled by a power of two into fp16's range and
// cut into two fp16 numbers, as are the weights of the softmax (scaled by 2^14, so that small ones
// keep their bits): 22 bits of each, twice the products, fp32 sums.  What a query does not see gets
// the weight 0; positions beyond the last are read as zeros.
#pragma once

#include "cuda/device/attention_tiles.h"

namespace hrun::gpu {

template <int kDim, int kRowWarps, int kPositionWarps, int kTile, int kSlots, int kResident>
struct FlashAttention
    : AttentionTiles<kDim, 16 * kRowWarps, kTile, kSlots, kRowWarps * kPositionWarps * kWarp> {
  static constexpr int kRows = 16 * kRowWarps,
                       kSlice = kTile / kPositionWarps;  // queries of a block; positions of a warp
  static constexpr int kBlocks = kResident;
  static constexpr const char* kName = "attention";
  static_assert(kSlice % 16 == 0 && (kRowWarps == 1 || kPositionWarps == 1));
  using Tiles = AttentionTiles<kDim, kRows, kTile, kSlots, kRowWarps * kPositionWarps * kWarp>;
  using Tiles::kQueryHalves, Tiles::kSlotHalves, Tiles::kStride, Tiles::kWeightScale,
      Tiles::put_sums, Tiles::query_of, Tiles::target, Tiles::task;
  using typename Tiles::Rows;
  using typename Tiles::Work;
  static constexpr size_t kSharedBytes = Tiles::kTileBytes;
  static constexpr int kJoinStride =
      kDim + 8;  // floats: the values of a query, m and l, of one warp
  static_assert(kPositionWarps == 1 ||
                kPositionWarps * kRows * kJoinStride * sizeof(float) <= kSharedBytes);

  struct State : Rows {
    float o[kDim / 8][4];
    float before[2];  // what o is multiplied by when the values of the tile are added
  };

  // Grid: x over kv heads and, slower, groups of kRows queries; y over splits.
  HRUN_HD void operator()() const {
    const Work w = this->work();
    if (!this->begin(w)) return;
    State s;
    this->start(w, first_row_of_warp(), s);
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) s.o[i][j] = 0;
    uint32_t high[kSlice / 16][4], low[kSlice / 16][4];  // the weights of a tile, as left operands
    int slot = 0;
    for (int tile = 0; tile < w.tiles; ++tile) {
      this->next_slot(w, 2 * tile, slot);
      weigh(w, w.tile + tile, Tiles::slots() + slot * kSlotHalves, s, high, low);
      slot = slot + 1 == kSlots ? 0 : slot + 1;
      this->next_slot(w, 2 * tile + 1, slot);
      add_values(Tiles::slots() + slot * kSlotHalves, s, high, low);
      slot = slot + 1 == kSlots ? 0 : slot + 1;
    }
    Tiles::sum_rows(s);
    if constexpr (kPositionWarps > 1)
      finish_together(this->work(), s);  // again: held over the loop it would cost registers
    else
      finish(w, s);
  }

  static HRUN_HD int first_row_of_warp() { return kRowWarps > 1 ? 16 * warp() : 0; }
  static HRUN_HD int slice_of_warp() { return kPositionWarps > 1 ? warp() * kSlice : 0; }

  // Products of the warp's queries with its slice of the tile, softmax so far, and the weights as
  // left operands.
  HRUN_HD void weigh(const Work& w, int tile, const uint16_t* keys, State& s,
                     uint32_t (&high)[kSlice / 16][4], uint32_t (&low)[kSlice / 16][4]) const {
    float u[kSlice / 8][4];
#pragma unroll
    for (int i = 0; i < kSlice / 8; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) u[i][j] = 0;
    const uint16_t* const q =
        Tiles::queries() + (first_row_of_warp() + lane() % 16) * kStride + lane() / 16 * 8;
    const uint16_t* const k =
        keys + (slice_of_warp() + lane() / 16 * 8 + lane() % 8) * kStride + lane() / 8 % 2 * 8;
#pragma unroll
    for (int d = 0; d < kDim; d += 16) {
      uint32_t a[4], b[4];
      load_matrices(a, q + d);
      load_matrices(b, q + kQueryHalves + d);
#pragma unroll
      for (int i = 0; i < kSlice / 16; ++i) {
        uint32_t r[4];
        load_matrices(r, k + i * 16 * kStride + d);
        add_products(u[2 * i], u[2 * i + 1], a, b, r);
      }
    }
    this->cap_and_hide(w, s, tile * kTile + slice_of_warp(), u);
#pragma unroll
    for (int r = 0; r < 2; ++r) s.before[r] = this->weights_of(s, r, Tiles::top_of(u, r), u);
#pragma unroll
    for (int i = 0; i < kSlice / 16; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float x = u[2 * i + j / 2][j % 2 * 2], y = u[2 * i + j / 2][j % 2 * 2 + 1];
        high[i][j] = two_halves(x, y);
        low[i][j] = two_halves(x - low_half(high[i][j]), y - high_half(high[i][j]));
      }
  }

  // A tile's values are summed from zero and joined by one rounded fma: tensor cores round their
  // sums towards zero, which over thousands of positions would make the result smaller.  Where
  // there are no registers for that they go on from what is there.
  static constexpr bool kFromZero = kRowWarps == 1 || kDim <= 128;

  HRUN_HD void add_values(const uint16_t* values, State& s, const uint32_t (&high)[kSlice / 16][4],
                          const uint32_t (&low)[kSlice / 16][4]) const {
    const uint16_t* const v = values + (slice_of_warp() + lane() % 16) * kStride + lane() / 16 * 8;
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      float sums[2][4];
#pragma unroll
      for (int i = 0; i < 8; ++i)
        sums[i / 4][i % 4] = kFromZero ? 0.0f : s.o[2 * d + i / 4][i % 4] * s.before[i % 4 / 2];
#pragma unroll
      for (int i = 0; i < kSlice / 16; ++i) {
        uint32_t r[4];
        load_matrices_transposed(r, v + i * 16 * kStride + d * 16);
        add_products(sums[0], sums[1], low[i], high[i], r);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        float& o = s.o[2 * d + i / 4][i % 4];
        o = kFromZero ? fused_multiply_add(o, s.before[i % 4 / 2], sums[i / 4][i % 4])
                      : sums[i / 4][i % 4];
      }
      if (kFromZero)
        sync_warp();  // keeps the compiler from having more sums under way than there are registers
    }
  }

  HRUN_HD void finish(const Work& w, State& s) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = w.row + first_row_of_warp() + lane() / 4 + 8 * r;
      if (row >= w.n_rows) continue;
      const int64_t query = query_of(w, row);
      const bool whole = task.n_splits == 1;
      const WholeFactor all(task, query, s.m[r], s.l[r]);
      const auto value = [&](float part) {
        part *= 1 / kWeightScale;
        return whole ? all.value(part) : part;
      };
      float* const to = target(w, query);
#pragma unroll
      for (int i = 0; i < kDim / 8; ++i) {
        const int at = 8 * i + lane() % 4 * 2;
        if (at < task.v_dim) {
          to[at] = value(s.o[i][2 * r]);
          to[at + 1] = value(s.o[i][2 * r + 1]);
        }
      }
      if (!whole && lane() % 4 == 0) put_sums(w, query, s.m[r], s.l[r]);
    }
  }

  // The warps saw different positions: joined in order, in shared memory.
  HRUN_HD void finish_together(const Work& w, State& s) const {
    auto* const parts = reinterpret_cast<float*>(shared());  // [warp][row][kJoinStride]
    sync_block();                                            // the last slots have been read
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
      for (int i = 0; i < kPositionWarps; ++i)
        m = largest_of(row[i * kRows * kJoinStride + kDim], m);
#pragma unroll
      for (int i = 0; i < kPositionWarps; ++i) {
        factors[i] = join_factor(row[i * kRows * kJoinStride + kDim], m);
        l = fused_multiply_add(row[i * kRows * kJoinStride + kDim + 1], factors[i], l);
      }
      const int64_t query = query_of(w, w.row + r);
      const bool whole = task.n_splits == 1;
      const WholeFactor all(task, query, m, l);
      float* const to = target(w, query);
      for (int at = lane(); at < task.v_dim; at += kWarp) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < kPositionWarps; ++i)
          sum = fused_multiply_add(row[i * kRows * kJoinStride + at], factors[i], sum);
        sum *= 1 / kWeightScale;
        to[at] = whole ? all.value(sum) : sum;
      }
      if (!whole && lane() == 0) put_sums(w, query, m, l);
    }
  }
};

// Up to 16 tokens, the decoding of a token above all: bound by the cache's bytes, of
// which (kSlots - 1) tiles per resident block are under way.
template <int kDim>
using FewQueries = FlashAttention<kDim, 1, 4, 64, kDim <= 128 ? 3 : 2,
                                  kDim <= 64    ? 4
                                  : kDim == 128 ? 3
                                                : 2>;
// Many: bound by tensor cores.
template <int kDim>
using ManyQueries = FlashAttention<kDim, 4, 1, kDim <= 128 ? 64 : 32, 2, kDim <= 96 ? 3 : 2>;

}  // namespace hrun::gpu
