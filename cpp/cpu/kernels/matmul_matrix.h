// Products on a matrix unit (lanes/matrix_unit.h): the tiles of kernels/matmul_tile.h, and up to
// sixteen tokens.
//
// Sixteen decoded vectors of a register are a second operand as they lie: row k is step k of 4
// columns of the 16 weight rows. Sixteen tokens' activations are a first operand, 64 columns at a
// time.  So a block of 256 columns is four products for 16 tokens and 16 rows; 32 x 32 are done at
// a time, with every operand used twice.  The sums are the same exact int32 as everywhere, and
// their end is add_block_sum.
#pragma once

#include "cpu/matrix_kernels.h"
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

// Multiplies block b, 256 columns of 32 rows (registers 2 pair and 2 pair + 1), by 16 tokens
// (kTokenTiles = 1) or 32 from t on.  The tokens from `fresh` on are added to acc
// [token][register][kPartRows].
template <PackableFormat F, class Tiles, int kTokenTiles, class Block>
void multiply_matrix_tile(Tiles& tiles, const Block& block, const PackedActivations& activations,
                          int64_t t, int64_t b, int64_t fresh, int pair, float* acc) {
  constexpr int kPair = 2;
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
    const uint8_t* w = block.codes + k * kTileRows * kVectorStride + pair * kPair * kPartBytes;
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
  alignas(64) int32_t sums[kTokenTiles * kTileRows][kPair][kPartRows];
  constexpr ptrdiff_t kSumStride = kPair * kPartRows * sizeof(int32_t);
  tiles.template store<0>(sums[0][0], kSumStride);
  tiles.template store<1>(sums[0][1], kSumStride);
  if constexpr (kTokenTiles == 2) {
    tiles.template store<2>(sums[kTileRows][0], kSumStride);
    tiles.template store<3>(sums[kTileRows][1], kSumStride);
  }
  for (int k = static_cast<int>(fresh - t); k < kTokenTiles * kTileRows; ++k) {
    const RowInts start = start_of_group<F>(x, t + k, b, 0);
#pragma GCC unroll 2
    for (int p = 0; p < kPair; ++p) {
      const int which = pair * kPair + p;
      float* const total = acc + ((t + k) * Block::kRegisters + which) * kPartRows;
      const RowInts isum = add_rows(load_ints(sums[k][p]), start);
      store_rows(total, add_block_sum<F>(load_rows(total), isum, block.scale[which],
                                         block.meta[which], x, t + k, b));
    }
  }
}

// Multiplies block b by all tokens, of which there are sixteen or more.  Where their number is no
// multiple of 16, the last tile overlaps the one before.
template <PackableFormat F, class Tiles, class Block>
void multiply_by_matrix_unit(Tiles& tiles, const Block& block, const PackedActivations& x,
                             int64_t b, float* acc) {
  const auto multiply = [&]<int kTokenTiles>(int64_t t, int64_t fresh) {
    for (int pair = 0; pair < Block::kRegisters / 2; ++pair)  // the second finds x in the cache
      multiply_matrix_tile<F, Tiles, kTokenTiles>(tiles, block, x, t, b, fresh, pair, acc);
  };
  int64_t t = 0;
  for (; t + 2 * kTileRows <= x.n_tokens; t += 2 * kTileRows) multiply.template operator()<2>(t, t);
  for (; t < x.n_tokens; t += kTileRows) {
    const int64_t last = x.n_tokens - kTileRows;
    multiply.template operator()<1>(t < last ? t : last, t);
  }
}

// ---- up to sixteen tokens

// The number of tokens from which on it is faster than the dot products of kernels/matmul_few.h.
inline constexpr int kFewestMatrixTokens = 5;
inline constexpr int kMatrixPanels = 2;
inline constexpr int kMatrixSteps = 4;  // products of 64 columns in a block of 256
inline constexpr ptrdiff_t kMatrixVector = kMatrixPanels * kPartBytes;  // to a panel's next one

