// Products with many tokens: a block of threads multiplies a tile of rows with a tile of tokens,
// 256 columns at a time.
//
// Packed chunks and activations come through a ring of two stages in shared memory by asynchronous
// copies; each warp decodes the chunks of its rows straight into A fragments and uses them for all
// of its tokens.
//
// Chunks are summed in the order of matmul_stream.h: slot after slot, each from zero and added to y
// when it ends.
#pragma once

#include "cuda/device/tile_of_products.h"

namespace hrun::gpu {

template <class F, bool kSliced = false>
struct MatmulTile : TileOfProducts<F, kSliced, false> {
  using Base = TileOfProducts<F, kSliced, false>;
  using Base::kRowWarps, Base::kRowTiles, Base::kColumnTiles, Base::kTiles, Base::kTokens,
      Base::kThreads, Base::kStageBytes;
  using Base::rows, Base::chunks, Base::x, Base::own;
  using typename Base::Chunk, typename Base::Decoder, typename Base::Own, typename Base::Scales;
  static constexpr const char* kName = kSliced ? "matmul_tile, slices" : "matmul_tile";
  static constexpr size_t kSharedBytes = Base::kOwnAt + (kSliced ? sizeof(Own) : 0);
  static_assert(kSharedBytes <= 99 * 1024, "what a block of threads may have on every device");

  // The pieces of 16 bytes of a token's row are exchanged by its number, so that eight rows are in
  // different banks.
  static HRUN_HD int piece_at(int token, int piece) {
    return token * kChunkColumns + ((piece ^ (token & 7)) << 4);
  }

  struct View : Base::StageView {
    int row, swap;  // of the lane in sixteen tokens: its bytes, and its first piece exchanged

    HRUN_HD void fragments_of_tiles(uint32_t (&b)[4], int n, int s) const {
      load_matrices(b, this->stage + row + n * 8 * kChunkColumns + (swap ^ (s << 5)));
    }
  };

  HRUN_HD void copy(uint8_t* stage, int64_t first_tile, int64_t first_token, int c) const {
    constexpr int kChunkPieces = kChunkBytes<F> / 16;
    const int64_t n_tiles = (rows + kTileRows - 1) / kTileRows;
    const Own mine = own();
    // Addresses are computed anew for each chunk: if they were held across the loop, they would
    // push sums out of their registers.
    const int me = opaque(thread());
    for (int i = me; i < kTiles * kChunkPieces; i += kThreads) {
      const int t = i / kChunkPieces, piece = i % kChunkPieces;
      const bool inside = first_tile + t < n_tiles;
      copy_async(
          stage + Base::kChunksAt + 16 * i,
          mine.weights + ((inside ? first_tile + t : 0) * chunks + c) * kChunkBytes<F> + 16 * piece,
          inside);
    }
#pragma unroll
    for (int i = 0; i < kTokens * 16 / kThreads; ++i) {
      const int token = kThreads / 16 * i + me / 16, piece = me % 16;
      const bool inside = first_token + token < mine.n_tokens;
      copy_async(stage + piece_at(token, piece),
                 ordered_codes<Packed<F>::kTransposed>(x) +
                     (mine.input_row + (inside ? first_token + token : 0)) * x.stride +
                     static_cast<int64_t>(c) * kChunkColumns + 16 * piece,
                 inside);
    }
  }

  HRUN_HD void operator()() const {
    if constexpr (kSliced)
      if (!this->find_own()) return;
    const int64_t first_tile = static_cast<int64_t>(block_x()) * kTiles,
                  first_token = static_cast<int64_t>(block_y()) * kTokens;
    const int row_warp = warp() % kRowWarps, token_warp = warp() / kRowWarps;
    const typename Decoder::Constants constants;
    float sums[kRowTiles][kColumnTiles][4] = {};

    const int slots = sum_slots(chunks);
    int c = 0;
    copy(shared(), first_tile, first_token, 0);
    commit_copies();
    Scales scales = this->load_scales(first_token, 0);
    View view{{nullptr, token_warp * kColumnTiles * 8}, 0, 0};
    view.row = (view.first + lane() % 8 + lane() / 16 * 8) * kChunkColumns;
    view.swap = ((lane() / 8 % 2) ^ (lane() % 8)) << 4;
    for (int i = 0; i < chunks; ++i) {
      uint8_t* const stage = shared() + (i % 2) * kStageBytes;
      const bool slot_ends = c + slots >= chunks;
      const int next = slot_ends ? c % slots + 1 : c + slots;
      if (i + 1 < chunks)
        copy(shared() + ((i + 1) % 2) * kStageBytes, first_tile, first_token, next);
      commit_copies();
      this->store_scales(stage, scales);
      if (i + 1 < chunks) scales = this->load_scales(first_token, next);
      wait_copies<1>();
      sync_block();
      view.stage = stage;
      Chunk chunk[kRowTiles];
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t)
        chunk[t].load(stage + Base::kChunksAt + (row_warp * kRowTiles + t) * kChunkBytes<F>,
                      [](const uint8_t* p) { return *reinterpret_cast<const Words4*>(p); });
      multiply_chunks<F, Decoder>(constants, chunk, view, sums);
      if (slot_ends)
        this->add_slot(c % slots == 0, first_tile, first_token, view.first, row_warp, sums);
      c = next;
      sync_block();
    }
  }
};

}  // namespace hrun::gpu
