// GGML's 2-bit formats that code the magnitudes of eight weights as one point of a fixed grid: IQ2_XXS, IQ2_XS, IQ2_S.
//
//   iq2_xxs  66 bytes  d, 8 x (4 points, word: 4 x 7 sign bits and, on top, 4-bit scale s)        w = d/8 * (1 + 2s) * (+-g)
//   iq2_xs   74 bytes  d, 32 words (9-bit point, 7 sign bits), 16 scales s of 4 bits               w = d/8 * (1 + 2s) * (+-g)
//   iq2_s    82 bytes  d, points[32], sign bits[32], two more bits of each point[8], 16 scales s   w = d/8 * (1 + 2s) * (+-g)
//
// Scales are per 32 weights in iq2_xxs, per 16 in the others.  Where seven sign bits are stored, the eighth makes the number
// of minus signs even.
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
  for (int g = 0; g < 16; ++g) scale[g] = static_cast<int16_t>(1 + 2 * ((bytes[g / 2] >> (4 * (g % 2))) & 15));
}

struct IQ2_XXS : BlockOf256<66> {
  static constexpr FormatId kId = 16;
  static constexpr std::string_view kName = "iq2_xxs";
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    out.scale = load_fp16(block) * 0.125f;  // exact: fp16's exponent range is far inside fp32's
    const uint64_t* grid = iq2_xxs_grid();
    const uint8_t* points = block + 2;
    for (int k = 0; k < 8; ++k, points += 8) {
      uint32_t word;
      memcpy(&word, points + 4, 4);
      out.group_scale[2 * k] = out.group_scale[2 * k + 1] = static_cast<int16_t>(1 + 2 * (word >> 28));
      for (int j = 0; j < 4; ++j)
        store_signed(grid[points[j]], with_even_parity((word >> (7 * j)) & 127), out.codes + 32 * k + 8 * j);
    }
  }
};

struct IQ2_XS : BlockOf256<74> {
  static constexpr FormatId kId = 17;
  static constexpr std::string_view kName = "iq2_xs";
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    out.scale = load_fp16(block) * 0.125f;
    unpack_odd_scales(block + 66, out.group_scale);
    const uint64_t* grid = iq2_xs_grid();
    for (int k = 0; k < 32; ++k) {
      const unsigned word = block[2 + 2 * k] | (static_cast<unsigned>(block[3 + 2 * k]) << 8);
      store_signed(grid[word & 511], with_even_parity(word >> 9), out.codes + 8 * k);
    }
  }
};

struct IQ2_S : BlockOf256<82> {
  static constexpr FormatId kId = 22;
  static constexpr std::string_view kName = "iq2_s";
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    out.scale = load_fp16(block) * 0.125f;
    unpack_odd_scales(block + 74, out.group_scale);
    const uint64_t* grid = iq2_s_grid();
    const uint8_t *points = block + 2, *signs = block + 34, *more = block + 66;
    for (int k = 0; k < 32; ++k)
      store_signed(grid[points[k] | (((more[k / 4] >> (2 * (k % 4))) & 3u) << 8)], signs[k], out.codes + 8 * k);
  }
};

}  // namespace hrun
