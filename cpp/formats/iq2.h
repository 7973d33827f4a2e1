// GGML's 2-bit formats that code the magnitudes of eight weights as one point of a fixed grid:
// IQ2_XXS, IQ2_XS, IQ2_S.
//
//   iq2_xxs  66 bytes  d, 8 x (4 points, word: 4 x 7 sign bits and, on top, 4-bit scale s)        w
//   = d/8 * (1 + 2s) * (+-g) iq2_xs   74 bytes  d, 32 words (9-bit point, 7 sign bits), 16 scales s
//   of 4 bits               w = d/8 * (1 + 2s) * (+-g) iq2_s    82 bytes  d, points[32], sign
//   bits[32], two more bits of each point[8], 16 scales s   w = d/8 * (1 + 2s) * (+-g)
//
// Scales are per 32 weights in iq2_xxs, per 16 in the others.  Where seven sign bits are stored,
// the eighth makes the number of minus signs even.  point(block, k) and signs(block, k) are those
// of weights 8k to 8k + 7.
#pragma once

#include <cstring>

#include "formats/bytes.h"
#include "formats/format.h"
#include "formats/iq2_grids.h"
#include "formats/iq3.h"

namespace hrun {

// codes[i] = bit i of `signs` ? -magnitude i : magnitude i, for the 8 weights of a grid entry.
HRUN_HD void store_signed(uint64_t magnitudes, unsigned signs, int8_t* codes) {
  store_bytes(codes, negate_where(magnitudes, spread_bits(signs)));
}

// Sixteen scales of 4 bits in 8 bytes.
HRUN_HD void unpack_odd_scales(const uint8_t* bytes, int16_t* scale) {
  for (int g = 0; g < 16; ++g)
    scale[g] = static_cast<int16_t>(1 + 2 * ((bytes[g / 2] >> (4 * (g % 2))) & 15));
}

struct IQ2_XXS : BlockOf256<66> {
  static constexpr FormatId kId = 16;
  static constexpr std::string_view kName = "iq2_xxs";
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    out.scale = load_fp16(block) * 0.125f;  // exact: fp16's exponent range is far inside fp32's
    const uint64_t* grid = iq2_xxs_grid();
    for (int k = 0; k < 8; ++k)
      out.group_scale[2 * k] = out.group_scale[2 * k + 1] =
          static_cast<int16_t>(1 + 2 * (signs_and_scale(block, k) >> 28));
    for (int k = 0; k < 32; ++k)
      store_signed(grid[point(block, k)], signs(block, k), out.codes + 8 * k);
  }
  static HRUN_HD unsigned point(const uint8_t* block, int k) {
    return block[2 + k / 4 * 8 + k % 4];
  }
  static HRUN_HD unsigned signs(const uint8_t* block, int k) {
    return with_even_parity((signs_and_scale(block, k / 4) >> (7 * (k % 4))) & 127);
  }

 private:
  static HRUN_HD uint32_t signs_and_scale(const uint8_t* block, int k) {
    uint32_t word;
    memcpy(&word, block + 6 + 8 * k, 4);
    return word;
  }
};

struct IQ2_XS : BlockOf256<74> {
  static constexpr FormatId kId = 17;
  static constexpr std::string_view kName = "iq2_xs";
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    out.scale = load_fp16(block) * 0.125f;
    unpack_odd_scales(block + 66, out.group_scale);
    const uint64_t* grid = iq2_xs_grid();
    for (int k = 0; k < 32; ++k)
      store_signed(grid[point(block, k)], signs(block, k), out.codes + 8 * k);
  }
  static HRUN_HD unsigned point(const uint8_t* block, int k) {
    return block[2 + 2 * k] | ((block[3 + 2 * k] & 1u) << 8);
  }
  static HRUN_HD unsigned signs(const uint8_t* block, int k) {
    return with_even_parity(block[3 + 2 * k] >> 1);
  }
};

struct IQ2_S : BlockOf256<82> {
  static constexpr FormatId kId = 22;
  static constexpr std::string_view kName = "iq2_s";
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    out.scale = load_fp16(block) * 0.125f;
    unpack_odd_scales(block + 74, out.group_scale);
    const uint64_t* grid = iq2_s_grid();
    for (int k = 0; k < 32; ++k)
      store_signed(grid[point(block, k)], signs(block, k), out.codes + 8 * k);
  }
  static HRUN_HD unsigned point(const uint8_t* block, int k) {
    return block[2 + k] | (((block[66 + k / 4] >> (2 * (k % 4))) & 3u) << 8);
  }
  static HRUN_HD unsigned signs(const uint8_t* block, int k) { return block[34 + k]; }
};

}  // namespace hrun
