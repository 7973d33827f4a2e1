// Sixty-four bytes, four per lane, as one 512-bit register (bytes_portable.h defines them).
#pragma once

#include "cpu/lanes/avx512.h"

namespace hrun {
namespace {

inline constexpr int kLaneBytes = 64;
inline constexpr bool kWideLookup = true;  // of 64 bytes in one instruction?
inline constexpr int kKeyBias = 128;

struct ByteLanes {
  __m512i v;
};

HRUN_HD ByteLanes load_byte_lanes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
HRUN_HD void store(uint8_t* p, ByteLanes x) { _mm512_storeu_si512(p, x.v); }
HRUN_HD ByteLanes byte_field(ByteLanes x, int from, int mask) {
  return {_mm512_and_si512(_mm512_srl_epi16(x.v, _mm_cvtsi32_si128(from)),
                           _mm512_set1_epi8(static_cast<char>(mask)))};
}
template <int from>
HRUN_HD ByteLanes byte_bits(ByteLanes x, int mask) {
  const __m512i keep = _mm512_set1_epi8(static_cast<char>(mask));
  if constexpr (from == 0)
    return {_mm512_and_si512(x.v, keep)};
  else if constexpr (from < 0)
    return {_mm512_and_si512(_mm512_slli_epi16(x.v, -from), keep)};
  else
    return {_mm512_and_si512(_mm512_srli_epi16(x.v, from), keep)};
}
template <int n>
HRUN_HD ByteLanes shift_bytes(ByteLanes x) {
  if constexpr (n == 0)
    return x;
  else if constexpr (n < 0)
    return {_mm512_slli_epi16(x.v, -n)};
  else
    return {_mm512_srli_epi16(x.v, n)};
}
template <int mask>
HRUN_HD ByteLanes select_bits(ByteLanes yes, ByteLanes no) {
  return {_mm512_ternarylogic_epi64(yes.v, _mm512_set1_epi8(mask), no.v, 0xe2)};
}
HRUN_HD ByteLanes add(ByteLanes a, ByteLanes b) { return {_mm512_add_epi8(a.v, b.v)}; }
HRUN_HD ByteLanes xor_all(ByteLanes a, ByteLanes b, ByteLanes c) {
  return {_mm512_ternarylogic_epi64(a.v, b.v, c.v, 0x96)};
}
HRUN_HD ByteLanes splat_byte(int x) { return {_mm512_set1_epi8(static_cast<char>(x))}; }
HRUN_HD ByteLanes from_lane_before(ByteLanes x) {
  return {_mm512_alignr_epi32(x.v, _mm512_setzero_si512(), 15)};
}
HRUN_HD ByteLanes from_byte_before(ByteLanes x) { return {_mm512_slli_epi32(x.v, 8)}; }

template <int kEntries>
struct ByteLookup {
  __m512i table;
  HRUN_HD ByteLookup(const uint8_t (&entries)[64], int more)
      : table(_mm512_add_epi8(_mm512_loadu_si512(entries),
                              _mm512_set1_epi8(static_cast<char>(more)))) {}
  HRUN_HD ByteLanes operator()(ByteLanes index) const {
    return {_mm512_permutexvar_epi8(index.v, table)};
  }
};

HRUN_HD void store_uint8(uint8_t* p, const IntLanes (&x)[4]) {
  // Packing goes by 128 bits: dword 4 q + i is quarter q of x[i].
  const __m512i all =
      _mm512_packus_epi16(_mm512_packs_epi32(x[0].v, x[1].v), _mm512_packs_epi32(x[2].v, x[3].v));
  const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, all));
}

// Written in assembly, because GCC 12 copies the sums to another register and back around the
// intrinsic.
HRUN_HD void add_key_products(IntLanes& sums, ByteLanes levels, const int32_t& query) {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums.v) : "v"(levels.v), "m"(query));
}
HRUN_HD void add_value_products(IntLanes& sums, ByteLanes levels, const int32_t& weights) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sums.v) : "v"(_mm512_set1_epi32(weights)), "v"(levels.v));
}

}  // namespace
}  // namespace hrun
