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

#include "cuda/device/activations.h"
#include "cuda/device/decoder.h"
#include "cuda/kernels/matmul.h"

namespace hrun::gpu {

template <class F, bool kSliced = false>
struct MatmulTile {
  // Warps: kRowWarps x kTokenWarps, each with kRowTiles row tiles and kColumnTiles times eight
  // tokens.  Formats whose scales need sums of their own, or whose chunks are large, have smaller
  // tiles: registers and 99 KiB of shared memory.
  static constexpr bool kWhole = Packed<F>::kGroup == kChunkColumns;
  static constexpr int kRowWarps = 4, kTokenWarps = 2;
  static constexpr int kRowTiles = kWhole ? 2 : 1;
  static constexpr int kColumnTiles =
      Packed<F>::kGroup == 16 && Packed<F>::kLoads == 4                  ? 2
      : Packed<F>::kLoads > 4 || F::kHasOffset || kScalesPerChunk<F> > 1 ? 4
                                                                         : 8;
  static constexpr int kTiles = kRowWarps * kRowTiles, kRows = kTiles * kTileRows,
                       kTokens = kTokenWarps * kColumnTiles * 8;
  static constexpr int kThreads = kRowWarps * kTokenWarps * kWarp, kBlocks = 1;
  static constexpr const char* kName = kSliced ? "matmul_tile, slices" : "matmul_tile";

  using Decoder = DecoderOf<F, true>;
  using Chunk = typename Decoder::Chunk;
  static constexpr int kScales = kScalesPerChunk<F>;
  static constexpr bool kHasBias = Decoder::kBias != 0;

  // A stage.
  static constexpr int kTokensAt = kTiles * kChunkBytes<F>;
  static constexpr int kScalesAt = kTokensAt + kTokens * kChunkColumns;
  static constexpr int kCorrectionsAt = kScalesAt + kTokens * kScales * 4;
  static constexpr int kStageBytes =
      (kCorrectionsAt + (kHasBias ? kTokens * 4 : 0) + 127) / 128 * 128;
  static constexpr int kOwnAt = 2 * kStageBytes;
  static constexpr size_t kSharedBytes = kOwnAt + (kSliced ? 32 : 0);
  static_assert(kSharedBytes <= 99 * 1024, "what a block of threads may have on every device");

  static constexpr int kScaleLoads = (kTokens * kScales + kThreads - 1) / kThreads;

  // The pieces of 16 bytes of a token's row are exchanged by its number, so that eight rows are in
  // different banks.
  static HRUN_HD int piece_at(int token, int piece) {
    return token * kChunkColumns + ((piece ^ (token & 7)) << 4);
  }

  struct View {
    static constexpr bool kHasCorrection = kHasBias;
    const uint8_t* stage;
    int first;      // token of the warp
    int row, swap;  // of the lane in sixteen tokens: its bytes, and its first piece exchanged

    HRUN_HD float scale(int token, int group) const {
      return reinterpret_cast<const float*>(stage + kScalesAt)[(first + token) * kScales + group];
    }
    HRUN_HD int correction(int token) const {
      return reinterpret_cast<const int*>(stage + kCorrectionsAt)[first + token];
    }
    HRUN_HD void fragments_of_tiles(uint32_t (&b)[4], int n, int s) const {
      load_matrices(b, stage + kTokensAt + row + n * 8 * kChunkColumns + (swap ^ (s << 5)));
    }
  };

  const uint8_t* weights;
  int64_t rows;
  int chunks;
  QuantizedRows x;
  float* y;
  int64_t y_stride;
  // Where sliced: a z of the grid is a piece of at most kManyRows rows, a y of it kTokens of them.
  SlicePieces pieces;
  size_t slice_bytes;
  int64_t slice_y;

