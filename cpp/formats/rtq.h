// RTQ: rotated trellis codes, hrun's own formats of k = 2 to 6 bits per weight.
//
// A block of 256 rotated weights (rotation.h, signs on) is an fp16 scale d and 256 codes c_t of k
// bits, code t at bits kt .. kt+k-1 of a little-endian bit stream.  Weight t is d * z_t, and z_t a
// sum of small integer tables, each read by a few bits of the stream near code t.  With S_j for the
// bits from code t-j on, upwards (codes before the block are 0):
//
//   k = 2   z_t = T_0[S_1 xor 4 c_(t-4)] + T_1[S_3]              4 bits each: two codes, the newer
//   in the upper bits k = 3   z_t = T_0[S_0 xor c_(t-3)] + T_1[S_1] + T_2[S_2]     3 bits each: one
//   code k = 4, 5   z_t = T_0[S_0 xor c_(t-2)] + T_1[S_1]             k bits each: one code
//   k = 6   as k = 4 by the lower four bits of each code, + T_2[c_t / 16]
//
// so decoding is random access and costs one byte shuffle per table, or two where it has 32
// entries.  The upper two bits of a code of 6 move a weight among four levels and no later weight
// depends on them, so that an encoder searches the 256 states of k = 4.  That the first table reads
// the newest code xor an old one costs one more instruction and is worth as much as a table over
// all codes involved: both the paths that leave a state and those that meet in one are as far apart
// as the largest table allows.  |z_t| <= 63, so z_t + 64 is an unsigned 7-bit value, as x86's u8 x
// s8 multiplications want it.
//
// A tail of n columns (a multiple of 32) is one short block of 2 + k n / 8 bytes with one scale and
// one code path; only its rotation is done in pieces.
//
// The tables were trained for N(0,1) by tools/experiments/train_rtq.py.  They are the format: files
// depend on them, and kVersion, stored in each file, changes with them.
#pragma once

#include "formats/format.h"
#include "formats/lookup.h"

