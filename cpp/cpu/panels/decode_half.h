// Decoders for the tiers whose registers, or pairs of them, hold half a panel: 8 rows, 32 bytes
// (AVX2, NEON).
//
// A tier (panels/avx2.h, panels/neon.h) gives, on Bytes, both(x, mask), join_bits, exclusive_or,
// add_bytes, lane_below (each byte lane takes the byte below it in its row, the lowest 0), shifts
// by n bits: down and up, which may let bits of neighbours in, and top, the n uppermost bits alone;
// by_top_bit(x, a, b), the byte of a where that of x has its highest bit, else of b; and
// lookup(Table, index) of 16 entries.  An index has its upper four bits 0.
#pragma once

#include "cpu/panels/tier.h"

namespace hrun {
namespace {

HRUN_HD Bytes low_four(Bytes x) { return both(x, 15); }

// `bits` bits of every byte from bit `from` on.
template <int bits, int from>
HRUN_HD Bytes field(Bytes x) {
  if constexpr (from + bits == 8)
    return top<bits>(x);
  else if constexpr (from == 0)
    return both(x, (1 << bits) - 1);
  else
    return both(down<from>(x), (1 << bits) - 1);
}

// The codes that the spare bits 6 and 7 of three vectors hold.
HRUN_HD Bytes spare_bits(Bytes a, Bytes b, Bytes c) {
  return join_bits(top<2>(a), join_bits(both(down<4>(b), 0x0c), both(down<2>(c), 0x30)));
}

template <class F>
struct UnitDecoder<F, PackedCodes::nibble> {
  struct Constants {
    Table table;
    HRUN_HD Constants() {
      using Rule = PackRule<F>;
      uint8_t bytes[16];
      for (int i = 0; i < 16; ++i) bytes[i] = static_cast<uint8_t>(Rule::level(i) + code_bias<F>());
      table = table_of_16(bytes);
    }
  };
  const uint8_t* unit;
  const Table table;
  HRUN_HD UnitDecoder(const Constants& c, const uint8_t* block, int)
      : unit(block), table(c.table) {}
  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Bytes two = load_bytes(unit + 64 * i);
      out[2 * i].v = lookup(table, low_four(two));
      out[2 * i + 1].v = lookup(table, top<4>(two));
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
    const auto join = [](Bytes low, Bytes high) { return join_bits(low, both(high, 0x30)); };
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const Bytes high = load_bytes(unit + 256 + 64 * half);
      const Bytes a = load_bytes(unit + 128 * half), b = load_bytes(unit + 128 * half + 64);
      CodeBytes* const o = out + 4 * half;
      o[0].v = join(low_four(a), up<4>(high));
      o[1].v = join(top<4>(a), up<2>(high));
      o[2].v = join(low_four(b), high);
      o[3].v = join(top<4>(b), down<2>(high));
    }
    unit += 384;
  }
};

// Works as in panels/avx512.h, with tables of 8 entries that stand twice in 16: the fourth bit of
// an index is a neighbour's and does not matter.  A pair of codes is kept as its two indices.
template <class F>
struct UnitDecoder<F, PackedCodes::rtq3> {
  struct Constants {
    Table table0, table1, table2;  // table1 with the bias
    HRUN_HD Constants() {
      using Tables = typename F::Tables;
      uint8_t t0[16], t1[16], t2[16];
      for (int i = 0; i < 16; ++i) {
        t0[i] = static_cast<uint8_t>(Tables::entry(0, i & 7));
        t1[i] = static_cast<uint8_t>(Tables::entry(1, i & 7) + code_bias<F>());
        t2[i] = static_cast<uint8_t>(Tables::entry(2, i & 7));
      }
      table0 = table_of_16(t0);
      table1 = table_of_16(t1);
      table2 = table_of_16(t2);
    }
  };
  const uint8_t* unit;
  const Table table0, table1, table2;
  Bytes low1, high1,
      high2;  // indices of the pair before, and the upper one of the pair before that

  static HRUN_HD Bytes upper(Bytes x) { return low_four(down<3>(x)); }

  HRUN_HD UnitDecoder(const Constants& tables, const uint8_t* block, int n)
      : unit(block), table0(tables.table0), table1(tables.table1), table2(tables.table2) {
    // Before a segment come the last codes of the segment before it, one byte lane down; before the
    // first come zeros.
    const uint8_t* last = block + static_cast<size_t>(n / kUnit - 1) * 192;
    const Bytes c = load_bytes(last + 128),
                t = spare_bits(load_bytes(last), load_bytes(last + 64), c);
    low1 = lane_below(both(t, 7));
    high1 = lane_below(both(down<3>(t), 7));
    high2 = lane_below(both(down<3>(c), 7));
  }

