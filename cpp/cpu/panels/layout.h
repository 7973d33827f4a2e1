// Panels: how weights are repacked on upload for the kernels that stream them.
//
// A panel is 16 rows.  Its columns go in units of 32.  A unit is 8 vectors of 64 bytes: vector s
// holds for each row the 4 columns that one 32-bit dot-product step takes: byte 4 row + j.  Codes
// are unsigned (code + bias), as the u8 x s8 instructions want them; the bias is taken off again
// with the exact sums of the activations.  Where a tier's instructions do not take the format's
// largest unsigned code, codes are signed and have no bias (panels/tier.h, signed_codes).
//
//   two     128 bytes a unit  two vectors: bits 2j and 2j + 1 are the codes of step 4i + j
//   three   192 bytes         three vectors: bits 0-2 and 3-5 are the codes of steps (0,1), (2,3),
//                             (4,5); the spare bits 6-7 together hold those of steps 6 and 7
//   nibble  256 bytes         vectors 2i (low half) and 2i + 1 (high half) share 64 bytes; 16
//                             levels by table
//   six     384 bytes         nibbles as above, then two vectors of high bits, 2 bits each of
//                             vectors 0..3 and 4..7
//   byte    512 bytes         as they are
//   points  64 to 144 bytes   points of a codebook of eight weights, and signs (panels/points.h)
//   rtq2, rtq3, rtq4          as two, three and nibble
//   rtq5    320 bytes         nibbles as above, then a vector of the fifth bits, bit s that of
//                             step s
//   rtq6                      as six
//
// In the order `squares`, four steps take 16 columns, step s of them columns s, 4 + s, 8 + s and 12
// + s.  Then four steps are the four weights, in order, that a byte lane of codes holds for four
// neighbours.  In the order `segments`, the block is cut into four equal segments and step s takes
// column s of each.  Then byte lane j of successive vectors is one stretch of the trellis, and the
// earlier codes that a weight depends on lie in the vectors before.
//
// A panel in memory has for each block its meta (fp16 scales of 16 rows, fp16 offsets, int8 group
// scales [group][row], uint8 group offsets [pair of groups][row][2]), then, 64-aligned, the units
// of all blocks.  Group scales and offsets of four bits are [pair of groups][row], the even group's
// in the lower half.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/lanes/lanes.h"
#include "formats/list.h"

