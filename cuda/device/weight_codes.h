// Rotated formats as the weight-domain product reads them: 16 rows x 256 columns, each lane's codes
// side by side, decoded to integers in fp16 (weight_tile.h says which lane has what).
//
// TileCodes<F>:
//   kLoads           sixteen-byte words of a lane: kLoads / 2 for each of its two rows
//   kScaleBytes      per lane, of integer scales beside the codes
//   kConsecutive     order of the columns (weight_tile.h)
//   pack(...)        one row's part of a lane, from the file's block
//   decode(...)      integers code * group_scale
//
// Integer instructions per weight: about 3.3 (RTQ2, RTQ3, RTQ4), 4 (RTQ6), 6 (RTQ5), 1.3 (ITQ3_S);
// fp16 ones 0.5, 1.
#pragma once

#include "cuda/device/weight_tile.h"
#include "formats/itq3_s.h"
#include "formats/rtq.h"

namespace hrun::gpu {

template <class F>
struct TileCodes;

// Two fp16 integers 1024 + u from two unsigned bytes u each.
HRUN_HD uint32_t low_bytes_to_halves(uint32_t bytes) {
  return permute_bytes(bytes, 0x64646464u, 0x4140);
}
HRUN_HD uint32_t high_bytes_to_halves(uint32_t bytes) {
  return permute_bytes(bytes, 0x64646464u, 0x4342);
}

// Bits `from` and up of the 64 bits of two words.
HRUN_HD uint32_t funnel(uint32_t low, uint32_t high, int from) {
  return (low >> from) | (high << (32 - from));
}

// The tables of a trellis code, made not negative by a bias each, so that sums of packed bytes
// carry nowhere.
template <int k>
struct TileTables {
  using Tables = RtqTables<k>;
  static constexpr int bias(int table) {
    int smallest = 0;
    for (int i = 0; i < Tables::kEntries; ++i)
      smallest = Tables::entry(table, i) < smallest ? Tables::entry(table, i) : smallest;
    return -smallest;
  }
  static constexpr int total_bias() {
    int sum = 0;
    for (int i = 0; i < Tables::kCount; ++i) sum += bias(i);
    return sum;
  }
  static constexpr int largest_sum() {
    int sum = 0;
    for (int i = 0; i < Tables::kCount; ++i) {
      int largest = 0;
      for (int j = 0; j < Tables::kEntries; ++j)
        largest = Tables::entry(i, j) > largest ? Tables::entry(i, j) : largest;
      sum += largest + bias(i);
    }
    return sum;
  }
  static_assert(largest_sum() < 128);
  // Entries 4 w ... 4 w + 3.
  static constexpr uint32_t word(int table, int w) {
    uint32_t bytes = 0;
    for (int i = 0; i < 4; ++i)
      bytes |= static_cast<uint32_t>(Tables::entry(table, 4 * w + i) + bias(table)) << (8 * i);
    return bytes;
  }

  // Four entries of a table of 32: `fifth` has the index' fifth bit in bit 3 of each nibble.
  template <int table>
  static HRUN_HD uint32_t look_up(uint32_t index, uint32_t fifth) {
    constexpr uint32_t kOther = 0x8888u;
    return permute_bytes(word(table, 0), word(table, 1), index | fifth) +
           permute_bytes(word(table, 2), word(table, 3), (index ^ kOther) | fifth) +
           permute_bytes(word(table, 4), word(table, 5), index | (fifth ^ kOther)) +
           permute_bytes(word(table, 6), word(table, 7), (index ^ kOther) | (fifth ^ kOther));
  }

