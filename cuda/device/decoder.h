// What is done with a decoded chunk: products, scales, sums.
#pragma once

#include "cuda/device/group_decoder.h"
#include "cuda/device/rtq_decoder.h"

namespace hrun::gpu {

// Scales of the activations per chunk.
template <class F>
inline constexpr int kScalesPerChunk = kChunkColumns / activation_columns(F::kActivation);

template <class F, bool joined>
struct DecoderFor;
template <RtqFormat F, bool joined>
struct DecoderFor<F, joined> {
  using type = RtqDecoder<F, joined>;
};
template <class F, bool joined>
  requires requires { Packed<F>::kScales; }
struct DecoderFor<F, joined> {
  using type = GroupDecoder<F>;
};
template <class F, bool joined>
using DecoderOf = typename DecoderFor<F, joined>::type;

// The same code in all four bytes.
HRUN_HD uint32_t four_of(int code) { return static_cast<uint32_t>(code & 255) * 0x01010101u; }

// sums[n] += the chunk's products with the eight tokens from 8 n on, in the layout of C fragments.
//
// Corrections for biased codes and the sums of activations that offsets need are products of their own, with fragments of
// one constant: where this is used, the tensor cores have time.
template <class F, int kColumnTiles, class Tile, class Decoder>
HRUN_HD void multiply_chunk(const typename Decoder::Constants& constants, const typename Decoder::Chunk& chunk, const uint8_t* x_tile,
                            float (&sums)[kColumnTiles][4]) {
  constexpr int kGroup = Packed<F>::kGroup, kParts = Decoder::kParts;
  constexpr bool kFloatGroups = kScalesPerChunk<F> > 1;
  Decoder decoder(constants, chunk);
  const uint32_t ones = four_of(1), bias = four_of(-Decoder::kBias);
  int dot[kParts][kColumnTiles][4] = {};  // of the block
  int offsets[kColumnTiles][4] = {};
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    uint32_t b[kColumnTiles][4];
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) load_tokens(b[n], x_tile, 8 * n, pair);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int s = 2 * pair + i;
      uint32_t a[kParts][4];
      decoder.next(s, a);
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
        const uint32_t half[2] = {b[n][2 * i], b[n][2 * i + 1]};
        if constexpr (kGroup == kChunkColumns) {
          if constexpr (Decoder::kBias != 0) mma_s8(dot[0][n], {bias, bias, bias, bias}, half);
#pragma unroll
          for (int p = 0; p < kParts; ++p) mma_s8(dot[p][n], a[p], half);
        } else if constexpr (kGroup == 16) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            int c[4] = {};
            mma_s8(c, {bias, bias}, half[e]);
            mma_s8(c, {a[0][2 * e], a[0][2 * e + 1]}, half[e]);
#pragma unroll
            for (int k = 0; k < 4; ++k) dot[0][n][k] += decoder.group_scale(s, e, k / 2) * c[k];
          }
        } else {
          int c[4] = {};
          if constexpr (Decoder::kBias != 0) mma_s8(c, {bias, bias, bias, bias}, half);
          mma_s8(c, a[0], half);
          const int token = 8 * n + 2 * (lane() % 4);
#pragma unroll
          for (int k = 0; k < 4; ++k)
            if constexpr (kFloatGroups)
              sums[n][k] = fused_multiply_add(decoder.float_scale(s, k / 2) * Tile::scale(x_tile, token + k % 2, s), static_cast<float>(c[k]), sums[n][k]);
            else
              dot[0][n][k] += decoder.group_scale(s, 0, k / 2) * c[k];
          if constexpr (F::kHasOffset) {
            int sum[4] = {};
            mma_s8(sum, {ones, ones, ones, ones}, half);
#pragma unroll
            for (int k = 0; k < 4; ++k) offsets[n][k] += decoder.group_offset(s, k / 2) * sum[k];
          }
        }
      }
    }
  }
  if constexpr (!kFloatGroups) {
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
      const int token = 8 * n + 2 * (lane() % 4);
      const float dx[2] = {Tile::scale(x_tile, token, 0), Tile::scale(x_tile, token + 1, 0)};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        int all = dot[0][n][k];
#pragma unroll
        for (int p = 1; p < kParts; ++p) all += dot[p][n][k];
        sums[n][k] = fused_multiply_add(decoder.scale(k / 2) * dx[k % 2], static_cast<float>(all), sums[n][k]);
        if constexpr (F::kHasOffset)
          sums[n][k] = fused_multiply_add(-(decoder.offset(k / 2) * dx[k % 2]), static_cast<float>(offsets[n][k]), sums[n][k]);
      }
    }
  }
}

}  // namespace hrun::gpu
