// Attention on tensor cores for wide heads, latent attention above all (keys of 576 values, values
// of 512, one kv head): the values of 16 queries do not fit into the registers of one warp, so each
// warp has a quarter of their columns.
//
// Per tile of 32 positions each warp multiplies the queries with eight keys; the warps agree on the
// largest score, leave the weights in shared memory, in two fp16 parts, and add their columns of
// all 32 values.  Three block barriers per tile.
#pragma once

#include "cuda/device/attention_tiles.h"

namespace hrun::gpu {

struct WideAttention : AttentionTiles<576, 16, 32, 2, 4 * kWarp> {
  static constexpr int kRows = 16, kTile = 32, kWarps = 4, kKeyDim = 576, kValueDim = 512,
                       kBlocks = 2;
  static constexpr int kColumns = kValueDim / kWarps;  // of a warp
  static constexpr const char* kName = "attention";
  // After the slots: weights [2 parts][16 queries][kTile + 8], then the largest score and the sum
  // of each query in each warp.
  static constexpr int kWeightStride = kTile + 8, kWeightHalves = kRows * kWeightStride;
  static constexpr size_t kSharedBytes =
      kTileBytes + 2 * kWeightHalves * sizeof(uint16_t) + kWarps * kRows * sizeof(float);

  static HRUN_HD uint16_t* weights() { return slots() + 2 * kSlotHalves; }
  static HRUN_HD float* of_warps() {
    return reinterpret_cast<float*>(weights() + 2 * kWeightHalves);
  }  // [warp][query]

  static constexpr int kSplit = 256;

  // The split so far; l is of the thread's own columns, in units of 1 / kWeightScale.
  struct State {
    float m[2] = {minus_infinity(), minus_infinity()}, l[2] = {};
  };

  HRUN_HD void operator()() const {
    Work w;
    if (!work(w)) return;
    const auto least = [](int a, int b) { return a < b ? a : b; };
    const int first_position = w.first * kSplit,
              first = (first_position > w.begin ? first_position : w.begin) / kTile,
              end = (least(w.last * kSplit, w.end) + kTile - 1) / kTile,
              items = end > first ? 2 * (end - first) : 0;
    const auto ask = [&](int item, uint16_t* slot) {
      const int start = (first + item / 2) * kTile;
      ask_for<true>(w, item % 2 != 0, slot, [&](int row) { return start + row; });
    };
    begin_slots(items, ask);
    put_queries(w);
    sync_block();
    Rows rows;
    start(w, 0, rows);
    State state;
    Joined all[2];
    float o[kColumns / 8][4];
    clear(o);
    for (int item = 0; item < items; item += 2) {
      const int tile = first + item / 2;
      next_slot(items, item, 0, ask);
      float before[2];
      weigh(w, tile, slots(), rows, state, before);
      next_slot(items, item + 1, 1, ask);  // and the weights of all warps are there
      add_values(slots() + kSlotHalves, before, o);
      if ((tile + 1) % (kSplit / kTile) == 0 || item + 2 == items)
        finish(w, tile / (kSplit / kTile), state, all, o);
    }
    if (items == 0) finish(w, w.first, state, all, o);  // a part that saw nothing
  }
  static HRUN_HD void clear(float (&o)[kColumns / 8][4]) {
#pragma unroll
    for (int i = 0; i < kColumns / 8; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) o[i][j] = 0;
  }