  // Looks up four entries, by the four low nibbles of `index`.
  template <int table>
  static HRUN_HD uint32_t look_up(uint32_t index) {
    constexpr uint32_t kFirst = word(table, 0), kSecond = word(table, 1);
    if constexpr (Tables::kEntries == 8 || (Tables::kFreeBits != 0 && table == 2)) {
      return permute_bytes(kFirst, kSecond, index);
    } else {
      // A selector with bit 3 set gives the sign of the byte, eight times, which is 0 here.  So
      // each half of the table gives 0 where the other half is meant.
      constexpr uint32_t kThird = word(table, 2), kFourth = word(table, 3);
      return permute_bytes(kFirst, kSecond, index) +
             permute_bytes(kThird, kFourth, index ^ 0x8888u);
    }
  }
};

template <class F, int k>
struct TrellisTileCodes {
  using Bytes = TileTables<k>;
  static constexpr int kLoads = k;
  static constexpr int kScaleBytes = 0;
  static constexpr int kRowWords = 2 * k;
  static constexpr bool kConsecutive = k != 2;
  static constexpr float kLargestInteger = 63;

  // Segment `quad` of the block at `block`, into the words of one row.  k = 3: a code per nibble
  // for 24 of each 32 codes, the bits of the other eight in the nibbles' highest bits.  k = 5: a
  // nibble per code in eight words, then bit j of nibble i of word 8 + h is the fifth bit of code
  // 32 h + 8 j + i.  k = 6: so too, then bits 2 j and 2 j + 1 of nibble i of word 8 + h are the
  // upper ones of code 16 h + 8 j + i.
  static HRUN_HD void pack(const uint8_t* block, int quad, uint32_t (&words)[kRowWords], uint8_t*) {
    const auto code = [&](int t) { return F::code_at(block + 2, kSegment * quad + t); };
    for (int w = 0; w < kRowWords; ++w) {
      words[w] = 0;
      if constexpr (k == 3) {
        const int first = 32 * (w / 3), bit = w % 3;
        for (int i = 0; i < 8; ++i)
          words[w] |= (code(first + 8 * bit + i) | (code(first + 24 + i) >> bit & 1) << 3)
                      << (4 * i);
      } else if constexpr (k == 5) {
        for (int i = 0; i < 8; ++i) {
          if (w < 8) words[w] |= (code(8 * w + i) & 15u) << (4 * i);
          for (int j = 0; w >= 8 && j < 4; ++j)
            words[w] |= (code(32 * (w - 8) + 8 * j + i) >> 4) << (4 * i + j);
        }
      } else if constexpr (k == 6) {
        for (int i = 0; i < 8; ++i) {
          if (w < 8) words[w] |= (code(8 * w + i) & 15u) << (4 * i);
          for (int j = 0; w >= 8 && j < 2; ++j)
            words[w] |= (code(16 * (w - 8) + 8 * j + i) >> 4) << (4 * i + 2 * j);
        }
      } else {
        for (int i = 0; i < 32 / k; ++i) words[w] |= code(32 / k * w + i) << (k * i);
      }
    }
  }

  // Four integers of a row from bytes with the tables' bias.
  static HRUN_HD void store(uint32_t (&a)[4], int row, uint32_t bytes) {
    constexpr uint32_t kBias = 0x00010001u * (0x6400u + static_cast<uint32_t>(Bytes::total_bias()));
    a[row] = sub_halves(low_bytes_to_halves(bytes), kBias);
    a[2 + row] = sub_halves(high_bytes_to_halves(bytes), kBias);
  }