// Block b of two panels.  Where it is shorter than 256 columns, zeros fill the last step.
struct MatrixBlock {
  alignas(64) uint8_t codes[kMaxBlock / 4 * kMatrixVector];  // [vector][panel][kPartBytes]
  alignas(64) int32_t sums[kTileRows][kMatrixPanels][kPartRows];
  alignas(64) float scale[kMatrixPanels][kPartRows];
  const uint8_t* from[kMatrixPanels];
  ptrdiff_t ahead;  // bytes from the codes to those that are prefetched
  int64_t b;
  int n;  // columns
};

// Decodes units of a panel to `to`.
template <PackableFormat F>
HRUN_HD void decode_units(UnitDecoder<F>& decoder, const uint8_t* from, ptrdiff_t ahead,
                          uint8_t* to, int n_units) {
  constexpr ptrdiff_t kSoon = 768;  // bytes
  for (int u = 0; u < n_units; ++u, from += PanelLayout<F>::kUnitBytes) {
#pragma GCC unroll 8
    for (size_t line = 0; line < PanelLayout<F>::kUnitBytes; line += 64) {
      __builtin_prefetch(from + kSoon + line);
      __builtin_prefetch(from + ahead + line, 0, 2);
    }
    CodeBytes vectors[kUnitVectors];
    decoder.next(vectors);
#pragma GCC unroll 8
    for (int i = 0; i < kUnitVectors; ++i, to += kMatrixVector) store_codes(to, vectors[i]);
  }
}

// acc += the sums of tokens first .. end - 1 of a block.
template <PackableFormat F>
HRUN_HD void finish_tokens(const MatrixBlock& block, const PackedActivations& x, int first, int end,
                           float* acc) {
  const RowFloats scale[kMatrixPanels] = {load_rows(block.scale[0]), load_rows(block.scale[1])};
  for (int t = first; t < end; ++t) {
    const RowInts start = start_of_group<F>(x, t, block.b, 0);
    float* const total = acc + t * kMatrixPanels * kPartRows;
#pragma GCC unroll 2
    for (int p = 0; p < kMatrixPanels; ++p)
      store_rows(total + p * kPartRows,
                 add_block_sum<F>(load_rows(total + p * kPartRows),
                                  add_rows(load_ints(block.sums[t][p]), start), scale[p], {}, x, t,
                                  block.b));
  }
}

template <PackableFormat F>
void decode_block(const typename UnitDecoder<F>::Constants& constants, MatrixBlock& block) {
  const int n_units = block.n / kUnit;
  for (int p = 0; p < kMatrixPanels; ++p) {
    UnitDecoder<F> decoder(constants, block.from[p], block.n);
    decode_units<F>(decoder, block.from[p], block.ahead, block.codes + p * kPartBytes, n_units);
  }
  if (n_units % 2 != 0)
    memset(block.codes + n_units * kUnitVectors * kMatrixVector, 0, kUnitVectors * kMatrixVector);
}

// Computes a block's products.  Meanwhile the vector ports finish the block before and decode the
// one after.  All are written into one stream of instructions: the products are few and long, and
// the processor's window would fill up with instructions that wait for them.
template <PackableFormat F, class Tiles>
__attribute__((noinline)) void multiply_matrix_block(
    Tiles& tiles, const typename UnitDecoder<F>::Constants& constants, const PackedActivations& x,
    const MatrixBlock* before, MatrixBlock& block, MatrixBlock* after, float* acc) {
  const auto n_tokens = static_cast<int>(x.n_tokens);
  const int8_t* const activations = block_codes<F>(x, 0, block.b);
  tiles.template zero<0>();
  tiles.template zero<1>();
  const auto step = [&](int k) {
    const uint8_t* const w = block.codes + k * kTileRows * kMatrixVector;
    tiles.template load<6>(w, kMatrixVector);
    tiles.template load<4>(activations + k * kTileRowBytes, F::kBlockValues);
    tiles.template multiply<0, 4, 6>();
    tiles.template load<7>(w + kPartBytes, kMatrixVector);
    tiles.template multiply<1, 4, 7>();
    if (before)
      finish_tokens<F>(*before, x, n_tokens * k / kMatrixSteps, n_tokens * (k + 1) / kMatrixSteps,
                       acc);
  };
  const int steps = (block.n + kTileRowBytes - 1) / kTileRowBytes;
  if (steps == kMatrixSteps && after && after->n == F::kBlockValues) {
    constexpr int kStepsOfPanel = kMatrixSteps / kMatrixPanels,
                  kUnits = F::kBlockValues / kUnit / kStepsOfPanel;
    for (int p = 0; p < kMatrixPanels; ++p) {
      UnitDecoder<F> decoder(constants, after->from[p], F::kBlockValues);
      for (int half = 0; half < kStepsOfPanel; ++half) {
        step(kStepsOfPanel * p + half);
        decode_units<F>(
            decoder, after->from[p] + half * kUnits * PanelLayout<F>::kUnitBytes, after->ahead,
            after->codes + p * kPartBytes + half * kUnits * kUnitVectors * kMatrixVector, kUnits);
      }
    }
  } else {
    for (int k = 0; k < steps; ++k) step(k);
    if (before) finish_tokens<F>(*before, x, n_tokens * steps / kMatrixSteps, n_tokens, acc);
    if (after) decode_block<F>(constants, *after);
  }
  tiles.template store<0>(block.sums[0][0], kMatrixVector);
  tiles.template store<1>(block.sums[0][1], kMatrixVector);
}

