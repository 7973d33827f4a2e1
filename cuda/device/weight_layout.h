// The packed matrix of the weight-domain product.
#pragma once

#include "cuda/device/weight_codes.h"
#include "formats/list.h"

namespace hrun::gpu {

using TileFormats = FormatList<ITQ3_S, RTQ2, RTQ3, RTQ4, RTQ5, RTQ6>;

inline constexpr size_t kTailStepBytes = kWarp * sizeof(Words4);  // a fragment of 16 columns

// The places of the data.  Row scales come first, then tiles of 16 rows.  A tile is its whole
// blocks of 256 columns, then the tail's fragments.  A block is codes [load][lane], scale of row
// pairs [8 words: fp16 of rows g and g + 8], integer scales [lane].
struct TileLayout {
  int64_t n_tiles, n_blocks;
  int tail_steps;
  int64_t tile_bytes, block_bytes, first_tile;
  template <class F>
  static TileLayout of(int64_t rows, int64_t cols) {
    TileLayout l;
    l.n_tiles = (rows + kTileRows - 1) / kTileRows;
    l.n_blocks = cols / kTileCols;
    l.tail_steps = static_cast<int>((cols % kTileCols + 15) / 16);
    l.block_bytes = TileCodes<F>::kLoads * 512 + 32 + kWarp * TileCodes<F>::kScaleBytes;
    l.tile_bytes = l.n_blocks * l.block_bytes + l.tail_steps * static_cast<int64_t>(kTailStepBytes);
    l.first_tile = (l.n_tiles * kTileRows * 4 + 255) / 256 * 256;
    return l;
  }
  size_t bytes() const { return static_cast<size_t>(first_tile + n_tiles * tile_bytes); }
};

}  // namespace hrun::gpu