  static HRUN_HD void decode(const uint32_t (&words)[4 * kLoads], const uint8_t*,
                             uint32_t (&a)[kFragments][4]) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      uint32_t n[kSegment * 4 / 32];  // k = 3 to 6: a code per nibble
      // k = 5: the codes' fifth bits, in bit 3 of the nibbles; k = 6: their upper two, in the lower
      // two of the nibbles.
      uint32_t fifth[8];
      const uint32_t* const w = words + row * kRowWords;
      if constexpr (k == 2) {
#pragma unroll
        for (int i = 0; i < 4; ++i) n[i] = w[i];
      } else if constexpr (k >= 4) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          n[i] = w[i];
          if constexpr (k == 5) fifth[i] = (w[8 + i / 4] << (3 - i % 4)) & 0x88888888u;
          if constexpr (k == 6) fifth[i] = (w[8 + i / 2] >> (2 * (i % 2))) & 0x33333333u;
        }
      } else {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
          for (int j = 0; j < 3; ++j) n[4 * i + j] = w[3 * i + j] & 0x77777777u;
          n[4 * i + 3] = (w[3 * i] >> 3 & 0x11111111u) | (w[3 * i + 1] >> 2 & 0x22222222u) |
                         (w[3 * i + 2] >> 1 & 0x44444444u);
        }
      }
      constexpr int kWords = k == 2 ? 4 : 8;
      // The codes before the segment are the last of the lane before, none before the block.
      uint32_t before = shuffle_bits(n[kWords - 1], lane() - 1);
      if (lane() % 4 == 0) before = 0;
      if constexpr (k == 5) {
        uint32_t fifth_before = shuffle_bits(fifth[kWords - 1], lane() - 1);
        if (lane() % 4 == 0) fifth_before = 0;
#pragma unroll
        for (int i = 0; i < kWords; ++i) {
          decode_word_of_five(before, n[i], fifth_before, fifth[i], i, row, a);
          before = n[i];
          fifth_before = fifth[i];
        }
      } else if constexpr (k == 6) {
#pragma unroll
        for (int i = 0; i < kWords; ++i) {
          decode_word_of_six(before, n[i], fifth[i], i, row, a);
          before = n[i];
        }
      } else {
#pragma unroll
        for (int i = 0; i < kWords; ++i) {
          decode_word(before, n[i], i, row, a);
          before = n[i];
        }
      }
    }
  }

  // Decodes eight codes of five bits, whose highest bits are in `fifth`.
  static HRUN_HD void decode_word_of_five(uint32_t before, uint32_t now, uint32_t fifth_before,
                                          uint32_t fifth, int i, int row,
                                          uint32_t (&a)[kFragments][4]) {
    const uint32_t newest = now ^ funnel(before, now, 24), last = funnel(before, now, 28);
    const uint32_t newest_fifth = fifth ^ funnel(fifth_before, fifth, 24),
                   last_fifth = funnel(fifth_before, fifth, 28);
#pragma unroll
    for (int half = 0; half < 2; ++half)
      store(a[2 * i + half], row,
            Bytes::template look_up<0>(newest >> (16 * half), newest_fifth >> (16 * half)) +
                Bytes::template look_up<1>(last >> (16 * half), last_fifth >> (16 * half)));
  }

  // Decodes eight codes of six bits, of which `upper` has the upper two.
  static HRUN_HD void decode_word_of_six(uint32_t before, uint32_t now, uint32_t upper, int i,
                                         int row, uint32_t (&a)[kFragments][4]) {
    const uint32_t newest = now ^ funnel(before, now, 24), last = funnel(before, now, 28);
#pragma unroll
    for (int half = 0; half < 2; ++half)
      store(a[2 * i + half], row,
            Bytes::template look_up<0>(newest >> (16 * half)) +
                Bytes::template look_up<1>(last >> (16 * half)) +
                Bytes::template look_up<2>(upper >> (16 * half)));
  }

  static HRUN_HD void decode_word(uint32_t before, uint32_t now, int i, int row,
                                  uint32_t (&a)[kFragments][4]) {
    if constexpr (k == 2) {
      // Sixteen codes.  A nibble of `now` is two codes, of which the newer has an odd number;
      // shifted by one code, even.
      const uint32_t even = funnel(before, now, 30);
      const uint32_t index[2][2] = {
          {even ^ (funnel(before, now, 22) & 0xccccccccu), funnel(before, now, 26)},
          {now ^ (funnel(before, now, 24) & 0xccccccccu), funnel(before, now, 28)},
      };
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd)
          store(a[4 * i + 2 * half + odd], row,
                Bytes::template look_up<0>(index[odd][0] >> (16 * half)) +
                    Bytes::template look_up<1>(index[odd][1] >> (16 * half)));
    } else if constexpr (k == 3) {
      const uint32_t newest = now ^ funnel(before, now, 20);
      store(a[2 * i], row,
            Bytes::template look_up<0>(newest) +
                Bytes::template look_up<1>(funnel(before, now, 28)) +
                Bytes::template look_up<2>(funnel(before, now, 24)));
      store(a[2 * i + 1], row,
            Bytes::template look_up<0>(newest >> 16) + Bytes::template look_up<1>(now >> 12) +
                Bytes::template look_up<2>(now >> 8));
    } else {
      const uint32_t newest = now ^ funnel(before, now, 24);
      store(
          a[2 * i], row,
          Bytes::template look_up<0>(newest) + Bytes::template look_up<1>(funnel(before, now, 28)));
      store(a[2 * i + 1], row,
            Bytes::template look_up<0>(newest >> 16) + Bytes::template look_up<1>(now >> 12));
    }
  }
};

