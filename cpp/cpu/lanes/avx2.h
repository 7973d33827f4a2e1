// Lanes as two 256-bit registers: AVX2, FMA, F16C.
#pragma once

#include <immintrin.h>

#include "cpu/kernel_constants.h"
#include "formats/list.h"

namespace hrun {
namespace {

inline constexpr int kTokenTile = 4;         // 8 registers of sums
inline constexpr bool kSixteenSums = false;  // registers for sixteen sums at once?

struct Lanes {
  __m256 lo, hi;
};
struct IntLanes {
  __m256i lo, hi;
};

HRUN_HD Lanes splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
HRUN_HD Lanes load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
HRUN_HD void store(float* p, Lanes x) { _mm256_storeu_ps(p, x.lo), _mm256_storeu_ps(p + 8, x.hi); }
HRUN_HD __m128i load_8_halves(const uint8_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
HRUN_HD Lanes load_f32(const uint8_t* p) {
  return {_mm256_castsi256_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))),
          _mm256_castsi256_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32)))};
}
HRUN_HD Lanes load_f16(const uint8_t* p) {
  return {_mm256_cvtph_ps(load_8_halves(p)), _mm256_cvtph_ps(load_8_halves(p + 16))};
}
HRUN_HD Lanes load_bf16(const uint8_t* p) {
  const auto widen = [](__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
  };
  return {widen(load_8_halves(p)), widen(load_8_halves(p + 16))};
}
HRUN_HD void store_f16(uint16_t* p, Lanes x) {
  constexpr int kNearestEven = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.lo, kNearestEven));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.hi, kNearestEven));
}

