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
template <int n>
HRUN_HD ByteLanes shift_bytes(ByteLanes x) {
  if constexpr (n < 0)
    return {_mm256_slli_epi16(x.lo, -n), _mm256_slli_epi16(x.hi, -n)};
  else
    return {_mm256_srli_epi16(x.lo, n), _mm256_srli_epi16(x.hi, n)};
}
template <int mask>
HRUN_HD ByteLanes select_bits(ByteLanes yes, ByteLanes no) {
  const __m256i keep = _mm256_set1_epi8(mask);
  const auto half = [&](__m256i a, __m256i b) {
    return _mm256_or_si256(_mm256_and_si256(a, keep), _mm256_andnot_si256(keep, b));
  };
  return {half(yes.lo, no.lo), half(yes.hi, no.hi)};
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
      // A shuffle takes the lowest four bits of an index below 128.  Bit 7 chooses in a blend: bit
      // 4 of the index is moved there, then bit 5.
      const __m256i bit4 = _mm256_slli_epi16(index, 3);
      __m256i found = _mm256_blendv_epi8(_mm256_shuffle_epi8(table[0], index),
                                         _mm256_shuffle_epi8(table[1], index), bit4);
      if constexpr (kTables == 4) {
        const __m256i upper = _mm256_blendv_epi8(_mm256_shuffle_epi8(table[2], index),
                                                 _mm256_shuffle_epi8(table[3], index), bit4);
        found = _mm256_blendv_epi8(found, upper, _mm256_slli_epi16(index, 2));
      }
      return found;
    }
  }
  HRUN_HD ByteLanes operator()(ByteLanes index) const { return {half(index.lo), half(index.hi)}; }
};

HRUN_HD void store_uint8(uint8_t* p, const IntLanes (&x)[4]) {
  // Packing goes by 128 bits.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  for (int i = 0; i < 4; i += 2) {
    const __m256i both = _mm256_packus_epi16(_mm256_packs_epi32(x[i].lo, x[i].hi),
                                             _mm256_packs_epi32(x[i + 1].lo, x[i + 1].hi));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + kLanes * i),
                        _mm256_permutevar8x32_epi32(both, order));
  }
}

#if defined(__AVXVNNI__)
HRUN_HD void add_key_products(IntLanes& sums, ByteLanes levels, const int32_t& query) {
  const __m256i q = _mm256_set1_epi32(query);
  sums = {_mm256_dpbusd_avx_epi32(sums.lo, levels.lo, q),
          _mm256_dpbusd_avx_epi32(sums.hi, levels.hi, q)};
}
HRUN_HD void add_value_products(IntLanes& sums, ByteLanes levels, const int32_t& weights) {
  const __m256i w = _mm256_set1_epi32(weights);
  sums = {_mm256_dpbusd_avx_epi32(sums.lo, w, levels.lo),
          _mm256_dpbusd_avx_epi32(sums.hi, w, levels.hi)};
}
#else
// |level| times the query with the level's sign: pairs of them fit int16.
HRUN_HD void add_key_products(IntLanes& sums, ByteLanes levels, const int32_t& query) {
  const __m256i q = _mm256_set1_epi32(query), ones = _mm256_set1_epi16(1);
  const auto half = [&](__m256i sum, __m256i level) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(level), _mm256_sign_epi8(q, level));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
  };
  sums = {half(sums.lo, levels.lo), half(sums.hi, levels.hi)};
}
// Two products of 255 * 127 do not fit int16: levels and weights become int16, even and odd bytes
// each on their own.
HRUN_HD void add_value_products(IntLanes& sums, ByteLanes levels, const int32_t& weights) {
  const __m256i w = _mm256_set1_epi32(weights),
                even = _mm256_and_si256(w, _mm256_set1_epi16(0x00ff)),
                odd = _mm256_srli_epi16(w, 8);
  const auto half = [&](__m256i sum, __m256i level) {
    const __m256i a = _mm256_madd_epi16(even, _mm256_srai_epi16(_mm256_slli_epi16(level, 8), 8));
    const __m256i b = _mm256_madd_epi16(odd, _mm256_srai_epi16(level, 8));
    return _mm256_add_epi32(sum, _mm256_add_epi32(a, b));
  };
  sums = {half(sums.lo, levels.lo), half(sums.hi, levels.hi)};
}
#endif

}  // namespace
}  // namespace hrun
