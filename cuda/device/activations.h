// Activations of a block of 256 columns, on their way to B fragments.
//
// A tile in shared memory is rows of 256 bytes in the order that the weights ask for (packed.h),
// 272 bytes apart so that the eight rows of a load_matrices() are in different banks.
#pragma once

#include "cuda/device/packed.h"
#include "cuda/kernels/quantize.h"

namespace hrun::gpu {

inline constexpr int kTilePitch = kChunkColumns + 16;

// The codes of x in the order that the weights ask for.
template <bool kTransposed>
HRUN_HD const int8_t* ordered_codes(const QuantizedRows& x) {
  return kTransposed ? x.transposed : x.codes;
}

// One warp's share in registers: loaded early, stored when the tile is free.  Lane l has piece l %
// 16 of every other token.
template <bool kTransposed, int kTokens, int kScales>
struct ActivationTile {
  static constexpr int kPieces = kTokens * 16 / kWarp;
  static constexpr int kScaleLoads = (kTokens * kScales + kWarp - 1) / kWarp;
  static constexpr int kScalesAt = kTokens * kTilePitch;
  static constexpr int kBytes = kScalesAt + kTokens * 4 * kScales;

  Words4 codes[kPieces];
  float scales[kScaleLoads];
  const int8_t* row;
  const float* row_scales;
  int64_t pitch;  // of two tokens
  int n_scales, n_tokens;
  int to;  // of the lane's first piece in the tile

  // Tokens `first` ... first + tokens - 1 of x.
  HRUN_HD ActivationTile(const QuantizedRows& x, int64_t first, int tokens)
      : pitch(2 * x.stride), n_scales(static_cast<int>(x.n_blocks)), n_tokens(tokens) {
    const int odd = lane() / 16, piece = lane() % 16;
    row = ordered_codes<kTransposed>(x) + (first + odd) * x.stride + 16 * piece;
    row_scales = x.scales + (first + lane() / kScales) * x.n_blocks + lane() % kScales;
    to = odd * kTilePitch + 16 * piece;
  }

  HRUN_HD void load(int block) {
    const int8_t* from = row + static_cast<int64_t>(block) * kChunkColumns;
#pragma unroll
    for (int i = 0; i < kPieces; ++i, from += pitch) {
      if (2 * i >= n_tokens) break;
      codes[i] = {};
      if (2 * i + lane() / 16 < n_tokens) codes[i] = *reinterpret_cast<const Words4*>(from);
    }
#pragma unroll
    for (int i = 0; i < kScaleLoads; ++i) {
      const int token = kWarp / kScales * i + lane() / kScales;
      const bool inside = kScales == 1 || block * kScales + lane() % kScales < n_scales;
      scales[i] =
          token < n_tokens && inside
              ? row_scales[static_cast<int64_t>(kWarp / kScales * i) * n_scales + block * kScales]
              : 0.0f;
    }
  }

  // Rows of tokens that do not exist keep the data that is there: it multiplies into columns that
  // are never read.
  HRUN_HD void store(uint8_t* tile) const {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      if (2 * i >= n_tokens) break;
      *reinterpret_cast<Words4*>(tile + to + 2 * i * kTilePitch) = codes[i];
    }
#pragma unroll
    for (int i = 0; i < kScaleLoads; ++i) {
      const int at = kWarp * i + lane();
      if (at < kTokens * kScales) reinterpret_cast<float*>(tile + kScalesAt)[at] = scales[i];
    }
  }

  // The view of a stored tile that multiply_chunks() uses.
  struct View {
    static constexpr bool kHasCorrection = false;
    const uint8_t* tile;
    HRUN_HD void scales(float (&two)[2], int token, int group) const {
      const auto* const from = reinterpret_cast<const float*>(tile + kScalesAt);
      two[0] = from[token * kScales + group], two[1] = from[(token + 1) * kScales + group];
    }
    // B fragments of products s and s + 1 with the tokens from 8 n on: b[0], b[1] and b[2], b[3].
    HRUN_HD void fragments_of_products(uint32_t (&b)[4], int n, int s) const {
      load_matrices(b, tile + (8 * n + lane() % 8) * kTilePitch + 16 * (2 * s + lane() / 8));
    }
    // B fragments of product s, with the tokens from 8 n on and with those from 8 n + 8 on.
    HRUN_HD void fragments_of_tiles(uint32_t (&b)[4], int n, int s) const {
      load_matrices(b, tile + (8 * n + lane() % 8 + lane() / 16 * 8) * kTilePitch +
                           16 * (2 * s + lane() / 8 % 2));
    }
  };
};

}  // namespace hrun::gpu