  HRUN_HD void pair(Bytes now, CodeBytes& first, CodeBytes& second) {
    const Bytes low = low_four(now), high = upper(now);
    const Bytes newest1 = lookup(table0, exclusive_or(low, high2)),
                newest2 = lookup(table0, exclusive_or(high, low1));
    first.v = add_bytes(newest1, add_bytes(lookup(table1, high1), lookup(table2, low1)));
    second.v = add_bytes(newest2, add_bytes(lookup(table1, low), lookup(table2, high1)));
    high2 = high1;
    low1 = low;
    high1 = high;
  }

  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
    const Bytes a = load_bytes(unit), b = load_bytes(unit + 64), c = load_bytes(unit + 128);
    pair(a, out[0], out[1]);
    pair(b, out[2], out[3]);
    pair(c, out[4], out[5]);
    pair(spare_bits(a, b, c), out[6], out[7]);
    unit += 192;
  }
};

// RTQ2 and RTQ4, as in panels/decode_avx512_rtq.h, but indices are cut out of their bytes.
template <class F>
struct RtqTablesOf16 {
  Table first, second;  // T0; T1 + bias
  HRUN_HD RtqTablesOf16() {
    using Tables = typename F::Tables;
    uint8_t t0[16], t1[16];
    for (int i = 0; i < 16; ++i) {
      t0[i] = static_cast<uint8_t>(Tables::entry(0, i));
      t1[i] = static_cast<uint8_t>(Tables::entry(1, i) + code_bias<F>());
    }
    first = table_of_16(t0);
    second = table_of_16(t1);
  }
  HRUN_HD CodeBytes weight(Bytes first_index, Bytes second_index) const {
    return {add_bytes(lookup(first, first_index), lookup(second, second_index))};
  }
};

template <class F>
struct UnitDecoder<F, PackedCodes::rtq2> {
  using Constants = RtqTablesOf16<F>;
  // The index pairs of a byte: codes (0,1), (1,2), (2,3), the older in the lower bits.
  struct Pairs {
    Bytes low, mid, high;
    HRUN_HD explicit Pairs(Bytes x)
        : low(low_four(x)), mid(low_four(down<2>(x))), high(top<4>(x)) {}
  };
  const uint8_t* unit;
  const Constants tables;
  Pairs before;

  HRUN_HD UnitDecoder(const Constants& constants, const uint8_t* block, int n)
      : unit(block),
        tables(constants),
        before(lane_below(load_bytes(block + static_cast<size_t>(n / kUnit - 1) * 128 + 64))) {}

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

  HRUN_HD UnitDecoder(const Constants& constants, const uint8_t* block, int n)
      : unit(block), tables(constants) {
    const Bytes before =
        lane_below(load_bytes(block + static_cast<size_t>(n / kUnit - 1) * 256 + 192));
    before_low = low_four(before);
    before_high = top<4>(before);
  }

  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Bytes bytes = load_bytes(unit + 64 * i);
      const Bytes low = low_four(bytes), high = top<4>(bytes);
      out[2 * i] = tables.weight(exclusive_or(low, before_low), before_high);
      out[2 * i + 1] = tables.weight(exclusive_or(high, before_high), low);
      before_low = low;
      before_high = high;
    }
    unit += 256;
  }
};

// A code is kept as its lower four bits and, separately, its fifth.  The fifth is the highest bit
// of another byte, whose other bits may be anything; it chooses between look-ups in the two halves
// of a table.
template <class F>
struct UnitDecoder<F, PackedCodes::rtq5> {
  struct Constants {
    Table first[2], second[2];  // T0; T1 + bias
    HRUN_HD Constants() {
      using Tables = typename F::Tables;
      for (int half = 0; half < 2; ++half) {
        uint8_t t0[16], t1[16];
        for (int i = 0; i < 16; ++i) {
          t0[i] = static_cast<uint8_t>(Tables::entry(0, 16 * half + i));
          t1[i] = static_cast<uint8_t>(Tables::entry(1, 16 * half + i) + code_bias<F>());
        }
        first[half] = table_of_16(t0);
        second[half] = table_of_16(t1);
      }
    }
  };
  struct Code {
    Bytes four, fifth;
  };
  const uint8_t* unit;
  const Constants tables;
  Code before, before_that;  // of the last two steps