namespace hrun {

inline constexpr int kUnit = 32;        // columns
inline constexpr int kUnitVectors = 8;  // of 64 bytes

enum class PackedCodes : uint8_t {
  none,
  two,
  three,
  nibble,
  six,
  byte,
  points,
  rtq2,
  rtq3,
  rtq4,
  rtq5,
  rtq6
};

// The form of group scales: int8, or four bits s that mean s, or 2 s + 1.
enum class GroupScales : uint8_t { bytes, nibbles, odd_nibbles };

// The rule by which a format is packed.  To make a format fast: one specialisation here.
template <class F>
struct PackRule {
  static constexpr PackedCodes kCodes = PackedCodes::none;
};

template <PackedCodes codes, int scale_columns, int bias, int highest>
struct PackedAs {
  static constexpr PackedCodes kCodes = codes;
  static constexpr int kScaleColumns = scale_columns;  // 16 or 32; 0: one scale per block
  static constexpr int kBias = bias;                   // of the unsigned codes
  static constexpr int kHighest = highest;             // unsigned code
  // A panel holds the fp16 number of the file's block; the scale is this power of two times that,
  // exactly.
  static constexpr float kScaleFactor = 1.0f;
  static constexpr GroupScales kGroupScales = GroupScales::bytes;
};

// level(i): the code that nibble i stands for; index(code): the nibble.
template <int scale_columns, int bias, int first>
struct ConsecutiveNibbles : PackedAs<PackedCodes::nibble, scale_columns, bias, first + 15 + bias> {
  static constexpr int level(int i) { return first + i; }
  static constexpr int index(int code) { return code - first; }
};

template <>
struct PackRule<Q4_0> : ConsecutiveNibbles<0, 8, -8> {};
template <>
struct PackRule<Q4_1> : ConsecutiveNibbles<0, 0, 0> {};
template <int scale_columns, int bias, int highest>
using SixBits = PackedAs<PackedCodes::six, scale_columns, bias, highest>;
template <>
struct PackRule<Q5_0> : SixBits<0, 16, 31> {};
template <>
struct PackRule<Q5_1> : SixBits<0, 0, 31> {};
template <>
struct PackRule<Q8_0> : PackedAs<PackedCodes::byte, 0, 128, 255> {};
template <>
struct PackRule<TQ1_0> : PackedAs<PackedCodes::two, 0, 1, 3> {};
template <>
struct PackRule<TQ2_0> : PackedAs<PackedCodes::two, 0, 1, 3> {};
template <>
struct PackRule<Q2_K> : PackedAs<PackedCodes::two, 16, 0, 3> {
  static constexpr GroupScales kGroupScales = GroupScales::nibbles;
};
template <>
struct PackRule<Q3_K> : PackedAs<PackedCodes::three, 16, 4, 7> {};
template <>
struct PackRule<Q4_K> : ConsecutiveNibbles<32, 0, 0> {};
template <>
struct PackRule<Q5_K> : SixBits<32, 0, 31> {};
template <>
struct PackRule<Q6_K> : SixBits<16, 32, 63> {};
struct OddNibbles : PackedAs<PackedCodes::nibble, 32, 15, 30> {
  static constexpr GroupScales kGroupScales = GroupScales::odd_nibbles;
  static constexpr int level(int i) {
    return 2 * i - 15;
  }  // +-1, +-3, ..., +-15: the grid of IQ3_S holds no others
  static constexpr int index(int code) { return (code + 15) / 2; }
};
template <>
struct PackRule<IQ3_S> : OddNibbles {};
template <>
struct PackRule<ITQ3_S> : OddNibbles {};
template <>
struct PackRule<IQ3_XXS> : PackedAs<PackedCodes::nibble, 32, 62, 124> {
  static constexpr GroupScales kGroupScales = GroupScales::odd_nibbles;
  static constexpr float kScaleFactor = 0.25f;
  static constexpr int magnitude(int i) { return i == 7 ? 62 : 8 * i + 4; }
  static constexpr int level(int i) { return i < 8 ? -magnitude(7 - i) : magnitude(i - 8); }
  static constexpr int index(int code) { return code < 0 ? 7 - -code / 8 : 8 + code / 8; }
};
template <int scale_columns>
struct Iq4Nibbles : PackedAs<PackedCodes::nibble, scale_columns, 128, 113 + 128> {
  static HRUN_HD int level(int i) { return iq4_levels()[i]; }
  static HRUN_HD int index(int code) {  // they ascend
    int below = 0;
    for (int i = 0; i < 15; ++i) below += code > iq4_levels()[i];
    return below;
  }
};
template <>
struct PackRule<IQ4_NL> : Iq4Nibbles<0> {};
template <>
struct PackRule<IQ4_XS> : Iq4Nibbles<32> {};
struct Fp4Nibbles : PackedAs<PackedCodes::nibble, 0, 12, 12 + 12> {
  static HRUN_HD int level(int i) { return fp4_levels()[i]; }
  static HRUN_HD int index(int code) {
    const int magnitude = code < 0 ? -code : code;
    int below = 0;
    for (int i = 0; i < 7; ++i) below += magnitude > fp4_levels()[i];
    return code < 0 ? below + 8 : below;
  }
};
template <>
struct PackRule<MXFP4> : Fp4Nibbles {};
// level(digit, sign): the level of a weight, from the digit of its point and its sign, or the sign
// of all eight.
template <int scale_columns, int bias, int index_bits, bool sign_of_each>
struct PointsAs : PackedAs<PackedCodes::points, scale_columns, bias, 2 * bias> {
  static constexpr int kIndexBits = index_bits;
  static constexpr bool kSignOfEach = sign_of_each;
  static constexpr GroupScales kGroupScales = GroupScales::odd_nibbles;
  static constexpr float kScaleFactor = 0.125f;
};
template <int scale_columns, int index_bits>
struct SignedPoints : PointsAs<scale_columns, 43, index_bits, true> {
  static constexpr int level(int digit, bool minus) {
    const int magnitude = digit == 0 ? 8 : digit == 1 ? 25 : 43;
    return minus ? -magnitude : magnitude;
  }
};
template <int scale_columns>
struct MovedPoints : PointsAs<scale_columns, 9, 11, false> {
  static constexpr int level(int digit, bool below) { return 8 * (digit - 1) + (below ? -1 : 1); }
  static consteval auto digits() { return iq1_digits(); }
};
template <>
struct PackRule<IQ2_XXS> : SignedPoints<32, 8> {
  static consteval auto digits() { return iq2_xxs_digits(); }
};
template <>
struct PackRule<IQ2_XS> : SignedPoints<16, 9> {
  static consteval auto digits() { return iq2_xs_digits(); }
};
template <>
struct PackRule<IQ2_S> : SignedPoints<16, 10> {
  static consteval auto digits() { return iq2_s_digits(); }
};
template <>
struct PackRule<IQ1_S> : MovedPoints<32> {};
template <>
struct PackRule<IQ1_M> : MovedPoints<16> {};
template <class F, PackedCodes codes>
using PackedTrellis = PackedAs<codes, 0, F::kLargestLevel + 1, 2 * F::kLargestLevel + 1>;
template <>
struct PackRule<RTQ2> : PackedTrellis<RTQ2, PackedCodes::rtq2> {};
template <>
struct PackRule<RTQ3> : PackedTrellis<RTQ3, PackedCodes::rtq3> {};
template <>
struct PackRule<RTQ4> : PackedTrellis<RTQ4, PackedCodes::rtq4> {};
template <>
struct PackRule<RTQ5> : PackedTrellis<RTQ5, PackedCodes::rtq5> {};
template <>
struct PackRule<RTQ6> : PackedTrellis<RTQ6, PackedCodes::rtq6> {};

// A format that has the same panels: its kernels serve.
template <class F>
struct PanelsOf {
  using Format = F;
};
template <>
struct PanelsOf<IQ3_S> {
  using Format = ITQ3_S;
};
template <>
struct PanelsOf<TQ1_0> {
  using Format = TQ2_0;
};

template <class F>
concept PackableFormat = QuantizedFormat<F> && PackRule<F>::kCodes != PackedCodes::none;

template <class Rule>
constexpr size_t unit_bytes() {
  if constexpr (Rule::kCodes == PackedCodes::points)  // 64 points: bytes and planes of bits
    return 64 + 8 * (Rule::kIndexBits - 8) + (Rule::kSignOfEach ? 64 : 8);
  switch (Rule::kCodes) {
    case PackedCodes::two:
    case PackedCodes::rtq2:
      return 128;
    case PackedCodes::three:
    case PackedCodes::rtq3:
      return 192;
    case PackedCodes::nibble:
    case PackedCodes::rtq4:
      return 256;
    case PackedCodes::rtq5:
      return 320;
    case PackedCodes::six:
    case PackedCodes::rtq6:
      return 384;
    default:
      return 512;
  }
}

// The places of the data in a panel of format F.
template <PackableFormat F>
struct PanelLayout {
  using Rule = PackRule<F>;
  static constexpr int kScaleColumns =
      Rule::kScaleColumns == 0 ? F::kBlockValues : Rule::kScaleColumns;
  static constexpr bool kGroups = Rule::kScaleColumns != 0;
  static constexpr int kGroupCount = F::kBlockValues / kScaleColumns;
  static constexpr size_t kGroupBytes =
      kGroupCount * kPanelRows / (Rule::kGroupScales == GroupScales::bytes ? 1 : 2);
  static constexpr size_t kScaleBytes = 2 * kPanelRows;
  static constexpr size_t kOffsetAt = kScaleBytes;
  static constexpr size_t kGroupScaleAt = kOffsetAt + (F::kHasOffset ? kScaleBytes : 0);
  static constexpr size_t kGroupOffsetAt = kGroupScaleAt + (kGroups ? kGroupBytes : 0);
  static constexpr size_t kMetaBytes =
      kGroupOffsetAt + (kGroups && F::kHasOffset ? kGroupBytes : 0);
  static constexpr size_t kUnitBytes = unit_bytes<Rule>();

