// Decoders of RTQ2, RTQ4, RTQ5 and RTQ6 for AVX-512: 36 uops on ports 0 and 5 per 512 weights, 52
// of RTQ5 and 50 of RTQ6.
//
// Panels are in the order `segments` (panels/layout.h): the codes before a weight's are in the
// vectors before, or, at the start of a segment, one byte lane down.  vpermb looks at the lower six
// bits of an index: tables of 16 entries are repeated over the others, so that an index need not be
// cut out of its byte.
#pragma once

#include <immintrin.h>

#include "cpu/panels/tier.h"

namespace hrun {
namespace {

// A byte holds codes 0 .. 3 of four steps.  Step j's first index is (code j - 1, code j xor the
// code four before it), its second (code j - 3, code j - 2), the older in the lower bits; where
// these lie in two bytes they are joined the other way round.
template <class F>
struct UnitDecoder<F, PackedCodes::rtq2> {
  struct Constants {
    __m512i first_low, first_mid,
        first_turned;  // T0 by bits 0-3, by bits 2-5, by bits 0-3 with the newer code lowest
    __m512i second_low, second_mid, second_turned;  // T1 + bias
    static constexpr int first(int i) { return F::Tables::entry(0, i); }
    static constexpr int second(int i) { return F::Tables::entry(1, i) + code_bias<F>(); }
    static constexpr int turned(int i) { return ((i & 3) << 2) | ((i >> 2) & 3); }
    HRUN_HD Constants()
        : first_low(table_of_64<[](int i) { return first(i & 15); }>()),
          first_mid(table_of_64<[](int i) { return first(i >> 2); }>()),
          first_turned(table_of_64<[](int i) { return first(turned(i)); }>()),
          second_low(table_of_64<[](int i) { return second(i & 15); }>()),
          second_mid(table_of_64<[](int i) { return second(i >> 2); }>()),
          second_turned(table_of_64<[](int i) { return second(turned(i)); }>()) {}
  };
  const uint8_t* unit;
  const Constants tables;
  __m512i before, before_high;  // the last byte, and the same with codes 2 and 3 in the lowest bits

  HRUN_HD UnitDecoder(const Constants& constants, const uint8_t* block, int n)
      : unit(block), tables(constants) {
    before =
        _mm512_slli_epi32(load_bytes(block + static_cast<size_t>(n / kUnit - 1) * 128 + 64), 8);
    before_high = _mm512_srli_epi16(before, 4);
  }

  HRUN_HD void four(__m512i now, CodeBytes* out) {
    const auto add = [](__m512i a, __m512i b) { return _mm512_add_epi8(a, b); };
    const auto look_up = [](__m512i table, __m512i index) {
      return _mm512_permutexvar_epi8(index, table);
    };
    // a xor (b and mask)
    const auto xor_masked = [](__m512i a, __m512i b, int mask) {
      return _mm512_ternarylogic_epi32(a, b, _mm512_set1_epi8(static_cast<char>(mask)), 0x78);
    };
    const __m512i high = _mm512_srli_epi16(now, 4), upper_code = _mm512_set1_epi8(0x0c);
    const __m512i even = xor_masked(now, before, 0x33);  // codes 0 and 2 are xor those before
    const __m512i joined = select(upper_code, before_high, now),
                  joined_even = select(upper_code, before_high, even);
    out[0].v = add(look_up(tables.first_turned, joined_even), look_up(tables.second_mid, before));
    out[1].v = add(look_up(tables.first_low, xor_masked(now, before, 0xcc)),
                   look_up(tables.second_low, before_high));
    out[2].v = add(look_up(tables.first_mid, even), look_up(tables.second_turned, joined));
    out[3].v = add(look_up(tables.first_low, xor_masked(high, before_high, 0xcc)),
                   look_up(tables.second_low, now));
    before = now;
    before_high = high;
  }

  static constexpr int kStepVectors = 4;
  template <int>
  HRUN_HD void step(CodeBytes* out) {
    four(load_bytes(unit), out);
    unit += 64;
  }

  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
    step<0>(out);
    step<1>(out + 4);
  }
};

// A byte holds the codes of two steps.
template <class F>
struct UnitDecoder<F, PackedCodes::rtq4> {
  struct Constants {
    __m512i first, second;  // T0; T1 + bias
    HRUN_HD Constants()
        : first(table_of_64<[](int i) { return F::Tables::entry(0, i & 15); }>()),
          second(
              table_of_64<[](int i) { return F::Tables::entry(1, i & 15) + code_bias<F>(); }>()) {}
  };
  const uint8_t* unit;
  const Constants tables;
  __m512i before, before_high;  // the last byte, and its upper code in the lowest bits

  HRUN_HD UnitDecoder(const Constants& constants, const uint8_t* block, int n)
      : unit(block), tables(constants) {
    before =
        _mm512_slli_epi32(load_bytes(block + static_cast<size_t>(n / kUnit - 1) * 256 + 192), 8);
    before_high = _mm512_srli_epi16(before, 4);
  }

  static constexpr int kStepVectors = 2;
  template <int>
  HRUN_HD void step(CodeBytes* out) {
    const __m512i now = load_bytes(unit), high = _mm512_srli_epi16(now, 4);
    const auto weight = [&](__m512i newest, __m512i previous) {
      return _mm512_add_epi8(_mm512_permutexvar_epi8(newest, tables.first),
                             _mm512_permutexvar_epi8(previous, tables.second));
    };
    out[0].v = weight(_mm512_xor_si512(now, before), before_high);
    out[1].v = weight(_mm512_xor_si512(high, before_high), now);
    before = now;
    before_high = high;
    unit += 64;
  }

  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) step<0>(out + 2 * i);
  }
};

