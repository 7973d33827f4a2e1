// The work on a decoded chunk by products of a warpgroup: each of its warps has a chunk of the same
// columns.
#pragma once

#include "cuda/device/decoder.h"
#include "cuda/device/warpgroup.h"

namespace hrun::gpu {

// sums[n] += the products of the warp's chunk with the eight tokens from 8 n on.
//
// Tile is a view of the activations as multiply_chunks() has it, with columns(s) of product s and,
// where offsets need them, sums_of_groups(token).
//
// Fragments of a product are decoded while those before are under way.  Whatever has one scale per
// chunk is one chain of eight products.  Else the sums of each are scaled when it is done, while
// the other warpgroup has the tensor cores.
template <class F, class Decoder, int kColumnTiles, class Tile>
HRUN_HD void multiply_by_warpgroup(const typename Decoder::Constants& constants,
                                   const typename Decoder::Chunk& chunk, const Tile& tile,
                                   float (&sums)[kColumnTiles][4]) {
  constexpr int kGroup = Packed<F>::kGroup;
  constexpr bool kWhole = kGroup == kChunkColumns;
  static_assert(Decoder::kParts == 1 && (Decoder::kBias == 0 || Tile::kHasCorrection));
  Decoder decoder(constants, chunk);
  int dot[kColumnTiles][4];
#pragma unroll
  for (int n = 0; n < kColumnTiles; ++n) start_chunk<F>(tile, n, dot[n]);

  if constexpr (kWhole) {
    constexpr int kUnderWay = 2;
    uint32_t a[kUnderWay][1][4];
#pragma unroll
    for (int s = 0; s < 8; ++s) {
      if (s >= kUnderWay) wait_products<kUnderWay - 1>(dot);
      decoder.next(s, a[s % kUnderWay]);
      begin_products(dot, a[s % kUnderWay][0]);
      multiply_s8<true>(dot, a[s % kUnderWay][0], tile.columns(s));
      commit_products();
    }
    wait_products<0>(dot);
  } else {
    constexpr int kHalves = kGroup == 16 ? 2 : 1;
    int c[kHalves][kColumnTiles][4] = {};
    uint32_t a[2][1][4];
    decoder.next(0, a[0]);
#pragma unroll
    for (int s = 0; s < 8; ++s) {
      uint32_t(&now)[4] = a[s % 2][0];
      if constexpr (kHalves == 1) {
        begin_products(c[0], now);
        multiply_s8<false>(c[0], now, tile.columns(s));
        commit_products();
        if (s < 7) decoder.next(s + 1, a[(s + 1) % 2]);
        wait_products<0>(c[0]);
      } else {
        uint32_t halves[2][4] = {{now[0], now[1], 0, 0}, {0, 0, now[2], now[3]}};
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          begin_products(c[e], halves[e]);
          multiply_s8<false>(c[e], halves[e], tile.columns(s));
        }
        commit_products();
        if (s < 7) decoder.next(s + 1, a[(s + 1) % 2]);
#pragma unroll
        for (int e = 0; e < 2; ++e) wait_products<0>(c[e]);
      }
#pragma unroll
      for (int e = 0; e < kHalves; ++e)
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n)
          add_group<F>(decoder, tile, s, e, n, c[e][n], dot[n], sums[n]);
    }
  }

  if constexpr (kScalesPerChunk<F> == 1) {
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
      float dx[2];
      tile.scales(dx, token_of(n), 0);
      int offsets[4] = {};
      if constexpr (F::kHasOffset) {
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          const Words4 of_groups = tile.sums_of_groups(token_of(n) + odd);
          offsets[odd] = decoder.dot_of_offsets(of_groups, 0);
          offsets[2 + odd] = decoder.dot_of_offsets(of_groups, 1);
        }
      }
#pragma unroll
      for (int k = 0; k < 4; ++k)
        add_chunk<F>(decoder, k / 2, dx[k % 2], dot[n][k], offsets[k], sums[n][k]);
    }
  }
}

}  // namespace hrun::gpu
