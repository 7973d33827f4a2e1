// Decodes codes with a scale per group of 32 or 16 columns to A fragments, and gives their scales.
#pragma once

#include "cuda/device/group_packed.h"

namespace hrun::gpu {

template <GroupScales scales>
inline constexpr int kGroupScaleWords = scales == GroupScales::half_groups     ? 8
                                        : scales == GroupScales::odd_nibbles   ? 3
                                        : scales == GroupScales::bytes_offsets ? 10
                                                                               : 9;

template <class F>
struct GroupChunk {
  using Rule = Packed<F>;
  static constexpr int kWords = kGroupScaleWords<Rule::kScales>;
  Words4 codes[Rule::kLoads];
  uint32_t scales[kWords];

  template <class Read>
  HRUN_HD void load(const uint8_t* chunk, const Read& read) {
#pragma unroll
    for (int i = 0; i < Rule::kLoads; ++i) codes[i] = read(chunk + 512 * i + 16 * lane());
    const uint8_t* const from = chunk + 512 * Rule::kLoads;
    const int g = lane() / 4;
    const auto words = [&](int first, int n, int offset) {
#pragma unroll
      for (int i = 0; i < n; i += 4) {
        const Words4 w = *reinterpret_cast<const Words4*>(from + offset + 4 * i);
#pragma unroll
        for (int j = 0; j < 4; ++j) scales[first + i + j] = w.v[j];
      }
    };
    const auto pair = [&](int first, int offset) {
      const Words2 w = *reinterpret_cast<const Words2*>(from + offset);
      scales[first] = w.v[0], scales[first + 1] = w.v[1];
    };
    if constexpr (Rule::kScales == GroupScales::half_groups) words(0, 8, 32 * g);
    if constexpr (Rule::kScales == GroupScales::odd_nibbles) {
      pair(0, 8 * g);
      scales[2] = *reinterpret_cast<const uint32_t*>(from + 64 + 4 * g);
    }
    if constexpr (Rule::kScales == GroupScales::bytes_offsets)
      words(0, 4, 16 * g), words(4, 4, 128 + 16 * g), pair(8, 256 + 8 * g);
    if constexpr (Rule::kScales == GroupScales::bytes_16) {
      words(0, 8, 32 * g);
      scales[8] = *reinterpret_cast<const uint32_t*>(from + 256 + 4 * g);
    }
  }
};

// next(s) for s = 0 ... 7: fragments of codes * kFactor; the scales have its inverse in them.
template <class F>
struct GroupDecoder {
  using Chunk = GroupChunk<F>;
  using Rule = Packed<F>;
  static constexpr int kParts = 1;
  static constexpr int kBias = 0;
  static constexpr float kInverse = 1.0f / Rule::kFactor;
  // The flipped bits are in a register: an instruction has room for one constant, and that is the
  // mask.
  struct Constants {
    uint32_t flip;
    HRUN_HD Constants()
        : flip(opaque(Rule::kCodes == GroupCodes::odd_nibbles ? 0x88888888u : 0x80808080u)) {}
  };

  const Constants& constants;
  const Chunk& chunk;
  HRUN_HD GroupDecoder(const Constants& k, const Chunk& c) : constants(k), chunk(c) {}

  HRUN_HD uint32_t word(int i) const { return chunk.codes[i / 4].v[i % 4]; }

  HRUN_HD void next(int s, uint32_t (&a)[1][4]) const {
    if constexpr (Rule::kCodes == GroupCodes::bytes) {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[0][i] = word(4 * s + i);
    } else {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint32_t w = word(2 * s + h);
        if constexpr (Rule::kCodes == GroupCodes::unsigned_nibbles) {
          a[0][h] = w & 0x0f0f0f0fu;
          a[0][2 + h] = (w >> 4) & 0x0f0f0f0fu;
        } else if constexpr (Rule::kCodes == GroupCodes::unsigned_six_bits) {
          const uint32_t high = word(16 + s / 2 * 2 + h);
          a[0][h] = (w & 0x0f0f0f0fu) | ((s % 2 == 0 ? high << 4 : high) & 0x30303030u);
          a[0][2 + h] =
              ((w >> 4) & 0x0f0f0f0fu) | ((s % 2 == 0 ? high << 2 : high >> 2) & 0x30303030u);
        } else if constexpr (Rule::kCodes == GroupCodes::six_bits) {
          const uint32_t high = word(16 + s / 2 * 2 + h);
          a[0][h] = (((w << 2) & 0x3c3c3c3cu) ^ constants.flip) ^
                    ((high << (s % 2 == 0 ? 6 : 2)) & 0xc0c0c0c0u);
          a[0][2 + h] = (((w >> 2) & 0x3c3c3c3cu) ^ constants.flip) ^
                        ((s % 2 == 0 ? high << 4 : high) & 0xc0c0c0c0u);
        } else {
          a[0][h] = ((w << 4) & 0xf0f0f0f0u) ^ constants.flip;
          a[0][2 + h] = (w & 0xf0f0f0f0u) ^ constants.flip;
        }
      }
    }
  }

  // The scale and the offset of the block in row g + 8 h.
  HRUN_HD float scale(int h) const {
    if constexpr (Rule::kScales == GroupScales::bytes_offsets)
      return half_to_float(chunk.scales[8 + h]);
    else
      return half_to_float(chunk.scales[GroupChunk<F>::kWords - 1] >> (16 * h)) * kInverse;
  }
  HRUN_HD float offset(int h) const { return half_to_float(chunk.scales[8 + h] >> 16); }

  // The scale of product s, or of its half e where groups are 16 columns.
  HRUN_HD float float_scale(int s, int h) const {
    return half_to_float(chunk.scales[s] >> (16 * h)) * kInverse;
  }
  HRUN_HD int group_scale(int s, int e, int h) const {
    if constexpr (Rule::kScales == GroupScales::odd_nibbles)
      return static_cast<int>(2 * (chunk.scales[h] >> (4 * s) & 15) + 1);
    else if constexpr (Rule::kScales == GroupScales::bytes_offsets)
      return static_cast<int>(chunk.scales[2 * h + s / 4] >> (8 * (s % 4)) & 255);
    else
      return static_cast<int8_t>(chunk.scales[4 * h + s / 2] >> (8 * (2 * (s % 2) + e)));
  }
  HRUN_HD int group_offset(int s, int h) const {
    return static_cast<int>(chunk.scales[4 + 2 * h + s / 4] >> (8 * (s % 4)) & 255);
  }
  // The offsets of a row times eight sums of groups, two in a word.
  HRUN_HD int dot_of_offsets(const Words4& sums, int h) const {
    int dot = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      dot = i % 2 == 0 ? dot2<false>(sums.v[i], chunk.scales[4 + 2 * h + i / 2], dot)
                       : dot2<true>(sums.v[i], chunk.scales[4 + 2 * h + i / 2], dot);
    return dot;
  }
};

}  // namespace hrun::gpu
