// RTQ: rotated trellis codes, hrun's own formats of k bits per weight.
//
// A block of 256 rotated weights (rotation.h, signs on) is an fp16 scale d and 256 codes c_t of k bits, code t at bits
// kt .. kt+k-1 of a little-endian bit stream.  Weight t is d * z_t with the int8 sum of small tables
//
//   z_t = T_0[c_t] + T_1[c_(t-1)] + ... + T_(m-1)[c_(t-m+1)]          codes before the block are 0
//
// so decoding is random access and costs one byte shuffle per table.  A tail of n columns (a multiple of 32) is one
// short block of 2 + k n / 8 bytes with one scale and one code path; only its rotation is done in pieces.
//
// The tables were trained for N(0,1) by tools/experiments/train_rtq.py.  They are the format: files depend on them, and
// kVersion, stored in each file, changes with them.
#pragma once

#include "formats/format.h"
#include "formats/trellis.h"

namespace hrun {

// The tables of k bits per weight, in 8-bit integers; kRms is the rms of z over a well coded Gaussian block.
template <int k>
struct RtqTables;

template <>
struct RtqTables<3> {
  static constexpr int kCount = 3;
  static constexpr float kRms = 38.0f;
  static HRUN_HD int entry(int table, int code) {
    static constexpr int8_t kTables[kCount][8] = {
        {36, -36, -2, -57, 17, -17, 14, 60},
        {-9, -10, 12, 13, -22, 3, 17, -8},
        {17, -10, 3, 20, -44, -26, 39, -13},
    };
    return kTables[table][code];
  }
};

template <int k, uint32_t kNumber>
struct Rtq {
  static constexpr FormatId kId = kOwnFormats + kNumber;
  static constexpr int kVersion = 1;
  static constexpr int kBlockValues = 256;
  static constexpr size_t kBlockBytes = 2 + 32 * k;
  static constexpr Activation kActivation = Activation::kRotatedSigned;
  static constexpr bool kHasOffset = false;

  using Tables = RtqTables<k>;
  static constexpr int kCodeBits = k;
  static constexpr int kWindowBits = k * Tables::kCount;  // bits of the stream that a weight depends on

  static constexpr bool row_ok(int64_t cols) { return cols > 0 && cols % 32 == 0; }
  static constexpr size_t row_bytes(int64_t cols) {
    const size_t tail = static_cast<size_t>(cols % kBlockValues);
    return static_cast<size_t>(cols / kBlockValues) * kBlockBytes + (tail != 0 ? 2 + tail * k / 8 : 0);
  }

  // The value of a window of codes, the newest in the lowest k bits.
  static HRUN_HD int value(uint32_t window) {
    int z = 0;
    for (int i = 0; i < Tables::kCount; ++i) z += Tables::entry(i, static_cast<int>(window >> (k * i)) & ((1 << k) - 1));
    return z;
  }

  // Code t of the block's stream `codes`.
  static HRUN_HD uint32_t code_at(const uint8_t* codes, int t) {
    const int bit = k * t, byte = bit / 8, shift = bit % 8;
    uint32_t bits = codes[byte];
    if (shift + k > 8) bits |= static_cast<uint32_t>(codes[byte + 1]) << 8;
    return (bits >> shift) & ((1u << k) - 1);
  }

  static HRUN_HD void unpack(const uint8_t* block, int n, IntBlock& out) {
    out.scale = load_fp16(block);
    uint32_t window = 0;
    for (int t = 0; t < n; ++t) {
      window = ((window << k) | code_at(block + 2, t)) & ((1u << kWindowBits) - 1);
      out.codes[t] = static_cast<int8_t>(value(window));
    }
    for (int g = 0; g < n / kGroup; ++g) out.group_scale[g] = 1;
  }

  // importance is not used: every weight of a block counts alike.
  static void encode_row(const float* w, const float* importance, int64_t cols, uint8_t* out);
};

struct RTQ3 : Rtq<3, 3> {
  static constexpr std::string_view kName = "rtq3";
};

}  // namespace hrun
