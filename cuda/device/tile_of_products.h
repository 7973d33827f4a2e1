// What the kernels for many tokens have in common (matmul_tile.h, matmul_warpgroups.h): a block of
// threads multiplies a tile of rows with a tile of tokens, 256 columns at a time.
//
// Chunks are summed in the order of matmul_stream.h: slot after slot, each from zero and added to y
// when it ends.
#pragma once

#include "cuda/device/activations.h"
#include "cuda/device/decoder.h"
#include "cuda/kernels/matmul.h"

namespace hrun::gpu {

// kWarpgroups: the shape for products of warpgroups.  Eight warps have 16 rows each and all tokens
// of the block, so that each chunk is decoded once.  Else warps are kRowWarps x kTokenWarps, each
// with kRowTiles row tiles and kColumnTiles times eight tokens; formats whose scales need sums of
// their own, or whose chunks are large, have smaller tiles: registers and 99 KiB of shared memory.
template <class F, bool kSliced, bool kWarpgroups>
struct TileOfProducts {
  static constexpr bool kWhole = Packed<F>::kGroup == kChunkColumns;
  static constexpr bool kIntegerGroups = !kWhole && kScalesPerChunk<F> == 1;
  static constexpr int kRowWarps = kWarpgroups ? 8 : 4, kTokenWarps = kWarpgroups ? 1 : 2;
  static constexpr int kRowTiles = kWhole && !kWarpgroups ? 2 : 1;
  static constexpr int kColumnTiles =
      kWarpgroups
          ? (kWhole || (kIntegerGroups && Packed<F>::kGroup == 32 && !F::kHasOffset) ? 16 : 8)
      : Packed<F>::kGroup == 16 && Packed<F>::kLoads == 4                ? 2
      : Packed<F>::kLoads > 4 || F::kHasOffset || kScalesPerChunk<F> > 1 ? 4
                                                                         : 8;
  static constexpr int kTiles = kRowWarps * kRowTiles, kRows = kTiles * kTileRows,
                       kTokens = kTokenWarps * kColumnTiles * 8;
  static constexpr int kThreads = kRowWarps * kTokenWarps * kWarp, kBlocks = 1;

  // Of a multiprocessor for 256 columns of 128 rows and 128 tokens, about.
  static constexpr int kCycles = kWarpgroups ? kWhole             ? 1500
                                               : kColumnTiles > 8 ? 2200
                                                                  : 4000
                                 : kWhole    ? 2200
                                             : 4400;

  using Decoder = DecoderOf<F, true>;
  using Chunk = typename Decoder::Chunk;
  static constexpr int kScales = kScalesPerChunk<F>;
  static constexpr bool kHasBias = Decoder::kBias != 0,
                        kHasGroupSums = kWarpgroups && F::kHasOffset;

  // A stage: 256 columns of the tokens, chunks, scales [group][token], corrections, sums of groups.
  static constexpr int kChunksAt = kTokens * kChunkColumns;
  static constexpr int kScalesAt = kChunksAt + kTiles * kChunkBytes<F>;
  static constexpr int kCorrectionsAt = kScalesAt + kTokens * kScales * 4;
  static constexpr int kGroupSumsAt = kCorrectionsAt + (kHasBias ? kTokens * 4 : 0);
  static constexpr int kStageEnd = kGroupSumsAt + (kHasGroupSums ? kTokens * 16 : 0);
  static constexpr int kAlignment = kWarpgroups ? 1024 : 128;
  static constexpr int kStageBytes = (kStageEnd + kAlignment - 1) / kAlignment * kAlignment;
  static constexpr int kStages = kWarpgroups ? 3 : 2;
  static constexpr int kOwnAt = kStages * kStageBytes;

  static constexpr int kScaleLoads = (kTokens * kScales + kThreads - 1) / kThreads;

  // Of a stage, from token `first` on.
  struct StageView {
    static constexpr bool kHasCorrection = kHasBias;
    const uint8_t* stage;
    int first;

    HRUN_HD Words2 two_words(int at, int index) const {
      return *reinterpret_cast<const Words2*>(stage + at + 4 * index);
    }
    HRUN_HD void scales(float (&two)[2], int token, int group) const {
      const Words2 words = two_words(kScalesAt, group * kTokens + first + token);
      two[0] = bits_to_float(words.v[0]), two[1] = bits_to_float(words.v[1]);
    }
    HRUN_HD void corrections(int (&two)[2], int token) const {
      const Words2 words = two_words(kCorrectionsAt, first + token);
      two[0] = static_cast<int>(words.v[0]), two[1] = static_cast<int>(words.v[1]);
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
    Words4 group_sums;
  };

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
    if constexpr (kHasBias || kHasGroupSums) {
      s.correction = kStartOfChunk<F>;
      if (thread() < kTokens && first_token + thread() < mine.n_tokens) {  // 16 sums of 16
        const int64_t row = mine.input_row + first_token + thread();
        const auto* const words = reinterpret_cast<const Words4*>(
            x.sums + (row * x.stride + static_cast<int64_t>(c) * kChunkColumns) / kGroup);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const uint32_t two = words[i / 4].v[i % 4];
          const int sum = static_cast<int16_t>(two) + static_cast<int16_t>(two >> 16);
          s.correction -= Decoder::kBias * sum;
          s.group_sums.v[i / 2] |= (static_cast<uint32_t>(sum) & 0xffffu) << (16 * (i % 2));
        }
      }
    }
    return s;
  }
  HRUN_HD void store_scales(uint8_t* stage, const Scales& s) const {
#pragma unroll
    for (int i = 0; i < kScaleLoads; ++i) {
      const int at = kThreads * i + thread();
      if (at < kTokens * kScales)
        reinterpret_cast<float*>(stage + kScalesAt)[at % kScales * kTokens + at / kScales] =
            s.scale[i];
    }
    if (thread() >= kTokens) return;
    if constexpr (kHasBias) reinterpret_cast<int*>(stage + kCorrectionsAt)[thread()] = s.correction;
    if constexpr (kHasGroupSums)
      *reinterpret_cast<Words4*>(stage + kGroupSumsAt + 16 * thread()) = s.group_sums;
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

// Kernel: one for the format F that is made of a TileOfProducts.
template <class F, class Kernel, bool kSliced = false>
void launch_tile(Gpu& gpu, const PackedProduct& part, const QuantizedRows& x,
                 const SliceTask& task = {}) {
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
