// AVX2 for the packed kernels: half a panel, 8 rows, in one register.
//
// Without the VNNI instructions (AVX-VNNI, the tier avx2vnni) a dot product is u8 x s8 to int16 pairs, which saturates above
// 2 * 127 * 127: only formats whose unsigned codes fit 7 bits are packed.
#pragma once

#include <immintrin.h>

#include "cpu/packed.h"
#include "cpu/simd.h"

namespace hrun {
namespace {

inline constexpr int kPartRows = 8;
inline constexpr int kStreamTokens = 4;  // at most, in the kernel that does not store decoded weights
inline constexpr int kTileTokens = 4;      // of the kernel that stores decoded weights
inline constexpr int kGroupTileTokens = 4;  // of formats with group scales, which need twice the sums
#if defined(__AVXVNNI__)
inline constexpr int kMaxLevel = 255;
#else
inline constexpr int kMaxLevel = 127;
#endif

struct CodeBytes { __m256i v; };
struct RowInts { __m256i v; };
struct RowFloats { __m256 v; };

HRUN_HD __m256i load_bytes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
HRUN_HD CodeBytes load_codes(const uint8_t* p) { return {load_bytes(p)}; }
HRUN_HD void store_codes(uint8_t* p, CodeBytes x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.v); }
HRUN_HD RowInts all_rows(int32_t x) { return {_mm256_set1_epi32(x)}; }
HRUN_HD RowInts add_rows(RowInts a, RowInts b) { return {_mm256_add_epi32(a.v, b.v)}; }
HRUN_HD RowInts multiply_rows(RowInts a, RowInts b) { return {_mm256_mullo_epi32(a.v, b.v)}; }
HRUN_HD RowInts dot_codes(RowInts sums, CodeBytes w, RowInts x) {
#if defined(__AVXVNNI__)
  return {_mm256_dpbusd_avx_epi32(sums.v, w.v, x.v)};
#else
  return {_mm256_add_epi32(sums.v, _mm256_madd_epi16(_mm256_maddubs_epi16(w.v, x.v), _mm256_set1_epi16(1)))};
#endif
}
HRUN_HD RowInts dot_codes_at(RowInts sums, CodeBytes w, const int8_t* x) {
  int32_t four;
  memcpy(&four, x, sizeof four);
  return dot_codes(sums, w, all_rows(four));
}
HRUN_HD RowInts dot_offsets(RowInts sums, const uint8_t* pairs_of_rows, int32_t pair) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(pairs_of_rows));
  return {_mm256_add_epi32(sums.v, _mm256_madd_epi16(_mm256_cvtepu8_epi16(bytes), _mm256_set1_epi32(pair)))};
}
HRUN_HD RowInts load_group_scales(const uint8_t* p) {
  return {_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))};
}
HRUN_HD RowFloats zero_rows() { return {_mm256_setzero_ps()}; }
HRUN_HD RowFloats load_rows(const float* p) { return {_mm256_loadu_ps(p)}; }
HRUN_HD void store_rows(float* p, RowFloats x) { _mm256_storeu_ps(p, x.v); }
HRUN_HD RowFloats load_halves(const uint8_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
HRUN_HD RowFloats scale_rows(RowFloats a, float x) { return {_mm256_mul_ps(a.v, _mm256_set1_ps(x))}; }
HRUN_HD RowFloats negative(RowFloats a) { return {_mm256_sub_ps(_mm256_setzero_ps(), a.v)}; }
HRUN_HD RowFloats fma_rows(RowFloats a, RowInts b, RowFloats c) {
  return {_mm256_fmadd_ps(a.v, _mm256_cvtepi32_ps(b.v), c.v)};
}

HRUN_HD __m256i low_four_bits(__m256i x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
HRUN_HD __m256i table_of_16(const uint8_t (&bytes)[16]) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}

// As in fast_avx512.h.
struct NoTables {};
template <class F, PackedCodes codes = PackRule<F>::kCodes>
struct UnitDecoder;

template <class F>
struct UnitDecoder<F, PackedCodes::nibble> {
  struct Constants {
    __m256i table;
    HRUN_HD Constants() {
      using Rule = PackRule<F>;
      uint8_t bytes[16];
      for (int i = 0; i < 16; ++i) bytes[i] = static_cast<uint8_t>(Rule::level(i) + Rule::kBias);
      table = table_of_16(bytes);
    }
  };
  const uint8_t* unit;
  const __m256i table;
  HRUN_HD UnitDecoder(const Constants& c, const uint8_t* block, int) : unit(block), table(c.table) {}
  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m256i both = load_bytes(unit + 64 * i);
      out[2 * i].v = _mm256_shuffle_epi8(table, low_four_bits(both));
      out[2 * i + 1].v = _mm256_shuffle_epi8(table, low_four_bits(_mm256_srli_epi16(both, 4)));
    }
    unit += 256;
  }
};