// Works like RTQ4, but a code's fifth bit comes from the unit's fifth vector.  Tables of 32 entries
// stand twice in 64, so the sixth bit of an index does not matter.
template <class F>
struct UnitDecoder<F, PackedCodes::rtq5> {
  struct Constants {
    __m512i first, second;  // T0; T1 + bias
    HRUN_HD Constants()
        : first(table_of_64<[](int i) { return F::Tables::entry(0, i & 31); }>()),
          second(
              table_of_64<[](int i) { return F::Tables::entry(1, i & 31) + code_bias<F>(); }>()) {}
  };
  const uint8_t* unit;
  const Constants tables;
  __m512i before, before_that;  // the codes of the last two steps in the lower five bits

  // Code s of the eight of each byte lane.
  template <int s>
  static HRUN_HD __m512i code(__m512i nibbles, __m512i fifth) {
    const __m512i four = s % 2 == 0 ? nibbles : _mm512_srli_epi16(nibbles, 4);
    const __m512i bit = s < 4 ? _mm512_slli_epi16(fifth, s < 4 ? 4 - s : 0)
                              : _mm512_srli_epi16(fifth, s < 4 ? 0 : s - 4);
    return select(_mm512_set1_epi8(15), four, s == 4 ? fifth : bit);
  }

  HRUN_HD UnitDecoder(const Constants& constants, const uint8_t* block, int n)
      : unit(block), tables(constants) {
    const uint8_t* const last = block + static_cast<size_t>(n / kUnit - 1) * 320;
    const __m512i nibbles = _mm512_slli_epi32(load_bytes(last + 192), 8),
                  fifth = _mm512_slli_epi32(load_bytes(last + 256), 8);
    before_that = code<6>(nibbles, fifth);
    before = code<7>(nibbles, fifth);
  }

  template <int s>
  HRUN_HD void weight(__m512i nibbles, __m512i fifth, CodeBytes& out) {
    const __m512i now = code<s>(nibbles, fifth);
    out.v =
        _mm512_add_epi8(_mm512_permutexvar_epi8(_mm512_xor_si512(now, before_that), tables.first),
                        _mm512_permutexvar_epi8(before, tables.second));
    before_that = before;
    before = now;
  }

  static constexpr int kStepVectors = 2;
  template <int i>
  HRUN_HD void step(CodeBytes* out) {
    const __m512i nibbles = load_bytes(unit + 64 * i), fifth = load_bytes(unit + 256);
    weight<2 * i>(nibbles, fifth, out[0]);
    weight<2 * i + 1>(nibbles, fifth, out[1]);
    if constexpr (i == 3) unit += 320;
  }

  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
    step<0>(out);
    step<1>(out + 2);
    step<2>(out + 4);
    step<3>(out + 6);
  }
};

// As RTQ4, but the upper two bits of a code, from the unit's fifth and sixth vectors, are the upper
// two of its index in a table of 64.
template <class F>
struct UnitDecoder<F, PackedCodes::rtq6> {
  struct Constants {
    __m512i first, second;  // T0 and T2; T1 + bias
    HRUN_HD Constants()
        : first(table_of_64<[](int i) {
            return F::Tables::entry(0, i & 15) + F::Tables::entry(2, i >> 4);
          }>()),
          second(
              table_of_64<[](int i) { return F::Tables::entry(1, i & 15) + code_bias<F>(); }>()) {}
  };
  const uint8_t* unit;
  const Constants tables;
  __m512i before, before_high;  // the last byte, and its upper code in the lowest bits

  HRUN_HD UnitDecoder(const Constants& constants, const uint8_t* block, int n)
      : unit(block), tables(constants) {
    before =
        _mm512_slli_epi32(load_bytes(block + static_cast<size_t>(n / kUnit - 1) * 384 + 192), 8);
    before_high = _mm512_srli_epi16(before, 4);
  }

  // Brings the upper bits of step s of four to bits 4 and 5.
  template <int s>
  static HRUN_HD __m512i upper(__m512i four) {
    if constexpr (s < 2)
      return _mm512_slli_epi16(four, 4 - 2 * s);
    else
      return _mm512_srli_epi16(four, 2 * s - 4);
  }

  static constexpr int kStepVectors = 2;
  template <int i>
  HRUN_HD void step(CodeBytes* out) {
    const __m512i now = load_bytes(unit + 64 * i), high = _mm512_srli_epi16(now, 4);
    const __m512i four = load_bytes(unit + 256 + 64 * (i / 2)), lower = _mm512_set1_epi8(15);
    const auto weight = [&](__m512i newest, __m512i upper_bits, __m512i previous) {
      return _mm512_add_epi8(
          _mm512_permutexvar_epi8(select(lower, newest, upper_bits), tables.first),
          _mm512_permutexvar_epi8(previous, tables.second));
    };
    out[0].v = weight(_mm512_xor_si512(now, before), upper<2 * (i % 2)>(four), before_high);
    out[1].v = weight(_mm512_xor_si512(high, before_high), upper<2 * (i % 2) + 1>(four), now);
    before = now;
    before_high = high;
    if constexpr (i == 3) unit += 384;
  }

  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
    step<0>(out);
    step<1>(out + 2);
    step<2>(out + 4);
    step<3>(out + 6);
  }
};

}  // namespace
}  // namespace hrun
