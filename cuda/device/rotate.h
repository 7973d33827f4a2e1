// The rotation of formats/rotation.h over a warp: lane l holds the columns 8 l .. 8 l + 7 of a
// block of 256.
//
// The stages 1, 2, 4 run inside a lane, the stages 8 ... 128 between lanes, in the order of the
// contract: the CPU's bits. 8 x 8 additions and 40 shuffles per lane and block.
#pragma once

#include "cuda/device/thread.h"
#include "formats/rotation.h"

namespace hrun::gpu {

inline constexpr int kPerLane = kRotationBlock / kWarp;

// Points of the transform that column `c` of a block of n columns belongs to; 0 beyond the block.
HRUN_HD int rotation_piece_at(int c, int n) {
  int first = 0;
  while (first < n) {
    const int piece = rotation_piece(n - first);
    if (c < first + piece) return piece;
    first += piece;
  }
  return 0;
}

HRUN_HD void register_stages(float (&v)[kPerLane]) {
#pragma unroll
  for (int half = 1; half < kPerLane; half *= 2)
#pragma unroll
    for (int i = 0; i < kPerLane; ++i)
      if ((i & half) == 0) {
        const float a = v[i], b = v[i + half];
        v[i] = a + b;
        v[i + half] = a - b;
      }
}

// kWhole: the block has 256 columns; else its pieces end at different stages.
template <bool kWhole>
HRUN_HD void lane_stages(float (&v)[kPerLane], int piece) {
#pragma unroll
  for (int mask = 1; mask < kWarp; mask *= 2) {
    // The upper lane gets a - b, which is b * -1 + a: rounded once either way.
    const float sign = (lane() & mask) != 0 ? -1.0f : 1.0f;
    const bool inside = kWhole || piece > mask * kPerLane;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const float other = shuffle_xor(v[i], mask);
      const float next = fused_multiply_add(v[i], sign, other);
      v[i] = inside ? next : v[i];
    }
  }
  const float scale = fwht_scale(kWhole ? kRotationBlock : piece);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) v[i] *= scale;
}

// Orthonormal, in all lanes of a warp; n: the columns of the block, a multiple of 32.
HRUN_HD void rotate_lanes(float (&v)[kPerLane], int n) {
  register_stages(v);
  if (n == kRotationBlock)
    lane_stages<true>(v, kRotationBlock);
  else
    lane_stages<false>(v, rotation_piece_at(lane() * kPerLane, n));
}

}  // namespace hrun::gpu
