// Formats with an own decoder in AVX2: RTQ3.
#pragma once

#include <immintrin.h>

#include "cpu/unpack.h"

namespace hrun {
namespace {

// 32 codes of 3 bits at a time: each 16-bit lane gets the two bytes that hold its code, a multiplication moves the code to
// the top and a shift brings it down.  The codes before are the same bytes shifted by one to three places.
template <>
struct Unpack<RTQ3> {
  __m256i table[3];

  HRUN_HD Unpack() {
    for (int i = 0; i < 3; ++i) {
      alignas(16) int8_t entries[16] = {};
      for (int code = 0; code < 8; ++code) entries[code] = static_cast<int8_t>(RtqTables<3>::entry(i, code));
      table[i] = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(entries)));
    }
  }

  HRUN_HD void operator()(const uint8_t* block, int n, IntBlock& out) const {
    uint8_t padded[RTQ3::kBlockBytes];
    if (n < RTQ3::kBlockValues) {  // 16 bytes are loaded for every 12: a short block may end too early for that
      for (int i = 0; i < 2 + 3 * n / 8; ++i) padded[i] = block[i];
      block = padded;
    }
    out.scale = load_fp16(block);
    for (int g = 0; g < n / kGroup; ++g) out.group_scale[g] = 1;

    // Code t of 32 is at bit 3 t of the 12 bytes 4 .. 15 of the register.  Packing interleaves halves of 128 bits, so the
    // first register takes the codes 0-7 and 16-23, the second 8-15 and 24-31.
    const __m256i first_bytes = _mm256_setr_epi8(4, 5, 4, 5, 4, 5, 5, 6, 5, 6, 5, 6, 6, 7, 6, 7,  //
                                                 10, 11, 10, 11, 10, 11, 11, 12, 11, 12, 11, 12, 12, 13, 12, 13);
    const __m256i second_bytes = _mm256_add_epi8(first_bytes, _mm256_set1_epi8(3));
    // Bit 3 t % 8 of those bytes goes to bit 13.
    const __m256i move = _mm256_setr_epi16(1 << 13, 1 << 10, 1 << 7, 1 << 12, 1 << 9, 1 << 6, 1 << 11, 1 << 8,  //
                                           1 << 13, 1 << 10, 1 << 7, 1 << 12, 1 << 9, 1 << 6, 1 << 11, 1 << 8);
    __m256i before = _mm256_setzero_si256();
    for (int t = 0; t < n; t += 32) {
      const uint8_t* from = block + 2 + 3 * t / 8 - 4;
      const __m128i bytes = t == 0 ? _mm_bslli_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block)), 2)
                                   : _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
      const __m256i both = _mm256_broadcastsi128_si256(bytes);
      // Byte 16 of the last pair does not exist: its shuffle index wraps to byte 0, and only bits above the code come from it.
      const __m256i low = _mm256_srli_epi16(_mm256_mullo_epi16(_mm256_shuffle_epi8(both, first_bytes), move), 13);
      const __m256i high = _mm256_srli_epi16(_mm256_mullo_epi16(_mm256_shuffle_epi8(both, second_bytes), move), 13);
      const __m256i code = _mm256_packus_epi16(low, high);
      const __m256i lane_before = _mm256_permute2x128_si256(before, code, 0x21);
      const __m256i newest = _mm256_xor_si256(code, _mm256_alignr_epi8(code, lane_before, 13));
      const __m256i z = _mm256_add_epi8(
          _mm256_add_epi8(_mm256_shuffle_epi8(table[0], newest), _mm256_shuffle_epi8(table[1], _mm256_alignr_epi8(code, lane_before, 15))),
          _mm256_shuffle_epi8(table[2], _mm256_alignr_epi8(code, lane_before, 14)));
      _mm256_store_si256(reinterpret_cast<__m256i*>(out.codes + t), z);
      before = code;
    }
  }
};

}  // namespace
}  // namespace hrun
