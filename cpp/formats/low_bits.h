// GGML's formats of one or two bits without a codebook: TQ1_0 and TQ2_0 (ternary), Q1_0, Q2_0.
//
//   tq1_0  54 bytes per 256   digits in base 3: 5 weights per byte[48], 4 per byte[4]; d      w = d
//   * (q - 1) tq2_0  66 bytes per 256   codes[64] of 2 bits, d w = d * (q - 1) q1_0   18 bytes per
//   128   d, 128 bits                                                     w = d * (2q - 1) q2_0 18
//   bytes per 64    d, codes[16] of 2 bits                                          w = d * (q - 1)
#pragma once

#include "formats/bytes.h"
#include "formats/format.h"

namespace hrun {

template <int kValues, size_t kBytes, InputForm input_form>
struct OneScaleBlock : WholeBlocks<kValues, kBytes> {
  static constexpr InputForm kInputForm = input_form;
  static constexpr bool kHasOffset = false;

 protected:
  static HRUN_HD void set_scale(float d, IntBlock& out) {
    out.scale = d;
    for (int g = 0; g < kValues / kGroup; ++g) out.group_scale[g] = 1;
  }
};

// A byte is ceil(q * 256 / 243) of a number q of five digits, the first weight's highest; so the
// highest digit is the byte times 3, divided by 256, and multiplying the byte by 3 moves the others
// up.
struct TQ1_0 : OneScaleBlock<256, 54, InputForm::kInt8x256> {
  static constexpr FormatId kId = 34;
  static constexpr std::string_view kName = "tq1_0";
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    set_scale(load_fp16(block + 52), out);
    int8_t* codes = out.codes;
    const auto run = [&](int first, int n_bytes, int digits) {
      unsigned power = 1;
      for (int digit = 0; digit < digits; ++digit, power *= 3, codes += n_bytes)
        for (int i = 0; i < n_bytes; ++i) {
          const unsigned shifted = (block[first + i] * power) & 255;
          codes[i] = static_cast<int8_t>(static_cast<int>((shifted * 3) >> 8) - 1);
        }
    };
    run(0, 32, 5);
    run(32, 16, 5);
    run(48, 4, 4);
  }
};

struct TQ2_0 : OneScaleBlock<256, 66, InputForm::kInt8x256> {
  static constexpr FormatId kId = 35;
  static constexpr std::string_view kName = "tq2_0";
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    set_scale(load_fp16(block + 64), out);
    for (int p = 0; p < 8; ++p)
      for (int j = 0; j < 4; ++j)
        store_bytes(out.codes + 32 * p + 8 * j,
                    minus(two_bits(load_bytes(block + 32 * (p / 4) + 8 * j), 2 * (p % 4)), 1));
  }
};

struct Q1_0 : OneScaleBlock<128, 18, InputForm::kInt8x128> {
  static constexpr FormatId kId = 41;
  static constexpr std::string_view kName = "q1_0";
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    set_scale(load_fp16(block), out);
    for (int k = 0; k < 16; ++k)
      store_bytes(out.codes + 8 * k, minus(spread_bits(block[2 + k]) << 1, 1));
  }
};

struct Q2_0 : OneScaleBlock<64, 18, InputForm::kInt8x64> {
  static constexpr FormatId kId = 42;
  static constexpr std::string_view kName = "q2_0";
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    set_scale(load_fp16(block), out);
    for (int k = 0; k < 8; ++k) {  // two bytes: eight codes
      const uint8_t* two = block + 2 + 2 * k;
      Bytes8 v = two[0] | (static_cast<Bytes8>(two[1]) << 32);
      v = (v | (v << 12)) & 0x000f000f000f000full;
      store_bytes(out.codes + 8 * k, minus((v | (v << 6)) & each(3), 1));
    }
  }
};

}  // namespace hrun
