// What is done with a decoded chunk: products, scales, sums.
#pragma once

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
using DecoderOf = typename DecoderFor<F, joined>::type;

// The same code in all four bytes.
HRUN_HD uint32_t four_of(int code) { return static_cast<uint32_t>(code & 255) * 0x01010101u; }

// sums[n] += the chunk's products with the eight tokens from 8 n on, in the layout of C fragments.
template <class F, int kColumnTiles, class Tile, class Decoder>
HRUN_HD void multiply_chunk(const typename Decoder::Constants& constants, const typename Decoder::Chunk& chunk, const uint8_t* x_tile,
                            float (&sums)[kColumnTiles][4]) {
  Decoder decoder(constants, chunk);
  constexpr int kParts = Decoder::kParts;
  int c[kParts][kColumnTiles][4] = {};
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    uint32_t b[kColumnTiles][4];
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) load_tokens(b[n], x_tile, 8 * n, pair);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      uint32_t a[kParts][4];
      decoder.next(2 * pair + i, a);
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
        const uint32_t half[2] = {b[n][2 * i], b[n][2 * i + 1]};
        if constexpr (Decoder::kBias != 0) {
          const uint32_t bias = four_of(-Decoder::kBias);
          mma_s8(c[0][n], {bias, bias, bias, bias}, half);
        }
#pragma unroll
        for (int p = 0; p < kParts; ++p) mma_s8(c[p][n], a[p], half);
      }
    }
  }
#pragma unroll
  for (int n = 0; n < kColumnTiles; ++n) {
    const int token = 8 * n + 2 * (lane() % 4);
    const float dx[2] = {Tile::scale(x_tile, token, 0), Tile::scale(x_tile, token + 1, 0)};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int dot = c[0][n][i];
#pragma unroll
      for (int p = 1; p < kParts; ++p) dot += c[p][n][i];
      sums[n][i] = fused_multiply_add(decoder.scale(i / 2) * dx[i % 2], static_cast<float>(dot), sums[n][i]);
    }
  }
}

}  // namespace hrun::gpu
