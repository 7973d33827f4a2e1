// Trellis codes to A fragments.
//
// A weight is a sum of table entries, and a PRMT looks up four of them at once: four nibbles of a
// selector in a table of eight bytes.  Where four products of the tensor cores are cheaper than
// additions (few tokens), each table's entries are a fragment of their own, and the tensor cores
// add them; else (`joined`) the entries are made positive by a bias and added as bytes, which then
// cannot carry.
//
// A table of 16 entries is two PRMTs whose results add up, because bit 3 of a selector's nibble
// asks for the sign of the entry instead, eight times: 0 or -1.  With P looked up by c and Q by c
// xor 8, the sum is
//   c < 8:   P[c] + (Q[c] < 0 ? -1 : 0)          c >= 8:   Q[c - 8] + (P[c - 8] < 0 ? -1 : 0)
// and P and Q are chosen to make it the table.
//
// A table of 32 entries is four PRMTs of positive bytes, of which three give 0: their selectors'
// nibbles have bit 3.  Their sum is the entry and its bias.  RTQ6's tables of 16 are two such PRMTs
// each, its table of 4 is one.
//
// Operations of the integer ALU per weight, counted in the SASS of the main loop of
// matmul_stream.h, sm_90a, up to 8 tokens: RTQ3 1.5, RTQ4 1.9, RTQ2 2.05, of which 0.75, 1 and 1
// are the look-ups.  Shifts to the right are multiplications (RtqShifts).
#pragma once

#include "cuda/device/packed.h"

namespace hrun::gpu {

// Tables of eight bytes, one per PRMT.
template <int kTerms>
struct ByteTables {
  uint32_t low[kTerms], high[kTerms];
  int bias;  // of the sum of all
};

template <class F>
inline constexpr int kRtqTerms =
    F::kFreeBits != 0 ? 5 : F::Tables::kCount * F::Tables::kEntries / 8;
// The number of fragments that the tensor cores add up; they share the terms.
template <class F, bool joined>
inline constexpr int kRtqParts = joined              ? 1
                                 : kRtqTerms<F> == 5 ? 3
                                 : kRtqTerms<F> < 9  ? kRtqTerms<F>
                                                     : 4;

template <class F, bool joined>
constexpr ByteTables<kRtqTerms<F>> rtq_tables() {
  constexpr int kEntries = F::Tables::kEntries;
  ByteTables<kRtqTerms<F>> r{};
  for (int i = 0; i < F::Tables::kCount; ++i) {
    int bias = 0;
    if (joined || kEntries == 32 || F::kFreeBits != 0)
      for (int e = 0; e < kEntries; ++e)
        if (-F::Tables::entry(i, e) > bias) bias = -F::Tables::entry(i, e);
    r.bias += bias;
    if (kEntries == 32) {
      for (int e = 0; e < 32; ++e)
        (e % 8 < 4 ? r.low : r.high)[4 * i + e / 8] |=
            static_cast<uint32_t>(F::Tables::entry(i, e) + bias) << (8 * (e % 4));
      continue;
    }
    const bool is_small = F::kFreeBits != 0 && i == 2;  // four entries, twice in a PRMT
    for (int e = 0; e < 8; ++e) {
      const int shift = 8 * (e % 4);
      const auto put = [&](int term, int value) {
        (e < 4 ? r.low : r.high)[term] |= static_cast<uint32_t>(value & 255) << shift;
      };
      const int first = F::Tables::entry(i, e) + bias;
      if (kEntries == 8 || is_small) {
        put(is_small ? 4 : i, first);
        continue;
      }
      const int second = F::Tables::entry(i, 8 + e) + bias;
      for (int signs = 0; signs < 4; ++signs) {
        const bool p_negative = signs & 1, q_negative = signs & 2;
        const int p = first + q_negative, q = second + p_negative;
        if ((p < 0) != p_negative || (q < 0) != q_negative) continue;
        put(2 * i, p);
        put(2 * i + 1, q);
        break;
      }
    }
  }
  return r;
}

// A lane's share of a chunk, on its way from memory.
template <class F>
struct RtqChunk {
  Words4 codes[Packed<F>::kLoads];
  uint32_t scales;

