// Encoding by path search: the k-bit codes of a block whose decoded values lie nearest to a target.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace hrun {

// A sliding-window code of k-bit codes c_t: value t of a block is
//
//   z_t = values[window]     window = (c_(t-m), ..., c_(t-1), c_t), the newest in the lowest bits;
//   codes before the block are 0
//
// The search keeps 2^(k m) states.  It is fast where windows that share all but the oldest code
// share their values, in another order of the newest code.
//
// Codes may have free bits above the k, which value t alone depends on: they choose one of 2^free
// variants of a window's value, the nearest, and have no states.
struct TrellisCode {
  // values: [variant][1 << k (m + 1)] integers of at most 127 in magnitude, in units of the block's
  // scale; k = 2 to 5, m >= 2.
  TrellisCode(int state_bits, int memory, std::vector<float> values, float rms, double error,
              int free_bits = 0);

  int state_bits;  // k, of a code
  int memory;      // m
  int free_bits;   // of a code, above those
  std::vector<float> values;
  float rms;     // of the decoded values of a Gaussian block coded at its best scale
  double error;  // relative squared error of such a block

  // The values of a state's windows, one per newest code, are a row of `rows`,
  // [row][variant][code], with its lanes in another order: lane c is entry c xor x, and step[state]
  // = row << k | x.
  std::vector<float> rows;
  std::vector<uint16_t> step;

  int code_bits() const { return state_bits + free_bits; }
  size_t variants() const { return size_t{1} << free_bits; }
  size_t windows() const { return values.size() >> free_bits; }  // of a variant

  // Replaces the k bits of each code by all of its bits: takes the variants nearest to x[0..n).
  void choose_variants(const float* x, int n, uint8_t* codes) const;
  // The value of each code of a block, or of the beginning of one.
  void reconstruct(const uint8_t* codes, int n, float* z) const;
};

// One block of n rotated values: fp16 scale, then k bits per value.  clustered: try scales for
// values that are far from Gaussian too.
void encode_trellis_block(const TrellisCode& code, const float* rotated, int n, bool clustered,
                          uint8_t* out);

// n codes of k bits, little-endian; n k is a multiple of 8.
void pack_trellis_codes(const uint8_t* codes, int n, int code_bits, uint8_t* out);

// `weights`: one row of `cols` finite values, a multiple of 32, in the original basis; rotated here
// (signed rotation). Writes blocks of 256 and a short tail: fp16 scale, then k bits per value,
// little-endian.  Minimises the squared error of each block; deterministic, and the same on every
// CPU.
void encode_trellis_row(const TrellisCode& code, const float* weights, int64_t cols, uint8_t* out);

}  // namespace hrun
