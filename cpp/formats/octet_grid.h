// A codebook of points of eight weights, three levels each: how the tables of iq2_grids.h and
// iq1_grid.h are held.
//
// The tables are part of the public file formats.  Digit i in base 4 (lowest first) of an entry is
// the level index of weight i, 0 to 2; entries are expanded at compile time to one byte per weight,
// which is what a decoder loads.
#pragma once

#include <cstdint>

#include "base/host_device.h"

namespace hrun {

template <int kSize>
struct OctetGrid {
  uint64_t octet[kSize];  // byte i: level of weight i
};

template <int kSize>
struct OctetDigits {
  uint16_t entry[kSize];
};

template <int kSize>
consteval OctetGrid<kSize> expand_octets(const OctetDigits<kSize>& digits,
                                         const uint8_t (&levels)[3]) {
  OctetGrid<kSize> out{};
  for (int k = 0; k < kSize; ++k)
    for (int i = 0; i < 8; ++i)
      out.octet[k] |= static_cast<uint64_t>(levels[(digits.entry[k] >> (2 * i)) & 3]) << (8 * i);
  return out;
}

}  // namespace hrun
