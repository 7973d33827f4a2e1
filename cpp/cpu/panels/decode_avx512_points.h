// Decoder of points (panels/points.h) for AVX-512.
//
// A look-up of 64 indices of eight bits in 256 bytes is four vpermb, each merging where the upper
// two bits are its own: all points' digits of four weights, then of the other four.  Uops on ports
// 0 and 5 per 512 weights: 36 for 256 points, 46 for 512, 65 for 1024, 105 for 2048.  Alternatives:
// gathering (64 loads), vpermi2b (3 uops for 128 entries).
#pragma once

#include <immintrin.h>

#include "cpu/panels/points.h"
#include "cpu/panels/tier.h"

namespace hrun {
namespace {

// The digits of all points, two bits each: of weights 0 to 3 and of 4 to 7.
template <class F>
struct PointQuads {
  static constexpr int kSize = 1 << PackRule<F>::kIndexBits;
  struct Bytes {
    alignas(64) uint8_t at[2][kSize];
  };
  static constexpr Bytes kBytes = [] {
    Bytes bytes{};
    constexpr auto kDigits = PackRule<F>::digits();
    for (int i = 0; i < kSize; ++i) {
      bytes.at[0][i] = static_cast<uint8_t>(kDigits.entry[i]);
      bytes.at[1][i] = static_cast<uint8_t>(kDigits.entry[i] >> 8);
    }
    return bytes;
  }();
};

template <class F>
struct UnitDecoder<F, PackedCodes::points> {
  using Rule = PackRule<F>;
  static constexpr int kPlanes = kIndexPlanes<Rule>;
  struct Constants {
    __m512i level[4];
    HRUN_HD Constants()
        : level{table_of_64<[](int i) { return point_entry<Rule>(0, i); }>(),
                table_of_64<[](int i) { return point_entry<Rule>(1, i); }>(),
                table_of_64<[](int i) { return point_entry<Rule>(2, i); }>(),
                table_of_64<[](int i) { return point_entry<Rule>(3, i); }>()} {}
  };
  const uint8_t* unit;
  const uint8_t* planes;
  const Constants tables;
  HRUN_HD UnitDecoder(const Constants& c, const uint8_t* block, int)
      : unit(block), planes(block + kPlanesAt<Rule>), tables(c) {}

  struct Index {
    __m512i low;
    __mmask64 quarter[3];         // the upper two bits of `low` are 1, 2, 3
    __mmask64 more[kPlanes + 1];  // further bits
  };
  HRUN_HD Index load_index() const {
    Index index;
    index.low = load_bytes(unit);
    const __mmask64 six = _mm512_test_epi8_mask(index.low, _mm512_set1_epi8(0x40)),
                    seven = _mm512_movepi8_mask(index.low);
    index.quarter[0] = _kandn_mask64(seven, six);
    index.quarter[1] = _kandn_mask64(six, seven);
    index.quarter[2] = _kand_mask64(six, seven);
#pragma GCC unroll 4
    for (int plane = 0; plane < kPlanes; ++plane) index.more[plane] = load_plane(plane);
    return index;
  }
  HRUN_HD __mmask64 load_plane(int plane) const {
    uint64_t bits;
    memcpy(&bits, planes + 64 * plane, sizeof bits);
    return _cvtu64_mask64(bits);
  }

  // Entries of a table of 2^bits.
  template <int bits>
  static HRUN_HD __m512i look_up(const uint8_t* table, const Index& index) {
    if constexpr (bits > 8) {
      constexpr int kHalf = 1 << (bits - 1);
      return _mm512_mask_mov_epi8(look_up<bits - 1>(table, index), index.more[bits - 9],
                                  look_up<bits - 1>(table + kHalf, index));
    } else {
      __m512i found = _mm512_permutexvar_epi8(index.low, load_bytes(table));
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i)
        found = _mm512_mask_permutexvar_epi8(found, index.quarter[i], index.low,
                                             load_bytes(table + 64 * (i + 1)));
      return found;
    }
  }

  HRUN_HD void four(__m512i digits, __m512i signs, CodeBytes* out) const {
    const __m512i upper = _mm512_srli_epi16(digits, 4), low_digit = _mm512_set1_epi8(3),
                  high_digit = _mm512_set1_epi8(12);
    const auto level = [&](int j, __m512i mask, __m512i x) {
      return _mm512_permutexvar_epi8(select(mask, x, signs), tables.level[j]);
    };
    out[0].v = level(0, low_digit, digits);
    out[1].v = level(1, high_digit, digits);
    out[2].v = level(2, low_digit, upper);
    out[3].v = level(3, high_digit, upper);
  }

  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
    const Index index = load_index();
    const __m512i low = look_up<Rule::kIndexBits>(PointQuads<F>::kBytes.at[0], index);
    const __m512i high = look_up<Rule::kIndexBits>(PointQuads<F>::kBytes.at[1], index);
    const __m512i even = _mm512_set1_epi16(0x00ff);
    const __m512i first = select(even, low, _mm512_slli_epi16(high, 8)),
                  second = select(even, _mm512_srli_epi16(low, 8), high);
    if constexpr (Rule::kSignOfEach) {
      const __m512i signs = load_bytes(unit + 64);
      four(first, signs, out);
      four(second, _mm512_srli_epi16(signs, 4), out + 4);
    } else {
      const __m512i signs = _mm512_movm_epi8(load_plane(kPlanes));
      four(first, select(even, signs, _mm512_slli_epi16(signs, 8)), out);
      four(second, select(even, _mm512_srli_epi16(signs, 8), signs), out + 4);
    }
    unit += kPointBytes<Rule>;
    planes += kPartPlaneBytes;
  }
};

}  // namespace
}  // namespace hrun