  HRUN_HD void weigh(const Work& w, int tile, const uint16_t* keys, const Rows& rows, State& state,
                     float (&before)[2]) const {
    float even[1][4] = {}, odd[1][4] = {};  // two chains of sums
    const uint16_t* const q = queries() + lane() % 16 * kStride + lane() / 16 * 8;
    const uint16_t* const k =
        keys + (8 * warp() + lane() % 8) * kStride + lane() / 8 * 8;  // eight keys, 32 columns
#pragma unroll 6
    for (int d = 0; d < kKeyDim; d += 32) {
      uint32_t r[4], a[4];
      load_matrices(r, k + d);
      const uint32_t left[2] = {r[0], r[1]}, right[2] = {r[2], r[3]};
      load_matrices(a, q + d);
      mma_f16(even[0], a, left);
      load_matrices(a, q + d + 16);
      mma_f16(odd[0], a, right);
      load_matrices(a, q + kQueryHalves + d);
      mma_f16(even[0], a, left);
      load_matrices(a, q + kQueryHalves + d + 16);
      mma_f16(odd[0], a, right);
    }
    float u[1][4];
#pragma unroll
    for (int j = 0; j < 4; ++j) u[0][j] = even[0][j] + odd[0][j];
    cap_and_hide(w, rows, tile * kTile + 8 * warp(), u);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float top = top_of(u, r);
      if (lane() % 4 == 0) of_warps()[warp() * kRows + lane() / 4 + 8 * r] = top;
    }
    sync_block();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = of_warps()[lane() / 4 + 8 * r];
#pragma unroll
      for (int i = 1; i < kWarps; ++i)
        top = largest_of(of_warps()[i * kRows + lane() / 4 + 8 * r], top);
      const float now = largest_of(top * score_factor(rows, r), state.m[r]);
      before[r] = join_factor(state.m[r], now);
      state.l[r] = fused_multiply_add(state.l[r], before[r], weights_of(rows, r, now, u));
      state.m[r] = now;
      const uint32_t high = two_halves(u[0][2 * r], u[0][2 * r + 1]);
      const uint32_t low =
          two_halves(u[0][2 * r] - low_half(high), u[0][2 * r + 1] - high_half(high));
      auto* const to = reinterpret_cast<uint32_t*>(weights()) +
                       (lane() / 4 + 8 * r) * (kWeightStride / 2) + 4 * warp() + lane() % 4;
      to[0] = high;
      to[kWeightHalves / 2] = low;
    }
  }

  // The sums start from zero, as in FlashAttention.
  HRUN_HD void add_values(const uint16_t* values, const float (&before)[2],
                          float (&o)[kColumns / 8][4]) const {
    const uint16_t* const v = values + lane() % 16 * kStride + lane() / 16 * 8 + warp() * kColumns;
    const uint16_t* const p = weights() + lane() % 16 * kWeightStride + lane() / 16 * 8;
    uint32_t high[kTile / 16][4], low[kTile / 16][4];
#pragma unroll
    for (int i = 0; i < kTile / 16; ++i) {
      load_matrices(high[i], p + 16 * i);
      load_matrices(low[i], p + kWeightHalves + 16 * i);
    }
#pragma unroll
    for (int d = 0; d < kColumns / 16; ++d) {
      float sums[2][4] = {};
#pragma unroll
      for (int i = 0; i < kTile / 16; ++i) {
        uint32_t r[4];
        load_matrices_transposed(r, v + i * 16 * kStride + d * 16);
        add_products(sums[0], sums[1], low[i], high[i], r);
      }
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          o[2 * d + h][j] = fused_multiply_add(o[2 * d + h][j], before[j / 2], sums[h][j]);
    }
  }

  // The end of a split, after which the next one starts from nothing.  Each warp has summed the
  // weights of its own positions.
  HRUN_HD void finish(const Work& w, int number, State& state, Joined (&all)[2],
                      float (&o)[kColumns / 8][4]) const {
    sync_block();
    for (int r = 0; r < 2; ++r) {
      const float l = sum_of_query(state.l[r]);
      if (lane() % 4 == 0) of_warps()[warp() * kRows + lane() / 4 + 8 * r] = l;
    }
    sync_block();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int at = lane() / 4 + 8 * r, row = w.row + at;
      if (row >= w.n_rows) continue;
      Joined split{state.m[r], 0};
#pragma unroll
      for (int i = 0; i < kWarps; ++i) split.l += of_warps()[i * kRows + at];
      const Target to = target(w, row, number, split, all[r]);
#pragma unroll
      for (int i = 0; i < kColumns / 8; ++i) {
        const int column = warp() * kColumns + 8 * i + lane() % 4 * 2;
        if (column < task.v_dim) {
          to.put(column, o[i][2 * r] * (1 / kWeightScale));
          to.put(column + 1, o[i][2 * r + 1] * (1 / kWeightScale));
        }
      }
      if (!w.whole && warp() == 0 && lane() % 4 == 0) put_sums(w, row, split);
    }
    state = {};
    clear(o);
  }
};

}  // namespace hrun::gpu