  // Code s of the eight of each byte lane.
  template <int s>
  static HRUN_HD Code code(Bytes nibbles, Bytes fifth) {
    Code c;
    if constexpr (s % 2 == 0)
      c.four = low_four(nibbles);
    else
      c.four = top<4>(nibbles);
    if constexpr (s == 7)
      c.fifth = fifth;
    else
      c.fifth = up<7 - s>(fifth);
    return c;
  }

  HRUN_HD UnitDecoder(const Constants& constants, const uint8_t* block, int n)
      : unit(block), tables(constants) {
    const uint8_t* const last = block + static_cast<size_t>(n / kUnit - 1) * 320;
    const Bytes nibbles = lane_below(load_bytes(last + 192)),
                fifth = lane_below(load_bytes(last + 256));
    before_that = code<6>(nibbles, fifth);
    before = code<7>(nibbles, fifth);
  }

  static HRUN_HD Bytes look_up(const Table (&table)[2], Code index) {
    return by_top_bit(index.fifth, lookup(table[1], index.four), lookup(table[0], index.four));
  }

  template <int s>
  HRUN_HD void weight(Bytes nibbles, Bytes fifth, CodeBytes& out) {
    const Code now = code<s>(nibbles, fifth);
    const Code newest = {exclusive_or(now.four, before_that.four),
                         exclusive_or(now.fifth, before_that.fifth)};
    out.v = add_bytes(look_up(tables.first, newest), look_up(tables.second, before));
    before_that = before;
    before = now;
  }
  template <int i>
  HRUN_HD void two(Bytes fifth, CodeBytes (&out)[kUnitVectors]) {
    const Bytes nibbles = load_bytes(unit + 64 * i);
    weight<2 * i>(nibbles, fifth, out[2 * i]);
    weight<2 * i + 1>(nibbles, fifth, out[2 * i + 1]);
  }

  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
    const Bytes fifth = load_bytes(unit + 256);
    two<0>(fifth, out);
    two<1>(fifth, out);
    two<2>(fifth, out);
    two<3>(fifth, out);
    unit += 320;
  }
};

// As RTQ4, and a third table by the upper two bits of a code, of which a byte has four.
template <class F>
struct UnitDecoder<F, PackedCodes::rtq6> {
  struct Constants {
    RtqTablesOf16<F> tables;
    Table upper;
    HRUN_HD Constants() {
      uint8_t t2[16];
      for (int i = 0; i < 16; ++i) t2[i] = static_cast<uint8_t>(F::Tables::entry(2, i));
      upper = table_of_16(t2);
    }
  };
  const uint8_t* unit;
  const Constants constants;
  Bytes before_low, before_high;

  HRUN_HD UnitDecoder(const Constants& made, const uint8_t* block, int n)
      : unit(block), constants(made) {
    const Bytes before =
        lane_below(load_bytes(block + static_cast<size_t>(n / kUnit - 1) * 384 + 192));
    before_low = low_four(before);
    before_high = top<4>(before);
  }

  // Adds what the upper bits of step s of four choose.
  template <int s>
  HRUN_HD CodeBytes moved(CodeBytes weights, Bytes four) const {
    Bytes index;
    if constexpr (s == 0)
      index = both(four, 3);
    else if constexpr (s == 3)
      index = top<2>(four);
    else
      index = both(down<2 * s>(four), 3);
    return {add_bytes(weights.v, lookup(constants.upper, index))};
  }

  template <int i>
  HRUN_HD void two(Bytes four, CodeBytes (&out)[kUnitVectors]) {
    const Bytes bytes = load_bytes(unit + 64 * i);
    const Bytes low = low_four(bytes), high = top<4>(bytes);
    const RtqTablesOf16<F>& t = constants.tables;
    out[2 * i] = moved<2 * (i % 2)>(t.weight(exclusive_or(low, before_low), before_high), four);
    out[2 * i + 1] = moved<2 * (i % 2) + 1>(t.weight(exclusive_or(high, before_high), low), four);
    before_low = low;
    before_high = high;
  }

  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
    const Bytes first = load_bytes(unit + 256), second = load_bytes(unit + 320);
    two<0>(first, out);
    two<1>(first, out);
    two<2>(second, out);
    two<3>(second, out);
    unit += 384;
  }
};

}  // namespace
}  // namespace hrun
