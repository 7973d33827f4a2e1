// Panels of formats that code eight neighbouring weights as a point of a codebook, and their signs: IQ2 and IQ1.
//
// Three bits per weight would be half as much again as the file (IQ1: twice); so a panel keeps the points, and kernels look them
// up.  A unit of 32 columns and 16 rows is 64 points, four for each row: byte 4 row + (0, 2, 1, 3) of 64 bytes are the lower eight
// bits of the points of columns 0, 8, 16 and 24.  So the digits of columns 0 to 3 and 8 to 11, at the even bytes of a vector of
// quarters, and of 4 to 7 and 12 to 15 ... are joined without crossing a row.
//
// Signs of each weight: 64 bytes more; byte 4 row + c holds those of columns 4c + j in bits kSignBit[j] and of 16 + 4c + j in
// bits 4 + kSignBit[j].  What is left are planes of bits, one per point: the bits of the index beyond eight and, where all
// eight weights share it, their sign.  A block's planes follow its eight units.
//
//   block of 256   8 x (64 bytes of points [, 64 bytes of signs]), planes x 64 bytes
//   plane          for each part of a panel (of kPartRows rows) and unit of the block: one bit per point, in their order
#pragma once

#include "cpu/packed.h"

namespace hrun {
namespace {

inline constexpr int kPointOrder[4] = {0, 2, 1, 3};  // byte of a row's k-th point
inline constexpr int kSignBit[4] = {2, 0, 3, 1};

template <class Rule>
constexpr int kIndexPlanes = Rule::kIndexBits - 8;
template <class Rule>
constexpr size_t kPointBytes = Rule::kSignOfEach ? 128 : 64;  // of a unit, without planes
// Where the planes of a part start, and bytes of a plane for one unit of a part.
template <class Rule>
constexpr size_t kPlanesAt = kMaxBlock / kUnit * kPointBytes<Rule>;
inline constexpr int kPartPlaneBytes = kPartRows / 2;

// The sign of each lookup lies in one bit, the digit in two of the four lowest, so that no index needs more than one shift:
// the entry for weight j of four.
template <class Rule>
constexpr uint8_t point_entry(int j, int index) {
  const int digit = (index >> (j % 2 * 2)) & 3;
  return static_cast<uint8_t>(Rule::level(digit == 3 ? 0 : digit, (index >> kSignBit[j]) & 1) + Rule::kBias);
}

template <class F>
struct PointPacker {
  using Rule = PackRule<F>;
  // Row r of a panel into the bytes of a block, which were zeros.
  static void pack(const uint8_t* block, int r, uint8_t* to) {
    for (int k = 0; k < kMaxBlock / 8; ++k) {
      const int u = k / 4, at = 4 * r + kPointOrder[k % 4];
      uint8_t* const unit = to + static_cast<size_t>(u) * kPointBytes<Rule>;
      const unsigned index = F::point(block, k);
      unit[at] = static_cast<uint8_t>(index);
      for (int plane = 0; plane < kIndexPlanes<Rule>; ++plane) set_bit(to, plane, u, at, (index >> (8 + plane)) & 1);
      if constexpr (Rule::kSignOfEach) {
        const unsigned signs = F::signs(block, k);
        uint8_t* const quads = unit + 64 + 4 * r + 2 * k % 4;
        quads[0] |= static_cast<uint8_t>(in_order(signs & 15) << (k % 4 / 2 * 4));
        quads[1] |= static_cast<uint8_t>(in_order(signs >> 4) << (k % 4 / 2 * 4));
      } else {
        set_bit(to, kIndexPlanes<Rule>, u, at, F::below(block, k));
      }
    }
  }

 private:
  static HRUN_HD unsigned in_order(unsigned four) {
    unsigned bits = 0;
    for (int j = 0; j < 4; ++j) bits |= ((four >> j) & 1) << kSignBit[j];
    return bits;
  }
  static HRUN_HD void set_bit(uint8_t* to, int plane, int u, int at, unsigned bit) {
    const int part = at / kPartBytes, in_part = at % kPartBytes;
    to[kPlanesAt<Rule> + static_cast<size_t>(64 * plane + part * kPartBytes + u * kPartPlaneBytes + in_part / 8)] |=
        static_cast<uint8_t>(bit << (in_part % 8));
  }
};

}  // namespace
}  // namespace hrun
