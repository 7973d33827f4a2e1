// The search of trellis_fast.h, two blocks at once.
#include "encode/trellis_fast.h"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2")
namespace hrun {
namespace {

using Bytes = __m256i;
constexpr size_t kWidth = 32;

inline Bytes load(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const Bytes*>(p));
}
inline void store(uint8_t* p, Bytes v) { _mm256_storeu_si256(reinterpret_cast<Bytes*>(p), v); }
inline Bytes broadcast(const void* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
inline Bytes add(Bytes a, Bytes b) { return _mm256_add_epi8(a, b); }
inline Bytes subtract(Bytes a, Bytes b) { return _mm256_sub_epi8(a, b); }
inline Bytes smaller(Bytes a, Bytes b) { return _mm256_min_epu8(a, b); }
inline Bytes interleave_low(Bytes a, Bytes b) { return _mm256_unpacklo_epi8(a, b); }
inline Bytes interleave_high(Bytes a, Bytes b) { return _mm256_unpackhi_epi8(a, b); }
inline Bytes limit(Bytes v) {
  return smaller(v, _mm256_set1_epi8(static_cast<char>(kLargestCost)));
}
inline Bytes branch(const int16_t* levels, Bytes x) {
  const Bytes a = _mm256_sub_epi16(broadcast(levels), x),
              b = _mm256_sub_epi16(broadcast(levels + 8), x);
  return _mm256_packs_epi16(_mm256_mulhrs_epi16(a, a), _mm256_mulhrs_epi16(b, b));
}
inline Bytes smallest(Bytes v) {
  v = smaller(v, _mm256_bsrli_epi128(v, 8));
  v = smaller(v, _mm256_bsrli_epi128(v, 4));
  v = smaller(v, _mm256_bsrli_epi128(v, 2));
  v = smaller(v, _mm256_bsrli_epi128(v, 1));
  return _mm256_shuffle_epi8(v, _mm256_setzero_si256());
}

}  // namespace
}  // namespace hrun

#include "encode/trellis_lanes_x86.inc"
#include "encode/trellis_lanes.inc"

namespace hrun {
void search_lanes_avx2(const FastTrellis& code, const int16_t* x, int n, uint8_t* costs,
                       uint8_t* codes) {
  search_of_tier(code, x, n, costs, codes);
}
}  // namespace hrun
#pragma GCC pop_options
#endif
