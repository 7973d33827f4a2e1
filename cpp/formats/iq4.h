// GGML's formats over a fixed codebook of 16 int8 levels: IQ4_NL, IQ4_XS.
//
//   iq4_nl   18 bytes per 32   d, codes[16] w = d * level[q] iq4_xs  136 bytes per 256  d, top bits
//   of 8 scales (16 bits), low bits[4], codes[128]    w = d * (s - 32) * level[q]
//
// Byte i of each 16 bytes of codes holds weight i (low half) and weight i + 16 (high half) of
// its 32.
#pragma once

#include "formats/format.h"

namespace hrun {

// The 16 levels, ascending; roughly logistic quantiles, part of the public format.
HRUN_HD const int8_t* iq4_levels() {
  static constexpr int8_t kLevels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                         1,    13,   25,  38,  53,  69,  89,  113};
  return kLevels;
}

HRUN_HD void unpack_iq4_codes(const uint8_t* bytes, int8_t* codes) {
  const int8_t* levels = iq4_levels();
  for (int i = 0; i < 16; ++i) codes[i] = levels[bytes[i] & 15];
  for (int i = 0; i < 16; ++i) codes[i + 16] = levels[bytes[i] >> 4];
}

struct IQ4_NL : WholeBlocks<32, 18> {
  static constexpr FormatId kId = 20;
  static constexpr std::string_view kName = "iq4_nl";
  static constexpr InputForm kInputForm = InputForm::kInt8x32;
  static constexpr bool kHasOffset = false;
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    out.scale = load_fp16(block);
    out.group_scale[0] = out.group_scale[1] = 1;
    unpack_iq4_codes(block + 2, out.codes);
  }
};

struct IQ4_XS : BlockOf256<136> {
  static constexpr FormatId kId = 23;
  static constexpr std::string_view kName = "iq4_xs";
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    out.scale = load_fp16(block);
    const int top = block[2] | (block[3] << 8);
    for (int k = 0; k < 8; ++k) {
      const int low = (block[4 + k / 2] >> (4 * (k % 2))) & 15, high = (top >> (2 * k)) & 3;
      out.group_scale[2 * k] = out.group_scale[2 * k + 1] =
          static_cast<int16_t>((low | (high << 4)) - 32);
      unpack_iq4_codes(block + 8 + 16 * k, out.codes + 32 * k);
    }
  }
};

}  // namespace hrun
