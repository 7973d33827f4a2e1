// Eight bytes at a time in one 64-bit word: the decoders' alphabet.
//
// Written this way, and not as loops over bytes, because char stores may alias everything:
// compilers vectorize the loops only at their highest level and behind run-time checks.  This is
// fast at any level, on every tier, and on devices. Byte i of a word is weight i, so the machine
// must be little-endian.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "base/host_device.h"

namespace hrun {

static_assert(std::endian::native == std::endian::little, "byte i of a word is taken for weight i");

using Bytes8 = uint64_t;

HRUN_HD Bytes8 load_bytes(const uint8_t* from) {
  Bytes8 v;
  memcpy(&v, from, 8);
  return v;
}

HRUN_HD void store_bytes(int8_t* to, Bytes8 v) { memcpy(to, &v, 8); }

// The same value, below 256, in all bytes.
HRUN_HD constexpr Bytes8 each(unsigned value) { return value * 0x0101010101010101ull; }

// One, two or four bits of every byte, from bit `shift` on.
HRUN_HD Bytes8 one_bit(Bytes8 v, int shift) { return (v >> shift) & each(1); }
HRUN_HD Bytes8 two_bits(Bytes8 v, int shift) { return (v >> shift) & each(3); }
HRUN_HD Bytes8 four_bits(Bytes8 v, int shift) { return (v >> shift) & each(15); }

// v - k in every byte, as int8; the bytes of v are below 128 and k is at most 128, so the top bit
// stops every borrow.
HRUN_HD Bytes8 minus(Bytes8 v, unsigned k) { return ((v | each(128)) - each(k)) ^ each(128); }

// Byte i = bit i of `bits`, 0 or 1.
HRUN_HD Bytes8 spread_bits(unsigned bits) {
  // Byte i keeps only bit i; adding 127 carries "not zero" to its top bit.
  return ((((bits & 255) * 0x0101010101010101ull & 0x8040201008040201ull) + each(127)) >> 7) &
         each(1);
}

// Negates the bytes (1 to 127) for which `one` has 1.
HRUN_HD Bytes8 negate_where(Bytes8 v, Bytes8 one) { return (v ^ (one * 255)) + one; }

}  // namespace hrun
