// Decoder of points (panels/points.h) for the tiers of panels/decode_half.h: points are looked up
// one by one, 16 to a register.
//
// A tier also gives words_of(at), the 16 numbers of 16 bits at at(0), ...; spread_bits(p), a byte
// of ones for each of 32 bits at p; store_words(out, low, high), 32 numbers of 16 bits from their
// bytes; even_twice and odd_twice, every other byte in its neighbour's place too.
#pragma once

#include "cpu/panels/decode_half.h"
#include "cpu/panels/points.h"

namespace hrun {
namespace {

template <class F>
struct UnitDecoder<F, PackedCodes::points> {
  using Rule = PackRule<F>;
  static constexpr int kPlanes = kIndexPlanes<Rule>;
  static constexpr auto kDigits = Rule::digits();
  struct Constants {
    Table level[4];
    HRUN_HD Constants() {
      for (int j = 0; j < 4; ++j) {
        uint8_t bytes[16];
        for (int i = 0; i < 16; ++i) bytes[i] = point_entry<Rule>(j, i);
        level[j] = table_of_16(bytes);
      }
    }
  };
  const uint8_t* unit;
  const uint8_t* planes;
  const Constants tables;
  HRUN_HD UnitDecoder(const Constants& c, const uint8_t* block, int)
      : unit(block), planes(block + kPlanesAt<Rule>), tables(c) {}

  // The digits of columns 0 to 15 (odd = 0) or 16 to 31 of 8 rows.
  template <class Index>
  static HRUN_HD Bytes digits(const Index* index, int odd) {
    return words_of([&](int i) { return kDigits.entry + index[2 * i + odd]; });
  }

  HRUN_HD void four(Bytes digits, Bytes signs, CodeBytes* out) const {
    const Bytes upper = down<4>(digits);
    const auto level = [&](int j, Bytes x) {
      const uint8_t digit = j % 2 ? 12 : 3, sign = static_cast<uint8_t>(1 << kSignBit[j]);
      return lookup(tables.level[j], join_bits(both(x, digit), both(signs, sign)));
    };
    out[0].v = level(0, digits);
    out[1].v = level(1, digits);
    out[2].v = level(2, upper);
    out[3].v = level(3, upper);
  }

  template <class Index>
  HRUN_HD void all(const Index* index, CodeBytes (&out)[kUnitVectors]) const {
    const Bytes first = digits(index, 0), second = digits(index, 1);
    if constexpr (Rule::kSignOfEach) {
      const Bytes signs = load_bytes(unit + 64);
      four(first, signs, out);
      four(second, down<4>(signs), out + 4);
    } else {
      const Bytes signs = spread_bits(planes + 64 * kPlanes);
      four(first, even_twice(signs), out);
      four(second, odd_twice(signs), out + 4);
    }
  }

  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
    if constexpr (kPlanes == 0) {
      all(unit, out);
    } else {
      alignas(32) uint16_t index[kPartBytes];
      Bytes high = both(spread_bits(planes), 1);
#pragma GCC unroll 4
      for (int plane = 1; plane < kPlanes; ++plane)
        high = join_bits(high,
                         both(spread_bits(planes + 64 * plane), static_cast<uint8_t>(1 << plane)));
      store_words(index, load_bytes(unit), high);
      asm(""
          : "+m"(index));  // else the compiler takes indices out of registers, two instructions
                           // each, instead of memory
      all(index, out);
    }
    unit += kPointBytes<Rule>;
    planes += kPartPlaneBytes;
  }
};

}  // namespace
}  // namespace hrun