  static constexpr size_t codes_at(int64_t cols) {
    return (static_cast<size_t>(n_blocks<F>(cols)) * kMetaBytes + 63) / 64 * 64;
  }
  static constexpr size_t panel_bytes(int64_t cols) {
    return codes_at(cols) + static_cast<size_t>(cols / kUnit) * kUnitBytes;
  }
};

namespace {

// The bias that this tier adds to the format's codes (panels/tier.h).
template <PackableFormat F>
constexpr int code_bias();

// A tier's decoder of the units of a block of n columns: next() per unit.  Its `Constants` are made
// once per call.
struct NoTables {};
template <class F, PackedCodes codes = PackRule<F>::kCodes>
struct UnitDecoder;

// Packs points (panels/points.h).
template <class F>
struct PointPacker;

HRUN_HD void pack_nibbles(const uint8_t* values, uint8_t* unit) {
  for (int i = 0; i < 4; ++i)
    for (int k = 0; k < 64; ++k)
      unit[64 * i + k] =
          static_cast<uint8_t>((values[128 * i + k] & 15) | (values[128 * i + 64 + k] << 4));
}

// values: 8 vectors of 64 bytes, as packable_codes gives them.
template <PackedCodes codes>
HRUN_HD void pack_unit(const uint8_t* values, uint8_t* unit) {
  if constexpr (codes == PackedCodes::nibble || codes == PackedCodes::rtq4)
    pack_nibbles(values, unit);
  if constexpr (codes == PackedCodes::rtq5) {
    pack_nibbles(values, unit);
    for (int k = 0; k < 64; ++k) {
      unsigned fifth = 0;
      for (int s = 0; s < 8; ++s) fifth |= static_cast<unsigned>(values[64 * s + k] >> 4) << s;
      unit[256 + k] = static_cast<uint8_t>(fifth);
    }
  }
  if constexpr (codes == PackedCodes::byte) memcpy(unit, values, 512);
  if constexpr (codes == PackedCodes::six || codes == PackedCodes::rtq6) {
    pack_nibbles(values, unit);
    for (int k = 0; k < 128; ++k) {
      const uint8_t* v = values + (k / 64) * 256 + k % 64;
      unit[256 + k] = static_cast<uint8_t>((v[0] >> 4) | ((v[64] >> 4) << 2) |
                                           ((v[128] >> 4) << 4) | ((v[192] >> 4) << 6));
    }
  }
  if constexpr (codes == PackedCodes::two || codes == PackedCodes::rtq2) {
    for (int k = 0; k < 128; ++k) {
      const uint8_t* v = values + (k / 64) * 256 + k % 64;
      unit[k] = static_cast<uint8_t>(v[0] | (v[64] << 2) | (v[128] << 4) | (v[192] << 6));
    }
  }
  if constexpr (codes == PackedCodes::three || codes == PackedCodes::rtq3) {
    for (int k = 0; k < 64; ++k) {
      const auto w = [&](int s) { return static_cast<unsigned>(values[64 * s + k]); };
      unit[k] = static_cast<uint8_t>(w(0) | (w(1) << 3) | ((w(6) & 3) << 6));
      unit[64 + k] =
          static_cast<uint8_t>(w(2) | (w(3) << 3) | ((w(6) >> 2) << 6) | ((w(7) & 1) << 7));
      unit[128 + k] = static_cast<uint8_t>(w(4) | (w(5) << 3) | ((w(7) >> 1) << 6));
    }
  }
}

// The values that are packed of a block of n columns, by column: codes with the tier's bias, or the
// numbers of levels, or a trellis' codes.
template <PackableFormat F>
HRUN_HD void packable_codes(const uint8_t* block, int n, const IntBlock& ints, uint8_t* out) {
  using Rule = PackRule<F>;
  if constexpr (RtqFormat<F>) {
    for (int t = 0; t < n; t += 8)
      store_bytes(reinterpret_cast<int8_t*>(out + t),
                  spread_codes<F::kCodeBits>(block + 2 + t / 8 * F::kCodeBits));
  } else if constexpr (Rule::kCodes == PackedCodes::nibble) {
    for (int i = 0; i < n; ++i) out[i] = static_cast<uint8_t>(Rule::index(ints.codes[i]));
  } else {
    for (int i = 0; i < n; ++i) out[i] = static_cast<uint8_t>(ints.codes[i] + code_bias<F>());
  }
}

// Makes step s of 16 rows, four bytes each, vector s.  It is a function of its own, not inlined
// into the kernel of each format.
[[gnu::noinline]] void transpose_steps(const uint8_t (&codes)[kPanelRows][kMaxBlock], int steps,
                                       uint8_t* vectors) {
  for (int s = 0; s < steps; s += kLanes)
    transpose_pairs(reinterpret_cast<const int16_t*>(&codes[0][4 * s]), kMaxBlock / 2,
                    reinterpret_cast<int16_t*>(vectors + 64 * s));
}

// Puts the scale and offset of group g of row r into the meta of a block, which was zeros.  Returns
// false if they do not fit.
template <PackableFormat F>
bool put_group(uint8_t* meta, int g, int r, int scale, int offset) {
  using Layout = PanelLayout<F>;
  uint8_t* const scales = meta + Layout::kGroupScaleAt;
  uint8_t* const offsets = meta + Layout::kGroupOffsetAt;
  if constexpr (PackRule<F>::kGroupScales == GroupScales::bytes) {
    if (scale < -128 || scale > 127 || offset < 0 || offset > 255) return false;
    scales[g * kPanelRows + r] = static_cast<uint8_t>(scale);
    if constexpr (F::kHasOffset)
      offsets[g / 2 * 2 * kPanelRows + 2 * r + g % 2] = static_cast<uint8_t>(offset);
  } else {
    if (PackRule<F>::kGroupScales == GroupScales::odd_nibbles) scale = (scale - 1) / 2;
    if (scale < 0 || scale > 15 || offset < 0 || offset > 15) return false;
    const int at = g / 2 * kPanelRows + r, shift = g % 2 * 4;
    scales[at] |= static_cast<uint8_t>(scale << shift);
    if constexpr (F::kHasOffset) offsets[at] |= static_cast<uint8_t>(offset << shift);
  }
  return true;
}

// Packs rows (at most 16; missing ones become zeros) of `cols` columns into a panel.  Returns false
// if a number does not fit the layout.  Only malformed files cause this: the tensor then stays as
// it is.
template <PackableFormat F>
bool pack_panel_kernel(const uint8_t* rows, size_t row_bytes, int n_rows, int64_t cols,
                       uint8_t* panel) {
  using Layout = PanelLayout<F>;
  using Rule = PackRule<F>;
  constexpr PackedCodes kCodes = Rule::kCodes;
  memset(panel, 0, Layout::codes_at(cols));
  uint8_t* unit = panel + Layout::codes_at(cols);
  alignas(64)
      uint8_t codes[kPanelRows][kMaxBlock] = {};    // in the order of the steps: four bytes each
  alignas(64) uint8_t vectors[kMaxBlock / 4 * 64];  // [step][row][4]
  for (int64_t b = 0; b < n_blocks<F>(cols); ++b) {
    const int n = block_length<F>(cols, b), steps = n / 4;
    uint8_t* meta = panel + static_cast<size_t>(b) * Layout::kMetaBytes;
    for (int r = 0; r < n_rows; ++r) {
      const uint8_t* block =
          rows + static_cast<size_t>(r) * row_bytes + static_cast<size_t>(b) * F::kBlockBytes;
      IntBlock ints;
      if constexpr (RtqFormat<F>)
        ints.scale = load_fp16(block);
      else
        F::unpack(block, n, ints);
      const auto put_half = [&](size_t at, float value) {
        store_fp16(meta + at + 2 * static_cast<size_t>(r), value);
        return float_to_bits(load_fp16(meta + at + 2 * static_cast<size_t>(r))) ==
               float_to_bits(value);
      };
      if (!put_half(0, ints.scale / Rule::kScaleFactor)) {
        if constexpr (kCodes == PackedCodes::points) return false;
        // The scale of a block of zeros does not matter; MXFP4's may be of any size.
        bool is_zero = !F::kHasOffset && !RtqFormat<F>;
        for (int i = 0; i < n && is_zero; ++i) is_zero = ints.codes[i] == 0;
        if (!is_zero) return false;
        put_half(0, 0.0f);
      }
      if constexpr (F::kHasOffset)
        if (!put_half(Layout::kOffsetAt, ints.offset)) return false;
      if constexpr (Layout::kGroups)
        for (int g = 0; g < Layout::kGroupCount; ++g) {
          const int from = g * Layout::kScaleColumns / kGroup;
          if (!put_group<F>(meta, g, r, ints.group_scale[from],
                            F::kHasOffset ? ints.group_offset[from] : 0))
            return false;
        }
      if constexpr (kCodes == PackedCodes::points) {
        if (r == 0) memset(unit, 0, n / kUnit * Layout::kUnitBytes);
        PointPacker<F>::pack(block, r, unit);
      } else if constexpr (RtqFormat<F>) {
        alignas(64) uint8_t by_column[kMaxBlock];
        packable_codes<F>(block, n, ints, by_column);
        interleave_segments(reinterpret_cast<const int8_t*>(by_column), steps,
                            reinterpret_cast<int8_t*>(codes[r]));
      } else {
        alignas(64) uint8_t by_column[kMaxBlock];
        packable_codes<F>(block, n, ints, by_column);
        interleave_squares(reinterpret_cast<const int8_t*>(by_column), n,
                           reinterpret_cast<int8_t*>(codes[r]));
      }
    }
    if constexpr (kCodes == PackedCodes::points) {
      unit += n / kUnit * Layout::kUnitBytes;
      continue;
    }
    transpose_steps(codes, steps, vectors);
    for (int u = 0; u < n / kUnit; ++u, unit += Layout::kUnitBytes)
      pack_unit<kCodes>(vectors + 512 * u, unit);
  }
  return true;
}

}  // namespace
}  // namespace hrun
