// Formats with a decoder of their own in AVX2: RTQ.
#pragma once

#include <immintrin.h>

#include "cpu/kernels/unpack.h"

namespace hrun {
namespace {

// The 32 codes from code t of a stream on, one per byte.  At 3 bits 4 bytes before them (2 for t =
// 0) are loaded too.
template <int k>
HRUN_HD __m256i rtq_codes(const uint8_t* stream, int t) {
  const uint8_t* const from = stream + k * t / 8;
  if constexpr (k == 2) {  // eight bytes, sixteen nibbles, thirty-two codes
    const __m128i bytes =
        _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
    const __m128i nibbles =
        _mm_and_si128(_mm_or_si128(bytes, _mm_slli_epi16(bytes, 4)), _mm_set1_epi8(15));
    const __m256i pairs = _mm256_cvtepu8_epi16(nibbles);
    return _mm256_and_si256(_mm256_or_si256(pairs, _mm256_slli_epi16(pairs, 6)),
                            _mm256_set1_epi8(3));
  } else if constexpr (k == 4) {
    const __m256i pairs =
        _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    return _mm256_and_si256(_mm256_or_si256(pairs, _mm256_slli_epi16(pairs, 4)),
                            _mm256_set1_epi8(15));
  } else if constexpr (k > 4) {
    // Works as at 3 bits below.  Code t of 32 is at bit k t of 4 k bytes.  The lower half of the
    // register has the first 16 of these bytes, the upper half the last 16.  At 6 bits the byte
    // after the last wraps to the first; only bits above a code come from it.
    constexpr int kUpperAt = 4 * k - 16;
    const __m256i both = _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))),
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + kUpperAt)), 1);
    struct alignas(32) CodePlaces {
      uint8_t bytes[32];
      uint16_t move[16];
      constexpr CodePlaces() : bytes(), move() {
        for (int i = 0; i < 16; ++i) {
          const int first = k * (i % 8) / 8 + (i < 8 ? 0 : 2 * k - kUpperAt);
          bytes[2 * i] = static_cast<uint8_t>(first);
          bytes[2 * i + 1] = static_cast<uint8_t>(first + 1);
          move[i] = static_cast<uint16_t>(1 << (16 - k - k * i % 8));
        }
      }
    };
    static constexpr CodePlaces kPlaces;
    const __m256i first_bytes = _mm256_load_si256(reinterpret_cast<const __m256i*>(kPlaces.bytes));
    const __m256i second_bytes = _mm256_add_epi8(first_bytes, _mm256_set1_epi8(k));
    // Bit k t % 8 of those bytes goes to bit 16 - k.
    const __m256i move = _mm256_load_si256(reinterpret_cast<const __m256i*>(kPlaces.move));
    const auto codes = [&](__m256i bytes) {
      return _mm256_srli_epi16(_mm256_mullo_epi16(_mm256_shuffle_epi8(both, bytes), move), 16 - k);
    };
    return _mm256_packus_epi16(codes(first_bytes), codes(second_bytes));
  } else {
    // Each 16-bit lane gets the two bytes that hold its code, a multiplication moves the code to
    // the top and a shift brings it down.  Code t of 32 is at bit 3 t of the 12 bytes 4 .. 15 of
    // the register.  Packing interleaves halves of 128 bits, so the first register takes the codes
    // 0-7 and 16-23, the second 8-15 and 24-31.
    const __m256i first_bytes =
        _mm256_setr_epi8(4, 5, 4, 5, 4, 5, 5, 6, 5, 6, 5, 6, 6, 7, 6, 7,  //
                         10, 11, 10, 11, 10, 11, 11, 12, 11, 12, 11, 12, 12, 13, 12, 13);
    const __m256i second_bytes = _mm256_add_epi8(first_bytes, _mm256_set1_epi8(3));
    // Bit 3 t % 8 of those bytes goes to bit 13.
    const __m256i move =
        _mm256_setr_epi16(1 << 13, 1 << 10, 1 << 7, 1 << 12, 1 << 9, 1 << 6, 1 << 11, 1 << 8,  //
                          1 << 13, 1 << 10, 1 << 7, 1 << 12, 1 << 9, 1 << 6, 1 << 11, 1 << 8);
    const __m128i bytes =
        t == 0 ? _mm_bslli_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from - 2)), 2)
               : _mm_loadu_si128(reinterpret_cast<const __m128i*>(from - 4));
    const __m256i both = _mm256_broadcastsi128_si256(bytes);
    // Byte 16 of the last pair does not exist: its shuffle index wraps to byte 0, and only bits
    // above the code come from it.
    const __m256i low =
        _mm256_srli_epi16(_mm256_mullo_epi16(_mm256_shuffle_epi8(both, first_bytes), move), 13);
    const __m256i high =
        _mm256_srli_epi16(_mm256_mullo_epi16(_mm256_shuffle_epi8(both, second_bytes), move), 13);
    return _mm256_packus_epi16(low, high);
  }
}

