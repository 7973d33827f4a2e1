// GGML's 256-wide formats with integer scales per group ("k-quants"): Q2_K, Q3_K, Q4_K, Q5_K, Q6_K.
//
//   q2_k   84 bytes  scales[16] (low half: scale, high half: minimum), codes[64], d, dmin     w = d
//   * s * q - dmin * m q3_k  110 bytes  third bits[32], codes[64], scales[12] (16 of 6 bits, minus
//   32), d        w = d * (s - 32) * (q - 4) q4_k  144 bytes  d, dmin, scales[12] (8 scales and 8
//   minima of 6 bits), codes[128]        w = d * s * q - dmin * m q5_k  176 bytes  d, dmin,
//   scales[12], fifth bits[32], codes[128]                          w = d * s * q - dmin * m q6_k
//   210 bytes  low bits[128], high bits[64], int8 scales[16], d                         w = d * s *
//   (q - 32)
//
// Groups are 16 weights (q2_k, q3_k, q6_k) or 32 (q4_k, q5_k).
#pragma once

#include "formats/bytes.h"
#include "formats/format.h"

namespace hrun {

// Bit fields of 256 weights lie in planes of 32: weight 32 p + i of plane p shares byte i of a run
// of 32 bytes with the planes next to it, each at its own bits.  The codes are decoded 8 at a time,
// i = 8 j ... 8 j + 7.

// Codes of 2 bits in 64 bytes: plane p at bits 2 (p % 4) of run p / 4.
HRUN_HD Bytes8 pair_codes(const uint8_t* bytes, int p, int j) {
  return two_bits(load_bytes(bytes + 32 * (p / 4) + 8 * j), 2 * (p % 4));
}

// Codes of 4 bits in 128 bytes: plane p at bits 4 (p % 2) of run p / 2.
HRUN_HD Bytes8 half_codes(const uint8_t* bytes, int p, int j) {
  return four_bits(load_bytes(bytes + 32 * (p / 2) + 8 * j), 4 * (p % 2));
}

// Single bits in 32 bytes: plane p at bit p.
HRUN_HD Bytes8 top_bits(const uint8_t* bytes, int p, int j) {
  return one_bit(load_bytes(bytes + 8 * j), p);
}

// The 8 scales and 8 minima of 6 bits in 12 bytes, each for two groups of 16: bytes 0-3 hold the
// scales 0-3 and bytes 4-7 the minima 0-3 in their low six bits; bytes 8-11 hold the low four bits
// of the scales 4-7 and, above them, of the minima 4-7, whose top two bits sit at the top of bytes
// 0-3 and 4-7.
HRUN_HD void unpack_scales_and_minima(const uint8_t* bytes, int16_t* scale, int16_t* minimum) {
  for (int k = 0; k < 4; ++k) {
    const int s = bytes[k], m = bytes[4 + k], low = bytes[8 + k];
    scale[2 * k] = scale[2 * k + 1] = static_cast<int16_t>(s & 63);
    minimum[2 * k] = minimum[2 * k + 1] = static_cast<int16_t>(m & 63);
    scale[8 + 2 * k] = scale[8 + 2 * k + 1] = static_cast<int16_t>((low & 15) | ((s >> 6) << 4));
    minimum[8 + 2 * k] = minimum[8 + 2 * k + 1] =
        static_cast<int16_t>((low >> 4) | ((m >> 6) << 4));
  }
}

struct Q2_K : BlockOf256<84, true> {
  static constexpr FormatId kId = 10;
  static constexpr std::string_view kName = "q2_k";
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    for (int g = 0; g < 16; ++g) out.group_scale[g] = static_cast<int16_t>(block[g] & 15);
    for (int g = 0; g < 16; ++g) out.group_offset[g] = static_cast<int16_t>(block[g] >> 4);
    for (int p = 0; p < 8; ++p)
      for (int j = 0; j < 4; ++j)
        store_bytes(out.codes + 32 * p + 8 * j, pair_codes(block + 16, p, j));
    out.scale = load_fp16(block + 80);
    out.offset = load_fp16(block + 82);
  }
};

struct Q3_K : BlockOf256<110> {
  static constexpr FormatId kId = 11;
  static constexpr std::string_view kName = "q3_k";
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    // A set third bit means no subtraction: q - 4 = low + 4 * bit - 4.
    for (int p = 0; p < 8; ++p)
      for (int j = 0; j < 4; ++j)
        store_bytes(out.codes + 32 * p + 8 * j,
                    minus(pair_codes(block + 32, p, j) | (top_bits(block, p, j) << 2), 4));
    // Group g: low four bits in half g / 8 of byte g % 8, high two bits at bit 2 (g / 4) of byte 8
    // + g % 4.
    const uint8_t* scales = block + 96;
    for (int g = 0; g < 16; ++g) {
      const int low = (scales[g % 8] >> (4 * (g / 8))) & 15,
                high = (scales[8 + g % 4] >> (2 * (g / 4))) & 3;
      out.group_scale[g] = static_cast<int16_t>((low | (high << 4)) - 32);
    }
    out.scale = load_fp16(block + 108);
  }
};

struct Q4_K : BlockOf256<144, true> {
  static constexpr FormatId kId = 12;
  static constexpr std::string_view kName = "q4_k";
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    out.scale = load_fp16(block);
    out.offset = load_fp16(block + 2);
    unpack_scales_and_minima(block + 4, out.group_scale, out.group_offset);
    for (int p = 0; p < 8; ++p)
      for (int j = 0; j < 4; ++j)
        store_bytes(out.codes + 32 * p + 8 * j, half_codes(block + 16, p, j));
  }
};

struct Q5_K : BlockOf256<176, true> {
  static constexpr FormatId kId = 13;
  static constexpr std::string_view kName = "q5_k";
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    out.scale = load_fp16(block);
    out.offset = load_fp16(block + 2);
    unpack_scales_and_minima(block + 4, out.group_scale, out.group_offset);
    for (int p = 0; p < 8; ++p)
      for (int j = 0; j < 4; ++j)
        store_bytes(out.codes + 32 * p + 8 * j,
                    half_codes(block + 48, p, j) | (top_bits(block + 16, p, j) << 4));
  }
};

struct Q6_K : BlockOf256<210> {
  static constexpr FormatId kId = 14;
  static constexpr std::string_view kName = "q6_k";
  static HRUN_HD void unpack(const uint8_t* block, int, IntBlock& out) {
    // The low four bits of planes 4h + 2v + u lie at bits 4v of run 2h + u.
    for (int p = 0; p < 8; ++p)
      for (int j = 0; j < 4; ++j) {
        const Bytes8 low =
            four_bits(load_bytes(block + 64 * (p / 4) + 32 * (p % 2) + 8 * j), 4 * (p % 4 / 2));
        store_bytes(out.codes + 32 * p + 8 * j,
                    minus(low | (pair_codes(block + 128, p, j) << 4), 32));
      }
    for (int g = 0; g < 16; ++g) out.group_scale[g] = static_cast<int8_t>(block[192 + g]);
    out.scale = load_fp16(block + 208);
  }
};

}  // namespace hrun
