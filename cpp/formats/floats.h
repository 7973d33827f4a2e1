// F32, F16, BF16: weights that need no code.
#pragma once

#include <cstring>

#include "formats/format.h"

namespace hrun {

struct F32 : WholeBlocks<1, 4> {
  static constexpr FormatId kId = 0;
  static constexpr std::string_view kName = "f32";
  static constexpr InputForm kInputForm = InputForm::kFloat;
  static HRUN_HD float widen(const uint8_t* p) {
    float v;
    memcpy(&v, p, sizeof v);
    return v;
  }
};

struct F16 : WholeBlocks<1, 2> {
  static constexpr FormatId kId = 1;
  static constexpr std::string_view kName = "f16";
  static constexpr InputForm kInputForm = InputForm::kFloat;
  static HRUN_HD float widen(const uint8_t* p) { return load_fp16(p); }
};

struct BF16 : WholeBlocks<1, 2> {
  static constexpr FormatId kId = 30;
  static constexpr std::string_view kName = "bf16";
  static constexpr InputForm kInputForm = InputForm::kFloat;
  static HRUN_HD float widen(const uint8_t* p) {
    return bf16_to_fp32(static_cast<uint16_t>(p[0] | (p[1] << 8)));
  }
};

}  // namespace hrun
