// Attention on tensor cores over an fp16 cache (the online softmax of FlashAttention-2, the split
// positions of flash-decoding): one kernel for a few queries, whose warps share out the positions,
// and one for many, whose warps share out the queries.
//
// A block takes kRows queries of one kv head (query r: row r / group, head r % group, so that the
// heads of a group share what is loaded).  K and V tiles lie in a ring of slots that asynchronous
// copies fill; one block barrier per slot.
//
// Order.  A unit is kUnit positions: its scores, their maximum and sum, and its values are computed
// from nothing.  Four units are a split; units are joined in order within it, and splits in order
// (attention_parts.h).  Both kernels do so, hence a query has the same bits in both.
//
// Exactness.  K and V are fp16 already.  A query is scaled by a power of two into fp16's range and
// cut into two fp16 numbers, as are the weights of the softmax (scaled by 2^14, so that small ones
// keep their bits): 22 bits of each, twice the products, fp32 sums, which tensor cores round
// towards zero, but over one unit only.  What a query does not see gets the weight 0; positions
// beyond the last are read as zeros.
#pragma once

#include "cuda/device/attention_tiles.h"

namespace hrun::gpu {

inline constexpr int kUnitsPerSplit = 4;
template <int kDim>
inline constexpr int kAttentionUnit = kDim <= 128 ? 64 : 32;

template <int kDim, int kRows, int kTile, int kSlots, int kResident>
struct FlashAttention : AttentionTiles<kDim, kRows, kTile, kSlots, 4 * kWarp> {
  static constexpr int kBlocks = kResident;
  static constexpr const char* kName = "attention";
  static constexpr int kUnit = kAttentionUnit<kDim>, kSplit = kUnitsPerSplit * kUnit;
  using Tiles = AttentionTiles<kDim, kRows, kTile, kSlots, 4 * kWarp>;
  using Tiles::kQueryHalves, Tiles::kSlotHalves, Tiles::kStride, Tiles::kWeightScale, Tiles::slots,
      Tiles::task;
  using typename Tiles::Rows;
  using typename Tiles::Target;
  using typename Tiles::Work;
  static_assert(kPagePositions % kUnit == 0);

  // Products of 16 queries with 16 n keys.
  template <int n>
  static HRUN_HD void multiply_keys(const uint16_t* queries, const uint16_t* keys, float (*u)[4]) {
    const uint16_t* const q = queries + lane() % 16 * kStride + lane() / 16 * 8;
    const uint16_t* const k = keys + (lane() / 16 * 8 + lane() % 8) * kStride + lane() / 8 % 2 * 8;
#pragma unroll
    for (int d = 0; d < kDim; d += 16) {
      uint32_t a[4], b[4];
      load_matrices(a, q + d);
      load_matrices(b, q + kQueryHalves + d);
#pragma unroll
      for (int i = 0; i < n; ++i) {
        uint32_t r[4];
        load_matrices(r, k + i * 16 * kStride + d);
        add_products(u[2 * i], u[2 * i + 1], a, b, r);
      }
    }
  }

  // The weights of a unit as left operands, in two fp16 parts, and each query's m and l.
  struct Weights {
    uint32_t high[kUnit / 16][4], low[kUnit / 16][4];
    float m[2], l[2];
  };
  HRUN_HD void weigh(const Work& w, const Rows& rows, int first, float (&u)[kUnit / 8][4],
                     Weights& weights) const {
    this->cap_and_hide(w, rows, first, u);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      weights.m[r] =
          largest_of(Tiles::top_of(u, r) * this->score_factor(rows, r), minus_infinity());
      weights.l[r] = Tiles::sum_of_query(this->weights_of(rows, r, weights.m[r], u));
    }
#pragma unroll
    for (int i = 0; i < kUnit / 16; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float x = u[2 * i + j / 2][j % 2 * 2], y = u[2 * i + j / 2][j % 2 * 2 + 1];
        const uint32_t high = two_halves(x, y);
        weights.high[i][j] = high;
        weights.low[i][j] = two_halves(x - low_half(high), y - high_half(high));
      }
  }
  static HRUN_HD void clear(float (&o)[kDim / 8][4]) {
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) o[i][j] = 0;
  }
};