  // read(address): 16 bytes of data that is used once.
  template <class Read>
  HRUN_HD void load(const uint8_t* chunk, const Read& read) {
#pragma unroll
    for (int i = 0; i < Packed<F>::kLoads; ++i) codes[i] = read(chunk + 512 * i + 16 * lane());
    scales = *reinterpret_cast<const uint32_t*>(chunk + 512 * Packed<F>::kLoads + 4 * (lane() / 4));
  }
};

// Factors of multiply_high() that shift to the right, in a pipe that has nothing else to do.
struct RtqShifts {
  uint32_t mask;      // 0x77777777, which as a constant would be applied to each half of a word
  uint32_t right[3];  // by 1, 2 and 3 bits
  uint32_t carry;     // by 12 bits to the right, or 0 in a lane without a run before
  HRUN_HD RtqShifts()
      : mask(opaque(0x77777777u)),
        right{opaque(0x80000000u), opaque(0x40000000u), opaque(0x20000000u)},
        carry(lane() % 4 != 0 ? 0x00100000u : 0u) {}
};
// The word sixteen steps before `w`.  The last codes of each run become those before the next run;
// before the first there are zeros.
HRUN_HD uint32_t run_before(uint32_t w, uint32_t carry) {
  const uint32_t left = shuffle_bits(w, (lane() + kWarp - 1) % kWarp);
  return ((w << 4) & 0xfff0fff0u) | (multiply_high(left, carry) & 0x000f000fu);
}

// The selectors of step i for each term, in the order of ByteTables.
template <class F>
struct RtqSelectors;

template <>
struct RtqSelectors<RTQ3> {
  const RtqShifts& shifts;
  uint32_t code[3 + 16];  // of step i at i + 3
  HRUN_HD static uint32_t word(const RtqChunk<RTQ3>& c, int i) { return c.codes[i / 4].v[i % 4]; }
  HRUN_HD uint32_t step(const RtqChunk<RTQ3>& c, int i) const {
    const uint32_t mask = shifts.mask;
    const int first = i / 4 * 3;
    if (i % 4 < 3) return word(c, first + i % 4) & mask;
    const uint32_t w0 = multiply_high(word(c, first), shifts.right[2]),
                   w1 = multiply_high(word(c, first + 1), shifts.right[1]),
                   w2 = multiply_high(word(c, first + 2), shifts.right[0]);
    const uint32_t two = (w0 & 0x11111111u) | (w1 & ~0x11111111u);
    return ((two & 0x33333333u) | (w2 & ~0x33333333u)) & mask;
  }
  HRUN_HD RtqSelectors(const RtqChunk<RTQ3>& c, const RtqShifts& s) : shifts(s) {
#pragma unroll
    for (int i = 0; i < 3; ++i) code[i] = run_before(step(c, 13 + i), s.carry);
  }
  HRUN_HD void next(const RtqChunk<RTQ3>& c, int i, uint32_t (&selector)[3]) {
    code[i + 3] = step(c, i);
    selector[0] = code[i + 3] ^ code[i];
    selector[1] = code[i + 2];
    selector[2] = code[i + 1];
  }
};

// Of a code's lower four bits: the selectors of the first table, of two parts, and of the second.
template <class F>
struct RtqLowSelectors {
  uint32_t low[2 + 16];  // of step i at i + 2
  HRUN_HD RtqLowSelectors(const RtqChunk<F>& c, const RtqShifts& s) {
#pragma unroll
    for (int i = 0; i < 2; ++i) low[i] = run_before(c.codes[3].v[2 + i], s.carry);
  }
  HRUN_HD void put(const RtqChunk<F>& c, int i, uint32_t* selector) {
    low[i + 2] = c.codes[i / 4].v[i % 4];
    selector[0] = low[i + 2] ^ low[i];
    selector[1] = low[i + 2] ^ low[i] ^ 0x88888888u;
    selector[2] = low[i + 1];
    selector[3] = low[i + 1] ^ 0x88888888u;
  }
};

template <>
struct RtqSelectors<RTQ4> : RtqLowSelectors<RTQ4> {
  using RtqLowSelectors::RtqLowSelectors;
  HRUN_HD void next(const RtqChunk<RTQ4>& c, int i, uint32_t (&selector)[4]) {
    put(c, i, selector);
  }
};

template <>
struct RtqSelectors<RTQ2> {
  uint32_t pair[2 + 8];   // codes 2 i and 2 i + 1 at i + 2
  uint32_t mixed[1 + 8];  // codes 2 i - 1 and 2 i at i + 1
  HRUN_HD static uint32_t mix(uint32_t older, uint32_t newer) {
    return ((older >> 2) & 0x33333333u) | ((newer << 2) & 0xccccccccu);
  }
  HRUN_HD RtqSelectors(const RtqChunk<RTQ2>& c, const RtqShifts& s) {
#pragma unroll
    for (int i = 0; i < 2; ++i) pair[i] = run_before(c.codes[1].v[2 + i], s.carry);
    mixed[0] = mix(pair[0], pair[1]);
  }
  HRUN_HD void next(const RtqChunk<RTQ2>& c, int step, uint32_t (&selector)[4]) {
    const int i = step / 2;
    uint32_t newest, older;
    if (step % 2 == 0) {
      pair[i + 2] = c.codes[i / 4].v[i % 4];
      mixed[i + 1] = mix(pair[i + 1], pair[i + 2]);
      newest = mixed[i + 1] ^ ((pair[i] << 2) & 0xccccccccu);
      older = mixed[i];
    } else {
      newest = pair[i + 2] ^ (pair[i] & 0xccccccccu);
      older = pair[i + 1];
    }
    selector[0] = newest;
    selector[1] = newest ^ 0x88888888u;
    selector[2] = older;
    selector[3] = older ^ 0x88888888u;
  }
};

template <>
struct RtqSelectors<RTQ5> {
  uint32_t low[2 + 16], fifth[2 + 16];  // of step i at i + 2; the fifth bit is bit 3 of a nibble
  HRUN_HD static uint32_t fifth_bits(const RtqChunk<RTQ5>& c, int i) {
    return (c.codes[4].v[i / 4] << (3 - i % 4)) & 0x88888888u;
  }
  HRUN_HD RtqSelectors(const RtqChunk<RTQ5>& c, const RtqShifts& s) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      low[i] = run_before(c.codes[3].v[2 + i], s.carry);
      fifth[i] = run_before(fifth_bits(c, 14 + i), s.carry);
    }
  }
  // Makes the selectors of the four parts of a table.  The nibbles have bit 3 where the entry is in
  // another part.
  HRUN_HD static void of_table(uint32_t low, uint32_t fifth, uint32_t (&selector)[8], int first) {
    constexpr uint32_t kOther = 0x88888888u;
    selector[first] = low | fifth;
    selector[first + 1] = (low ^ kOther) | fifth;
    selector[first + 2] = low | (fifth ^ kOther);
    selector[first + 3] = (low ^ kOther) | (fifth ^ kOther);
  }
  HRUN_HD void next(const RtqChunk<RTQ5>& c, int i, uint32_t (&selector)[8]) {
    low[i + 2] = c.codes[i / 4].v[i % 4];
    fifth[i + 2] = fifth_bits(c, i);
    of_table(low[i + 2] ^ low[i], fifth[i + 2] ^ fifth[i], selector, 0);
    of_table(low[i + 1], fifth[i + 1], selector, 4);
  }
};

