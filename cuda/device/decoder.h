// The work on a decoded chunk: products, scales, sums.
#pragma once

#include "cuda/device/group_decoder.h"
#include "cuda/device/rtq_decoder.h"

namespace hrun::gpu {

// Scales of the activations per chunk.
template <class F>
inline constexpr int kScalesPerChunk = kChunkColumns / input_form_columns(F::kInputForm);

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

// An integer of less than 2^22 in magnitude, added to this, is a float's mantissa: no conversion.
inline constexpr int kIntegerMagicBits = 0x4b400000;
inline constexpr float kIntegerMagic = 12582912.0f;

// The first of the two tokens of a lane in the C fragment of eight tokens from 8 n on.
HRUN_HD int token_of(int n) { return 8 * n + 2 * (lane() % 4); }

// Where the dots of chunks begin.
template <class F>
inline constexpr int kStartOfChunk = Packed<F>::kGroup == kChunkColumns ? kIntegerMagicBits : 0;
// The dots of a chunk with these eight tokens when they begin: corrections have the start in them.
template <class F, class Tile>
HRUN_HD void start_chunk(const Tile& tile, int n, int (&dot)[4]) {
  int two[2] = {kStartOfChunk<F>, kStartOfChunk<F>};
  if constexpr (Tile::kHasCorrection) tile.corrections(two, token_of(n));
#pragma unroll
  for (int k = 0; k < 4; ++k) dot[k] = two[k % 2];
}

// Adds the products c of a group of columns with the eight tokens from 8 n on: to the chunk's dot
// or to the sums, by the scale of product s, or of its half e.
template <class F, class Decoder, class Tile>
HRUN_HD void add_group(const Decoder& decoder, const Tile& tile, int s, int e, int n,
                       const int (&c)[4], int (&dot)[4], float (&sums)[4]) {
  if constexpr (kScalesPerChunk<F> > 1) {
    float dx[2];
    tile.scales(dx, token_of(n), s);
#pragma unroll
    for (int k = 0; k < 4; ++k)
      sums[k] = fused_multiply_add(decoder.float_scale(s, k / 2) * dx[k % 2],
                                   static_cast<float>(c[k]), sums[k]);
  } else {
#pragma unroll
    for (int k = 0; k < 4; ++k) dot[k] += decoder.group_scale(s, e, k / 2) * c[k];
  }
}
// Adds a whole chunk's dot and offset of row g + 8 h to a sum, where scales are those of chunks.
template <class F, class Decoder>
HRUN_HD void add_chunk(const Decoder& decoder, int h, float dx, int dot, int offset, float& sum) {
  const float value = Packed<F>::kGroup == kChunkColumns
                          ? bits_to_float(static_cast<uint32_t>(dot)) - kIntegerMagic
                          : static_cast<float>(dot);
  sum = fused_multiply_add(decoder.scale(h) * dx, value, sum);
  if constexpr (F::kHasOffset)
    sum = fused_multiply_add(-(decoder.offset(h) * dx), static_cast<float>(offset), sum);
}

template <class Decoder, int n>
struct Decoders;
template <class Decoder>
struct Decoders<Decoder, 1> {
  Decoder at[1];
  HRUN_HD Decoders(const typename Decoder::Constants& constants,
                   const typename Decoder::Chunk (&chunk)[1])
      : at{Decoder(constants, chunk[0])} {}
};
template <class Decoder>
struct Decoders<Decoder, 2> {
  Decoder at[2];
  HRUN_HD Decoders(const typename Decoder::Constants& constants,
                   const typename Decoder::Chunk (&chunk)[2])
      : at{Decoder(constants, chunk[0]), Decoder(constants, chunk[1])} {}
};

// sums[t][n] += the products of chunk t with the eight tokens from 8 n on, in the layout of C
// fragments.
//
// Tile is a view of the activations: fragments_of_...(b, n, s), scales(two, token, group) of a
// token and the next and, if it has the correction of biased codes at hand, corrections(two,
// token). Otherwise the correction is a product of its own with fragments of one constant.  So are
// the sums of activations that offsets need: with few tokens the tensor cores have time.
template <class F, class Decoder, int kRowTiles, int kColumnTiles, class Tile>
HRUN_HD void multiply_chunks(const typename Decoder::Constants& constants,
                             const typename Decoder::Chunk (&chunk)[kRowTiles], const Tile& tile,
                             float (&sums)[kRowTiles][kColumnTiles][4]) {
  constexpr int kGroup = Packed<F>::kGroup, kParts = Decoder::kParts;
  constexpr bool kFloatGroups = kScalesPerChunk<F> > 1, kWhole = kGroup == kChunkColumns;
  constexpr bool kBiasProduct = Decoder::kBias != 0 && !Tile::kHasCorrection;
  Decoders<Decoder, kRowTiles> decoders(constants, chunk);
  const uint32_t ones = four_of(1), bias = four_of(-Decoder::kBias);

  int dot[kParts][kRowTiles][kColumnTiles][4];  // of the block
  int offsets[kRowTiles][kColumnTiles][4] = {};
#pragma unroll
  for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
    for (int t = 0; t < kRowTiles; ++t) {
      start_chunk<F>(tile, n, dot[0][t][n]);
#pragma unroll
      for (int p = 1; p < kParts; ++p)
#pragma unroll
        for (int k = 0; k < 4; ++k) dot[p][t][n][k] = 0;
    }

  // One load gives the B fragments of two products with a column tile, or those of one product with
  // two column tiles.
  constexpr bool kTwoTiles = kColumnTiles % 2 == 0;
  uint32_t b[4];
#pragma unroll
  for (int s = 0; s < 8; ++s) {
    uint32_t a[kRowTiles][kParts][4];
#pragma unroll
    for (int t = 0; t < kRowTiles; ++t) decoders.at[t].next(s, a[t]);
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
      if constexpr (kTwoTiles) {
        if (n % 2 == 0) tile.fragments_of_tiles(b, n, s);
      } else {
        if (s % 2 == 0) tile.fragments_of_products(b, n, s);
      }
      const int at = kTwoTiles ? 2 * (n % 2) : 2 * (s % 2);
      const uint32_t half[2] = {b[at], b[at + 1]};
      int sum[4] = {};
      if constexpr (F::kHasOffset) mma_s8(sum, {ones, ones, ones, ones}, half);
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t) {
        const Decoder& decoder = decoders.at[t];
        if constexpr (kWhole) {
          if constexpr (kBiasProduct) mma_s8(dot[0][t][n], {bias, bias, bias, bias}, half);
#pragma unroll
          for (int p = 0; p < kParts; ++p) mma_s8(dot[p][t][n], a[t][p], half);
        } else if constexpr (kGroup == 16) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            int c[4] = {};
            mma_s8(c, {a[t][0][2 * e], a[t][0][2 * e + 1]}, half[e]);
            add_group<F>(decoder, tile, s, e, n, c, dot[0][t][n], sums[t][n]);
          }
        } else {
          int c[4] = {};
          mma_s8(c, a[t][0], half);
          add_group<F>(decoder, tile, s, 0, n, c, dot[0][t][n], sums[t][n]);
          if constexpr (F::kHasOffset) {
#pragma unroll
            for (int k = 0; k < 4; ++k) offsets[t][n][k] += decoder.group_offset(s, k / 2) * sum[k];
          }
        }
      }
    }
  }
  if constexpr (!kFloatGroups) {
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
      float dx[2];
      tile.scales(dx, token_of(n), 0);
#pragma unroll
      for (int k = 0; k < 4; ++k)
#pragma unroll
        for (int t = 0; t < kRowTiles; ++t) {
          int all = dot[0][t][n][k];
#pragma unroll
          for (int p = 1; p < kParts; ++p) all += dot[p][t][n][k];
          add_chunk<F>(decoders.at[t], k / 2, dx[k % 2], all, offsets[t][n][k], sums[t][n][k]);
        }
    }
  }
}

}  // namespace hrun::gpu
