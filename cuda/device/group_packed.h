// Packed layouts (packed.h) of formats with a scale per group of 32 or 16 columns, all in the
// natural order.
//
//   nibbles   word 2 s + h: columns of product s in row g + 8 h, byte j: 4 q + j in its lower
//             half, 16 + 4 q + j in its upper half
//   six bits  nibbles, then word 16 + 2 p + h: bits 4 and 5 of products 2 p and 2 p + 1, byte j:
//             as above, two bits each
//   bytes     word 4 s + 2 e + h: columns 16 e + 4 q + j
//
// Codes of less than 8 bits are decoded into the upper bits of a byte.  Their top bit, flipped, is
// the sign there.  A nibble n becomes 16 (n - 8), or 8 (2 n - 15), which is all that the grid of
// IQ3_S holds; six bits n become 4 (n - 32); unsigned codes stay what they are.  The power of two
// comes off with the scale, exactly.
#pragma once

#include "cuda/device/packed.h"

namespace hrun::gpu {

// The layout of the scales of a chunk in memory, for each kind: bytes per row pair g, g + 8, in
// order of g.
//   half_groups    8 words: fp16 of product s in row g and row g + 8
//   odd_nibbles    2 words: product s of row g + 8 h at bits 4 s of word h (s for 2 s + 1); after
//                  all of them a word of two fp16
//   bytes_offsets  16 bytes [h][s]; after all of them the same for the offsets; then 2 words: fp16
//                  scale and offset of row g + 8 h
//   bytes_16       32 bytes [h][16]; after all of them a word of two fp16
enum class GroupScales : uint8_t { half_groups, odd_nibbles, bytes_offsets, bytes_16 };

enum class GroupCodes : uint8_t {
  signed_nibbles,
  odd_nibbles,
  unsigned_nibbles,
  six_bits,
  unsigned_six_bits,
  bytes
};

template <GroupCodes codes, GroupScales scales, int scale_bytes, int group>
struct PackedGroups {
  static constexpr GroupCodes kCodes = codes;
  static constexpr bool kSixBits =
      codes == GroupCodes::six_bits || codes == GroupCodes::unsigned_six_bits;
  static constexpr int kLoads = codes == GroupCodes::bytes ? 8 : kSixBits ? 6 : 4;
  static constexpr GroupScales kScales = scales;
  static constexpr int kScaleBytes = scale_bytes;
  static constexpr bool kTransposed = false;
  static constexpr int kGroup = group;
  // Decoded bytes are codes * kFactor.
  static constexpr int kFactor = codes == GroupCodes::signed_nibbles ? 16
                                 : codes == GroupCodes::odd_nibbles  ? 8
                                 : codes == GroupCodes::six_bits     ? 4
                                                                     : 1;
  static HRUN_HD int stored(int code) {
    return codes == GroupCodes::signed_nibbles ? code + 8
           : codes == GroupCodes::odd_nibbles  ? (code + 15) / 2
           : codes == GroupCodes::six_bits     ? code + 32
                                               : code;
  }
};

template <class F, class Rule>
struct PackGroups : Rule {
  static HRUN_HD void pack_row(const uint8_t* row, int64_t cols, int64_t index, int row_of_tile,
                               uint8_t* chunk) {
    constexpr int kBlocks = kChunkColumns / F::kBlockValues;
    for (int b = 0; b < kBlocks; ++b) {
      const int64_t at = index * kBlocks + b;
      IntBlock block{};
      const bool inside = row && at * F::kBlockValues < cols;
      if (inside) F::unpack(row + static_cast<size_t>(at) * F::kBlockBytes, F::kBlockValues, block);
      constexpr int kProducts = F::kBlockValues / 32;
      for (int s = 0; s < kProducts; ++s)
        store_codes(block.codes + 32 * s, inside, b * kProducts + s, row_of_tile, chunk);
      // The fp16 scales as they are: GGML's formats have them where unpack() found them, exactly
      // representable.
      if constexpr (Rule::kScales == GroupScales::half_groups)
        store_u16(
            chunk + 512 * Rule::kLoads + 32 * (row_of_tile % 8) + 4 * b + 2 * (row_of_tile / 8),
            inside ? fp32_to_fp16(block.scale) : 0u);
      else
        store_scales(block, inside, row_of_tile, chunk + 512 * Rule::kLoads);
    }
  }