template <>
struct TileCodes<RTQ2> : TrellisTileCodes<RTQ2, 2> {};
template <>
struct TileCodes<RTQ3> : TrellisTileCodes<RTQ3, 3> {};
template <>
struct TileCodes<RTQ4> : TrellisTileCodes<RTQ4, 4> {};
template <>
struct TileCodes<RTQ5> : TrellisTileCodes<RTQ5, 5> {};
template <>
struct TileCodes<RTQ6> : TrellisTileCodes<RTQ6, 6> {};

// Codes are odd, -15 ... 15: nibbles n with code = 2 n - 15.  Of eight consecutive codes the even
// ones are in the low half of a word, the odd ones in the high half, so that a mask leaves two
// mantissas.  Scales 1 + 2 s, a nibble s per 32 columns.
template <>
struct TileCodes<ITQ3_S> {
  static constexpr int kLoads = 4;
  static constexpr int kScaleBytes = 2;  // a byte per row of the lane
  static constexpr int kRowWords = 8;
  static constexpr bool kConsecutive = true;
  static constexpr float kLargestInteger = 15 * 31;

  static HRUN_HD void pack(const uint8_t* block, int quad, uint32_t (&words)[kRowWords],
                           uint8_t* scales) {
    IntBlock ints;
    ITQ3_S::unpack(block, kTileCols, ints);
    const int first = kSegment * quad;
    const auto nibble = [&](int t) {
      return static_cast<uint32_t>((ints.codes[first + t] + 15) / 2);
    };
    for (int w = 0; w < kRowWords; ++w) {
      words[w] = 0;
      for (int m = 0; m < 4; ++m)
        words[w] |= nibble(8 * w + 2 * m) << (4 * m) | nibble(8 * w + 2 * m + 1) << (16 + 4 * m);
    }
    const auto group = [&](int i) { return (ints.group_scale[first / kGroup + 2 * i] - 1) / 2; };
    *scales = static_cast<uint8_t>(group(0) | group(1) << 4);
  }

  static HRUN_HD void decode(const uint32_t (&words)[4 * kLoads], const uint8_t* scales,
                             uint32_t (&a)[kFragments][4]) {
#pragma unroll
    for (int row = 0; row < 2; ++row)
#pragma unroll
      for (int group = 0; group < 2; ++group) {
        const uint32_t s = static_cast<uint32_t>(scales[row]) >> (4 * group) & 15;
        const uint32_t four =
            sub_halves((s * 8 + 4) * 0x00010001u + 0x64006400u, 0x64006400u);  // 4 (1 + 2 s)
        const uint32_t quarter = mul_halves(four, 0x2c002c00u);                // times 1/16
        const uint32_t offset = mul_halves(four, 0xc380c380u);                 // times -15/4
#pragma unroll
        for (int w = 4 * group; w < 4 * group + 4; ++w)
#pragma unroll
          for (int m = 0; m < 4; ++m) {
            const uint32_t shifted = words[row * kRowWords + w] >> (m / 2 * 8);
            // In the mantissa of 512 a nibble counts n / 2; four bits higher it counts 8 n.
            const uint32_t value = sub_halves(
                (shifted & (m % 2 == 0 ? 0x000f000fu : 0x00f000f0u)) | 0x60006000u, 0x60006000u);
            a[2 * w + m / 2][m % 2 * 2 + row] =
                fma_halves(value, m % 2 == 0 ? four : quarter, offset);
          }
      }
  }
};

}  // namespace hrun::gpu
