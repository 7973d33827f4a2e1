// y[t, r] = <x[t], w[r]> over packed panels for many tokens: a block of kTileRegisters registers of
// rows is decoded into the first-level cache once and multiplied by the tokens tile by tile.
#pragma once

#include <type_traits>

#include "cpu/matrix_kernels.h"
#include "cpu/panels/group_sums.h"
#include "cpu/kernels/matmul_matrix.h"

namespace hrun {
namespace {

// The number of registers of rows in a tile; they are panels or parts of one.  With group scales,
// which need sums beside the sums, there are two.  The more there are, the fewer loads a product
// needs.
template <PackableFormat F>
constexpr int tile_registers() {
  return PanelLayout<F>::kGroups ? 2 : kTileRegisters;
}
template <int kRegisters>
constexpr int kTilePanels = kRegisters * kPartRows / kPanelRows;
static_assert(kTilePanels<2> >= 1 && kPackedPanels % kTilePanels<kTileRegisters> == 0);

// Block b of the registers of a tile.
template <int registers>
struct TileBlock {
  static constexpr int kRegisters = registers;
  alignas(
      64) uint8_t codes[kMaxBlock / 4 * kRegisters * kPartBytes];  // [vector][register][kPartBytes]
  PartMeta meta[kRegisters];
  RowFloats scale[kRegisters], offset[kRegisters];
};

// The scales of the groups of a block of a tile's registers, widened once for all tokens.
template <PackableFormat F>
struct TileGroups {
  static constexpr int kPairs = PanelLayout<F>::kGroupCount / 2;
  static constexpr int kRegisters = 2;
  using Numbers = int32_t[kRegisters][kPartRows];
  alignas(64) Numbers scale[PanelLayout<F>::kGroupCount];
  alignas(64) Numbers centre[GroupSums<F>::kBeyondBias != 0 ? kPairs : 1];  // pairs of int16
  alignas(64) Numbers offset[F::kHasOffset ? kPairs : 1];                   // pairs of int16