// For spans of few rows, above all the decoding of a token.  They are bound by the cache's bytes,
// of which (kSlots - 1) tiles per resident block are under way.  A block has one split, a warp has
// one unit of it; a tile is 16 positions of each unit.
template <int kDim>
struct FewQueries : FlashAttention<kDim, 16, 64, kDim <= 128 ? 3 : 2,
                                   kDim <= 64    ? 4
                                   : kDim == 128 ? 3
                                                 : 2> {
  static constexpr int kRows = 16, kTile = 64, kSlots = kDim <= 128 ? 3 : 2;
  using Flash = FlashAttention<kDim, kRows, kTile, kSlots, FewQueries::kBlocks>;
  using Flash::kSplit, Flash::kStride, Flash::kUnit, Flash::kWeightScale, Flash::slots, Flash::task;
  using typename Flash::Rows;
  using typename Flash::Target;
  using typename Flash::Weights;
  using typename Flash::Work;
  static constexpr int kSteps = kUnit / 16, kItems = 2 * kSteps;
  static constexpr int kJoinStride = kDim + 8;  // floats: the values of a query, m and l
  static constexpr size_t kSharedBytes = Flash::kTileBytes;
  static_assert(kUnitsPerSplit * kRows * kJoinStride * sizeof(float) <= kSharedBytes);

  HRUN_HD void operator()() const {
    Work w;
    if (!this->work(w)) return;
    const int first = w.first * kSplit;
    const auto ask = [&](int item, uint16_t* slot) {
      const int start = opaque(first) + item % kSteps * 16;  // no addresses of items to come
      this->template ask_for<false>(w, item >= kSteps, slot,
                                    [&](int row) { return start + row / 16 * kUnit + row % 16; });
    };
    this->begin_slots(kItems, ask);
    this->put_queries(w);
    sync_block();
    // Where units are long the loop over keys needs the registers.
    constexpr bool kStartBefore = kDim > 128;
    Rows rows;
    if constexpr (kStartBefore) this->start(w, 0, rows);
    Weights weights;
    {
      float u[kUnit / 8][4] = {};
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        this->next_slot(kItems, i, i % kSlots, ask);
        Flash::template multiply_keys<1>(Flash::queries(), rows_of_warp(i), &u[2 * i]);
      }
      if constexpr (!kStartBefore) this->start(w, 0, rows);
      this->weigh(w, rows, first + warp() * kUnit, u, weights);
    }
    float o[kDim / 8][4];
    Flash::clear(o);
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      this->next_slot(kItems, kSteps + i, (kSteps + i) % kSlots, ask);
      const uint16_t* const v = rows_of_warp(kSteps + i) + lane() % 16 * kStride + lane() / 16 * 8;
#pragma unroll
      for (int d = 0; d < kDim / 16; ++d) {
        uint32_t r[4];
        load_matrices_transposed(r, v + d * 16);
        add_products(o[2 * d], o[2 * d + 1], weights.low[i], weights.high[i], r);
        if (d % 2 == 1) sync_warp();  // keeps the compiler from loading too much ahead
      }
    }
    finish(w, weights, o);
  }

  static HRUN_HD const uint16_t* rows_of_warp(int item) {
    return slots() + item % kSlots * Flash::kSlotHalves + warp() * 16 * kStride;
  }

  // The units joined in order, in shared memory.
  HRUN_HD void finish(const Work& w, const Weights& weights, const float (&o)[kDim / 8][4]) const {
    auto* const parts = reinterpret_cast<float*>(shared());  // [unit][row][kJoinStride]
    sync_block();                                            // the last slots have been read
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float* const mine = parts + (warp() * kRows + lane() / 4 + 8 * r) * kJoinStride;
#pragma unroll
      for (int i = 0; i < kDim / 8; ++i) {
        mine[8 * i + lane() % 4 * 2] = o[i][2 * r];
        mine[8 * i + lane() % 4 * 2 + 1] = o[i][2 * r + 1];
      }
      if (lane() % 4 == 0) {
        mine[kDim] = weights.m[r];
        mine[kDim + 1] = weights.l[r];
      }
    }
    sync_block();
    for (int r = warp(); r < kRows && w.row + r < w.n_rows; r += kUnitsPerSplit) {
      const float* const row = parts + r * kJoinStride;
      float before[kUnitsPerSplit], here[kUnitsPerSplit];
      Joined split, all;
#pragma unroll
      for (int i = 0; i < kUnitsPerSplit; ++i) {
        const float* const unit = row + i * kRows * kJoinStride;
        split.add(unit[kDim], unit[kDim + 1], before[i], here[i]);
        here[i] *= 1 / kWeightScale;
      }
      const Target target = this->target(w, w.row + r, w.first, split, all);
      for (int at = lane(); at < task.v_dim; at += kWarp) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < kUnitsPerSplit; ++i)
          sum = join_value(sum, row[i * kRows * kJoinStride + at], before[i], here[i]);
        target.put(at, sum);
      }
      if (!w.whole && lane() == 0) this->put_sums(w, w.row + r, split);
    }
  }
};