namespace hrun {

// A table is indexed by `codes` codes, from code t - lag on.  The newest of them is xored with code
// t - xor_lag if xor_lag is not 0.  Of a single code the lowest `shift` bits are left out.
struct RtqIndex {
  int codes, lag, xor_lag, shift = 0;
};

template <int kCount, int kEntries>
struct RtqEntries {
  int8_t table[kCount][kEntries];
};

// The code of k bits per weight.  kMemory: earlier codes that a weight depends on.  kLevelRms: rms
// of z over a Gaussian block coded at its best scale; kGaussianError: relative squared error of
// such a block; both only steer the encoder.  kFreeBits: the upper bits of a code that no later
// weight depends on.
template <int k>
struct RtqTables;

template <>
struct RtqTables<2> {
  static constexpr int kCount = 2, kEntries = 16, kMemory = 4, kFreeBits = 0;
  static constexpr float kLevelRms = 23.0f;
  static constexpr double kGaussianError = 0.0738;
  static constexpr RtqIndex kIndex[kCount] = {{2, 1, 4}, {2, 3, 0}};
  static constexpr RtqEntries<kCount, kEntries> kValues = {{
      {46, 28, -26, -25, 15, -12, 6, 20, -24, -47, 27, 4, -2, 7, -7, -9},
      {-5, -1, -11, 15, 6, 9, -15, -1, 1, -9, 13, -2, 0, 4, 14, -15},
  }};
  static HRUN_HD const int8_t* table(int i) {
    static constexpr RtqEntries<kCount, kEntries> kHere =
        kValues;  // devices see no arrays of classes
    return kHere.table[i];
  }
  static constexpr int entry(int i, int index) { return kValues.table[i][index]; }
};

template <>
struct RtqTables<3> {
  static constexpr int kCount = 3, kEntries = 8, kMemory = 3, kFreeBits = 0;
  static constexpr float kLevelRms = 19.4f;
  static constexpr double kGaussianError = 0.0191;
  static constexpr RtqIndex kIndex[kCount] = {{1, 0, 3}, {1, 1, 0}, {1, 2, 0}};
  static constexpr RtqEntries<kCount, kEntries> kValues = {{
      {2, 9, -17, 17, -4, 29, -29, -9},
      {4, -13, 2, 13, -4, 5, -5, -3},
      {-2, 3, 8, -8, 19, 6, -7, -20},
  }};
  static HRUN_HD const int8_t* table(int i) {
    static constexpr RtqEntries<kCount, kEntries> kHere =
        kValues;  // devices see no arrays of classes
    return kHere.table[i];
  }
  static constexpr int entry(int i, int index) { return kValues.table[i][index]; }
};

template <>
struct RtqTables<4> {
  static constexpr int kCount = 2, kEntries = 16, kMemory = 2, kFreeBits = 0;
  static constexpr float kLevelRms = 17.8f;
  static constexpr double kGaussianError = 0.005;
  static constexpr RtqIndex kIndex[kCount] = {{1, 0, 2}, {1, 1, 0}};
  static constexpr RtqEntries<kCount, kEntries> kValues = {{
      {-4, 2, -24, -7, 10, 4, 18, -1, 33, -10, 7, -38, -19, 23, -14, 13},
      {0, -22, -3, -10, -5, 8, 3, -8, -13, 6, 2, 10, 29, 6, -1, -6},
  }};
  static HRUN_HD const int8_t* table(int i) {
    static constexpr RtqEntries<kCount, kEntries> kHere =
        kValues;  // devices see no arrays of classes
    return kHere.table[i];
  }
  static constexpr int entry(int i, int index) { return kValues.table[i][index]; }
};

template <>
struct RtqTables<5> {
  static constexpr int kCount = 2, kEntries = 32, kMemory = 2, kFreeBits = 0;
  static constexpr float kLevelRms = 14.8f;
  static constexpr double kGaussianError = 0.0013;
  static constexpr RtqIndex kIndex[kCount] = {{1, 0, 2}, {1, 1, 0}};
  static constexpr RtqEntries<kCount, kEntries> kValues = {{
      {-3, 25, -11, 6,  2,   14,  38, 19, -4,  -18, 8,  -15, 2,  16,  -26, -34,
       3,  12, -2,  -1, -22, -13, 4,  -6, -22, 10,  -1, -3,  -8, -10, 0,   0},
      {4,  -6,  -2, 10,  2,   -14, 11, 8,  -4, -18, 1,  5,  7, 13, -11, 9,
       -8, -13, -2, -22, -28, -10, 17, -1, 4,  3,   12, -1, 2, -3, -4,  0},
  }};
  static HRUN_HD const int8_t* table(int i) {
    static constexpr RtqEntries<kCount, kEntries> kHere =
        kValues;  // devices see no arrays of classes
    return kHere.table[i];
  }
  static constexpr int entry(int i, int index) { return kValues.table[i][index]; }
};

// At 6 bits the third table, of four entries, is there four times.
template <>
struct RtqTables<6> {
  static constexpr int kCount = 3, kEntries = 16, kMemory = 2, kFreeBits = 2;
  static constexpr float kLevelRms = 16.9f;
  static constexpr double kGaussianError = 0.00037;
  static constexpr RtqIndex kIndex[kCount] = {{1, 0, 2}, {1, 1, 0}, {1, 0, 0, 4}};
  static constexpr RtqEntries<kCount, kEntries> kValues = {{
      {-16, 21, 3, -14, -28, -2, 2, -5, 4, -8, 9, -10, 1, 15, 32, -11},
      {2, -2, 20, -5, 1, 8, -4, -1, 0, -21, -7, 5, 15, 7, -14, 3},
      {11, 7, -4, -14, 11, 7, -4, -14, 11, 7, -4, -14, 11, 7, -4, -14},
  }};
  static HRUN_HD const int8_t* table(int i) {
    static constexpr RtqEntries<kCount, kEntries> kHere =
        kValues;  // devices see no arrays of classes
    return kHere.table[i];
  }
  static constexpr int entry(int i, int index) { return kValues.table[i][index]; }
};

// The index of table i, from code(lag): the codes `lag` places back, of one weight or, in vectors
// of bytes, of many.  Bits above the log2(kEntries) lowest may be set where kFreeBits is not 0.
template <int k, int i, class Code>
HRUN_HD auto rtq_index(const Code& code) {
  constexpr RtqIndex kIndex = RtqTables<k>::kIndex[i];
  constexpr int kNewest = k * (kIndex.codes - 1);
  auto index = code(kIndex.lag);
  for (int j = 1; j < kIndex.codes; ++j) index = index | (code(kIndex.lag - j) << (k * j));
  if constexpr (kIndex.shift != 0)
    return index >> kIndex.shift;
  else if constexpr (kIndex.xor_lag == 0)
    return index;
  else if constexpr (kNewest == 0)
    return index ^ code(kIndex.xor_lag);
  else
    return index ^ (code(kIndex.xor_lag) << kNewest);
}

template <int k, uint32_t kNumber>
struct Rtq {
  static constexpr FormatId kId = kOwnFormats + kNumber;
  static constexpr int kVersion = 1;
  static constexpr int kBlockValues = 256;
  static constexpr size_t kBlockBytes = 2 + 32 * k;
  static constexpr InputForm kInputForm = InputForm::kRotatedSigned;
  static constexpr bool kHasOffset = false;

