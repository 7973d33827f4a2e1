// Lanes as one 512-bit register: AVX-512 F, BW, DQ, VL, and VNNI where the tier has it.
#pragma once

#include <immintrin.h>

#include "cpu/kernel_constants.h"
#include "formats/list.h"

namespace hrun {
namespace {

inline constexpr int kTokenTile = 8;
inline constexpr bool kSixteenSums = true;  // registers for sixteen sums at once?

struct Lanes {
  __m512 v;
};
struct IntLanes {
  __m512i v;
};

HRUN_HD Lanes splat(float x) { return {_mm512_set1_ps(x)}; }
HRUN_HD Lanes load(const float* p) { return {_mm512_loadu_ps(p)}; }
HRUN_HD void store(float* p, Lanes x) { _mm512_storeu_ps(p, x.v); }
HRUN_HD __m256i load_16_halves(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
HRUN_HD Lanes load_f32(const uint8_t* p) { return {_mm512_loadu_ps(p)}; }
HRUN_HD Lanes load_f16(const uint8_t* p) { return {_mm512_cvtph_ps(load_16_halves(p))}; }
HRUN_HD Lanes load_bf16(const uint8_t* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_16_halves(p)), 16))};
}
HRUN_HD void store_f16(uint16_t* p, Lanes x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

HRUN_HD Lanes fma(Lanes a, Lanes b, Lanes c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
HRUN_HD Lanes add(Lanes a, Lanes b) { return {_mm512_add_ps(a.v, b.v)}; }
HRUN_HD Lanes sub(Lanes a, Lanes b) { return {_mm512_sub_ps(a.v, b.v)}; }
HRUN_HD Lanes mul(Lanes a, Lanes b) { return {_mm512_mul_ps(a.v, b.v)}; }
HRUN_HD Lanes div(Lanes a, Lanes b) { return {_mm512_div_ps(a.v, b.v)}; }
HRUN_HD Lanes max(Lanes a, Lanes b) { return {_mm512_max_ps(a.v, b.v)}; }
HRUN_HD Lanes min(Lanes a, Lanes b) { return {_mm512_min_ps(a.v, b.v)}; }

HRUN_HD Lanes times_power_of_2(Lanes p, Lanes n) { return {_mm512_scalef_ps(p.v, n.v)}; }

HRUN_HD float reduce_add(Lanes x) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
// Lane i of the result is reduce_add(x[i]): the same additions, side by side.
HRUN_HD Lanes reduce_add_16(const Lanes (&x)[kLanes]) {
  __m512 eight[8], four[4], two[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {  // x[i] in the lower half, x[i + 8] in the upper
    eight[i] = _mm512_add_ps(_mm512_shuffle_f32x4(x[i].v, x[i + 8].v, 0x44),
                             _mm512_shuffle_f32x4(x[i].v, x[i + 8].v, 0xee));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // the quarters are x[i], x[i + 8], x[i + 4], x[i + 12]
    four[i] = _mm512_add_ps(_mm512_shuffle_f32x4(eight[i], eight[i + 4], 0x88),
                            _mm512_shuffle_f32x4(eight[i], eight[i + 4], 0xdd));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    two[i] = _mm512_add_ps(_mm512_shuffle_ps(four[2 * i], four[2 * i + 1], 0x44),
                           _mm512_shuffle_ps(four[2 * i], four[2 * i + 1], 0xee));
  const __m512 one = _mm512_add_ps(_mm512_shuffle_ps(two[0], two[1], 0x88),
                                   _mm512_shuffle_ps(two[0], two[1], 0xdd));
  return {_mm512_shuffle_f32x4(one, one, 0xd8)};  // quarters 0, 2, 1, 3
}
HRUN_HD float first_lane(Lanes x) { return _mm512_cvtss_f32(x.v); }
HRUN_HD float reduce_max(Lanes x) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// out[i] is the reduction of x[i]: the same operations, side by side.
template <class Function>
HRUN_HD void reduce_four(const Lanes (&x)[4], float* out, Function&& both) {
  const auto halves = [&](__m512 a, __m512 b) {  // of a, then of b
    return both(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  };
  const __m512 first = halves(x[0].v, x[1].v), last = halves(x[2].v, x[3].v);
  const __m512 four =
      both(_mm512_shuffle_f32x4(first, last, 0x88), _mm512_shuffle_f32x4(first, last, 0xdd));
  const __m512 two = both(four, _mm512_permute_ps(four, 0x4e));
  const __m512 one = both(two, _mm512_permute_ps(two, 0xb1));
  const __m512i places = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
  _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(places, one)));
}
HRUN_HD void reduce_add_each(const Lanes (&x)[4], float* out) {
  reduce_four(x, out, [](__m512 a, __m512 b) { return _mm512_add_ps(a, b); });
}
HRUN_HD void reduce_max_each(const Lanes (&x)[4], float* out) {
  reduce_four(x, out, [](__m512 a, __m512 b) { return _mm512_max_ps(a, b); });
}

HRUN_HD IntLanes splat_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
HRUN_HD IntLanes as_int(Lanes x) { return {_mm512_castps_si512(x.v)}; }
HRUN_HD Lanes as_float(IntLanes x) { return {_mm512_castsi512_ps(x.v)}; }
HRUN_HD Lanes to_float(IntLanes x) { return {_mm512_cvtepi32_ps(x.v)}; }
HRUN_HD IntLanes add(IntLanes a, IntLanes b) { return {_mm512_add_epi32(a.v, b.v)}; }
HRUN_HD IntLanes sub(IntLanes a, IntLanes b) { return {_mm512_sub_epi32(a.v, b.v)}; }
HRUN_HD IntLanes bit_and(IntLanes a, IntLanes b) { return {_mm512_and_si512(a.v, b.v)}; }
HRUN_HD IntLanes max(IntLanes a, IntLanes b) { return {_mm512_max_epi32(a.v, b.v)}; }
template <int n>
HRUN_HD IntLanes shift_left(IntLanes x) {
  return {_mm512_slli_epi32(x.v, n)};
}
template <int n>
HRUN_HD IntLanes shift_right(IntLanes x) {
  return {_mm512_srai_epi32(x.v, n)};
}
HRUN_HD int32_t reduce_add(IntLanes x) { return _mm512_reduce_add_epi32(x.v); }
HRUN_HD int32_t reduce_max(IntLanes x) { return _mm512_reduce_max_epi32(x.v); }

HRUN_HD IntLanes round_to_int(Lanes x) { return {_mm512_cvtps_epi32(x.v)}; }
HRUN_HD void store_int8(int8_t* p, IntLanes x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x.v));
}
// The sums of each group of eight of 32 codes.
HRUN_HD void sum_eights(const int8_t* codes, int16_t* sums) {
  const __m256i offset =
      _mm256_set1_epi8(-128);  // as unsigned bytes, 128 larger: eight of them are 1024 more
  const __m256i bytes =
      _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)), offset);
  const __m256i eights = _mm256_sad_epu8(bytes, _mm256_setzero_si256());
  const __m128 four = _mm_shuffle_ps(_mm_castsi128_ps(_mm256_castsi256_si128(eights)),
                                     _mm_castsi128_ps(_mm256_extracti128_si256(eights, 1)), 0x88);
  const __m128i less = _mm_sub_epi32(_mm_castps_si128(four), _mm_set1_epi32(1024));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(sums), _mm_packs_epi32(less, less));
}

