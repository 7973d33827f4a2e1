// Panels of formats that code eight neighbouring weights as a point of a codebook, and their signs:
// IQ2 and IQ1.
//
// Three bits per weight would be half as much again as the file (IQ1: twice); so a panel keeps the
// points, and kernels look them up.  A unit of 32 columns and 16 rows is 64 points, four for each
// row: byte 4 row + (0, 2, 1, 3) of 64 bytes are the lower eight bits of the points of columns 0,
// 8, 16 and 24.  So the digits of columns 0 to 3 and 8 to 11, at the even bytes of a vector of
// quarters, and of 4 to 7 and 12 to 15 ... are joined without crossing a row.
//
// Signs of each weight take 64 bytes more: byte 4 row + c holds those of columns 4c + j in bits
// kSignBit[j] and of 16 + 4c + j in bits 4 + kSignBit[j].  The rest are planes of bits, one per
// point: the bits of the index beyond eight and, where all eight weights share it, their sign.  A
// block's planes follow its eight units.
//
//   block of 256   8 x (64 bytes of points [, 64 bytes of signs]), planes x 64 bytes
//   plane          for each part of a panel (of kPartRows rows) and unit of the block: one bit per
//                  point, in their order
#pragma once

#include <array>

#include "cpu/panels/tier.h"

namespace hrun {
namespace {

inline constexpr int kPointOrder[4] = {0, 2, 1, 3};  // byte of a row's k-th point
inline constexpr int kSignBit[4] = {2, 0, 3, 1};

template <class Rule>
constexpr int kIndexPlanes = Rule::kIndexBits - 8;
template <class Rule>
constexpr size_t kPointBytes = Rule::kSignOfEach ? 128 : 64;  // of a unit, without planes
// The start of the planes of a part, and the bytes of a plane for one unit of a part.
template <class Rule>
constexpr size_t kPlanesAt = kMaxBlock / kUnit * kPointBytes<Rule>;
inline constexpr int kPartPlaneBytes = kPartRows / 2;

// The sign of each lookup lies in one bit, the digit in two of the four lowest, so that no index
// needs more than one shift: the entry for weight j of four.
template <class Rule>
constexpr uint8_t point_entry(int j, int index) {
  const int digit = (index >> (j % 2 * 2)) & 3;
  return static_cast<uint8_t>(Rule::level(digit == 3 ? 0 : digit, (index >> kSignBit[j]) & 1) +
                              Rule::kBias);
}

template <class F>
struct PointPacker {
  using Rule = PackRule<F>;
  // Puts row r of a panel into the bytes of a block, which were zeros.
  static HRUN_HD void pack(const uint8_t* block, int r, uint8_t* to) {
    const int part = r / kPartRows, in_part = r % kPartRows;
    uint8_t* planes = to + kPlanesAt<Rule> + part * kPartBytes + in_part / 2;
    uint8_t* unit = to + 4 * r;
    for (int u = 0; u < kMaxBlock / kUnit;
         ++u, unit += kPointBytes<Rule>, planes += kPartPlaneBytes) {
      uint64_t points = 0;  // 16 bits each, in their order
      for (int k = 0; k < 4; ++k) {
        unsigned point = F::point(block, 4 * u + k);
        unit[kPointOrder[k]] = static_cast<uint8_t>(point);
        if constexpr (Rule::kSignOfEach)
          put_signs(F::signs(block, 4 * u + k), k, unit + 64);
        else
          point |= static_cast<unsigned>(F::below(block, 4 * u + k)) << Rule::kIndexBits;
        points |= static_cast<uint64_t>(point) << (16 * kPointOrder[k]);
      }
      for (int plane = 0; plane < kPlanes; ++plane)
        planes[64 * plane] |=
            static_cast<uint8_t>(bit_of_four(points >> (8 + plane)) << (in_part % 2 * 4));
    }
  }

 private:
  static constexpr int kPlanes = kIndexPlanes<Rule> + (Rule::kSignOfEach ? 0 : 1);
  static HRUN_HD void put_signs(unsigned eight, int k, uint8_t* row) {
    static constexpr auto kOrdered = [] {
      std::array<uint8_t, 16> ordered{};
      for (int four = 0; four < 16; ++four)
        for (int j = 0; j < 4; ++j)
          ordered[four] |= static_cast<uint8_t>(((four >> j) & 1) << kSignBit[j]);
      return ordered;
    }();
    row[2 * k % 4] |= static_cast<uint8_t>(kOrdered[eight & 15] << (k / 2 * 4));
    row[2 * k % 4 + 1] |= static_cast<uint8_t>(kOrdered[eight >> 4] << (k / 2 * 4));
  }
  // Joins the lowest bits of four numbers of 16 bits into a number of four bits.
  static HRUN_HD unsigned bit_of_four(uint64_t x) {
    return static_cast<unsigned>((x & 0x0001000100010001u) * 0x0001000200040008u >> 48) & 15;
  }
};

}  // namespace
}  // namespace hrun