  using Tables = RtqTables<k>;
  static constexpr int kCodeBits = k;
  static constexpr int kMemory = Tables::kMemory, kFreeBits = Tables::kFreeBits;
  static constexpr int kLargestLevel = 63;

  static constexpr bool row_ok(int64_t cols) { return cols > 0 && cols % 32 == 0; }
  static constexpr size_t row_bytes(int64_t cols) {
    const size_t tail = static_cast<size_t>(cols % kBlockValues);
    return static_cast<size_t>(cols / kBlockValues) * kBlockBytes +
           (tail != 0 ? 2 + tail * k / 8 : 0);
  }

  // z of a code and the kMemory codes before it, `before`, the newest of them in the lowest k bits.
  static HRUN_HD int level(uint32_t code, uint32_t before) {
    const uint32_t window = before << k | code;
    const auto at = [&](int lag) { return (window >> (k * lag)) & ((1u << k) - 1); };
    constexpr uint32_t kMask = Tables::kEntries - 1;
    int z = Tables::table(0)[rtq_index<k, 0>(at) & kMask] +
            Tables::table(1)[rtq_index<k, 1>(at) & kMask];
    if constexpr (Tables::kCount == 3) z += Tables::table(2)[rtq_index<k, 2>(at) & kMask];
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
    // The codes one per byte behind a run of zeros, so that the codes i steps earlier are the same
    // bytes i places earlier.
    uint8_t spread[kLookups + kMaxBlock] = {};
    uint8_t* codes = spread + kLookups;
    for (int t = 0; t < n; t += 8)
      store_bytes(reinterpret_cast<int8_t*>(codes + t), spread_codes<k>(block + 2 + t / 8 * k));
    const LookupTable<Tables::kEntries> table0(Tables::table(0)), table1(Tables::table(1)),
        table2(Tables::table(Tables::kCount - 1));
    for (int t = 0; t < n; t += kLookups) {
      const auto at = [&](int lag) { return load_lookups(codes + t - lag); };
      auto z = table0[rtq_index<k, 0>(at)];
      z += table1[rtq_index<k, 1>(at)];
      if constexpr (Tables::kCount == 3) z += table2[rtq_index<k, 2>(at)];
      store_lookups(out.codes + t, z);
    }
  }
};

struct RTQ2 : Rtq<2, 2> {
  static constexpr std::string_view kName = "rtq2";
};
struct RTQ3 : Rtq<3, 3> {
  static constexpr std::string_view kName = "rtq3";
};
struct RTQ4 : Rtq<4, 4> {
  static constexpr std::string_view kName = "rtq4";
};
struct RTQ5 : Rtq<5, 5> {
  static constexpr std::string_view kName = "rtq5";
};

struct RTQ6 : Rtq<6, 6> {
  static constexpr std::string_view kName = "rtq6";
};

template <class F>
concept RtqFormat = QuantizedFormat<F> && requires { F::Tables::kMemory; };

}  // namespace hrun
