// Decoders of RTQ2 and RTQ4 for AVX2: as in fast_avx512_rtq.h, but indices of 16 entries are cut out of their bytes.
#pragma once

#include "cpu/fast_avx2.h"

namespace hrun {
namespace {

template <class F>
struct RtqTablesOf16 {
  __m256i first, second;  // T0; T1 + bias
  HRUN_HD RtqTablesOf16() {
    using Tables = typename F::Tables;
    uint8_t t0[16], t1[16];
    for (int i = 0; i < 16; ++i) {
      t0[i] = static_cast<uint8_t>(Tables::entry(0, i));
      t1[i] = static_cast<uint8_t>(Tables::entry(1, i) + PackRule<F>::kBias);
    }
    first = table_of_16(t0);
    second = table_of_16(t1);
  }
  HRUN_HD CodeBytes weight(__m256i first_index, __m256i second_index) const {
    return {_mm256_add_epi8(_mm256_shuffle_epi8(first, first_index), _mm256_shuffle_epi8(second, second_index))};
  }
};

template <class F>
struct UnitDecoder<F, PackedCodes::rtq2> {
  using Constants = RtqTablesOf16<F>;
  // The index pairs of a byte: codes (0,1), (1,2), (2,3), the older in the lower bits.
  struct Pairs {
    __m256i low, mid, high;
    HRUN_HD explicit Pairs(__m256i x)
        : low(low_four_bits(x)), mid(low_four_bits(_mm256_srli_epi16(x, 2))), high(low_four_bits(_mm256_srli_epi16(x, 4))) {}
  };
  const uint8_t* unit;
  const Constants tables;
  Pairs before;

  HRUN_HD UnitDecoder(const Constants& constants, const uint8_t* block, int n)
      : unit(block), tables(constants),
        before(_mm256_slli_epi32(load_bytes(block + static_cast<size_t>(n / kUnit - 1) * 128 + 64), 8)) {}

  HRUN_HD void four(__m256i bytes, CodeBytes* out) {
    const auto upper = [](__m256i x) { return _mm256_and_si256(x, _mm256_set1_epi8(0x0c)); };
    const Pairs now(bytes);
    const __m256i joined = _mm256_or_si256(_mm256_srli_epi16(upper(before.high), 2), upper(_mm256_slli_epi16(now.low, 2)));
    const __m256i code0_before = upper(_mm256_slli_epi16(before.low, 2));
    out[0] = tables.weight(_mm256_xor_si256(joined, code0_before), before.mid);
    out[1] = tables.weight(_mm256_xor_si256(now.low, upper(before.low)), before.high);
    out[2] = tables.weight(_mm256_xor_si256(now.mid, upper(before.mid)), joined);
    out[3] = tables.weight(_mm256_xor_si256(now.high, upper(before.high)), now.low);
    before = now;
  }

  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
    four(load_bytes(unit), out);
    four(load_bytes(unit + 64), out + 4);
    unit += 128;
  }
};

template <class F>
struct UnitDecoder<F, PackedCodes::rtq4> {
  using Constants = RtqTablesOf16<F>;
  const uint8_t* unit;
  const Constants tables;
  __m256i before_low, before_high;

  HRUN_HD UnitDecoder(const Constants& constants, const uint8_t* block, int n) : unit(block), tables(constants) {
    const __m256i before = _mm256_slli_epi32(load_bytes(block + static_cast<size_t>(n / kUnit - 1) * 256 + 192), 8);
    before_low = low_four_bits(before);
    before_high = low_four_bits(_mm256_srli_epi16(before, 4));
  }

  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m256i bytes = load_bytes(unit + 64 * i);
      const __m256i low = low_four_bits(bytes), high = low_four_bits(_mm256_srli_epi16(bytes, 4));
      out[2 * i] = tables.weight(_mm256_xor_si256(low, before_low), before_high);
      out[2 * i + 1] = tables.weight(_mm256_xor_si256(high, before_high), low);
      before_low = low;
      before_high = high;
    }
    unit += 256;
  }
};

}  // namespace
}  // namespace hrun
