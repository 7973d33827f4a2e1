// F32, F16, BF16: weights that need no code.
#pragma once

#include <cstring>

#include "formats/format.h"

namespace hrun {

struct F32 : WholeBlocks<1, 4> {
  static constexpr FormatId kId = 0;
  static constexpr std::string_view kName = "f32";
  static constexpr Activation kActivation = Activation::kFloat;
  static constexpr float kMaxWeight = 0x1.fffffep127f;
  static HRUN_HD float widen(const uint8_t* p) {
    float v;
    memcpy(&v, p, sizeof v);
    return v;
  }
  static void encode_row(const float* w, const float*, int64_t cols, uint8_t* out) {
    memcpy(out, w, static_cast<size_t>(cols) * sizeof(float));
  }
};

struct F16 : WholeBlocks<1, 2> {
  static constexpr FormatId kId = 1;
  static constexpr std::string_view kName = "f16";
  static constexpr Activation kActivation = Activation::kFloat;
  static HRUN_HD float widen(const uint8_t* p) { return load_fp16(p); }
  static void encode_row(const float* w, const float*, int64_t cols, uint8_t* out) {
    for (int64_t i = 0; i < cols; ++i) store_fp16(out + 2 * i, w[i]);
  }
};

struct BF16 : WholeBlocks<1, 2> {
  static constexpr FormatId kId = 30;
  static constexpr std::string_view kName = "bf16";
  static constexpr Activation kActivation = Activation::kFloat;
  static constexpr float kMaxWeight = 0x1.fep127f;
  static HRUN_HD float widen(const uint8_t* p) {
    return bf16_to_fp32(static_cast<uint16_t>(p[0] | (p[1] << 8)));
  }
  static void encode_row(const float* w, const float*, int64_t cols, uint8_t* out) {
    for (int64_t i = 0; i < cols; ++i) {
      const uint16_t b = fp32_to_bf16(w[i]);
      out[2 * i] = static_cast<uint8_t>(b);
      out[2 * i + 1] = static_cast<uint8_t>(b >> 8);
    }
  }
};

}  // namespace hrun
