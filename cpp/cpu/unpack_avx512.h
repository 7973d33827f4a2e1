// Formats with an own decoder in AVX-512 with VBMI: RTQ3.
#pragma once

#include <immintrin.h>

#include "cpu/unpack.h"

namespace hrun {
namespace {

// 64 codes of 3 bits at a time.  Each 64-bit lane gets the three bytes of its eight codes and the two before them;
// vpmultishiftqb then cuts out, per code, eight bits from any place.  vpermb looks at the lower six: one table of 64 holds
// T_1[c_(t-1)] + T_2[c_(t-2)], two neighbours in the stream, and another T_0 eight times, whatever the upper three bits are.
template <>
struct Unpack<RTQ3> {
  __m512i first, others;

  HRUN_HD Unpack() {
    alignas(64) int8_t repeated[64], sums[64];
    for (int high = 0; high < 8; ++high)
      for (int low = 0; low < 8; ++low) {
        repeated[8 * high + low] = static_cast<int8_t>(RtqTables<3>::entry(0, low));
        sums[8 * high + low] = static_cast<int8_t>(RtqTables<3>::entry(1, high) + RtqTables<3>::entry(2, low));
      }
    first = _mm512_load_si512(repeated);
    others = _mm512_load_si512(sums);
  }

  HRUN_HD void operator()(const uint8_t* block, int n, IntBlock& out) const {
    out.scale = load_fp16(block);
    for (int g = 0; g < n / kGroup; ++g) out.group_scale[g] = 1;
    // Bytes 0 and 1 of the register are those before the 24 bytes of codes: lane q takes the bytes 3 q .. 3 q + 4, so that
    // its code j is at bit 16 + 3 j.
    alignas(64) uint8_t spread[64];
    for (int q = 0; q < 8; ++q)
      for (int i = 0; i < 8; ++i) spread[8 * q + i] = static_cast<uint8_t>(3 * q + (i < 5 ? i : 0));
    const __m512i take = _mm512_load_si512(spread);
    const __m512i at_code = _mm512_set1_epi64(0x25221f1c19161310);      // 16 + 3 j
    const __m512i at_2_before = _mm512_set1_epi64(0x1f1c191613100d0a);  // 10 + 3 j
    const __m512i at_3_before = _mm512_set1_epi64(0x1c191613100d0a07);  //  7 + 3 j
    const uint8_t* codes = block + 2;
    for (int t = 0; t < n; t += 64) {
      const int here = n - t < 64 ? 12 : 24;  // bytes of codes
      const __mmask32 mask = ((1u << (here + 2)) - 1) & (t == 0 ? ~3u : ~0u);  // codes before the block are 0
      const __m256i stream = _mm256_maskz_loadu_epi8(mask, codes + 3 * t / 8 - 2);
      const __m512i lanes = _mm512_permutexvar_epi8(take, _mm512_castsi256_si512(stream));
      const __m512i newest = _mm512_xor_si512(_mm512_multishift_epi64_epi8(at_code, lanes), _mm512_multishift_epi64_epi8(at_3_before, lanes));
      const __m512i z = _mm512_add_epi8(_mm512_permutexvar_epi8(newest, first),
                                        _mm512_permutexvar_epi8(_mm512_multishift_epi64_epi8(at_2_before, lanes), others));
      _mm512_store_si512(out.codes + t, z);
    }
  }
};

}  // namespace
}  // namespace hrun
