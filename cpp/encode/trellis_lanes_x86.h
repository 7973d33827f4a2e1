// The last step of trellis_lanes.h for x86, after kWidth has been defined and inside the tier's
// target options: eight candidates are compared by one vphminposuw.
#pragma once

#include <immintrin.h>

#include "encode/trellis_fast.h"

namespace hrun {
namespace {

// Of 8 candidates, those beyond the first `count` without a chance: cost << 16 | number of the
// cheapest.
template <int count>
inline uint32_t cheapest_of_8(const uint8_t* costs, const uint16_t* steps, const int16_t* levels,
                              int x) {
  const auto at = [&](int i) __attribute__((always_inline)) {
    return static_cast<int>(costs[steps[i] * (kWidth / 16)]);
  };
  __m128i a = _mm_cvtsi32_si128(at(0)), b = _mm_cvtsi32_si128(at(1));
  a = _mm_insert_epi16(a, at(2), 1);
  b = _mm_insert_epi16(b, at(3), 1);
  if constexpr (count == 8) {
    a = _mm_insert_epi16(a, at(4), 2);
    b = _mm_insert_epi16(b, at(5), 2);
    a = _mm_insert_epi16(a, at(6), 3);
    b = _mm_insert_epi16(b, at(7), 3);
  }
  const __m128i* const from = reinterpret_cast<const __m128i*>(levels);
  const __m128i d = _mm_sub_epi16(count == 8 ? _mm_loadu_si128(from) : _mm_loadl_epi64(from),
                                  _mm_set1_epi16(static_cast<int16_t>(x)));
  const __m128i branches = _mm_min_epi16(_mm_mulhrs_epi16(d, d), _mm_set1_epi16(kLargestBranch));
  __m128i sums = _mm_add_epi16(_mm_unpacklo_epi16(a, b), branches);
  if constexpr (count < 8) sums = _mm_or_si128(sums, _mm_set_epi32(0x7fff7fff, 0x7fff7fff, 0, 0));
  const auto found = static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_minpos_epu16(sums)));
  return found << 16 | found >> 16;
}

template <int k>
inline unsigned cheapest(const uint8_t* costs, const uint16_t* steps, const int16_t* levels,
                         int x) {
  if constexpr (k < 4) return cheapest_of_8<(1 << k)>(costs, steps, levels, x) & 7;
  const uint32_t low = cheapest_of_8<8>(costs, steps, levels, x),
                 high = cheapest_of_8<8>(costs, steps + 8, levels + 8, x);
  return (low >> 16) <= (high >> 16) ? low & 7 : (high & 7) | 8;
}

}  // namespace
}  // namespace hrun
