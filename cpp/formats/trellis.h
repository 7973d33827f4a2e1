// Encoding by path search: the k-bit codes of a block whose decoded values lie nearest to a target.
#pragma once

#include <cstdint>

namespace hrun {

// A sliding-window code: value t of a block depends on the last window_bits bits of its code stream, in which code t is
// the newest and the codes before the block are 0.
struct TrellisCode {
  int code_bits;       // k = 2, 3 or 4
  int window_bits;     // the newest code is in the lowest k bits of a window
  const float* values; // [1 << window_bits], 32-byte aligned, in units of the block's scale
  float rms;           // of the decoded values of a Gaussian source coded at the best scale
};

// `weights`: one row of `cols` finite values, a multiple of 32, in the original basis; rotated here (signed rotation).
// Writes blocks of 256 and a short tail: fp16 scale, then k bits per value, little-endian.  Minimises the squared error
// of each block; deterministic, and the same on every CPU.
void encode_trellis_row(const TrellisCode& code, const float* weights, int64_t cols, uint8_t* out);

}  // namespace hrun
