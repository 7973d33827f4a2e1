// Products of formats with blocks of 32 columns on a matrix unit (lanes/matrix_unit.h), for more
// tokens than the dot products of kernels/matmul_few.h take.
//
// A block's eight decoded vectors are a second operand of eight rows, sixteen tokens' activations
// of the block a first one of 32 bytes a row.  Every block has scales of its own, so most of the
// time goes into what follows the product: the sums of eight blocks are stored first and then added
// in order, a token and panel at a time, with the total in a register.
#pragma once

#include "cpu/matrix_kernels.h"
#include "cpu/kernels/matmul_matrix.h"

namespace hrun {
namespace {

template <PackableFormat F, class Tiles>
constexpr bool short_matrix_unit_fits() {
  return Tiles::kUsable && kPartRows == kTileRows && !PanelLayout<F>::kGroups &&
         F::kBlockValues == kUnit;
}

inline constexpr int kShortBlocks = 8;  // decoded at a time

template <PackableFormat F>
struct ShortBlocks {
  alignas(64) uint8_t codes[kShortBlocks][kUnitVectors][kMatrixPanels][kPartBytes];
  alignas(64) int32_t sums[kShortBlocks][kTileRows][kMatrixPanels][kPartRows];
  RowFloats scale[kShortBlocks][kMatrixPanels];
  RowFloats minus_offset[F::kHasOffset ? kShortBlocks : 1][kMatrixPanels];
};

// total += the sums of `n` blocks from b on of token t, which is a row of the tile.
template <PackableFormat F>
HRUN_HD void finish_short_blocks(const ShortBlocks<F>& blocks, int n, const PackedActivations& x,
                                 int64_t t, int64_t b, int row, float* total) {
  RowFloats sum[kMatrixPanels] = {load_rows(total), load_rows(total + kPartRows)};
  const float* dx = x.scale + x.at(t, b);
  const int32_t* of_codes = x.block_sums + x.at(t, b);
  for (int i = 0; i < n; ++i, dx += x.stride, of_codes += x.stride) {
    const float scale = *dx;
    const RowInts start = all_rows(-code_bias<F>() * *of_codes);
#pragma GCC unroll 2
    for (int p = 0; p < kMatrixPanels; ++p) {
      RowInts product = load_ints(blocks.sums[i][row][p]);
      if constexpr (code_bias<F>() != 0) product = add_rows(product, start);
      sum[p] = fma_rows(scale_rows(blocks.scale[i][p], scale), product, sum[p]);
      if constexpr (F::kHasOffset)
        sum[p] =
            fma_rows(scale_rows(blocks.minus_offset[i][p], scale), all_rows(*of_codes), sum[p]);
    }
  }
#pragma GCC unroll 2
  for (int p = 0; p < kMatrixPanels; ++p) store_rows(total + p * kPartRows, sum[p]);
}

// Multiplies kMatrixPanels panels from first_panel on.  acc: a float for each of their rows and
// each token, 64-aligned.
template <PackableFormat F, class Tiles>
void multiply_short_blocks(const PackedWeights& w, int64_t first_panel, const PackedActivations& x,
                           float* y, int64_t y_stride, float* acc) {
  using Layout = PanelLayout<F>;
  const int64_t n_tokens = x.n_tokens, n_blocks = hrun::n_blocks<F>(w.cols),
                last_panel = (w.rows - 1) / kPanelRows, first_row = first_panel * kPanelRows;
  const uint8_t* panel[kMatrixPanels];
  for (int p = 0; p < kMatrixPanels; ++p) {  // beyond the last it is multiplied and not stored
    const int64_t wanted = first_panel + p;
    panel[p] =
        w.data + static_cast<size_t>(wanted < last_panel ? wanted : last_panel) * w.panel_bytes;
  }
  memset(acc, 0, static_cast<size_t>(n_tokens * kMatrixPanels * kPartRows) * sizeof(float));
  ShortBlocks<F> blocks;
  const typename UnitDecoder<F>::Constants constants;
  const auto rows = static_cast<int>(n_tokens < kTileRows ? n_tokens : kTileRows);
  Tiles tiles(rows, kUnit);
  for (int64_t b = 0; b < n_blocks; b += kShortBlocks) {
    const auto n = static_cast<int>(n_blocks - b < kShortBlocks ? n_blocks - b : kShortBlocks);
    for (int p = 0; p < kMatrixPanels; ++p) {
      const uint8_t* codes =
          panel[p] + Layout::codes_at(w.cols) + static_cast<size_t>(b) * Layout::kUnitBytes;
      for (int i = 0; i < n; ++i, codes += Layout::kUnitBytes) {
#pragma GCC unroll 8
        for (size_t line = 0; line < Layout::kUnitBytes; line += 64)
          __builtin_prefetch(codes + kShortBlocks * Layout::kUnitBytes + line, 0, 2);
        const PartMeta meta = part_meta<F>(panel[p], b + i, 0);
        blocks.scale[i][p] = block_scale<F>(meta);
        if constexpr (F::kHasOffset) blocks.minus_offset[i][p] = negative(load_halves(meta.offset));
        UnitDecoder<F> decoder(constants, codes, kUnit);
        CodeBytes vectors[kUnitVectors];
        decoder.next(vectors);
#pragma GCC unroll 8
        for (int v = 0; v < kUnitVectors; ++v) store_codes(blocks.codes[i][v][p], vectors[v]);
      }
    }
    // Where the number of tokens is no multiple of 16, the last tile overlaps the one before.
    for (int64_t fresh = 0; fresh < n_tokens; fresh += kTileRows) {
      const int64_t t = fresh + rows <= n_tokens ? fresh : n_tokens - rows;
      const auto multiply = [&]<int first, int operand>(int i) {
        tiles.template zero<first>();
        tiles.template zero<first + 1>();
        tiles.template load<operand>(block_codes<F>(x, t, b + i), F::kBlockValues);
        tiles.template load<6>(blocks.codes[i][0][0], kMatrixVector);
        tiles.template multiply<first, operand, 6>();
        tiles.template load<7>(blocks.codes[i][0][1], kMatrixVector);
        tiles.template multiply<first + 1, operand, 7>();
        tiles.template store<first>(blocks.sums[i][0][0], kMatrixVector);
        tiles.template store<first + 1>(blocks.sums[i][0][1], kMatrixVector);
      };
      int i = 0;
      for (; i + 2 <= n; i += 2) {
        multiply.template operator()<0, 4>(i);
        multiply.template operator()<2, 5>(i + 1);
      }
      if (i < n) multiply.template operator()<0, 4>(i);
      for (auto row = static_cast<int>(fresh - t); row < rows; ++row)
        finish_short_blocks<F>(blocks, n, x, t + row, b, row,
                               acc + (t + row) * kMatrixPanels * kPartRows);
    }
  }
  const int64_t left = w.rows - first_row;
  const auto bytes =
      static_cast<size_t>(left < kMatrixPanels * kPanelRows ? left : kMatrixPanels * kPanelRows) *
      sizeof(float);
  for (int64_t t = 0; t < n_tokens; ++t)
    memcpy(y + t * y_stride + first_row, acc + t * kMatrixPanels * kPartRows, bytes);
}

}  // namespace
}  // namespace hrun