// For spans of many rows.  They are bound by tensor cores.  A warp has 16 queries, a tile is a
// unit.
template <int kDim>
struct ManyQueries : FlashAttention<kDim, 64, kAttentionUnit<kDim>, 2, kDim <= 64 ? 3 : 2> {
  static constexpr int kRows = 64, kSlots = 2;
  using Flash = FlashAttention<kDim, kRows, kAttentionUnit<kDim>, kSlots, ManyQueries::kBlocks>;
  using Flash::kSlotHalves, Flash::kStride, Flash::kUnit, Flash::kWeightScale, Flash::slots,
      Flash::task;
  using typename Flash::Rows;
  using typename Flash::Target;
  using typename Flash::Weights;
  using typename Flash::Work;
  static constexpr size_t kSharedBytes = Flash::kTileBytes;

  HRUN_HD void operator()() const {
    Work w;
    if (!this->work(w)) return;
    const int first = w.begin / kUnit, items = 2 * ((w.end - 1) / kUnit + 1 - first);
    const auto ask = [&](int item, uint16_t* slot) {
      const int start = (first + item / 2) * kUnit;
      this->template ask_for<true>(w, item % 2 != 0, slot, [&](int row) { return start + row; });
    };
    this->begin_slots(items, ask);
    this->put_queries(w);
    sync_block();
    Rows rows;
    this->start(w, 16 * warp(), rows);
    Joined split[2], all[2];
    float o[kDim / 8][4];
    Flash::clear(o);
    for (int item = 0; item < items; item += 2) {
      const int unit = first + item / 2;
      Weights weights;
      this->next_slot(items, item, 0, ask);
      {
        float u[kUnit / 8][4] = {};
        Flash::template multiply_keys<kUnit / 16>(Flash::queries() + 16 * warp() * kStride, slots(),
                                                  u);
        this->weigh(w, rows, unit * kUnit, u, weights);
      }
      this->next_slot(items, item + 1, 1, ask);
      add_values(slots() + kSlotHalves, weights, split, o);
      if (unit % kUnitsPerSplit == kUnitsPerSplit - 1 || item + 2 == items)
        finish(w, unit / kUnitsPerSplit, split, all, o);
    }
  }

  HRUN_HD void add_values(const uint16_t* values, const Weights& weights, Joined (&split)[2],
                          float (&o)[kDim / 8][4]) const {
    float before[2], here[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      split[r].add(weights.m[r], weights.l[r], before[r], here[r]);
      here[r] *= 1 / kWeightScale;
    }
    const uint16_t* const v = values + lane() % 16 * kStride + lane() / 16 * 8;
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      float sums[2][4] = {};
#pragma unroll
      for (int i = 0; i < kUnit / 16; ++i) {
        uint32_t r[4];
        load_matrices_transposed(r, v + i * 16 * kStride + d * 16);
        add_products(sums[0], sums[1], weights.low[i], weights.high[i], r);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        float& at = o[2 * d + i / 4][i % 4];
        at = join_value(at, sums[i / 4][i % 4], before[i % 4 / 2], here[i % 4 / 2]);
      }
      sync_warp();  // keeps the compiler from having more sums under way than there are registers
    }
  }

  // The end of a split, after which the next one starts from nothing.
  HRUN_HD void finish(const Work& w, int number, Joined (&split)[2], Joined (&all)[2],
                      float (&o)[kDim / 8][4]) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = w.row + 16 * warp() + lane() / 4 + 8 * r;
      if (row < w.n_rows) {
        const Target target = this->target(w, row, number, split[r], all[r]);
#pragma unroll
        for (int i = 0; i < kDim / 8; ++i) {
          const int at = 8 * i + lane() % 4 * 2;
          if (at < task.v_dim) {
            target.put(at, o[i][2 * r]);
            target.put(at + 1, o[i][2 * r + 1]);
          }
        }
      }
      split[r] = {};
    }
    Flash::clear(o);
  }
};

}  // namespace hrun::gpu
