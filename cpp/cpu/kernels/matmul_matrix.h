// The tiles of kernels/matmul_tile.h on a matrix unit (lanes/matrix_unit.h).
//
// Sixteen decoded vectors of a register are a second operand as they lie: row k is step k of 4
// columns of the 16 weight rows. Sixteen tokens' activations are a first operand, 64 columns at a
// time.  So a block of 256 columns is four products for 16 tokens and 16 rows; 32 x 32 are done at
// a time, with every operand used twice.  The sums are the same exact int32 as everywhere, and
// their end is add_block_sum.
#pragma once

#include "cpu/panels/read.h"
#include "cpu/lanes/matrix_unit.h"

namespace hrun {
namespace {

// Group scales would need a sum per group: there the vector kernels stay.
template <PackableFormat F, class Tiles>
constexpr bool matrix_unit_fits() {
  return Tiles::kUsable && kPartRows == kTileRows && !PanelLayout<F>::kGroups &&
         F::kBlockValues == 4 * kTileRowBytes;
}

// Block b, 256 columns of 32 rows, times 16 tokens (kTokenTiles = 1) or 32 from t on, added to
// acc [token][register][kPartRows].
template <PackableFormat F, class Tiles, int kTokenTiles, class Block>
void multiply_matrix_tile(Tiles& tiles, const Block& block, const PackedActivations& activations,
                          int64_t t, int64_t b, float* acc) {
  static_assert(Block::kRegisters == 2);
  const PackedActivations x = activations;
  const int8_t* const codes = block_codes<F>(x, t, b);
  const int8_t* const later = codes + kTileRows * F::kBlockValues;
  tiles.template zero<0>();
  tiles.template zero<1>();
  if constexpr (kTokenTiles == 2) {
    tiles.template zero<2>();
    tiles.template zero<3>();
  }
  constexpr ptrdiff_t kVectorStride = Block::kRegisters * kPartBytes;
  for (int k = 0; k < F::kBlockValues / kTileRowBytes; ++k) {
    const uint8_t* w = block.codes + k * kTileRows * kVectorStride;
    tiles.template load<6>(w, kVectorStride);
    tiles.template load<7>(w + kPartBytes, kVectorStride);
    tiles.template load<4>(codes + k * kTileRowBytes, F::kBlockValues);
    tiles.template multiply<0, 4, 6>();
    tiles.template multiply<1, 4, 7>();
    if constexpr (kTokenTiles == 2) {
      tiles.template load<5>(later + k * kTileRowBytes, F::kBlockValues);
      tiles.template multiply<2, 5, 6>();
      tiles.template multiply<3, 5, 7>();
    }
  }
  alignas(64) int32_t sums[kTokenTiles * kTileRows][Block::kRegisters][kPartRows];
  tiles.template store<0>(sums[0][0], kVectorStride);
  tiles.template store<1>(sums[0][1], kVectorStride);
  if constexpr (kTokenTiles == 2) {
    tiles.template store<2>(sums[kTileRows][0], kVectorStride);
    tiles.template store<3>(sums[kTileRows][1], kVectorStride);
  }
  for (int k = 0; k < kTokenTiles * kTileRows; ++k) {
    const RowInts start = start_of_group<F>(x, t + k, b, 0);
#pragma GCC unroll 2
    for (int p = 0; p < Block::kRegisters; ++p) {
      float* const total = acc + ((t + k) * Block::kRegisters + p) * kPartRows;
      const RowInts isum = add_rows(load_ints(sums[k][p]), start);
      store_rows(total, add_block_sum<F>(load_rows(total), isum, block.scale[p], block.meta[p], x,
                                         t + k, b));
    }
  }
}

// As many tokens as fill tiles; how many those are.
template <PackableFormat F, class Tiles, class Block>
int64_t multiply_by_matrix_unit(Tiles& tiles, const Block& block, const PackedActivations& x,
                                int64_t b, float* acc) {
  int64_t t = 0;
  for (; t + 2 * kTileRows <= x.n_tokens; t += 2 * kTileRows)
    multiply_matrix_tile<F, Tiles, 2>(tiles, block, x, t, b, acc);
  for (; t + kTileRows <= x.n_tokens; t += kTileRows)
    multiply_matrix_tile<F, Tiles, 1>(tiles, block, x, t, b, acc);
  return t;
}

}  // namespace
}  // namespace hrun
