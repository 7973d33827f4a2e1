// Decoders for AVX-512 of nibbles, six bits and RTQ3.
//
// Uops on ports 0 and 5 per 512 weights, without the dot products (8 per token): rtq3 41, two 10,
// three 13, nibble 12, six 28, byte 0.
#pragma once

#include <immintrin.h>

#include "cpu/panels/tier.h"

namespace hrun {
namespace {

template <class F>
struct UnitDecoder<F, PackedCodes::nibble> {
  struct Constants {
    __m512i table;  // of 64 entries: vpermb looks at 6 bits, the table ignores the upper two
    HRUN_HD Constants() {
      using Rule = PackRule<F>;
      alignas(64) uint8_t bytes[64];
      for (int i = 0; i < 64; ++i)
        bytes[i] = static_cast<uint8_t>(Rule::level(i & 15) + code_bias<F>());
      table = load_bytes(bytes);
    }
  };
  const uint8_t* unit;
  const __m512i table;
  HRUN_HD UnitDecoder(const Constants& c, const uint8_t* block, int)
      : unit(block), table(c.table) {}
  static constexpr int kStepVectors = 2;
  template <int>
  HRUN_HD void step(CodeBytes* out) {
    const __m512i both = load_bytes(unit);
    out[0].v = _mm512_permutexvar_epi8(both, table);
    out[1].v = _mm512_permutexvar_epi8(_mm512_srli_epi16(both, 4), table);
    unit += 64;
  }
  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) step<0>(out + 2 * i);
  }
};

template <class F>
struct UnitDecoder<F, PackedCodes::six> {
  using Constants = NoTables;
  const uint8_t* unit;
  HRUN_HD UnitDecoder(const Constants&, const uint8_t* block, int) : unit(block) {}
  static constexpr int kStepVectors = 4;
  template <int half>
  HRUN_HD void step(CodeBytes* out) {
    const __m512i low = _mm512_set1_epi8(0x0f), six = _mm512_set1_epi8(0x3f);
    const __m512i high = load_bytes(unit + 256 + 64 * half);
    const __m512i a = load_bytes(unit + 128 * half), b = load_bytes(unit + 128 * half + 64);
    out[0].v = _mm512_and_si512(select(low, a, _mm512_slli_epi16(high, 4)), six);
    out[1].v =
        _mm512_and_si512(select(low, _mm512_srli_epi16(a, 4), _mm512_slli_epi16(high, 2)), six);
    out[2].v = _mm512_and_si512(select(low, b, high), six);
    out[3].v =
        _mm512_and_si512(select(low, _mm512_srli_epi16(b, 4), _mm512_srli_epi16(high, 2)), six);
    if constexpr (half == 1) unit += 384;
  }
  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
    step<0>(out);
    step<1>(out + 4);
  }
};

// Weight s of a lane is T0[c_s ^ c_(s-3)] + T1[c_(s-1)] + T2[c_(s-2)].  Codes come in bytes of two,
// `even` = (c_2p, c_2p+1) in bits 0-2 and 3-5, and are also joined to `odd` = (c_2p-1, c_2p) by a
// table that exchanges the halves: one instruction where two shifts would be needed.  One table of
// 64 entries then gives T1 + T2 of two neighbours, and even ^ (odd of the pair before) are the
// indices of T0 for both weights of the pair.
template <class F>
struct UnitDecoder<F, PackedCodes::rtq3> {
  struct Constants {
    __m512i newest_low, newest_high,
        earlier;      // T0 by bits 0-2, by bits 3-5; T1[bits 3-5] + T2[bits 0-2] + bias
    __m512i swapped;  // bits 0-2 and 3-5 exchanged
    HRUN_HD Constants()
        : newest_low(table_of_64<[](int i) { return F::Tables::entry(0, i & 7); }>()),
          newest_high(table_of_64<[](int i) { return F::Tables::entry(0, i >> 3); }>()),
          earlier(table_of_64<[](int i) {
            return F::Tables::entry(1, i >> 3) + F::Tables::entry(2, i & 7) + code_bias<F>();
          }>()),
          swapped(table_of_64<[](int i) { return (i >> 3) | ((i & 7) << 3); }>()) {}
  };
  const uint8_t* unit;
  const Constants tables;
  __m512i even, odd, before;  // of the pair before; `before` is its even with the halves exchanged
  __m512i spare;

  HRUN_HD __m512i exchange(__m512i pair) const {
    return _mm512_permutexvar_epi8(pair, tables.swapped);
  }
  static HRUN_HD __m512i join(__m512i low, __m512i high) {
    return select(_mm512_set1_epi8(7), low, high);
  }

  HRUN_HD UnitDecoder(const Constants& constants, const uint8_t* block, int n)
      : unit(block), tables(constants) {
    // Before a segment come the last codes of the segment before it, one byte lane down; before the
    // first come zeros.
    const uint8_t* last = block + static_cast<size_t>(n / kUnit - 1) * 192;
    const __m512i a = load_bytes(last), b = load_bytes(last + 64), c = load_bytes(last + 128);
    const __m512i t = spare_bits(a, b, c), turned = exchange(t);
    even = _mm512_slli_epi32(t, 8);
    before = _mm512_slli_epi32(turned, 8);
    odd = _mm512_slli_epi32(join(exchange(c), turned), 8);
  }

  HRUN_HD void pair(__m512i now, CodeBytes& first, CodeBytes& second) {
    const __m512i newest = _mm512_xor_si512(now, odd), turned = exchange(now);
    odd = join(before, turned);
    first.v = _mm512_add_epi8(_mm512_permutexvar_epi8(newest, tables.newest_low),
                              _mm512_permutexvar_epi8(even, tables.earlier));
    second.v = _mm512_add_epi8(_mm512_permutexvar_epi8(newest, tables.newest_high),
                               _mm512_permutexvar_epi8(odd, tables.earlier));
    even = now;
    before = turned;
  }

  // The fourth pair is put together while the three before it are decoded.
  static constexpr int kStepVectors = 2;
  template <int i>
  HRUN_HD void step(CodeBytes* out) {
    if constexpr (i == 3) {
      pair(spare, out[0], out[1]);
      unit += 192;
    } else {
      __m512i now = load_bytes(unit + 64 * i);
      asm("" : "+v"(now));  // loaded once: the compiler would do so again for each use
      if constexpr (i == 0) spare = _mm512_srli_epi16(now, 6);
      if constexpr (i == 1) spare = select(_mm512_set1_epi8(3), spare, _mm512_srli_epi16(now, 4));
      if constexpr (i == 2) spare = select(_mm512_set1_epi8(15), spare, _mm512_srli_epi16(now, 2));
      pair(now, out[0], out[1]);
    }
  }

  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
    const __m512i a = load_bytes(unit), b = load_bytes(unit + 64), c = load_bytes(unit + 128);
    pair(a, out[0], out[1]);
    pair(b, out[2], out[3]);
    pair(c, out[4], out[5]);
    pair(spare_bits(a, b, c), out[6], out[7]);
    unit += 192;
  }
};

}  // namespace
}  // namespace hrun