template <>
struct RtqSelectors<RTQ6> : RtqLowSelectors<RTQ6> {
  using RtqLowSelectors::RtqLowSelectors;
  HRUN_HD void next(const RtqChunk<RTQ6>& c, int i, uint32_t (&selector)[5]) {
    put(c, i, selector);
    selector[4] = (c.codes[4 + i / 8].v[i / 2 % 4] >> (2 * (i % 2))) & 0x33333333u;
  }
};

// next(s) for s = 0 ... 7 in this order, in unrolled code: fragments whose sum, less kBias, is the
// weights.
template <class F, bool joined>
struct RtqDecoder {
  using Chunk = RtqChunk<F>;
  static constexpr int kTerms = kRtqTerms<F>;
  static constexpr int kParts = kRtqParts<F, joined>, kTermsOfPart = (kTerms + kParts - 1) / kParts;
  static constexpr int kBias = rtq_tables<F, joined>().bias;

  // The tables are in registers; left to itself, the compiler would load them anew for each
  // look-up.  So is the factor that brings down the upper half of a selector: a multiplication
  // leaves the ALU pipe, which is the bottleneck, to the look-ups.
  struct Constants {
    uint32_t low[kTerms], high[kTerms];
    RtqShifts shifts;
    uint32_t upper;
    HRUN_HD Constants() : upper(opaque(0x10000u)) {
      constexpr ByteTables<kTerms> kTables = rtq_tables<F, joined>();
#pragma unroll
      for (int t = 0; t < kTerms; ++t)
        low[t] = opaque(kTables.low[t]), high[t] = opaque(kTables.high[t]);
    }
  };

  const Constants& tables;
  const Chunk& chunk;
  RtqSelectors<F> selectors;

  HRUN_HD RtqDecoder(const Constants& t, const Chunk& c)
      : tables(t), chunk(c), selectors(c, t.shifts) {}
  HRUN_HD float scale(int half) const { return half_to_float(chunk.scales >> (16 * half)); }

  HRUN_HD void next(int s, uint32_t (&a)[kParts][4]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      uint32_t selector[kTerms];
      selectors.next(chunk, 2 * s + i, selector);
#pragma unroll
      for (int t = 0; t < kTerms; ++t) {
        const uint32_t low = permute_bytes(tables.low[t], tables.high[t], selector[t]);
        const uint32_t high =
            permute_bytes(tables.low[t], tables.high[t], multiply_high(selector[t], tables.upper));
        uint32_t(&part)[4] = a[t / kTermsOfPart];
        if (t % kTermsOfPart == 0) {
          part[2 * i] = low;
          part[2 * i + 1] = high;
        } else {
          part[2 * i] += low;
          part[2 * i + 1] += high;
        }
      }
    }
  }
};

}  // namespace hrun::gpu
