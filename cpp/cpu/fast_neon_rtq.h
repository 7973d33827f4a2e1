// Decoders of RTQ2 and RTQ4 for NEON: as in fast_avx2_rtq.h.
#pragma once

#include "cpu/fast_neon.h"

namespace hrun {
namespace {

template <class F>
struct RtqTablesOf16 {
  uint8x16_t first, second;  // T0; T1 + bias
  HRUN_HD RtqTablesOf16() {
    using Tables = typename F::Tables;
    uint8_t t0[16], t1[16];
    for (int i = 0; i < 16; ++i) {
      t0[i] = static_cast<uint8_t>(Tables::entry(0, i));
      t1[i] = static_cast<uint8_t>(Tables::entry(1, i) + PackRule<F>::kBias);
    }
    first = vld1q_u8(t0);
    second = vld1q_u8(t1);
  }
  HRUN_HD CodeBytes weight(Bytes first_index, Bytes second_index) const {
    return {add_bytes(lookup(first, first_index), lookup(second, second_index))};
  }
};

// Each byte lane takes the byte below it in its row; the lowest takes 0.
HRUN_HD Bytes lane_below(Bytes x) {
  const auto shift = [](uint8x16_t v) { return vreinterpretq_u8_u32(vshlq_n_u32(vreinterpretq_u32_u8(v), 8)); };
  return {shift(x.lo), shift(x.hi)};
}

template <class F>
struct UnitDecoder<F, PackedCodes::rtq2> {
  using Constants = RtqTablesOf16<F>;
  // The index pairs of a byte: codes (0,1), (1,2), (2,3), the older in the lower bits.
  struct Pairs {
    Bytes low, mid, high;
    HRUN_HD explicit Pairs(Bytes x) : low(both(x, 15)), mid(both(down<2>(x), 15)), high(down<4>(x)) {}
  };
  const uint8_t* unit;
  const Constants tables;
  Pairs before;

  HRUN_HD UnitDecoder(const Constants& constants, const uint8_t* block, int n)
      : unit(block), tables(constants), before(lane_below(load_bytes(block + static_cast<size_t>(n / kUnit - 1) * 128 + 64))) {}

  HRUN_HD void four(Bytes bytes, CodeBytes* out) {
    const auto upper = [](Bytes x) { return both(x, 0x0c); };
    const Pairs now(bytes);
    const Bytes joined = join_bits(down<2>(upper(before.high)), upper(up<2>(now.low)));
    const Bytes code0_before = upper(up<2>(before.low));
    out[0] = tables.weight(exclusive_or(joined, code0_before), before.mid);
    out[1] = tables.weight(exclusive_or(now.low, upper(before.low)), before.high);
    out[2] = tables.weight(exclusive_or(now.mid, upper(before.mid)), joined);
    out[3] = tables.weight(exclusive_or(now.high, upper(before.high)), now.low);
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
  Bytes before_low, before_high;

  HRUN_HD UnitDecoder(const Constants& constants, const uint8_t* block, int n) : unit(block), tables(constants) {
    const Bytes before = lane_below(load_bytes(block + static_cast<size_t>(n / kUnit - 1) * 256 + 192));
    before_low = both(before, 15);
    before_high = down<4>(before);
  }

  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Bytes bytes = load_bytes(unit + 64 * i);
      const Bytes low = both(bytes, 15), high = down<4>(bytes);
      out[2 * i] = tables.weight(exclusive_or(low, before_low), before_high);
      out[2 * i + 1] = tables.weight(exclusive_or(high, before_high), low);
      before_low = low;
      before_high = high;
    }
    unit += 256;
  }
};

}  // namespace
}  // namespace hrun