// Multiplies kMatrixPanels panels from first_panel on.
template <PackableFormat F, class Tiles>
void multiply_few_by_matrix_unit(const PackedWeights& w, int64_t first_panel,
                                 const PackedActivations& x, float* y, int64_t y_stride) {
  using Layout = PanelLayout<F>;
  static_assert(!F::kHasOffset);
  constexpr ptrdiff_t kPrefetched = 6144;
  const int64_t n_blocks = hrun::n_blocks<F>(w.cols), last_panel = (w.rows - 1) / kPanelRows;
  const uint8_t* panel[kMatrixPanels];
  for (int p = 0; p < kMatrixPanels; ++p) {  // beyond the last it is multiplied and not stored
    const int64_t wanted = first_panel + p;
    panel[p] =
        w.data + static_cast<size_t>(wanted < last_panel ? wanted : last_panel) * w.panel_bytes;
  }
  alignas(64) float acc[kTileRows][kMatrixPanels][kPartRows] = {};
  MatrixBlock blocks[3];
  const typename UnitDecoder<F>::Constants constants;
  Tiles tiles(static_cast<int>(x.n_tokens));
  const auto begin = [&](int64_t b) {
    MatrixBlock& block = blocks[b % 3];
    const size_t at = Layout::codes_at(w.cols) +
                      static_cast<size_t>(b) * (F::kBlockValues / kUnit) * Layout::kUnitBytes;
    for (int p = 0; p < kMatrixPanels; ++p) {
      block.from[p] = panel[p] + at;
      store_rows(block.scale[p], block_scale<F>(part_meta<F>(panel[p], b, 0)));
      prefetch_meta<F>(panel[p] + kMatrixPanels * w.panel_bytes, b);
    }
    // Beyond the panel's end come the codes of the panels after the next.
    block.ahead = kPrefetched;
    if (at + kPrefetched >= Layout::panel_bytes(w.cols))
      block.ahead +=
          static_cast<ptrdiff_t>(kMatrixPanels * w.panel_bytes - Layout::panel_bytes(w.cols));
    block.b = b;
    block.n = block_length<F>(w.cols, b);
    return &block;
  };
  decode_block<F>(constants, *begin(0));
  for (int64_t b = 0; b < n_blocks; ++b)
    multiply_matrix_block<F>(tiles, constants, x, b > 0 ? &blocks[(b - 1) % 3] : nullptr,
                             blocks[b % 3], b + 1 < n_blocks ? begin(b + 1) : nullptr, acc[0][0]);
  finish_tokens<F>(blocks[(n_blocks - 1) % 3], x, 0, static_cast<int>(x.n_tokens), acc[0][0]);
  const int64_t first_row = first_panel * kPanelRows, left = w.rows - first_row;
  const auto bytes =
      static_cast<size_t>(left < kMatrixPanels * kPanelRows ? left : kMatrixPanels * kPanelRows) *
      sizeof(float);
  for (int64_t t = 0; t < x.n_tokens; ++t) memcpy(y + t * y_stride + first_row, acc[t][0], bytes);
}

}  // namespace
}  // namespace hrun
