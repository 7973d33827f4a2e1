// Encoding by path search: the k-bit codes of a block whose decoded values lie nearest to a target.
#pragma once

#include <cstdint>

namespace hrun {

// A sliding-window code of k-bit codes c_t: value t of a block is
//
//   z_t = values[(c_(t-1), ..., c_(t-m+1)), c_t xor c_(t-m)]                      codes before the block are 0
//
// with the middle codes of the window in the high bits of the index, c_(t-1) the lowest of them.
struct TrellisCode {
  int code_bits;       // k = 2, 3 or 4
  int memory;          // m >= 2: the search keeps 2^(k m) states
  const float* values; // [1 << (k m)] integers of at most 127 in magnitude, in units of the block's scale
  float rms;           // of the decoded values of a Gaussian block coded at its best scale
  double error;        // relative squared error of such a block
};

// `weights`: one row of `cols` finite values, a multiple of 32, in the original basis; rotated here (signed rotation).
// Writes blocks of 256 and a short tail: fp16 scale, then k bits per value, little-endian.  Minimises the squared error
// of each block; deterministic, and the same on every CPU.
void encode_trellis_row(const TrellisCode& code, const float* weights, int64_t cols, uint8_t* out);

}  // namespace hrun
