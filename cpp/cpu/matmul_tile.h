// y[t, r] = <x[t], w[r]> over packed panels for many tokens: a block of kTileRegisters registers of rows is decoded into the
// first-level cache once and multiplied by the tokens tile by tile.
#pragma once

#include <type_traits>

#include "cpu/matmul_matrix.h"
#include "cpu/packed_parts.h"

namespace hrun {
namespace {

inline constexpr int kTileRegisters = 2;  // of rows: panels or parts of one
inline constexpr int kTilePanels = kTileRegisters * kPartRows / kPanelRows;
static_assert(kTilePanels >= 1 && kPackedPanels % kTilePanels == 0);

// Block b of the registers of a tile.
struct TileBlock {
  static constexpr int kRegisters = kTileRegisters;
  alignas(64) uint8_t codes[kMaxBlock / 4 * kTileRegisters * kPartBytes];  // [vector][register][kPartBytes]
  PartMeta meta[kTileRegisters];
  RowFloats scale[kTileRegisters];
};

// sum[k][p] += the products of `vectors` vectors of codes with tokens x[k].
template <bool kSigned, int kTokens>
HRUN_HD void multiply_vectors(const uint8_t* codes, int vectors, const int8_t* const (&x)[kTokens], int64_t first,
                              RowInts (&sum)[kTokens][kTileRegisters]) {
  for (int64_t at = first; at < first + 4 * vectors; at += 4, codes += kPartBytes * kTileRegisters) {
    CodeBytes w[kTileRegisters];
#pragma GCC unroll 2
    for (int p = 0; p < kTileRegisters; ++p) w[p] = load_codes(codes + kPartBytes * p);
#pragma GCC unroll 16
    for (int k = 0; k < kTokens; ++k) {
      const RowInts four = four_activations(x[k] + at);
#pragma GCC unroll 2
      for (int p = 0; p < kTileRegisters; ++p) sum[k][p] = dot_codes<kSigned>(sum[k][p], w[p], four);
    }
  }
}

// Adds block b times kTokens tokens from t on to acc [token][register][kPartRows].  A function of its own: inlined, the
// compiler no longer keeps the sums in registers.
template <PackableFormat F, int kTokens>
__attribute__((noinline)) void multiply_tile(const TileBlock& block, int n, const PackedActivations& activations, int64_t t,
                                             int64_t b, float* acc) {
  using Layout = PanelLayout<F>;
  constexpr int kGroups = Layout::kGroups ? Layout::kGroupCount : 1;
  const PackedActivations x = activations;  // a copy: stores through acc cannot change it
  const int8_t* codes[kTokens];
#pragma GCC unroll 16
  for (int k = 0; k < kTokens; ++k) codes[k] = x.codes + (t + k) * x.stride + b * F::kBlockValues;
  RowInts sum[kTokens][kTileRegisters], isum[kTokens][kTileRegisters];
  for (int g = 0; g < kGroups; ++g) {
#pragma GCC unroll 16
    for (int k = 0; k < kTokens; ++k)
#pragma GCC unroll 2
      for (int p = 0; p < kTileRegisters; ++p) sum[k][p] = start_of_group<F>(x, t + k, b, g);
    const int vectors = n / 4 / kGroups;
    multiply_vectors<signed_codes<F>()>(block.codes + g * vectors * kPartBytes * kTileRegisters, vectors, codes, 4 * g * vectors,
                                        sum);
    if constexpr (Layout::kGroups) {
#pragma GCC unroll 2
      for (int p = 0; p < kTileRegisters; ++p) {
        const RowInts scale = group_scales<F>(block.meta[p], g);
#pragma GCC unroll 16
        for (int k = 0; k < kTokens; ++k) {
          const RowInts scaled = multiply_rows(sum[k][p], scale);
          isum[k][p] = g == 0 ? scaled : add_rows(isum[k][p], scaled);
        }
      }
    }
  }
  RowFloats scale[kTileRegisters];
#pragma GCC unroll 2
  for (int p = 0; p < kTileRegisters; ++p) scale[p] = block.scale[p];
#pragma GCC unroll 16
  for (int k = 0; k < kTokens; ++k)
#pragma GCC unroll 2
    for (int p = 0; p < kTileRegisters; ++p) {
      float* const total = acc + ((t + k) * kTileRegisters + p) * kPartRows;
      store_rows(total, add_block_sum<F>(load_rows(total), Layout::kGroups ? isum[k][p] : sum[k][p], scale[p], block.meta[p],
                                         x, t + k, b));
    }
}

// kTilePanels panels from first_panel on.  acc: kTileRegisters * kPartRows floats per token, 64-aligned.
template <PackableFormat F, class Tiles = MatrixTiles>
void multiply_tokens(const PackedWeights& w, int64_t first_panel, const PackedActivations& x, float* y, int64_t y_stride,
                     float* acc) {
  using Layout = PanelLayout<F>;
  const int64_t last_panel = (w.rows - 1) / kPanelRows;
  memset(acc, 0, static_cast<size_t>(x.n_tokens) * kTileRegisters * kPartRows * sizeof(float));
  const uint8_t* panel[kTileRegisters];
  for (int p = 0; p < kTileRegisters; ++p) {  // a panel beyond the last is a copy of it, multiplied and not stored
    const int64_t wanted = first_panel + p / kPanelParts;
    panel[p] = w.data + static_cast<size_t>(wanted < last_panel ? wanted : last_panel) * w.panel_bytes;
  }
  TileBlock block;
  [[maybe_unused]] std::conditional_t<matrix_unit_fits<F, Tiles>(), Tiles, NoTiles> tiles;
  const typename UnitDecoder<F>::Constants constants;
  size_t codes_at = Layout::codes_at(w.cols);
  for (int64_t b = 0; b < n_blocks<F>(w.cols); ++b) {
    const int n = block_length<F>(w.cols, b);
    for (int p = 0; p < kTileRegisters; ++p) {
      block.meta[p] = part_meta<F>(panel[p], b, p % kPanelParts);
      block.scale[p] = block_scale<F>(block.meta[p]);
      UnitDecoder<F> decoder(constants, panel[p] + codes_at + p % kPanelParts * kPartBytes, n);
      for (int u = 0; u < n / kUnit; ++u) {
        CodeBytes vectors[kUnitVectors];
        decoder.next(vectors);
#pragma GCC unroll 8
        for (int i = 0; i < kUnitVectors; ++i)
          store_codes(block.codes + ((u * kUnitVectors + i) * kTileRegisters + p) * kPartBytes, vectors[i]);
      }
    }
    codes_at += static_cast<size_t>(n / kUnit) * Layout::kUnitBytes;
    int64_t t = 0;
    if constexpr (matrix_unit_fits<F, Tiles>())
      if (n == F::kBlockValues) t = multiply_by_matrix_unit<F>(tiles, block, x, b, acc);
    constexpr int kTokens = Layout::kGroups ? kGroupTileTokens : kTileTokens;
    for (; t + kTokens <= x.n_tokens; t += kTokens) multiply_tile<F, kTokens>(block, n, x, t, b, acc);
    if constexpr (kTokens > 4)
      for (; t + 4 <= x.n_tokens; t += 4) multiply_tile<F, 4>(block, n, x, t, b, acc);
    for (; t < x.n_tokens; ++t) multiply_tile<F, 1>(block, n, x, t, b, acc);
  }
  for (int64_t t = 0; t < x.n_tokens; ++t)
    for (int r = 0; r < kTileRegisters * kPartRows; ++r) {
      const int64_t row = first_panel * kPanelRows + r;
      if (row < w.rows) y[t * y_stride + row] = acc[t * kTileRegisters * kPartRows + r];
    }
}

}  // namespace
}  // namespace hrun
