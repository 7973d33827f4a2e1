// Activations of a block of 256 columns, on their way to B fragments.
//
// A tile in shared memory is kTokens rows of 256 bytes in the order that the weights ask for (packed.h), each row's 16-byte
// pieces exchanged by the token's number so that the eight rows of a load_matrices() are in different banks.
#pragma once

#include "cuda/device/packed.h"
#include "cuda/kernels/quantize.h"

namespace hrun::gpu {

HRUN_HD int piece_at(int token, int piece) { return token * kChunkColumns + ((piece ^ (token & 7)) << 4); }

// Words of four bytes in, words of byte 0, 1, 2 and 3 of each out.
HRUN_HD Words4 transpose_bytes(const Words4& w) {
  const uint32_t a = permute_bytes(w.v[0], w.v[1], 0x5140), b = permute_bytes(w.v[2], w.v[3], 0x5140);
  const uint32_t c = permute_bytes(w.v[0], w.v[1], 0x7362), d = permute_bytes(w.v[2], w.v[3], 0x7362);
  return {{permute_bytes(a, b, 0x5410), permute_bytes(a, b, 0x7632), permute_bytes(c, d, 0x5410), permute_bytes(c, d, 0x7632)}};
}

// One warp's share in registers: loaded early, stored when the tile is free.
template <bool kTransposed, int kTokens, int kScales>
struct ActivationTile {
  static constexpr int kPieces = kTokens * 16 / kWarp;
  static constexpr int kScaleLoads = (kTokens * kScales + kWarp - 1) / kWarp;
  static constexpr int kBytes = kTokens * (kChunkColumns + 4 * kScales);

  Words4 codes[kPieces];
  float scales[kScaleLoads];

  // x: rows from the tile's first token on, of which n_tokens exist.
  HRUN_HD void load(const QuantizedRows& x, int64_t first, int n_tokens, int64_t block) {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int token = 2 * i + lane() / 16, piece = lane() % 16;
      codes[i] = {};
      if (token >= n_tokens) continue;
      const int8_t* const row = x.codes + (first + token) * x.stride + block * kChunkColumns;
      if constexpr (kTransposed) {
        const int8_t* const part = row + 64 * (piece / 4) + 4 * (piece % 4);
#pragma unroll
        for (int j = 0; j < 4; ++j) codes[i].v[j] = *reinterpret_cast<const uint32_t*>(part + 16 * j);
      } else {
        codes[i] = *reinterpret_cast<const Words4*>(row + 16 * piece);
      }
    }
#pragma unroll
    for (int i = 0; i < kScaleLoads; ++i) {
      const int at = kWarp * i + lane(), token = at / kScales;
      const int64_t group = block * kScales + at % kScales;
      scales[i] = token < n_tokens && group < x.n_blocks ? x.scales[(first + token) * x.n_blocks + group] : 0.0f;
    }
  }

  HRUN_HD void store(uint8_t* tile, int n_tokens) const {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int token = 2 * i + lane() / 16, piece = lane() % 16;
      if (token >= n_tokens) continue;  // what is there multiplies into columns that nobody reads
      if constexpr (kTransposed) {
        const Words4 t = transpose_bytes(codes[i]);
#pragma unroll
        for (int j = 0; j < 4; ++j)
          *reinterpret_cast<uint32_t*>(tile + piece_at(token, 4 * (piece % 4) + j) + 4 * (piece / 4)) = t.v[j];
      } else {
        *reinterpret_cast<Words4*>(tile + piece_at(token, piece)) = codes[i];
      }
    }
#pragma unroll
    for (int i = 0; i < kScaleLoads; ++i) {
      const int at = kWarp * i + lane();
      if (at < kTokens * kScales) reinterpret_cast<float*>(tile + kTokens * kChunkColumns)[at] = scales[i];
    }
  }

  static HRUN_HD float scale(const uint8_t* tile, int token, int group) {
    return reinterpret_cast<const float*>(tile + kTokens * kChunkColumns)[token * kScales + group];
  }
};

// B fragments of products 2 s and 2 s + 1, s < 4, for the eight tokens from `first` on: b[0], b[1] and b[2], b[3].
HRUN_HD void load_tokens(uint32_t (&b)[4], const uint8_t* tile, int first, int s) {
  load_matrices(b, tile + piece_at(first + lane() % 8, 4 * s + lane() / 8));
}

}  // namespace hrun::gpu
