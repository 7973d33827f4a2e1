// GGML's 32-wide formats: Q8_0 (and, beside it, Q4_0, Q4_1, Q5_0, Q5_1).
#pragma once

#include <cmath>

#include "formats/format.h"

namespace hrun {

// fp16 scale, 32 int8 codes: weight = d * q.
struct Q8_0 : WholeBlocks<32, 34> {
  static constexpr FormatId kId = 8;
  static constexpr std::string_view kName = "q8_0";
  static constexpr Activation kActivation = Activation::kInt8x32;
  static constexpr bool kHasOffset = false;

  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    out.scale = load_fp16(block);
    for (int i = 0; i < 32; ++i) out.codes[i] = static_cast<int8_t>(block[2 + i]);
    out.group_scale[0] = out.group_scale[1] = 1;
  }

  static void encode_row(const float* w, const float*, int64_t cols, uint8_t* out) {
    for (int64_t b = 0; b < cols; b += 32, out += kBlockBytes) {
      float amax = 0;
      for (int i = 0; i < 32; ++i) amax = std::fmax(amax, std::fabs(w[b + i]));
      const float d = amax / 127.0f;
      const float id = d != 0 ? 1.0f / d : 0.0f;
      store_fp16(out, d);
      for (int i = 0; i < 32; ++i) out[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(std::roundf(w[b + i] * id)));
    }
  }
};

}  // namespace hrun
