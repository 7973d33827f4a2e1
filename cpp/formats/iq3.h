// GGML's 3-bit formats that code the magnitudes of four weights as one point of a fixed grid:
// IQ3_XXS, IQ3_S.
//
//   iq3_xxs   98 bytes  d, points[64], 8 words: 4 x 7 sign bits and, on top, 4-bit scale s     w =
//   d/4 * (1 + 2s) * (+-g) iq3_s    110 bytes  d, points[64], ninth bits[8], sign bits[32], 8
//   scales s of 4 bits      w = d * (1 + 2s) * (+-g)
//
// Scales are per 32 weights.  In iq3_xxs the eighth sign of each eight makes the number of minus
// signs even.
#pragma once

#include <cstring>

#include "formats/bytes.h"
#include "formats/format.h"
#include "formats/iq3_grids.h"

namespace hrun {

// codes[i] = bit i of `signs` ? -magnitude i : magnitude i, for the 8 weights of two grid entries.
HRUN_HD void store_signed(uint32_t low, uint32_t high, unsigned signs, int8_t* codes) {
  store_bytes(codes, negate_where(low | (static_cast<Bytes8>(high) << 32), spread_bits(signs)));
}

// The eighth sign bit from the other seven.
HRUN_HD unsigned with_even_parity(unsigned seven) {
  return seven | (((0x6996u >> ((seven ^ (seven >> 4)) & 15)) & 1) << 7);
}

struct IQ3_XXS : BlockOf256<98> {
  static constexpr FormatId kId = 18;
  static constexpr std::string_view kName = "iq3_xxs";
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    out.scale = load_fp16(block) * 0.25f;  // exact: fp16's exponent range is far inside fp32's
    const uint32_t* grid = iq3_xxs_grid();
    const uint8_t* points = block + 2;
    for (int k = 0; k < 8; ++k, points += 8) {
      uint32_t word;
      memcpy(&word, block + 66 + 4 * k, 4);
      out.group_scale[2 * k] = out.group_scale[2 * k + 1] =
          static_cast<int16_t>(1 + 2 * (word >> 28));
      for (int j = 0; j < 4; ++j)
        store_signed(grid[points[2 * j]], grid[points[2 * j + 1]],
                     with_even_parity((word >> (7 * j)) & 127), out.codes + 32 * k + 8 * j);
    }
  }
};

struct IQ3_S : BlockOf256<110> {
  static constexpr FormatId kId = 21;
  static constexpr std::string_view kName = "iq3_s";
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    out.scale = load_fp16(block);
    const uint32_t* grid = iq3_s_grid();
    const uint8_t *points = block + 2, *ninth = block + 66, *signs = block + 74,
                  *scales = block + 106;
    for (int k = 0; k < 8; ++k) {
      out.group_scale[2 * k] = out.group_scale[2 * k + 1] =
          static_cast<int16_t>(1 + 2 * ((scales[k / 2] >> (4 * (k % 2))) & 15));
      for (int j = 0; j < 4; ++j) {
        const int q = 8 * k + 2 * j;
        const unsigned low = points[q] | (((ninth[k] >> (2 * j)) & 1u) << 8);
        const unsigned high = points[q + 1] | (((ninth[k] >> (2 * j + 1)) & 1u) << 8);
        store_signed(grid[low], grid[high], signs[4 * k + j], out.codes + 32 * k + 8 * j);
      }
    }
  }
};

}  // namespace hrun