template <class F>
struct UnitDecoder<F, PackedCodes::six> {
  using Constants = NoTables;
  const uint8_t* unit;
  HRUN_HD UnitDecoder(const Constants&, const uint8_t* block, int) : unit(block) {}
  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
    const __m256i top = _mm256_set1_epi8(0x30);
    const auto join = [&](__m256i low, __m256i high) { return _mm256_or_si256(low_four_bits(low), _mm256_and_si256(high, top)); };
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m256i high = load_bytes(unit + 256 + 64 * half);
      const __m256i a = load_bytes(unit + 128 * half), b = load_bytes(unit + 128 * half + 64);
      CodeBytes* const o = out + 4 * half;
      o[0].v = join(a, _mm256_slli_epi16(high, 4));
      o[1].v = join(_mm256_srli_epi16(a, 4), _mm256_slli_epi16(high, 2));
      o[2].v = join(b, high);
      o[3].v = join(_mm256_srli_epi16(b, 4), _mm256_srli_epi16(high, 2));
    }
    unit += 384;
  }
};

// As in fast_avx512.h, with tables of 8 entries twice in 16: the fourth bit of an index is a neighbour's and does not matter.
// A pair of codes is kept as its two indices.
template <class F>
struct UnitDecoder<F, PackedCodes::rtq3> {
  struct Constants {
    __m256i table0, table1, table2;  // table1 with the bias
    HRUN_HD Constants() {
      using Tables = typename F::Tables;
      uint8_t t0[16], t1[16], t2[16];
      for (int i = 0; i < 16; ++i) {
        t0[i] = static_cast<uint8_t>(Tables::entry(0, i & 7));
        t1[i] = static_cast<uint8_t>(Tables::entry(1, i & 7) + PackRule<F>::kBias);
        t2[i] = static_cast<uint8_t>(Tables::entry(2, i & 7));
      }
      table0 = table_of_16(t0);
      table1 = table_of_16(t1);
      table2 = table_of_16(t2);
    }
  };
  const uint8_t* unit;
  const __m256i table0, table1, table2;
  __m256i low1, high1, high2;  // indices of the pair before, and the upper one of the pair before that

  static HRUN_HD __m256i upper(__m256i x) { return low_four_bits(_mm256_srli_epi16(x, 3)); }
  static HRUN_HD __m256i spare(__m256i a, __m256i b, __m256i c) {
    const auto bits = [](__m256i x, int mask) { return _mm256_and_si256(x, _mm256_set1_epi8(static_cast<char>(mask))); };
    return _mm256_or_si256(bits(_mm256_srli_epi16(a, 6), 0x03),
                           _mm256_or_si256(bits(_mm256_srli_epi16(b, 4), 0x0c), bits(_mm256_srli_epi16(c, 2), 0x30)));
  }
  static HRUN_HD __m256i lookup(__m256i table, __m256i index) { return _mm256_shuffle_epi8(table, index); }

  HRUN_HD UnitDecoder(const Constants& tables, const uint8_t* block, int n)
      : unit(block), table0(tables.table0), table1(tables.table1), table2(tables.table2) {
    const uint8_t* last = block + static_cast<size_t>(n / kUnit - 1) * 192;
    const __m256i c = load_bytes(last + 128), t = spare(load_bytes(last), load_bytes(last + 64), c);
    const auto segment_before = [](__m256i x) { return _mm256_slli_epi32(_mm256_and_si256(x, _mm256_set1_epi8(7)), 8); };
    low1 = segment_before(t);
    high1 = segment_before(_mm256_srli_epi16(t, 3));
    high2 = segment_before(_mm256_srli_epi16(c, 3));
  }

  HRUN_HD void pair(__m256i now, CodeBytes& first, CodeBytes& second) {
    const __m256i low = low_four_bits(now), high = upper(now);
    const __m256i newest1 = lookup(table0, _mm256_xor_si256(low, high2)), newest2 = lookup(table0, _mm256_xor_si256(high, low1));
    first.v = _mm256_add_epi8(newest1, _mm256_add_epi8(lookup(table1, high1), lookup(table2, low1)));
    second.v = _mm256_add_epi8(newest2, _mm256_add_epi8(lookup(table1, low), lookup(table2, high1)));
    high2 = high1;
    low1 = low;
    high1 = high;
  }

  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
    const __m256i a = load_bytes(unit), b = load_bytes(unit + 64), c = load_bytes(unit + 128);
    pair(a, out[0], out[1]);
    pair(b, out[2], out[3]);
    pair(c, out[4], out[5]);
    pair(spare(a, b, c), out[6], out[7]);
    unit += 192;
  }
};

}  // namespace
}  // namespace hrun