HRUN_HD Lanes fma(Lanes a, Lanes b, Lanes c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
HRUN_HD Lanes add(Lanes a, Lanes b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
HRUN_HD Lanes sub(Lanes a, Lanes b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
HRUN_HD Lanes mul(Lanes a, Lanes b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
HRUN_HD Lanes div(Lanes a, Lanes b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
HRUN_HD Lanes max(Lanes a, Lanes b) {
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
HRUN_HD Lanes min(Lanes a, Lanes b) {
  return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}

HRUN_HD float reduce_add(Lanes x) {
  const __m256 eight = _mm256_add_ps(x.lo, x.hi);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
// Lane i of the result is reduce_add(x[i]).
HRUN_HD Lanes reduce_add_16(const Lanes (&x)[kLanes]) {
  float sums[kLanes];
  for (int i = 0; i < kLanes; ++i) sums[i] = reduce_add(x[i]);
  return load(sums);
}
HRUN_HD float first_lane(Lanes x) { return _mm256_cvtss_f32(x.lo); }
HRUN_HD float reduce_max(Lanes x) {
  const __m256 eight = _mm256_max_ps(x.lo, x.hi);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

HRUN_HD IntLanes splat_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
HRUN_HD IntLanes as_int(Lanes x) { return {_mm256_castps_si256(x.lo), _mm256_castps_si256(x.hi)}; }
HRUN_HD Lanes as_float(IntLanes x) {
  return {_mm256_castsi256_ps(x.lo), _mm256_castsi256_ps(x.hi)};
}
HRUN_HD Lanes to_float(IntLanes x) { return {_mm256_cvtepi32_ps(x.lo), _mm256_cvtepi32_ps(x.hi)}; }
HRUN_HD IntLanes add(IntLanes a, IntLanes b) {
  return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
HRUN_HD IntLanes sub(IntLanes a, IntLanes b) {
  return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)};
}
HRUN_HD IntLanes bit_and(IntLanes a, IntLanes b) {
  return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)};
}
HRUN_HD IntLanes max(IntLanes a, IntLanes b) {
  return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)};
}
template <int n>
HRUN_HD IntLanes shift_left(IntLanes x) {
  return {_mm256_slli_epi32(x.lo, n), _mm256_slli_epi32(x.hi, n)};
}
template <int n>
HRUN_HD IntLanes shift_right(IntLanes x) {
  return {_mm256_srai_epi32(x.lo, n), _mm256_srai_epi32(x.hi, n)};
}
HRUN_HD int32_t reduce_add(IntLanes x) {
  const __m256i eight = _mm256_add_epi32(x.lo, x.hi);
  const __m128i four =
      _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
HRUN_HD int32_t reduce_max(IntLanes x) {
  const __m256i eight = _mm256_max_epi32(x.lo, x.hi);
  const __m128i four =
      _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

HRUN_HD IntLanes round_to_int(Lanes x) {
  return {_mm256_cvtps_epi32(x.lo), _mm256_cvtps_epi32(x.hi)};
}
HRUN_HD void store_int8(int8_t* p, IntLanes x) {
  const __m256i words =
      _mm256_permute4x64_epi64(_mm256_packs_epi32(x.lo, x.hi), 0xd8);  // packs works per 128 bits
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(p),
      _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
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

HRUN_HD IntLanes load_pairs(const int16_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16))};
}
HRUN_HD IntLanes dot_pairs(IntLanes sums, IntLanes w, int32_t x) {
  const __m256i both = _mm256_set1_epi32(x);
#if defined(__AVXVNNI__)
  return {_mm256_dpwssd_avx_epi32(sums.lo, w.lo, both),
          _mm256_dpwssd_avx_epi32(sums.hi, w.hi, both)};
#else
  return {_mm256_add_epi32(sums.lo, _mm256_madd_epi16(w.lo, both)),
          _mm256_add_epi32(sums.hi, _mm256_madd_epi16(w.hi, both))};
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
  if constexpr (half == 8) {
    return {_mm256_add_ps(x.lo, x.hi), _mm256_sub_ps(x.lo, x.hi)};
  } else {
    const __m256 upper = half == 4   ? _mm256_setr_ps(0.f, 0.f, 0.f, 0.f, -0.f, -0.f, -0.f, -0.f)
                         : half == 2 ? _mm256_setr_ps(0.f, 0.f, -0.f, -0.f, 0.f, 0.f, -0.f, -0.f)
                                     : _mm256_setr_ps(0.f, -0.f, 0.f, -0.f, 0.f, -0.f, 0.f, -0.f);
    const auto step = [&](__m256 v) {
      const __m256 other = half == 4   ? _mm256_permute2f128_ps(v, v, 1)
                           : half == 2 ? _mm256_permute_ps(v, 0x4e)
                                       : _mm256_permute_ps(v, 0xb1);
      return _mm256_add_ps(other, _mm256_xor_ps(v, upper));
    };
    return {step(x.lo), step(x.hi)};
  }
}

HRUN_HD void transpose_8x8(const int16_t* rows, int64_t stride, int16_t* out) {
  __m256i r[8], s[8];
  for (int i = 0; i < 8; ++i)
    r[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows + i * stride));
  for (int i = 0; i < 4; ++i) {
    s[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    s[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    r[4 * i + 0] = _mm256_unpacklo_epi64(s[4 * i], s[4 * i + 2]);
    r[4 * i + 1] = _mm256_unpackhi_epi64(s[4 * i], s[4 * i + 2]);
    r[4 * i + 2] = _mm256_unpacklo_epi64(s[4 * i + 1], s[4 * i + 3]);
    r[4 * i + 3] = _mm256_unpackhi_epi64(s[4 * i + 1], s[4 * i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    const auto put = [&](int pair, __m256i x) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 2 * kLanes * pair), x);
    };
    put(i, _mm256_permute2x128_si256(r[i], r[i + 4], 0x20));
    put(i + 4, _mm256_permute2x128_si256(r[i], r[i + 4], 0x31));
  }
}

HRUN_HD void transpose_pairs(const int16_t* rows, int64_t stride, int16_t* out) {
  for (int row = 0; row < kLanes; row += 8)
    for (int pair = 0; pair < kLanes; pair += 8)
      transpose_8x8(rows + row * stride + 2 * pair, stride, out + 2 * (pair * kLanes + row));
}

}  // namespace
}  // namespace hrun