HRUN_HD IntLanes load_pairs(const int16_t* p) { return {_mm512_loadu_si512(p)}; }
HRUN_HD IntLanes dot_pairs(IntLanes sums, IntLanes w, int32_t x) {
#if defined(__AVX512VNNI__)
  return {_mm512_dpwssd_epi32(sums.v, w.v, _mm512_set1_epi32(x))};
#else
  return {_mm512_add_epi32(sums.v, _mm512_madd_epi16(w.v, _mm512_set1_epi32(x)))};
#endif
}

// The 16 codes of a group times its scale.
HRUN_HD void scale_codes(const int8_t* codes, int16_t scale, int16_t* out) {
  const __m256i wide =
      _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                      _mm256_mullo_epi16(wide, _mm256_set1_epi16(scale)));
}

// Lane l and lane l ^ half become their sum (lower lane) and difference, lower minus upper.
template <int half>
HRUN_HD Lanes butterfly(Lanes x) {
  constexpr __mmask16 kUpper = half == 8   ? 0xff00
                               : half == 4 ? 0xf0f0
                               : half == 2 ? 0xcccc
                                           : 0xaaaa;
  __m512 other;
  if constexpr (half == 8) other = _mm512_shuffle_f32x4(x.v, x.v, 0x4e);
  if constexpr (half == 4) other = _mm512_shuffle_f32x4(x.v, x.v, 0xb1);
  if constexpr (half == 2) other = _mm512_permute_ps(x.v, 0x4e);
  if constexpr (half == 1) other = _mm512_permute_ps(x.v, 0xb1);
  return {_mm512_mask_sub_ps(_mm512_add_ps(x.v, other), kUpper, other, x.v)};
}

// rows: 16 rows of 16 pairs, `stride` int16 apart; out: [pair][row].
HRUN_HD void transpose_pairs(const int16_t* rows, int64_t stride, int16_t* out) {
  __m512i r[16], s[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(rows + i * stride);
#pragma GCC unroll 16
  for (int i = 0; i < 8; ++i) {
    s[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    s[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {
    r[4 * i + 0] = _mm512_unpacklo_epi64(s[4 * i], s[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(s[4 * i], s[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(s[4 * i + 1], s[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(s[4 * i + 1], s[4 * i + 3]);
  }
  // r[4 i + c] holds, in its 128-bit part p, rows 4 i .. 4 i + 3 of column 4 p + c.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i even01 = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88),
                  odd01 = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xdd);
    const __m512i even23 = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
    const __m512i odd23 = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xdd);
    const auto put = [&](int pair, __m512i x) { _mm512_storeu_si512(out + 2 * kLanes * pair, x); };
    put(c, _mm512_shuffle_i32x4(even01, even23, 0x88));
    put(c + 8, _mm512_shuffle_i32x4(even01, even23, 0xdd));
    put(c + 4, _mm512_shuffle_i32x4(odd01, odd23, 0x88));
    put(c + 12, _mm512_shuffle_i32x4(odd01, odd23, 0xdd));
  }
}

}  // namespace
}  // namespace hrun
