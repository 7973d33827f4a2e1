// Sixty-four bytes, four per lane, as two 256-bit registers (bytes_portable.h defines them).
#pragma once

#include "cpu/lanes/avx2.h"

namespace hrun {
namespace {

inline constexpr int kLaneBytes = 64;
inline constexpr bool kWideLookup = false;  // of 64 bytes in one instruction?
#if defined(__AVXVNNI__)
inline constexpr int kKeyBias = 128;
#else
inline constexpr int kKeyBias = 0;
#endif

struct ByteLanes {
  __m256i lo, hi;
};

HRUN_HD ByteLanes load_byte_lanes(const uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
HRUN_HD void store(uint8_t* p, ByteLanes x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.lo);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), x.hi);
}
HRUN_HD ByteLanes byte_field(ByteLanes x, int from, int mask) {
  const __m128i count = _mm_cvtsi32_si128(from);
  const __m256i keep = _mm256_set1_epi8(static_cast<char>(mask));
  return {_mm256_and_si256(_mm256_srl_epi16(x.lo, count), keep),
          _mm256_and_si256(_mm256_srl_epi16(x.hi, count), keep)};
}
template <int from>
HRUN_HD ByteLanes byte_bits(ByteLanes x, int mask) {
  const __m256i keep = _mm256_set1_epi8(static_cast<char>(mask));
  const auto half = [&](__m256i v) {
    return _mm256_and_si256(from < 0 ? _mm256_slli_epi16(v, from < 0 ? -from : 0)
                                     : _mm256_srli_epi16(v, from < 0 ? 0 : from),
                            keep);
  };
  return {half(x.lo), half(x.hi)};
}
HRUN_HD ByteLanes add(ByteLanes a, ByteLanes b) {
  return {_mm256_add_epi8(a.lo, b.lo), _mm256_add_epi8(a.hi, b.hi)};
}
HRUN_HD ByteLanes xor_all(ByteLanes a, ByteLanes b, ByteLanes c) {
  return {_mm256_xor_si256(_mm256_xor_si256(a.lo, b.lo), c.lo),
          _mm256_xor_si256(_mm256_xor_si256(a.hi, b.hi), c.hi)};
}
HRUN_HD ByteLanes splat_byte(int x) {
  const __m256i v = _mm256_set1_epi8(static_cast<char>(x));
  return {v, v};
}
HRUN_HD ByteLanes from_lane_before(ByteLanes x) {
  // alignr works per 128 bits: the half before each comes from a permutation.
  const __m256i before_lo = _mm256_permute2x128_si256(x.lo, x.lo, 0x08);
  const __m256i before_hi = _mm256_permute2x128_si256(x.lo, x.hi, 0x21);
  return {_mm256_alignr_epi8(x.lo, before_lo, 12), _mm256_alignr_epi8(x.hi, before_hi, 12)};
}
HRUN_HD ByteLanes from_byte_before(ByteLanes x) {
  return {_mm256_slli_epi32(x.lo, 8), _mm256_slli_epi32(x.hi, 8)};
}

template <int kEntries>
struct ByteLookup {
  static constexpr int kTables = kEntries <= 16 ? 1 : kEntries / 16;
  __m256i table[kTables];
  HRUN_HD ByteLookup(const uint8_t (&entries)[64], int more) {
    for (int i = 0; i < kTables; ++i)
      table[i] = _mm256_add_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(
                                     reinterpret_cast<const __m128i*>(entries + 16 * i))),
                                 _mm256_set1_epi8(static_cast<char>(more)));
  }
  HRUN_HD __m256i half(__m256i index) const {
    if constexpr (kTables == 1) {
      return _mm256_shuffle_epi8(table[0], index);
    } else {
      // Bit 7 chooses in a blend: bit 4 of the index is moved there, then bit 5.
      const __m256i low = _mm256_and_si256(index, _mm256_set1_epi8(15));
      const __m256i bit4 = _mm256_slli_epi16(index, 3);
      __m256i found = _mm256_blendv_epi8(_mm256_shuffle_epi8(table[0], low),
                                         _mm256_shuffle_epi8(table[1], low), bit4);
      if constexpr (kTables == 4) {
        const __m256i upper = _mm256_blendv_epi8(_mm256_shuffle_epi8(table[2], low),
                                                 _mm256_shuffle_epi8(table[3], low), bit4);
        found = _mm256_blendv_epi8(found, upper, _mm256_slli_epi16(index, 2));
      }
      return found;
    }
  }
  HRUN_HD ByteLanes operator()(ByteLanes index) const { return {half(index.lo), half(index.hi)}; }
};

HRUN_HD void store_uint8(uint8_t* p, IntLanes x) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.lo, x.hi), 0xd8);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(p),
      _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

// Used by wide lookups alone.
template <int n>
ByteLanes shift_bytes(ByteLanes x);
template <int mask>
ByteLanes select_bits(ByteLanes yes, ByteLanes no);

#if defined(__AVXVNNI__)
HRUN_HD IntLanes dot_keys(IntLanes sums, ByteLanes levels, int32_t query) {
  const __m256i q = _mm256_set1_epi32(query);
  return {_mm256_dpbusd_avx_epi32(sums.lo, levels.lo, q),
          _mm256_dpbusd_avx_epi32(sums.hi, levels.hi, q)};
}
HRUN_HD IntLanes dot_values(IntLanes sums, ByteLanes levels, int32_t weights) {
  const __m256i w = _mm256_set1_epi32(weights);
  return {_mm256_dpbusd_avx_epi32(sums.lo, w, levels.lo),
          _mm256_dpbusd_avx_epi32(sums.hi, w, levels.hi)};
}
#else
// |level| times the query with the level's sign: pairs of them fit int16.
HRUN_HD IntLanes dot_keys(IntLanes sums, ByteLanes levels, int32_t query) {
  const __m256i q = _mm256_set1_epi32(query), ones = _mm256_set1_epi16(1);
  const auto half = [&](__m256i sum, __m256i level) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(level), _mm256_sign_epi8(q, level));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
  };
  return {half(sums.lo, levels.lo), half(sums.hi, levels.hi)};
}
// Two products of 255 * 127 do not fit int16: even and odd bytes each on their own.
HRUN_HD IntLanes dot_values(IntLanes sums, ByteLanes levels, int32_t weights) {
  const __m256i ones = _mm256_set1_epi16(1), even = _mm256_set1_epi32(weights & 0x00ff00ff),
                odd = _mm256_set1_epi32(
                    static_cast<int32_t>(static_cast<uint32_t>(weights) & 0xff00ff00u));
  const auto half = [&](__m256i sum, __m256i level) {
    const __m256i a = _mm256_madd_epi16(_mm256_maddubs_epi16(even, level), ones);
    const __m256i b = _mm256_madd_epi16(_mm256_maddubs_epi16(odd, level), ones);
    return _mm256_add_epi32(sum, _mm256_add_epi32(a, b));
  };
  return {half(sums.lo, levels.lo), half(sums.hi, levels.hi)};
}
#endif

}  // namespace
}  // namespace hrun
