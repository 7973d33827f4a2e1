// Formats with a decoder of their own in AVX-512 with VBMI: RTQ.
#pragma once

#include <immintrin.h>

#include "cpu/kernels/unpack.h"

namespace hrun {
namespace {

// 64 codes at a time.  Each 64-bit lane gets the k bytes of its eight codes and the two before
// them; vpmultishiftqb then cuts out, per code, eight bits from any place.  vpermb looks at the
// lower six of them: a table of fewer entries is repeated, so that the bits above an index do not
// matter.
template <RtqFormat F>
struct Unpack<F> {
  static constexpr int k = F::kCodeBits;
  using Tables = typename F::Tables;
  // At 3 bits the tables read at lags 1 and 2 are one table of 64 over both codes, neighbours in
  // the stream; at 6 bits those that the newest code reads are one of 64.
  static constexpr bool kFree = F::kFreeBits != 0, kJoined = Tables::kCount == 3 && !kFree;
  static_assert(!kJoined ||
                (Tables::kIndex[1].lag == 1 && Tables::kIndex[2].lag == 2 &&
                 Tables::kIndex[1].xor_lag == 0 && Tables::kIndex[2].xor_lag == 0 && k == 3));
  __m512i first, others;

  HRUN_HD Unpack() {
    alignas(64) int8_t repeated[64], sums[64];
    constexpr int kEntries = Tables::kEntries;
    for (int i = 0; i < 64; ++i) {
      repeated[i] = static_cast<int8_t>(Tables::entry(0, i % kEntries) +
                                        (kFree ? Tables::entry(2, i / kEntries) : 0));
      sums[i] = static_cast<int8_t>(kJoined ? Tables::entry(1, i / kEntries) +
                                                  Tables::entry(2, i % kEntries)
                                            : Tables::entry(1, i % kEntries));
    }
    first = _mm512_load_si512(repeated);
    others = _mm512_load_si512(sums);
  }

  // The bit of a lane at which the bits from the code `lag` places back on begin, for each of eight
  // codes.
  static constexpr int64_t bits_at(int lag) {
    uint64_t at = 0;
    for (int i = 0; i < 8; ++i) at |= static_cast<uint64_t>(16 + k * (i - lag)) << (8 * i);
    return static_cast<int64_t>(at);
  }

  HRUN_HD void operator()(const uint8_t* block, int n, IntBlock& out) const {
    static_assert(k * F::kMemory <= 16 && k + 2 <= 8);
    // The oldest code moves up to the newest of those that read the first table.
    constexpr int kUp = Tables::kIndex[0].codes - 1;
    constexpr int64_t kAtNewest = bits_at(Tables::kIndex[0].lag),
                      kAtOldest = bits_at(Tables::kIndex[0].xor_lag + kUp);
    constexpr int64_t kAtOthers = bits_at(Tables::kIndex[kJoined ? 2 : 1].lag);
    constexpr int kLower = k - F::kFreeBits;
    const __m512i oldest = _mm512_set1_epi8(static_cast<char>(((1 << kLower) - 1) << (k * kUp)));
    out.scale = load_fp16(block);
    for (int g = 0; g < n / kGroup; ++g) out.group_scale[g] = 1;
    // Bytes 0 and 1 of the register are those before the codes: lane q takes the bytes k q .. k q +
    // k + 1.
    alignas(64) uint8_t spread[64];
    for (int q = 0; q < 8; ++q)
      for (int i = 0; i < 8; ++i)
        spread[8 * q + i] = static_cast<uint8_t>(k * q + (i < k + 2 ? i : 0));
    const __m512i take = _mm512_load_si512(spread);
    const uint8_t* codes = block + 2;
    for (int t = 0; t < n; t += 64) {
      const int here = n - t < 64 ? 4 * k : 8 * k;  // bytes of codes
      const __mmask64 mask =
          ((uint64_t{1} << (here + 2)) - 1) &
          (t == 0 ? ~uint64_t{3} : ~uint64_t{0});  // codes before the block are 0
      const __m512i lanes =
          _mm512_permutexvar_epi8(take, _mm512_maskz_loadu_epi8(mask, codes + k * t / 8 - 2));
      const auto bits = [&](int64_t at) {
        return _mm512_multishift_epi64_epi8(_mm512_set1_epi64(at), lanes);
      };
      // a xor (b and c)
      const __m512i newest =
          _mm512_ternarylogic_epi32(bits(kAtNewest), bits(kAtOldest), oldest, 0x78);
      const __m512i z = _mm512_add_epi8(_mm512_permutexvar_epi8(newest, first),
                                        _mm512_permutexvar_epi8(bits(kAtOthers), others));
      _mm512_store_si512(out.codes + t, z);
    }
  }
};

}  // namespace
}  // namespace hrun
