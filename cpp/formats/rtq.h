// RTQ: rotated trellis codes, hrun's own formats of k bits per weight.
//
// A block of 256 rotated weights (rotation.h, signs on) is an fp16 scale d and 256 codes c_t of k bits, code t at bits
// kt .. kt+k-1 of a little-endian bit stream.  Weight t is d * z_t with a sum of m small integer tables
//
//   z_t = T_0[c_t xor c_(t-m)] + T_1[c_(t-1)] + ... + T_(m-1)[c_(t-m+1)]          codes before the block are 0
//
// so decoding is random access and costs one byte shuffle per table.  That the first table reads the newest code xor the
// oldest costs one more instruction and is worth as much as a table of 2^(k(m+1)) free entries: both the paths that
// leave a state and those that meet in one are as far apart as the largest table allows.  |z_t| <= 63, so z_t + 64 is an
// unsigned 7-bit value, as x86's u8 x s8 multiplications want it.
//
// A tail of n columns (a multiple of 32) is one short block of 2 + k n / 8 bytes with one scale and one code path; only
// its rotation is done in pieces.
//
// The tables were trained for N(0,1) by tools/experiments/train_rtq.py.  They are the format: files depend on them, and
// kVersion, stored in each file, changes with them.
#pragma once

#include "formats/format.h"
#include "formats/lookup.h"
#include "formats/trellis.h"

namespace hrun {

// The tables of k bits per weight.  kLevelRms: rms of z over a Gaussian block coded at its best scale; kGaussianError:
// relative squared error of such a block.  Both only steer the encoder.
template <int k>
struct RtqTables;

template <>
struct RtqTables<3> {
  static constexpr int kCount = 3;
  static constexpr float kLevelRms = 19.4f;
  static constexpr double kGaussianError = 0.0191;
  static HRUN_HD const int8_t* table(int i) {
    static constexpr int8_t kTables[kCount][8] = {
        {2, 9, -17, 17, -4, 29, -29, -9},
        {4, -13, 2, 13, -4, 5, -5, -3},
        {-2, 3, 8, -8, 19, 6, -7, -20},
    };
    return kTables[i];
  }
  static HRUN_HD int entry(int i, int index) { return table(i)[index]; }
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
  static constexpr int kMemory = Tables::kCount;  // earlier codes that a weight depends on: m
  static constexpr int kLargestLevel = 63;

  static constexpr bool row_ok(int64_t cols) { return cols > 0 && cols % 32 == 0; }
  static constexpr size_t row_bytes(int64_t cols) {
    const size_t tail = static_cast<size_t>(cols % kBlockValues);
    return static_cast<size_t>(cols / kBlockValues) * kBlockBytes + (tail != 0 ? 2 + tail * k / 8 : 0);
  }

  // z of a code and the m codes before it, `before`, the newest of them in the lowest k bits.
  static HRUN_HD int level(uint32_t code, uint32_t before) {
    constexpr uint32_t kCodeMask = (1u << k) - 1;
    int z = Tables::entry(0, static_cast<int>(code ^ (before >> (k * (kMemory - 1)))));
    for (int i = 1; i < kMemory; ++i) z += Tables::entry(i, static_cast<int>((before >> (k * (i - 1))) & kCodeMask));
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
    for (int g = 0; g < n / kGroup; ++g) out.group_scale[g] = 1;
    // The codes one per byte behind a run of zeros, so that the codes i steps earlier are the same bytes i places earlier.
    uint8_t spread[kLookups + kMaxBlock] = {};
    uint8_t* codes = spread + kLookups;
    for (int t = 0; t < n; t += 8) store_bytes(reinterpret_cast<int8_t*>(codes + t), spread_codes<k>(block + 2 + t / 8 * k));
    const auto first = lookup_table(Tables::table(0), 1 << k);
    for (int t = 0; t < n; t += kLookups) {
      auto z = look_up(first, load_lookups(codes + t) ^ load_lookups(codes + t - kMemory));
      for (int i = 1; i < kMemory; ++i) z += look_up(lookup_table(Tables::table(i), 1 << k), load_lookups(codes + t - i));
      store_lookups(out.codes + t, z);
    }
  }

  // importance is not used: every weight of a block counts alike.
  static void encode_row(const float* w, const float* importance, int64_t cols, uint8_t* out);
};

struct RTQ3 : Rtq<3, 3> {
  static constexpr std::string_view kName = "rtq3";
};

}  // namespace hrun
