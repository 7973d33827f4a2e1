// AVX2 for the packed kernels: half a panel, 8 rows, in one register.
//
// Without the VNNI instructions (AVX-VNNI, the tier avx2vnni) a dot product is u8 x s8 to pairs in
// int16, which saturates: codes must not exceed 128.  Formats whose unsigned codes do are
// multiplied as |w| times sign(w) x: at most 2 * 128 * 127, as no activation is -128, whose sign
// could not be turned.
#pragma once

#include <immintrin.h>

#include "cpu/panels/layout.h"
#include "cpu/lanes/lanes.h"

namespace hrun {
namespace {

inline constexpr int kPartRows = 8;
inline constexpr int kTileTokens = 4;  // of the kernel that stores decoded weights
inline constexpr int kTileRegisters = 2, kWideTileTokens = 4;
inline constexpr int kGroupTileTokens =
    4;  // of formats with group scales, which need twice the sums
inline constexpr int kLargestSum = INT16_MAX;  // of a group (panels/group_sums.h)
// kStreamTokens is the most tokens in the kernel that does not store decoded weights.
#if defined(__AVXVNNI__)
inline constexpr int kStreamTokens = 4;
inline constexpr int kMaxLevel = 255;
inline constexpr int kSumLanes = 1;  // of a row, that a group's sum is spread over
#else
inline constexpr int kStreamTokens = 2;
inline constexpr int kMaxLevel = 127;
inline constexpr int kSumLanes = 2;
#endif

using Bytes = __m256i;
struct CodeBytes {
  Bytes v;
};
struct RowInts {
  __m256i v;
};
struct RowFloats {
  __m256 v;
};

HRUN_HD Bytes load_bytes(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
HRUN_HD CodeBytes load_codes(const uint8_t* p) { return {load_bytes(p)}; }
HRUN_HD void store_codes(uint8_t* p, CodeBytes x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.v);
}
HRUN_HD RowInts all_rows(int32_t x) { return {_mm256_set1_epi32(x)}; }
HRUN_HD RowInts add_rows(RowInts a, RowInts b) { return {_mm256_add_epi32(a.v, b.v)}; }
HRUN_HD RowInts multiply_rows(RowInts a, RowInts b) { return {_mm256_mullo_epi32(a.v, b.v)}; }
// Pairs of products of each row, in int16.
template <bool kSigned>
HRUN_HD __m256i multiply_codes(CodeBytes w, RowInts x) {
  if constexpr (kSigned)
    return _mm256_maddubs_epi16(_mm256_abs_epi8(w.v), _mm256_sign_epi8(x.v, w.v));
  else
    return _mm256_maddubs_epi16(w.v, x.v);
}
template <bool kSigned = false>
HRUN_HD RowInts dot_codes(RowInts sums, CodeBytes w, RowInts x) {
#if defined(__AVXVNNI__)
  static_assert(!kSigned);
  return {_mm256_dpbusd_avx_epi32(sums.v, w.v, x.v)};
#else
  return {_mm256_add_epi32(sums.v,
                           _mm256_madd_epi16(multiply_codes<kSigned>(w, x), _mm256_set1_epi16(1)))};
#endif
}
// The same for sums in kSumLanes lanes that cannot leave kLargestSum.
template <bool kSigned = false>
HRUN_HD RowInts dot_codes_narrow(RowInts sums, CodeBytes w, RowInts x) {
#if defined(__AVXVNNI__)
  return dot_codes<kSigned>(sums, w, x);
#else
  return {_mm256_add_epi16(sums.v, multiply_codes<kSigned>(w, x))};
#endif
}
template <bool kSigned = false>
HRUN_HD RowInts dot_codes_at(RowInts sums, CodeBytes w, const int8_t* x) {
  int32_t four;
  memcpy(&four, x, sizeof four);
  return dot_codes<kSigned>(sums, w, all_rows(four));
}
// sums + products of each row's pairs of int16.
HRUN_HD RowInts dot_row_pairs(RowInts sums, RowInts a, RowInts b) {
#if defined(__AVXVNNI__)
  return {_mm256_dpwssd_avx_epi32(sums.v, a.v, b.v)};
#else
  return {_mm256_add_epi32(sums.v, _mm256_madd_epi16(a.v, b.v))};
#endif
}
HRUN_HD RowInts pair_rows(RowInts low, RowInts high) {
  return {_mm256_blend_epi16(low.v, _mm256_slli_epi32(high.v, 16), 0xaa)};
}
HRUN_HD RowInts byte_pairs(const uint8_t* p) {
  return {_mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
HRUN_HD RowInts load_ints(const int32_t* p) {
  return {load_bytes(reinterpret_cast<const uint8_t*>(p))};
}
HRUN_HD void store_ints(int32_t* p, RowInts x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.v);
}
HRUN_HD RowInts load_group_scales(const uint8_t* p) {
  return {_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))};
}
// (byte >> shift) & 15 of each row.
HRUN_HD RowInts load_nibbles(const uint8_t* p, int shift) {
  const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return {
      _mm256_and_si256(_mm256_srlv_epi32(bytes, _mm256_set1_epi32(shift)), _mm256_set1_epi32(15))};
}
// Each row's two nibbles as a pair of int16.
HRUN_HD RowInts nibble_pairs(const uint8_t* p) {
  const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return {_mm256_and_si256(_mm256_or_si256(bytes, _mm256_slli_epi32(bytes, 12)),
                           _mm256_set1_epi32(0x000f000f))};
}
HRUN_HD RowFloats zero_rows() { return {_mm256_setzero_ps()}; }
HRUN_HD RowFloats load_rows(const float* p) { return {_mm256_loadu_ps(p)}; }
HRUN_HD void store_rows(float* p, RowFloats x) { _mm256_storeu_ps(p, x.v); }
HRUN_HD RowFloats load_halves(const uint8_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
HRUN_HD RowFloats scale_rows(RowFloats a, float x) {
  return {_mm256_mul_ps(a.v, _mm256_set1_ps(x))};
}
HRUN_HD RowFloats negative(RowFloats a) { return {_mm256_sub_ps(_mm256_setzero_ps(), a.v)}; }
HRUN_HD RowFloats fma_rows(RowFloats a, RowInts b, RowFloats c) {
  return {_mm256_fmadd_ps(a.v, _mm256_cvtepi32_ps(b.v), c.v)};
}

HRUN_HD Bytes both(Bytes a, uint8_t mask) {
  return _mm256_and_si256(a, _mm256_set1_epi8(static_cast<char>(mask)));
}
HRUN_HD Bytes by_top_bit(Bytes x, Bytes a, Bytes b) { return _mm256_blendv_epi8(b, a, x); }
HRUN_HD Bytes join_bits(Bytes a, Bytes b) { return _mm256_or_si256(a, b); }
HRUN_HD Bytes exclusive_or(Bytes a, Bytes b) { return _mm256_xor_si256(a, b); }
HRUN_HD Bytes add_bytes(Bytes a, Bytes b) { return _mm256_add_epi8(a, b); }
template <int n>
HRUN_HD Bytes down(Bytes a) {
  return _mm256_srli_epi16(a, n);
}
template <int n>
HRUN_HD Bytes up(Bytes a) {
  return _mm256_slli_epi16(a, n);
}
template <int n>
HRUN_HD Bytes top(Bytes a) {
  return both(down<8 - n>(a), (1 << n) - 1);
}
HRUN_HD Bytes lane_below(Bytes a) { return _mm256_slli_epi32(a, 8); }
using Table = __m256i;
HRUN_HD Table table_of_16(const uint8_t (&bytes)[16]) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}
HRUN_HD Bytes lookup(Table table, Bytes index) { return _mm256_shuffle_epi8(table, index); }

template <class At>
HRUN_HD Bytes words_of(At at) {
  // A chain of insertions from memory; _mm256_setr_epi16 becomes half as many instructions again on
  // the same port.
  const auto eight = [&](int from) {
    const auto word = [&](int i) { return static_cast<int16_t>(*at(from + i)); };
    __m128i v = _mm_cvtsi32_si128(*at(from));
    v = _mm_insert_epi16(v, word(1), 1), v = _mm_insert_epi16(v, word(2), 2),
    v = _mm_insert_epi16(v, word(3), 3);
    v = _mm_insert_epi16(v, word(4), 4), v = _mm_insert_epi16(v, word(5), 5),
    v = _mm_insert_epi16(v, word(6), 6);
    return _mm_insert_epi16(v, word(7), 7);
  };
  return _mm256_set_m128i(eight(8), eight(0));
}
HRUN_HD Bytes spread_bits(const uint8_t* p) {
  int32_t bits;
  memcpy(&bits, p, sizeof bits);
  const __m256i byte =
      _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201u));
  return _mm256_cmpeq_epi8(
      _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), byte), bit), bit);
}
HRUN_HD void store_words(uint16_t* out, Bytes low, Bytes high) {
  const __m256i a = _mm256_unpacklo_epi8(low, high), b = _mm256_unpackhi_epi8(low, high);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permute2x128_si256(a, b, 0x20));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16), _mm256_permute2x128_si256(a, b, 0x31));
}
HRUN_HD Bytes even_twice(Bytes a) {
  const __m256i even = _mm256_and_si256(a, _mm256_set1_epi16(0x00ff));
  return _mm256_or_si256(even, _mm256_slli_epi16(even, 8));
}
HRUN_HD Bytes odd_twice(Bytes a) {
  const __m256i odd = _mm256_srli_epi16(a, 8);
  return _mm256_or_si256(odd, _mm256_slli_epi16(odd, 8));
}

}  // namespace
}  // namespace hrun
