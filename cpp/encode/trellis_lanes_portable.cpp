// The search of trellis_fast.h, one block at a time: SSE2, which every x86-64 has, or no vectors at
// all.
#include "encode/trellis_fast.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#else
#include <cstring>
#endif

namespace hrun {
namespace {

constexpr size_t kWidth = 16;

#if defined(__x86_64__)
using Bytes = __m128i;
inline Bytes load(const void* p) { return _mm_loadu_si128(static_cast<const Bytes*>(p)); }
inline void store(uint8_t* p, Bytes v) { _mm_storeu_si128(reinterpret_cast<Bytes*>(p), v); }
inline Bytes add(Bytes a, Bytes b) { return _mm_add_epi8(a, b); }
inline Bytes subtract(Bytes a, Bytes b) { return _mm_sub_epi8(a, b); }
inline Bytes smaller(Bytes a, Bytes b) { return _mm_min_epu8(a, b); }
inline Bytes interleave_low(Bytes a, Bytes b) { return _mm_unpacklo_epi8(a, b); }
inline Bytes interleave_high(Bytes a, Bytes b) { return _mm_unpackhi_epi8(a, b); }
inline Bytes limit(Bytes v) { return smaller(v, _mm_set1_epi8(static_cast<char>(kLargestCost))); }
// Halved first, as SSE2 has no rounded product: (d^2 + 2^14) >> 15 = ((d^2 >> 14) + 1) >> 1.
inline Bytes branch(Bytes d) {
  const Bytes square = _mm_or_si128(_mm_slli_epi16(_mm_mulhi_epi16(d, d), 2),
                                    _mm_srli_epi16(_mm_mullo_epi16(d, d), 14));
  return _mm_avg_epu16(square, _mm_setzero_si128());
}
inline Bytes branch(const int16_t* levels, Bytes x) {
  const Bytes a = branch(_mm_sub_epi16(load(levels), x)),
              b = branch(_mm_sub_epi16(load(levels + 8), x));
  return _mm_packs_epi16(a, b);
}
inline Bytes smallest(Bytes v) {
  v = smaller(v, _mm_srli_si128(v, 8));
  v = smaller(v, _mm_srli_si128(v, 4));
  v = smaller(v, _mm_srli_si128(v, 2));
  v = smaller(v, _mm_srli_si128(v, 1));
  return _mm_set1_epi8(static_cast<char>(_mm_cvtsi128_si32(v)));
}
#else
struct Bytes {
  uint8_t v[16];
};
template <class Function>
inline Bytes each(const Function& f) {
  Bytes r;
  for (int i = 0; i < 16; ++i) r.v[i] = static_cast<uint8_t>(f(i));
  return r;
}
inline Bytes load(const uint8_t* p) {
  Bytes r;
  memcpy(&r, p, sizeof r);
  return r;
}
inline void store(uint8_t* p, Bytes v) { memcpy(p, &v, sizeof v); }
inline Bytes add(Bytes a, Bytes b) {
  return each([&](int i) { return a.v[i] + b.v[i]; });
}
inline Bytes subtract(Bytes a, Bytes b) {
  return each([&](int i) { return a.v[i] - b.v[i]; });
}
inline Bytes smaller(Bytes a, Bytes b) {
  return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Bytes limit(Bytes v) {
  return each([&](int i) { return v.v[i] < kLargestCost ? v.v[i] : kLargestCost; });
}
inline Bytes interleave_low(Bytes a, Bytes b) {
  return each([&](int i) { return i % 2 == 0 ? a.v[i / 2] : b.v[i / 2]; });
}
inline Bytes interleave_high(Bytes a, Bytes b) {
  return each([&](int i) { return i % 2 == 0 ? a.v[8 + i / 2] : b.v[8 + i / 2]; });
}
inline Bytes branch(const int16_t* levels, Bytes x) {
  int16_t value;
  memcpy(&value, &x, sizeof value);
  return each([&](int i) {
    const int d = levels[i] - value, rounded = (d * d + (1 << 14)) >> 15;
    return rounded < kLargestBranch ? rounded : kLargestBranch;
  });
}
inline Bytes smallest(Bytes v) {
  uint8_t least = 255;
  for (const uint8_t b : v.v) least = b < least ? b : least;
  return each([&](int) { return least; });
}
#endif

template <int k, int variants>
inline unsigned cheapest(const uint8_t* costs, const uint16_t* steps, const int16_t* levels,
                         size_t stride, int x) {
  uint32_t best = ~0u;
  for (unsigned i = 0; i < 1u << k; ++i) {
    int branch = kLargestBranch;
    for (size_t v = 0; v < variants; ++v) {
      const int d = levels[stride * v + i] - x, rounded = (d * d + (1 << 14)) >> 15;
      branch = rounded < branch ? rounded : branch;
    }
    const int sum = costs[steps[i]] + branch;
    const uint32_t found = static_cast<uint32_t>(sum) << k | i;
    best = found < best ? found : best;
  }
  return best & ((1u << k) - 1);
}

}  // namespace
}  // namespace hrun

#include "encode/trellis_lanes.inc"

namespace hrun {
void search_lanes_portable(const FastTrellis& code, const int16_t* x, int n, uint8_t* costs,
                           uint8_t* codes) {
  search_of_tier(code, x, n, costs, codes);
}
}  // namespace hrun