  // The matrix of this block, the rows of its input and the place of its results.  They lie in
  // shared memory where sliced: registers are needed for sums.
  struct Own {
    const uint8_t* weights;
    float* y;
    int64_t input_row;
    int64_t n_tokens;
  };
  static_assert(sizeof(Own) == 32);
  HRUN_HD Own own() const {
    if constexpr (kSliced)
      return *reinterpret_cast<const Own*>(shared() + kOwnAt);
    else
      return {weights, y, 0, x.n_tokens};
  }
  // Returns false where the block has nothing to do.
  HRUN_HD bool find_own() const {
    const SlicePiece piece = pieces.at(block_z(), kManyRows);
    if (piece.n <= block_y() * kTokens) return false;
    if (thread() == 0)
      *reinterpret_cast<Own*>(shared() + kOwnAt) = {
          weights + static_cast<size_t>(piece.slice) * slice_bytes,
          y + piece.slice * slice_y + piece.row * y_stride, piece.input_row, piece.n};
    sync_block();
    return true;
  }

  // A thread's scales of the next chunk.
  struct Scales {
    float scale[kScaleLoads];
    int correction;
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
          stage + 16 * i,
          mine.weights + ((inside ? first_tile + t : 0) * chunks + c) * kChunkBytes<F> + 16 * piece,
          inside);
    }
#pragma unroll
    for (int i = 0; i < kTokens * 16 / kThreads; ++i) {
      const int token = kThreads / 16 * i + me / 16, piece = me % 16;
      const bool inside = first_token + token < mine.n_tokens;
      copy_async(stage + kTokensAt + piece_at(token, piece),
                 ordered_codes<Packed<F>::kTransposed>(x) +
                     (mine.input_row + (inside ? first_token + token : 0)) * x.stride +
                     static_cast<int64_t>(c) * kChunkColumns + 16 * piece,
                 inside);
    }
  }

  HRUN_HD Scales load_scales(int64_t first_token, int c) const {
    Scales s{};
    const Own mine = own();
#pragma unroll
    for (int i = 0; i < kScaleLoads; ++i) {
      const int at = kThreads * i + thread(), token = at / kScales;
      const int64_t group = static_cast<int64_t>(c) * kScales + at % kScales;
      const bool inside =
          token < kTokens && first_token + token < mine.n_tokens && group < x.n_blocks;
      s.scale[i] =
          inside ? x.scales[(mine.input_row + first_token + token) * x.n_blocks + group] : 0.0f;
    }
    if constexpr (kHasBias) {
      s.correction = 0;
      if (thread() < kTokens && first_token + thread() < mine.n_tokens) {  // 16 sums of 16
        const int64_t row = mine.input_row + first_token + thread();
        const auto* const words = reinterpret_cast<const Words4*>(
            x.sums + (row * x.stride + static_cast<int64_t>(c) * kChunkColumns) / kGroup);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const uint32_t two = words[i / 4].v[i % 4];
          s.correction -=
              Decoder::kBias * (static_cast<int16_t>(two) + static_cast<int16_t>(two >> 16));
        }
      }
    }
    return s;
  }
  HRUN_HD void store_scales(uint8_t* stage, const Scales& s) const {
#pragma unroll
    for (int i = 0; i < kScaleLoads; ++i) {
      const int at = kThreads * i + thread();
      if (at < kTokens * kScales) reinterpret_cast<float*>(stage + kScalesAt)[at] = s.scale[i];
    }
    if constexpr (kHasBias)
      if (thread() < kTokens)
        reinterpret_cast<int*>(stage + kCorrectionsAt)[thread()] = s.correction;
  }

  HRUN_HD void operator()() const {
    if constexpr (kSliced)
      if (!find_own()) return;
    const int64_t first_tile = static_cast<int64_t>(block_x()) * kTiles,
                  first_token = static_cast<int64_t>(block_y()) * kTokens;
    const int row_warp = warp() % kRowWarps, token_warp = warp() / kRowWarps;
    const typename Decoder::Constants constants;
    float sums[kRowTiles][kColumnTiles][4] = {};

    const int slots = sum_slots(chunks);
    int c = 0;
    copy(shared(), first_tile, first_token, 0);
    commit_copies();
    Scales scales = load_scales(first_token, 0);
    View view{nullptr, token_warp * kColumnTiles * 8, 0, 0};
    view.row = (view.first + lane() % 8 + lane() / 16 * 8) * kChunkColumns;
    view.swap = ((lane() / 8 % 2) ^ (lane() % 8)) << 4;
    for (int i = 0; i < chunks; ++i) {
      uint8_t* const stage = shared() + (i % 2) * kStageBytes;
      const bool slot_ends = c + slots >= chunks;
      const int next = slot_ends ? c % slots + 1 : c + slots;
      if (i + 1 < chunks)
        copy(shared() + ((i + 1) % 2) * kStageBytes, first_tile, first_token, next);
      commit_copies();
      store_scales(stage, scales);
      if (i + 1 < chunks) scales = load_scales(first_token, next);
      wait_copies<1>();
      sync_block();
      view.stage = stage;
      Chunk chunk[kRowTiles];
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t)
        chunk[t].load(stage + (row_warp * kRowTiles + t) * kChunkBytes<F>,
                      [](const uint8_t* p) { return *reinterpret_cast<const Words4*>(p); });
      multiply_chunks<F, Decoder>(constants, chunk, view, sums);
      if (slot_ends) add_slot(c % slots == 0, first_tile, first_token, view.first, row_warp, sums);
      c = next;
      sync_block();
    }
  }

  // Makes y, or zero before the first slot, plus the sums of a slot, which become zero.  An element
  // of y belongs to one thread.
  HRUN_HD void add_slot(bool first_slot, int64_t first_tile, int64_t first_token, int first,
                        int row_warp, float (&sums)[kRowTiles][kColumnTiles][4]) const {
    const int me = opaque(lane());  // as in copy()
    const int64_t rows_before = (first_tile + row_warp * kRowTiles) * kTileRows,
                  tokens_before = first_token + first;
    const int64_t row = rows_before + me / 4, token = tokens_before + 2 * (me % 4);
    const bool whole = rows_before + kRowTiles * kTileRows <= rows &&
                       tokens_before + 8 * kColumnTiles <= own().n_tokens;
    const auto all = [](int, int) { return true; };
    const int64_t end = own().n_tokens;
    const auto inside = [&](int r, int t) { return row + r < rows && token + t < end; };
    // A condition for each element would cost more than the element.
    if (!whole)
      add_sums(row, token, inside, [&](float at) { return first_slot ? 0.0f : at; }, sums);
    else if (first_slot)
      add_sums(row, token, all, [](float) { return 0.0f; }, sums);
    else
      add_sums(row, token, all, [](float at) { return at; }, sums);
  }
  // Takes the elements that a lane has from (row, token) on, and of those the ones that are
  // inside(row, token).  before(y) is the value to which their sums are added.
  template <class Inside, class Before>
  HRUN_HD void add_sums(int64_t row, int64_t token, const Inside& inside, const Before& before,
                        float (&sums)[kRowTiles][kColumnTiles][4]) const {
    float* const place = own().y + token * y_stride + row;
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        const int t = 8 * n + odd;
        float* const at = place + t * y_stride;
#pragma unroll
        for (int r = 0; r < kRowTiles * kTileRows; r += 8) {
          float& sum = sums[r / kTileRows][n][r % kTileRows / 8 * 2 + odd];
          if (inside(r, t)) at[r] = before(at[r]) + sum;
          sum = 0;
        }
      }
  }
};

template <class F, bool kSliced = false>
void launch_tile(Gpu& gpu, const PackedProduct& part, const QuantizedRows& x,
                 const SliceTask& task = {}) {
  using Kernel = MatmulTile<F, kSliced>;
  Kernel k{};
  k.weights = part.w.data;
  k.rows = part.w.rows;
  k.chunks = static_cast<int>(n_chunks<F>(part.w.cols));
  k.x = x;
  k.y = part.y.data;
  k.y_stride = part.y.stride;
  const auto row_blocks = static_cast<int>((k.rows + Kernel::kRows - 1) / Kernel::kRows);
  Grid grid{row_blocks, static_cast<int>((x.n_tokens + Kernel::kTokens - 1) / Kernel::kTokens)};
  if constexpr (kSliced) {
    k.pieces = many_pieces(task);
    k.slice_bytes = part.slice_bytes;
    k.slice_y = part.slice_y;
    grid = {row_blocks, (kManyRows + Kernel::kTokens - 1) / Kernel::kTokens,
            n_pieces(k.pieces, task.n_many_runs, kManyRows)};
  }
  gpu.launch(k, grid, Kernel::kSharedBytes);
}

}  // namespace hrun::gpu
