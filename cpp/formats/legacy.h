// GGML's 32-wide formats with one fp16 scale per block: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//
//   q4_0  d, 16 bytes of codes               w = d * (q - 8)
//   q4_1  d, m, 16 bytes                     w = d * q + m
//   q5_0  d, 32 fifth bits, 16 bytes         w = d * (q - 16)
//   q5_1  d, m, 32 fifth bits, 16 bytes      w = d * q + m
//   q8_0  d, 32 int8 codes                   w = d * q
//
// Byte i of the 4-bit codes holds weight i (low half) and weight i + 16 (high half); fifth bit i is
// weight i's.
#pragma once

#include "formats/bytes.h"
#include "formats/format.h"

namespace hrun {

// The 4-bit codes of the weights 8k ... 8k + 7 of 32.
HRUN_HD Bytes8 codes_of_eight(const uint8_t* bytes, int k) {
  return four_bits(load_bytes(bytes + 8 * (k % 2)), 4 * (k / 2));
}

// The same with fifth bits.
HRUN_HD Bytes8 codes_of_eight(const uint8_t* bytes, const uint8_t* fifth, int k) {
  return codes_of_eight(bytes, k) | (spread_bits(fifth[k]) << 4);
}

template <size_t kBytes>
struct LegacyBlock : WholeBlocks<32, kBytes> {
  static constexpr InputForm kInputForm = InputForm::kInt8x32;

 protected:
  static HRUN_HD void set_scale(float d, IntBlock& out) {
    out.scale = d;
    out.group_scale[0] = out.group_scale[1] = 1;
  }
  // w = d * q + m is an offset of -m; negation is exact.
  static HRUN_HD void set_minimum(float m, IntBlock& out) {
    out.offset = -m;
    out.group_offset[0] = out.group_offset[1] = 1;
  }
};

struct Q4_0 : LegacyBlock<18> {
  static constexpr FormatId kId = 2;
  static constexpr std::string_view kName = "q4_0";
  static constexpr bool kHasOffset = false;
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    set_scale(load_fp16(block), out);
    for (int k = 0; k < 4; ++k)
      store_bytes(out.codes + 8 * k, minus(codes_of_eight(block + 2, k), 8));
  }
};

struct Q4_1 : LegacyBlock<20> {
  static constexpr FormatId kId = 3;
  static constexpr std::string_view kName = "q4_1";
  static constexpr bool kHasOffset = true;
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    set_scale(load_fp16(block), out);
    set_minimum(load_fp16(block + 2), out);
    for (int k = 0; k < 4; ++k) store_bytes(out.codes + 8 * k, codes_of_eight(block + 4, k));
  }
};

struct Q5_0 : LegacyBlock<22> {
  static constexpr FormatId kId = 6;
  static constexpr std::string_view kName = "q5_0";
  static constexpr bool kHasOffset = false;
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    set_scale(load_fp16(block), out);
    for (int k = 0; k < 4; ++k)
      store_bytes(out.codes + 8 * k, minus(codes_of_eight(block + 6, block + 2, k), 16));
  }
};

struct Q5_1 : LegacyBlock<24> {
  static constexpr FormatId kId = 7;
  static constexpr std::string_view kName = "q5_1";
  static constexpr bool kHasOffset = true;
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    set_scale(load_fp16(block), out);
    set_minimum(load_fp16(block + 2), out);
    for (int k = 0; k < 4; ++k)
      store_bytes(out.codes + 8 * k, codes_of_eight(block + 8, block + 4, k));
  }
};

struct Q8_0 : LegacyBlock<34> {
  static constexpr FormatId kId = 8;
  static constexpr std::string_view kName = "q8_0";
  static constexpr bool kHasOffset = false;
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    set_scale(load_fp16(block), out);
    memcpy(out.codes, block + 2, 32);
  }
};

}  // namespace hrun
