// 4-bit floats (sign, two bits of exponent, one of mantissa) with small floats as scales: MXFP4,
// NVFP4.
//
//   mxfp4  17 bytes per 32   scale e: 2^(e - 128); codes[16] w = 2^(e - 128) * level[q] nvfp4  36
//   bytes per 64   scales[4]: unsigned floats of 4 bits exponent, 3 mantissa; codes[32]     w = s/2
//   * level[q]
//
// Levels are the doubled values of the 4-bit floats, so that they are integers.  Byte i of the
// codes of a scale holds weight i (low half) and, in the high half, the weight half a scale's block
// later.
#pragma once

#include "formats/format.h"

namespace hrun {

HRUN_HD const int8_t* fp4_levels() {
  static constexpr int8_t kLevels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  return kLevels;
}

struct MXFP4 : WholeBlocks<32, 17> {
  static constexpr FormatId kId = 39;
  static constexpr std::string_view kName = "mxfp4";
  static constexpr InputForm kInputForm = InputForm::kInt8x32;
  static constexpr bool kHasOffset = false;
  static HRUN_HD float scale(uint8_t e) {
    return bits_to_float(e < 2
                             ? 0x00200000u << e
                             : static_cast<uint32_t>(e - 1) << 23);  // the first two are subnormal
  }
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    out.scale = scale(block[0]);
    out.group_scale[0] = out.group_scale[1] = 1;
    const int8_t* levels = fp4_levels();
    for (int i = 0; i < 16; ++i) out.codes[i] = levels[block[1 + i] & 15];
    for (int i = 0; i < 16; ++i) out.codes[i + 16] = levels[block[1 + i] >> 4];
  }
};

// Its scales span 18 bits, too many for integer group scales.
struct NVFP4 : WholeBlocks<64, 36> {
  static constexpr FormatId kId = 40;
  static constexpr std::string_view kName = "nvfp4";
  static constexpr InputForm kInputForm = InputForm::kFloat;
  static HRUN_HD float scale(uint8_t s) {
    const int exponent = (s >> 3) & 15, mantissa = s & 7;
    if (s == 0x7f) return 0.0f;  // no number
    if (exponent == 0) return static_cast<float>(mantissa) * 0x1p-10f;
    return static_cast<float>(8 + mantissa) *
           bits_to_float(static_cast<uint32_t>(exponent + 127 - 7 - 3 - 1) << 23);
  }
  static HRUN_HD void decode(const uint8_t* block, float* out) {
    const int8_t* levels = fp4_levels();
    for (int k = 0; k < 4; ++k) {
      const float d = scale(block[k]);
      const uint8_t* codes = block + 4 + 8 * k;
      for (int i = 0; i < 8; ++i) out[16 * k + i] = d * static_cast<float>(levels[codes[i] & 15]);
      for (int i = 0; i < 8; ++i)
        out[16 * k + 8 + i] = d * static_cast<float>(levels[codes[i] >> 4]);
    }
  }
};

}  // namespace hrun