  static HRUN_HD void store_codes(const int8_t* codes, bool inside, int s, int row_of_tile,
                                  uint8_t* chunk) {
    const int g = row_of_tile % 8, h = row_of_tile / 8;
    for (int q = 0; q < 4; ++q) {
      const auto four = [&](int e) {  // stored codes of columns 16 e + 4 q ..., one per byte
        uint32_t w = 0;
        for (int j = 0; inside && j < 4; ++j)
          w |= static_cast<uint32_t>(Rule::stored(codes[16 * e + 4 * q + j]) & 255) << (8 * j);
        return w;
      };
      const uint32_t first = four(0), second = four(1);
      const int at = 4 * g + q;
      if constexpr (Rule::kLoads == 8) {
        store_u32(word_of_lane(chunk, at, 4 * s + h), first);
        store_u32(word_of_lane(chunk, at, 4 * s + 2 + h), second);
      } else {
        store_u32(word_of_lane(chunk, at, 2 * s + h), (first & 0x0f0f0f0fu) | (second & 0x0f0f0f0fu)
                                                                                  << 4);
        if constexpr (Rule::kLoads == 6) {
          uint8_t* const high = word_of_lane(chunk, at, 16 + s / 2 * 2 + h);
          const uint32_t bits = (first >> 4 & 0x03030303u) | (second >> 4 & 0x03030303u) << 2;
          // One thread packs all products of its row in order.
          store_u32(high, s % 2 == 0 ? bits : *reinterpret_cast<const uint32_t*>(high) | bits << 4);
        }
      }
    }
  }

  static HRUN_HD void store_scales(const IntBlock& block, bool inside, int row_of_tile,
                                   uint8_t* scales) {
    const int g = row_of_tile % 8, h = row_of_tile / 8;
    const uint32_t d = inside ? fp32_to_fp16(block.scale) : 0u;
    const auto group = [&](int i) {
      return inside ? static_cast<uint32_t>(block.group_scale[i]) : 0u;
    };
    if constexpr (Rule::kScales == GroupScales::odd_nibbles) {
      uint32_t w = 0;
      for (int s = 0; s < 8; ++s) w |= (group(2 * s) / 2 & 15) << (4 * s);
      store_u32(scales + 8 * g + 4 * h, w);
      store_u16(scales + 64 + 4 * g + 2 * h, d);
    } else if constexpr (Rule::kScales == GroupScales::bytes_offsets) {
      for (int s = 0; s < 8; ++s) {
        scales[16 * g + 8 * h + s] = static_cast<uint8_t>(group(2 * s));
        scales[128 + 16 * g + 8 * h + s] =
            static_cast<uint8_t>(inside ? block.group_offset[2 * s] : 0);
      }
      store_u32(scales + 256 + 8 * g + 4 * h,
                d | (inside ? static_cast<uint32_t>(fp32_to_fp16(block.offset)) : 0u) << 16);
    } else {
      for (int i = 0; i < 16; ++i) scales[32 * g + 16 * h + i] = static_cast<uint8_t>(group(i));
      store_u16(scales + 256 + 4 * g + 2 * h, d);
    }
  }
};

template <>
struct Packed<Q4_0>
    : PackGroups<Q4_0,
                 PackedGroups<GroupCodes::signed_nibbles, GroupScales::half_groups, 256, 32>> {};
template <>
struct Packed<Q5_0>
    : PackGroups<Q5_0, PackedGroups<GroupCodes::six_bits, GroupScales::half_groups, 256, 32>> {};
template <>
struct Packed<Q8_0>
    : PackGroups<Q8_0, PackedGroups<GroupCodes::bytes, GroupScales::half_groups, 256, 32>> {};
template <>
struct Packed<IQ3_S>
    : PackGroups<IQ3_S, PackedGroups<GroupCodes::odd_nibbles, GroupScales::odd_nibbles, 96, 32>> {};
template <>
struct Packed<ITQ3_S>
    : PackGroups<ITQ3_S, PackedGroups<GroupCodes::odd_nibbles, GroupScales::odd_nibbles, 96, 32>> {
};
template <>
struct Packed<Q3_K>
    : PackGroups<Q3_K, PackedGroups<GroupCodes::signed_nibbles, GroupScales::bytes_16, 288, 16>> {};
template <>
struct Packed<Q4_K>
    : PackGroups<Q4_K,
                 PackedGroups<GroupCodes::unsigned_nibbles, GroupScales::bytes_offsets, 320, 32>> {
};
template <>
struct Packed<Q5_K>
    : PackGroups<Q5_K,
                 PackedGroups<GroupCodes::unsigned_six_bits, GroupScales::bytes_offsets, 320, 32>> {
};
template <>
struct Packed<Q6_K>
    : PackGroups<Q6_K, PackedGroups<GroupCodes::six_bits, GroupScales::bytes_16, 288, 16>> {};

}  // namespace hrun::gpu
