// GGML's formats that code eight weights of -1, 0 or 1, all moved by an eighth, as one point of a
// fixed grid: IQ1_S, IQ1_M.
//
//   iq1_s  50 bytes  d, points[32], 8 words: 4 x 3 more bits of the points, 3-bit scale s, sign of
//   the offset iq1_m  56 bytes  points[32], 32 halves: 3 more bits of the point, sign of the
//   offset; 4 words: 4 x 3-bit scale s and, on
//                    top, a quarter of d
//
//   w = d * (1 + 2s) * (p +- 1/8) = d/8 * (1 + 2s) * (8p +- 1)
//
// In iq1_s scales and offsets are per 32 weights; in iq1_m scales are per 16, offsets per 8.
// point(block, k) is that of weights 8k to 8k + 7, below(block, k): is their offset -1/8?
#pragma once

#include "formats/bytes.h"
#include "formats/format.h"
#include "formats/iq1_grid.h"

namespace hrun {

// Grid entries hold 8p + 8.
HRUN_HD void store_offset(uint64_t levels, bool below, int8_t* codes) {
  store_bytes(codes, minus(levels, below ? 9 : 7));
}

struct IQ1_S : BlockOf256<50> {
  static constexpr FormatId kId = 19;
  static constexpr std::string_view kName = "iq1_s";
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    out.scale = load_fp16(block) * 0.125f;  // exact: fp16's exponent range is far inside fp32's
    const uint64_t* grid = iq1_grid();
    for (int k = 0; k < 8; ++k)
      out.group_scale[2 * k] = out.group_scale[2 * k + 1] =
          static_cast<int16_t>(1 + 2 * ((word(block, k) >> 12) & 7));
    for (int k = 0; k < 32; ++k)
      store_offset(grid[point(block, k)], below(block, k), out.codes + 8 * k);
  }
  static HRUN_HD unsigned point(const uint8_t* block, int k) {
    return block[2 + k] | (((word(block, k / 4) >> (3 * (k % 4))) & 7) << 8);
  }
  static HRUN_HD bool below(const uint8_t* block, int k) { return word(block, k / 4) >> 15; }

 private:
  static HRUN_HD unsigned word(const uint8_t* block, int k) {
    return block[34 + 2 * k] | (static_cast<unsigned>(block[35 + 2 * k]) << 8);
  }
};

struct IQ1_M : BlockOf256<56> {
  static constexpr FormatId kId = 29;
  static constexpr std::string_view kName = "iq1_m";
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    unsigned d = 0;
    for (int i = 0; i < 4; ++i) {
      const unsigned word = block[48 + 2 * i] | (static_cast<unsigned>(block[49 + 2 * i]) << 8);
      d |= (word >> 12) << (4 * i);
      for (int j = 0; j < 4; ++j)
        out.group_scale[4 * i + j] = static_cast<int16_t>(1 + 2 * ((word >> (3 * j)) & 7));
    }
    out.scale = fp16_to_fp32(static_cast<uint16_t>(d)) * 0.125f;
    const uint64_t* grid = iq1_grid();
    for (int k = 0; k < 32; ++k)
      store_offset(grid[point(block, k)], below(block, k), out.codes + 8 * k);
  }
  static HRUN_HD unsigned point(const uint8_t* block, int k) {
    return block[k] | ((more(block, k) & 7) << 8);
  }
  static HRUN_HD bool below(const uint8_t* block, int k) { return more(block, k) >> 3; }

 private:
  static HRUN_HD unsigned more(const uint8_t* block, int k) {
    return (block[32 + k / 2] >> (4 * (k % 2))) & 15u;
  }
};

}  // namespace hrun