  HRUN_HD void read(int p, const PartMeta& meta) {
    for (int g = 0; g < PanelLayout<F>::kGroupCount; ++g)
      store_ints(scale[g][p], prepared_scales<F>(meta, g));
    for (int g = 0; g < kPairs; ++g) {
      if constexpr (GroupSums<F>::kBeyondBias != 0)
        store_ints(centre[g][p], centre_pairs<F>(meta, 2 * g));
      if constexpr (F::kHasOffset) store_ints(offset[g][p], offset_pairs<F>(meta, 2 * g));
    }
  }
};

template <int kTokens, int kRegisters>
using TileInts = RowInts[kTokens][kRegisters];

template <int kTokens, int kRegisters, class Value>
HRUN_HD void set_ints(TileInts<kTokens, kRegisters>& x, Value value) {
#pragma GCC unroll 16
  for (int k = 0; k < kTokens; ++k)
#pragma GCC unroll 4
    for (int p = 0; p < kRegisters; ++p) x[k][p] = value(k);
}

// sum[k][p] += the products of `vectors` vectors of codes with token k, which is x_stride behind
// the one before.
template <int kTokens, bool kSigned, bool kNarrow, int kRegisters>
HRUN_HD void multiply_vectors(const uint8_t* codes, int vectors, const int8_t* x, int x_stride,
                              TileInts<kTokens, kRegisters>& sum) {
#pragma GCC unroll 8
  for (int i = 0; i < vectors; ++i, codes += kPartBytes * kRegisters, x += 4) {
    CodeBytes w[kRegisters];
#pragma GCC unroll 4
    for (int p = 0; p < kRegisters; ++p) w[p] = load_codes(codes + kPartBytes * p);
#pragma GCC unroll 16
    for (int k = 0; k < kTokens; ++k) {
      const RowInts four = four_activations(x + k * x_stride);
#pragma GCC unroll 4
      for (int p = 0; p < kRegisters; ++p) {
        if constexpr (kNarrow)
          sum[k][p] = dot_codes_narrow<kSigned>(sum[k][p], w[p], four);
        else
          sum[k][p] = dot_codes<kSigned>(sum[k][p], w[p], four);
      }
    }
  }
}

// acc += scale * dx * sum: the end of a block, as the numeric contract has it.
template <int kTokens, bool kMinus, int kRegisters>
HRUN_HD void add_sums(const TileInts<kTokens, kRegisters>& sum,
                      const RowFloats (&scale)[kRegisters], const float* dx, float* acc) {
  RowFloats own[kRegisters];  // the sums that are stored could be these, for all the compiler knows
#pragma GCC unroll 4
  for (int p = 0; p < kRegisters; ++p) own[p] = scale[p];
#pragma GCC unroll 16
  for (int k = 0; k < kTokens; ++k) {
    const float of_token = dx[k];
#pragma GCC unroll 4
    for (int p = 0; p < kRegisters; ++p) {
      float* const total = acc + (k * kRegisters + p) * kPartRows;
      const RowFloats factor = scale_rows(own[p], of_token);
      store_rows(total, fma_rows(kMinus ? negative(factor) : factor, sum[k][p], load_rows(total)));
    }
  }
}

// total += pairs of numbers of the rows times pairs of sums of each token's activations, for all
// pairs of groups.
template <PackableFormat F, int kTokens>
HRUN_HD void add_pairs(const typename TileGroups<F>::Numbers* pairs, const int16_t* sums,
                       TileInts<kTokens, 2>& total) {
#pragma GCC unroll 8
  for (int g = 0; g < TileGroups<F>::kPairs; ++g) {
    RowInts w[2];
#pragma GCC unroll 4
    for (int p = 0; p < 2; ++p) w[p] = load_ints(pairs[g][p]);
#pragma GCC unroll 16
    for (int k = 0; k < kTokens; ++k) {
      const RowInts pair = all_pairs(sums + 2 * (k * TileGroups<F>::kPairs + g));
#pragma GCC unroll 4
      for (int p = 0; p < 2; ++p) total[k][p] = dot_row_pairs(total[k][p], w[p], pair);
    }
  }
}

// Adds block b times kTokens tokens from t on to acc [token][register][kPartRows].  These are
// functions of their own: if they are inlined, the compiler no longer keeps the sums in registers.
template <PackableFormat F, int kTokens, int kRegisters>
__attribute__((noinline)) void multiply_tile(const TileBlock<kRegisters>& block, int n,
                                             const PackedActivations& x, int64_t t, int64_t b,
                                             float* acc) {
  const int32_t* const sums = x.block_sums + x.at(t, b);
  TileInts<kTokens, kRegisters> sum;
  set_ints<kTokens, kRegisters>(sum, [&](int k) { return all_rows(-code_bias<F>() * sums[k]); });
  // In the formats with blocks of 32 columns, all blocks are whole.
  const int vectors = F::kBlockValues == kUnit ? kUnitVectors : n / 4;
  multiply_vectors<kTokens, signed_codes<F>(), false>(block.codes, vectors, block_codes<F>(x, t, b),
                                                      F::kBlockValues, sum);
  const float* const dx = x.scale + x.at(t, b);
  acc += t * kRegisters * kPartRows;
  add_sums<kTokens, false>(sum, block.scale, dx, acc);
  if constexpr (F::kHasOffset) {
    set_ints<kTokens, kRegisters>(sum, [&](int k) { return all_rows(sums[k]); });
    add_sums<kTokens, true>(sum, block.offset, dx, acc);
  }
}

// The same with group scales.  Blocks are whole.
template <PackableFormat F, int kTokens>
__attribute__((noinline)) void multiply_tile(const TileBlock<2>& block, const TileGroups<F>& groups,
                                             const PackedActivations& x, int64_t t, int64_t b,
                                             float* acc) {
  using Sums = GroupSums<F>;
  constexpr int kRegisters = 2;
  constexpr int kParts = Sums::kParts, kVectors = Sums::kRule.columns / 4,
                kCentre = Sums::kRule.centre;
  alignas(64) int32_t start[kTokens * kParts];
  if constexpr (kCentre != 0) {
    const int16_t* const sums = column_sums<Sums::kRule.columns>(x, t, b);
    for (int i = 0; i < kTokens * kParts; ++i) start[i] = -kCentre * sums[i];
  }
  const int16_t* const group_sums = column_sums<PanelLayout<F>::kScaleColumns>(x, t, b);
  TileInts<kTokens, kRegisters> total;
  set_ints<kTokens, kRegisters>(total, [](int) { return all_rows(0); });
  if constexpr (Sums::kBeyondBias != 0) add_pairs<F, kTokens>(groups.centre, group_sums, total);
  const uint8_t* w = block.codes;
  const int8_t* codes = block_codes<F>(x, t, b);
  for (int i = 0; i < kParts; ++i, w += kVectors * kPartBytes * kRegisters, codes += 4 * kVectors) {
    TileInts<kTokens, kRegisters> sum;
    set_ints<kTokens, kRegisters>(
        sum, [&](int k) { return all_rows(kCentre != 0 ? start[k * kParts + i] : 0); });
    multiply_vectors<kTokens, signed_codes<F>(), Sums::kRule.is_narrow>(w, kVectors, codes,
                                                                        F::kBlockValues, sum);
#pragma GCC unroll 2
    for (int p = 0; p < kRegisters; ++p) {
      const RowInts scale = load_ints(groups.scale[i / Sums::kPartsOfGroup][p]);
#pragma GCC unroll 16
      for (int k = 0; k < kTokens; ++k) total[k][p] = add_scaled<F>(total[k][p], sum[k][p], scale);
    }
  }
  const float* const dx = x.scale + x.at(t, b);
  acc += t * kRegisters * kPartRows;
  add_sums<kTokens, false>(total, block.scale, dx, acc);
  if constexpr (F::kHasOffset) {
    set_ints<kTokens, kRegisters>(total, [](int) { return all_rows(0); });
    add_pairs<F, kTokens>(groups.offset, group_sums, total);
    add_sums<kTokens, true>(total, block.offset, dx, acc);
  }
}

// Multiplies the panels of a tile from first_panel on.  acc: a float for each row of the tile and
// each token, 64-aligned.
template <PackableFormat F, class Tiles = MatrixTiles>
void multiply_tokens(const PackedWeights& w, int64_t first_panel, const PackedActivations& x,
                     float* y, int64_t y_stride, float* acc) {
  using Layout = PanelLayout<F>;
  constexpr int kRegisters = tile_registers<F>(), kRows = kRegisters * kPartRows;
  const int64_t last_panel = (w.rows - 1) / kPanelRows, first_row = first_panel * kPanelRows;
  memset(acc, 0, static_cast<size_t>(x.n_tokens) * kRows * sizeof(float));
  const uint8_t* panel[kRegisters];
  for (int p = 0; p < kRegisters;
       ++p) {  // a panel beyond the last is a copy of it, multiplied and not stored
    const int64_t wanted = first_panel + p / kPanelParts;
    panel[p] =
        w.data + static_cast<size_t>(wanted < last_panel ? wanted : last_panel) * w.panel_bytes;
  }
  TileBlock<kRegisters> block;
  [[maybe_unused]] std::conditional_t<Layout::kGroups, TileGroups<F>, NoTables> groups;
  const int64_t n_blocks = hrun::n_blocks<F>(w.cols);
  // Tokens go to y with their last block, tile by tile: stores that miss the cache then wait behind
  // products instead of each other.
  const auto store_finished = [&](int64_t b, int64_t first, int64_t count) {
    if (b + 1 < n_blocks) return;
    const int64_t rows = w.rows - first_row;
    for (int64_t t = first; t < first + count; ++t) {
      float* const to = y + t * y_stride + first_row;
      if (rows >= kRows)
        memcpy(to, acc + t * kRows, kRows * sizeof(float));
      else
        memcpy(to, acc + t * kRows, static_cast<size_t>(rows) * sizeof(float));
    }
  };
  const auto multiply = [&]<int kTokens>(int64_t b, int n, int64_t t) {
    // The rows of y are pages apart: their lines are fetched while the tile is multiplied.
    if (b + 1 == n_blocks)
      for (int64_t k = t; k < t + kTokens; ++k)
        for (int r = 0; r < kRows; r += 16) __builtin_prefetch(y + k * y_stride + first_row + r, 1);
    if constexpr (Layout::kGroups)
      multiply_tile<F, kTokens>(block, groups, x, t, b, acc);
    else
      multiply_tile<F, kTokens, kRegisters>(block, n, x, t, b, acc);
    store_finished(b, t, kTokens);
  };
  [[maybe_unused]] std::conditional_t<matrix_unit_fits<F, Tiles>(), Tiles, NoTiles> tiles;
  const typename UnitDecoder<F>::Constants constants;
  size_t codes_at = Layout::codes_at(w.cols);
  for (int64_t b = 0; b < n_blocks; ++b) {
    const int n = block_length<F>(w.cols, b);
    for (int p = 0; p < kRegisters; ++p) {
      block.meta[p] = part_meta<F>(panel[p], b, p % kPanelParts);
      block.scale[p] = block_scale<F>(block.meta[p]);
      if constexpr (F::kHasOffset) block.offset[p] = load_halves(block.meta[p].offset);
      if constexpr (Layout::kGroups) groups.read(p, block.meta[p]);
      UnitDecoder<F> decoder(constants, panel[p] + codes_at + p % kPanelParts * kPartBytes, n);
      // Fetches the codes of the next block, which are too few at a time for the hardware to
      // foresee.  It takes a few lines at a time, because no more than a dozen can be under way.
      const uint8_t* ahead =
          panel[p] + codes_at + static_cast<size_t>(n / kUnit) * Layout::kUnitBytes;
      for (int u = 0; u < n / kUnit; ++u, ahead += Layout::kUnitBytes) {
        if (p % kPanelParts == 0)
          for (size_t line = 0; line < Layout::kUnitBytes; line += 64)
            __builtin_prefetch(ahead + line, 0, 2);
        CodeBytes vectors[kUnitVectors];
        decoder.next(vectors);
#pragma GCC unroll 8
        for (int i = 0; i < kUnitVectors; ++i)
          store_codes(block.codes + ((u * kUnitVectors + i) * kRegisters + p) * kPartBytes,
                      vectors[i]);
      }
    }
    codes_at += static_cast<size_t>(n / kUnit) * Layout::kUnitBytes;
    int64_t t = 0;
    if constexpr (matrix_unit_fits<F, Tiles>())
      if (n == F::kBlockValues && x.n_tokens >= kTileRows) {
        multiply_by_matrix_unit<F>(tiles, block, x, b, acc);
        store_finished(b, 0, t = x.n_tokens);
      }
    constexpr int kTokens = Layout::kGroups  ? kGroupTileTokens
                            : kRegisters > 2 ? kWideTileTokens
                                             : kTileTokens;
    for (; t + kTokens <= x.n_tokens; t += kTokens) multiply.template operator()<kTokens>(b, n, t);
    if constexpr (kTokens > 4)
      for (; t + 4 <= x.n_tokens; t += 4) multiply.template operator()<4>(b, n, t);
    if constexpr (Layout::kGroups)
      for (; t + 2 <= x.n_tokens; t += 2) multiply.template operator()<2>(b, n, t);
    for (; t < x.n_tokens; ++t) multiply.template operator()<1>(b, n, t);
  }
}

}  // namespace
}  // namespace hrun