// The bytes `places` (at most 4) before those of `now`; lane_before: the 16 bytes before each half
// of it.
HRUN_HD __m256i bytes_before(__m256i now, __m256i lane_before, int places) {
  switch (places) {
    case 0:
      return now;
    case 1:
      return _mm256_alignr_epi8(now, lane_before, 15);
    case 2:
      return _mm256_alignr_epi8(now, lane_before, 14);
    case 3:
      return _mm256_alignr_epi8(now, lane_before, 13);
    default:
      return _mm256_alignr_epi8(now, lane_before, 12);
  }
}

template <RtqFormat F>
struct Unpack<F> {
  static constexpr int k = F::kCodeBits;
  using Tables = typename F::Tables;
  static_assert(F::kMemory <= 4);
  static constexpr int kShuffles = Tables::kEntries > 16 ? 2 : 1;  // of a table
  __m256i table[Tables::kCount][kShuffles];

  HRUN_HD Unpack() {
    for (int i = 0; i < Tables::kCount; ++i) {
      alignas(16) int8_t entries[16 * kShuffles] = {};
      for (int index = 0; index < Tables::kEntries; ++index)
        entries[index] = static_cast<int8_t>(Tables::entry(i, index));
      for (int s = 0; s < kShuffles; ++s)
        table[i][s] = _mm256_broadcastsi128_si256(
            _mm_load_si128(reinterpret_cast<const __m128i*>(entries + 16 * s)));
    }
  }

  // A shuffle gives 0 where an index has its highest bit: there the other half of the table is
  // meant.
  HRUN_HD __m256i look_up(int i, __m256i index) const {
    if constexpr (kShuffles == 1) return _mm256_shuffle_epi8(table[i][0], index);
    const auto from = [&](int s, int less) {
      return _mm256_shuffle_epi8(table[i][s],
                                 _mm256_add_epi8(index, _mm256_set1_epi8(static_cast<char>(less))));
    };
    return _mm256_or_si256(from(0, 0x70), from(kShuffles - 1, 0xf0));
  }

  HRUN_HD void operator()(const uint8_t* block, int n, IntBlock& out) const {
    uint8_t padded[F::kBlockBytes];
    if (k == 3 && n < F::kBlockValues) {  // 16 bytes are loaded for every 12: a short block may end
                                          // too early for that
      for (int i = 0; i < 2 + k * n / 8; ++i) padded[i] = block[i];
      block = padded;
    }
    out.scale = load_fp16(block);
    for (int g = 0; g < n / kGroup; ++g) out.group_scale[g] = 1;
    __m256i before = _mm256_setzero_si256();
    for (int t = 0; t < n; t += 32) {
      const __m256i now = rtq_codes<k>(block + 2, t);
      const __m256i lane_before = _mm256_permute2x128_si256(before, now, 0x21);
      const auto code = [&](int lag) { return bytes_before(now, lane_before, lag); };
      __m256i z =
          _mm256_add_epi8(look_up(0, rtq_index<k, 0>(code)), look_up(1, rtq_index<k, 1>(code)));
      if constexpr (F::kFreeBits != 0)  // shifts are of 16 bits
        z = _mm256_add_epi8(
            z, look_up(2, _mm256_and_si256(_mm256_srli_epi16(now, k - F::kFreeBits),
                                           _mm256_set1_epi8((1 << F::kFreeBits) - 1))));
      else if constexpr (Tables::kCount == 3)
        z = _mm256_add_epi8(z, look_up(2, rtq_index<k, 2>(code)));
      _mm256_store_si256(reinterpret_cast<__m256i*>(out.codes + t), z);
      before = now;
    }
  }
};

}  // namespace
}  // namespace hrun
