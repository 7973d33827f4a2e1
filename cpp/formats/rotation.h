// The rotation of a row: the definition, and the scalar reference.
//
// Columns are cut into blocks of 256; H is the Walsh-Hadamard matrix in natural (Sylvester) order,
// H/16 is orthonormal and its own inverse.  A block shorter than 256 (the tail of a row whose
// length is a multiple of 32) is cut into 128-, 64- and 32-point pieces, largest first, each with
// its own orthonormal transform.
//
//   z = H (s * w)        w = s * (H z)        <w, x> = <z, H (s * x)>
//
// s is a fixed sign per column index, the same for every tensor, so that matrices which share an
// input share its rotation.  Numeric contract: the butterflies run in fp32, in the stage order 1,
// 2, 4, ..., n/2, lower half a + b and upper half a - b, then one multiplication by kFwhtScale;
// every CPU tier produces these bits.
#pragma once

#include <cstdint>

#include "base/host_device.h"

namespace hrun {

inline constexpr int kRotationBlock = 256;

// Sign of column `c`: +1 or -1 from the top bit of a 64-bit mix of the index (SplitMix64's
// finaliser).
HRUN_HD float rotation_sign(int64_t c) {
  uint64_t x = static_cast<uint64_t>(c) + 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  x ^= x >> 31;
  return (x >> 63) ? -1.0f : 1.0f;
}

// Orthonormal scale 1/sqrt(n) of an n-point transform, n = 32, 64, 128 or 256.
HRUN_HD float fwht_scale(int n) {
  return n == 256   ? 0.0625f
         : n == 128 ? 0.08838834764831845f
         : n == 64  ? 0.125f
                    : 0.17677669529663687f;
}

// Largest power-of-two piece of a block with `left` columns to go.
HRUN_HD int rotation_piece(int left) {
  return left >= 256 ? 256 : left >= 128 ? 128 : left >= 64 ? 64 : 32;
}

// In place, orthonormal; n = 32, 64, 128 or 256.
HRUN_HD void fwht(float* x, int n) {
  for (int half = 1; half < n; half *= 2)
    for (int i = 0; i < n; i += 2 * half)
      for (int j = i; j < i + half; ++j) {
        const float a = x[j], b = x[j + half];
        x[j] = a + b;
        x[j + half] = a - b;
      }
  const float scale = fwht_scale(n);
  for (int i = 0; i < n; ++i) x[i] *= scale;
}

// z = H (s * w) for the block that starts at column `first` and has n columns (a multiple of 32, at
// most 256).
HRUN_HD void rotate_block(float* x, int64_t first, int n, bool with_signs) {
  if (with_signs)
    for (int i = 0; i < n; ++i) x[i] *= rotation_sign(first + i);
  for (int done = 0; done < n;) {
    const int piece = rotation_piece(n - done);
    fwht(x + done, piece);
    done += piece;
  }
}

// w = s * (H z): the inverse of rotate_block.
HRUN_HD void unrotate_block(float* x, int64_t first, int n, bool with_signs) {
  for (int done = 0; done < n;) {
    const int piece = rotation_piece(n - done);
    fwht(x + done, piece);
    done += piece;
  }
  if (with_signs)
    for (int i = 0; i < n; ++i) x[i] *= rotation_sign(first + i);
}

}  // namespace hrun
