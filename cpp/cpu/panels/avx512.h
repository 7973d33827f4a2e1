// AVX-512 with VBMI and VNNI for the packed kernels: all 16 rows of a panel in one register.
#pragma once

#include <immintrin.h>

#include "cpu/panels/layout.h"
#include "cpu/lanes/lanes.h"

namespace hrun {
namespace {

inline constexpr int kPartRows = 16;  // rows of a panel that one register holds
inline constexpr int kStreamTokens =
    8;                                 // at most, in the kernel that does not store decoded weights
inline constexpr int kTileTokens = 8;  // of the kernel that stores decoded weights
inline constexpr int kTileRegisters = 4, kWideTileTokens = 6;  // where more than two registers fit
inline constexpr int kGroupTileTokens =
    6;                                 // of formats with group scales, which need twice the sums
inline constexpr int kMaxLevel = 255;  // of the unsigned codes that dot_codes takes
inline constexpr int kLargestSum = INT16_MAX;  // of a group (panels/group_sums.h)
inline constexpr int kSumLanes = 1;            // of a row, that a group's sum is spread over

struct CodeBytes {
  __m512i v;
};  // [row][4 columns]
struct RowInts {
  __m512i v;
};  // [row]
struct RowFloats {
  __m512 v;
};  // [row]

HRUN_HD CodeBytes load_codes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
HRUN_HD void store_codes(uint8_t* p, CodeBytes x) { _mm512_storeu_si512(p, x.v); }
HRUN_HD RowInts all_rows(int32_t x) { return {_mm512_set1_epi32(x)}; }
HRUN_HD RowInts add_rows(RowInts a, RowInts b) { return {_mm512_add_epi32(a.v, b.v)}; }
HRUN_HD RowInts multiply_rows(RowInts a, RowInts b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
// sums + products of each row's four unsigned codes with four int8 activations.  Written in
// assembly, because GCC 12 copies the sums to another register and back around the intrinsic.
template <bool kSigned = false>
HRUN_HD RowInts dot_codes(RowInts sums, CodeBytes w, RowInts x) {
  static_assert(!kSigned);
  asm("vpdpbusd %2, %1, %0" : "+v"(sums.v) : "v"(w.v), "v"(x.v));
  return sums;
}
template <bool kSigned = false>
HRUN_HD RowInts dot_codes_narrow(RowInts sums, CodeBytes w, RowInts x) {
  return dot_codes<kSigned>(sums, w, x);
}
template <bool kSigned = false>
HRUN_HD RowInts dot_codes_at(RowInts sums, CodeBytes w, const int8_t* x) {
  static_assert(!kSigned);
  asm("vpdpbusd %2%{1to16%}, %1, %0"
      : "+v"(sums.v)
      : "v"(w.v), "m"(*reinterpret_cast<const int8_t(*)[4]>(x)));
  return sums;
}
// sums + products of each row's pairs of int16.
HRUN_HD RowInts dot_row_pairs(RowInts sums, RowInts a, RowInts b) {
  asm("vpdpwssd %2, %1, %0" : "+v"(sums.v) : "v"(a.v), "v"(b.v));
  return sums;
}
HRUN_HD RowInts pair_rows(RowInts low, RowInts high) {
  return {_mm512_mask_blend_epi16(0xaaaaaaaa, low.v, _mm512_slli_epi32(high.v, 16))};
}
HRUN_HD RowInts byte_pairs(const uint8_t* p) {
  return {_mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
HRUN_HD RowInts load_group_scales(const uint8_t* p) {
  return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
// (byte >> shift) & 15 of each row.
HRUN_HD RowInts load_nibbles(const uint8_t* p, int shift) {
  const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return {
      _mm512_and_si512(_mm512_srlv_epi32(bytes, _mm512_set1_epi32(shift)), _mm512_set1_epi32(15))};
}
// Each row's two nibbles as a pair of int16.
HRUN_HD RowInts nibble_pairs(const uint8_t* p) {
  const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return {_mm512_and_si512(_mm512_or_si512(bytes, _mm512_slli_epi32(bytes, 12)),
                           _mm512_set1_epi32(0x000f000f))};
}
HRUN_HD RowInts load_ints(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
HRUN_HD void store_ints(int32_t* p, RowInts x) { _mm512_storeu_si512(p, x.v); }
HRUN_HD RowFloats zero_rows() { return {_mm512_setzero_ps()}; }
HRUN_HD RowFloats load_rows(const float* p) { return {_mm512_loadu_ps(p)}; }
HRUN_HD void store_rows(float* p, RowFloats x) { _mm512_storeu_ps(p, x.v); }
HRUN_HD RowFloats load_halves(const uint8_t* p) { return {_mm512_cvtph_ps(load_16_halves(p))}; }
HRUN_HD RowFloats scale_rows(RowFloats a, float x) {
  return {_mm512_mul_ps(a.v, _mm512_set1_ps(x))};
}
HRUN_HD RowFloats negative(RowFloats a) { return {_mm512_sub_ps(_mm512_setzero_ps(), a.v)}; }
HRUN_HD RowFloats fma_rows(RowFloats a, RowInts b, RowFloats c) {
  return {_mm512_fmadd_ps(a.v, _mm512_cvtepi32_ps(b.v), c.v)};
}

HRUN_HD __m512i load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
// Takes the bits of `a` where mask is 1, else those of `b`.
HRUN_HD __m512i select(__m512i mask, __m512i a, __m512i b) {
  return _mm512_ternarylogic_epi32(mask, a, b, 0xca);
}

// entry(index) for every byte of a vector, made when compiling: a panel of 2048 columns takes
// little longer to read than a table of 64 entries to fill.
template <auto entry>
HRUN_HD __m512i table_of_64() {
  struct Bytes {
    alignas(64) uint8_t at[64];
  };
  static constexpr Bytes kBytes = [] {
    Bytes bytes{};
    for (int i = 0; i < 64; ++i) bytes.at[i] = static_cast<uint8_t>(entry(i));
    return bytes;
  }();
  return load_bytes(kBytes.at);
}

// `bits` bits of every byte from bit `from` on.  Of the lower six by table: one instruction where a
// shift and a mask would be two.
template <int bits, int from>
HRUN_HD __m512i field(__m512i x) {
  if constexpr (from + bits > 6)
    return field<bits, from - 4>(_mm512_srli_epi16(x, 4));
  else
    return _mm512_permutexvar_epi8(
        x, table_of_64<[](int i) { return (i >> from) & ((1 << bits) - 1); }>());
}

// The codes that the spare bits 6 and 7 of three vectors hold.
HRUN_HD __m512i spare_bits(__m512i a, __m512i b, __m512i c) {
  const __m512i ab = select(_mm512_set1_epi8(3), _mm512_srli_epi16(a, 6), _mm512_srli_epi16(b, 4));
  return select(_mm512_set1_epi8(15), ab, _mm512_srli_epi16(c, 2));
}

}  // namespace
}  // namespace hrun
