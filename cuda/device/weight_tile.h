// A tile of 16 weight rows x 256 columns in the registers of a warp, as fp16, and its inverse
// transform.
//
// mma.m16n8k16 wants its left factor as 16 fragments of 16 x 16: lane 4 g + q holds of fragment i,
// in a[i][0 .. 3], two values each of row g, row g + 8, row g, row g + 8.  H256 is a product of
// one 2 x 2 transform per bit of the column number, in any order, so four bits go to tensor cores
// and four to registers:
//
//   column = 64 q + (six bits: four of them say which fragment, two, e, which of the lane's four
//   values of a row)
//
//   over (q, e)   a[i] times the constant 16 x 16 matrix H16/4.  The results are laid out as the
//                 factor was, so they are the next left factor as they stand: 32 mma per tile.
//   over i        butterflies between registers, two weights each: 256 additions per lane.
//
// A lane thus decodes 64 consecutive weights of two rows.  The format's decoder chooses which two
// bits of the six are e: kConsecutive (e the lowest bits) or not (e the bits 1 and 2).  Activations
// are stored in the order of the result (tile_column).  The transform is not normalised: H16/4 here
// and a quarter in the scales make H256/16.
#pragma once

#include "cuda/device/thread.h"

namespace hrun::gpu {

inline constexpr int kTileRows = 16;
inline constexpr int kTileCols = 256;
inline constexpr int kFragments = kTileCols / 16;
inline constexpr int kSegment = kTileCols / 4;  // columns of a row that a lane decodes

// Number in a segment of value e of fragment i.
template <bool kConsecutive>
HRUN_HD int segment_column(int i, int e) {
  return kConsecutive ? 4 * i + e : 8 * (i >> 1) + 2 * e + (i & 1);
}
// Column of the block that stands at `position` (0 .. 255: fragment after fragment) when the
// transform is done.
template <bool kConsecutive>
HRUN_HD int tile_column(int position) {
  const int i = position / 16, n = position % 16;
  return kSegment * (n / 4) + segment_column<kConsecutive>(i, n % 4);
}

// H16/4 as the right factor of the first step, in two halves of eight columns: entry (p, n) is
// +-1/4 by the parity of the bits that n shares with 4 q + e, where p is the place of value e of
// lane q.
struct TransformFragments {
  uint32_t b[2][2];
};
HRUN_HD TransformFragments transform_fragments() {
  const int group = lane() / 4, quad = lane() % 4;
  const auto entry = [](int k, int n) {
    const int shared_bits = k & n, parity = (0x6996 >> shared_bits) & 1;
    return parity ? 0xb400u : 0x3400u;  // -1/4, 1/4
  };
  TransformFragments t;
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      const int k = 4 * quad + 2 * pair, n = 8 * half + group;
      t.b[half][pair] = entry(k, n) | entry(k + 1, n) << 16;
    }
  return t;
}

// a: integers.  scale: of row g in the low half, of row g + 8 in the high one.
HRUN_HD void transform_tile(uint32_t (&a)[kFragments][4], const TransformFragments& h,
                            uint32_t scale) {
#pragma unroll
  for (int i = 0; i < kFragments; ++i) {
    uint32_t left[2] = {}, right[2] = {};
    mma_f16_half(left, a[i], h.b[0]);
    mma_f16_half(right, a[i], h.b[1]);
    a[i][0] = left[0], a[i][1] = left[1], a[i][2] = right[0], a[i][3] = right[1];
  }
  // The first stage also multiplies by the scale: three operations for two results.
  const uint32_t scales[2] = {permute_bytes(scale, 0, 0x1010), permute_bytes(scale, 0, 0x3232)};
#pragma unroll
  for (int i = 0; i < kFragments; i += 2)
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const uint32_t s = scales[r % 2], scaled = mul_halves(a[i][r], s), other = a[i + 1][r];
      a[i][r] = fma_halves(other, s, scaled);
      a[i + 1][r] = fma_halves(other, s ^ 0x80008000u, scaled);
    }
#pragma unroll
  for (int half = 2; half < kFragments; half *= 2)
#pragma unroll
    for (int i = 0; i < kFragments; ++i)
      if ((i & half) == 0)
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const uint32_t x = a[i][r], y = a[i + half][r];
          a[i][r] = add_halves(x, y);
          a[i + half][r] = sub_halves(x, y);
        }
}

}  // namespace hrun::gpu
