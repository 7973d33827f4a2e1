// NEON with the dot-product instructions for the packed kernels: half a panel, 8 rows, in two registers.
//
// Without I8MM a dot product is s8 x s8: only formats whose unsigned codes fit 7 bits are packed.
#pragma once

#include <arm_neon.h>

#include "cpu/packed.h"
#include "cpu/simd.h"

namespace hrun {
namespace {

inline constexpr int kPartRows = 8;
inline constexpr int kStreamTokens = 4;     // at most, in the kernel that does not store decoded weights
inline constexpr int kTileTokens = 4;       // of the kernel that stores decoded weights
inline constexpr int kGroupTileTokens = 4;  // of formats with group scales, which need twice the sums
#if defined(__ARM_FEATURE_MATMUL_INT8)
inline constexpr int kMaxLevel = 255;
#else
inline constexpr int kMaxLevel = 127;
#endif

struct Bytes { uint8x16_t lo, hi; };
struct CodeBytes { Bytes v; };
struct RowInts { int32x4_t lo, hi; };
struct RowFloats { float32x4_t lo, hi; };

HRUN_HD Bytes load_bytes(const uint8_t* p) { return {vld1q_u8(p), vld1q_u8(p + 16)}; }
HRUN_HD CodeBytes load_codes(const uint8_t* p) { return {load_bytes(p)}; }
HRUN_HD void store_codes(uint8_t* p, CodeBytes x) { vst1q_u8(p, x.v.lo), vst1q_u8(p + 16, x.v.hi); }
HRUN_HD RowInts all_rows(int32_t x) { return {vdupq_n_s32(x), vdupq_n_s32(x)}; }
HRUN_HD RowInts add_rows(RowInts a, RowInts b) { return {vaddq_s32(a.lo, b.lo), vaddq_s32(a.hi, b.hi)}; }
HRUN_HD RowInts multiply_rows(RowInts a, RowInts b) { return {vmulq_s32(a.lo, b.lo), vmulq_s32(a.hi, b.hi)}; }
HRUN_HD int32x4_t dot_four(int32x4_t sums, uint8x16_t w, int32x4_t x) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
  return vusdotq_s32(sums, w, vreinterpretq_s8_s32(x));
#else
  return vdotq_s32(sums, vreinterpretq_s8_u8(w), vreinterpretq_s8_s32(x));
#endif
}
HRUN_HD RowInts dot_codes(RowInts sums, CodeBytes w, RowInts x) {
  return {dot_four(sums.lo, w.v.lo, x.lo), dot_four(sums.hi, w.v.hi, x.hi)};
}
HRUN_HD RowInts dot_codes_at(RowInts sums, CodeBytes w, const int8_t* x) {
  int32_t four;
  memcpy(&four, x, sizeof four);
  return dot_codes(sums, w, all_rows(four));
}
HRUN_HD RowInts dot_offsets(RowInts sums, const uint8_t* pairs_of_rows, int32_t pair) {
  const uint8x16_t bytes = vld1q_u8(pairs_of_rows);
  const int16x8_t x = vreinterpretq_s16_s32(vdupq_n_s32(pair));
  const auto four_rows = [&](uint8x8_t w8) {
    const int16x8_t w = vreinterpretq_s16_u16(vmovl_u8(w8));
    return vpaddq_s32(vmull_s16(vget_low_s16(w), vget_low_s16(x)), vmull_high_s16(w, x));
  };
  return {vaddq_s32(sums.lo, four_rows(vget_low_u8(bytes))), vaddq_s32(sums.hi, four_rows(vget_high_u8(bytes)))};
}
HRUN_HD RowInts load_group_scales(const uint8_t* p) {
  const int16x8_t wide = vmovl_s8(vreinterpret_s8_u8(vld1_u8(p)));
  return {vmovl_s16(vget_low_s16(wide)), vmovl_high_s16(wide)};
}
HRUN_HD RowFloats zero_rows() { return {vdupq_n_f32(0), vdupq_n_f32(0)}; }
HRUN_HD RowFloats load_rows(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
HRUN_HD void store_rows(float* p, RowFloats x) { vst1q_f32(p, x.lo), vst1q_f32(p + 4, x.hi); }
HRUN_HD RowFloats load_halves(const uint8_t* p) {
  const float16x8_t halves = vreinterpretq_f16_u8(vld1q_u8(p));
  return {vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)};
}
HRUN_HD RowFloats scale_rows(RowFloats a, float x) { return {vmulq_n_f32(a.lo, x), vmulq_n_f32(a.hi, x)}; }
HRUN_HD RowFloats negative(RowFloats a) {
  const float32x4_t zero = vdupq_n_f32(0);
  return {vsubq_f32(zero, a.lo), vsubq_f32(zero, a.hi)};
}
HRUN_HD RowFloats fma_rows(RowFloats a, RowInts b, RowFloats c) {
  return {vfmaq_f32(c.lo, a.lo, vcvtq_f32_s32(b.lo)), vfmaq_f32(c.hi, a.hi, vcvtq_f32_s32(b.hi))};
}

HRUN_HD Bytes both(Bytes a, uint8_t mask) { return {vandq_u8(a.lo, vdupq_n_u8(mask)), vandq_u8(a.hi, vdupq_n_u8(mask))}; }
HRUN_HD Bytes join_bits(Bytes a, Bytes b) { return {vorrq_u8(a.lo, b.lo), vorrq_u8(a.hi, b.hi)}; }
HRUN_HD Bytes exclusive_or(Bytes a, Bytes b) { return {veorq_u8(a.lo, b.lo), veorq_u8(a.hi, b.hi)}; }
HRUN_HD Bytes add_bytes(Bytes a, Bytes b) { return {vaddq_u8(a.lo, b.lo), vaddq_u8(a.hi, b.hi)}; }
template <int n>
HRUN_HD Bytes down(Bytes a) { return {vshrq_n_u8(a.lo, n), vshrq_n_u8(a.hi, n)}; }
template <int n>
HRUN_HD Bytes up(Bytes a) { return {vshlq_n_u8(a.lo, n), vshlq_n_u8(a.hi, n)}; }
// Indices above 15 give 0.
HRUN_HD Bytes lookup(uint8x16_t table, Bytes index) { return {vqtbl1q_u8(table, index.lo), vqtbl1q_u8(table, index.hi)}; }

// As in fast_avx512.h.
struct NoTables {};
template <class F, PackedCodes codes = PackRule<F>::kCodes>
struct UnitDecoder;

template <class F>
struct UnitDecoder<F, PackedCodes::nibble> {
  struct Constants {
    uint8x16_t table;
    HRUN_HD Constants() {
      using Rule = PackRule<F>;
      uint8_t bytes[16];
      for (int i = 0; i < 16; ++i) bytes[i] = static_cast<uint8_t>(Rule::level(i) + Rule::kBias);
      table = vld1q_u8(bytes);
    }
  };
  const uint8_t* unit;
  const uint8x16_t table;
  HRUN_HD UnitDecoder(const Constants& c, const uint8_t* block, int) : unit(block), table(c.table) {}
  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Bytes two = load_bytes(unit + 64 * i);
      out[2 * i].v = lookup(table, both(two, 15));
      out[2 * i + 1].v = lookup(table, down<4>(two));
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
      o[0].v = join(both(a, 15), up<4>(high));
      o[1].v = join(down<4>(a), up<2>(high));
      o[2].v = join(both(b, 15), high);
      o[3].v = join(down<4>(b), down<2>(high));
    }
    unit += 384;
  }
};

// As in fast_avx2.h: tables of 8 entries twice in 16, a pair of codes kept as its two indices.
template <class F>
struct UnitDecoder<F, PackedCodes::rtq3> {
  struct Constants {
    uint8x16_t table0, table1, table2;  // table1 with the bias
    HRUN_HD Constants() {
      using Tables = typename F::Tables;
      uint8_t t0[16], t1[16], t2[16];
      for (int i = 0; i < 16; ++i) {
        t0[i] = static_cast<uint8_t>(Tables::entry(0, i & 7));
        t1[i] = static_cast<uint8_t>(Tables::entry(1, i & 7) + PackRule<F>::kBias);
        t2[i] = static_cast<uint8_t>(Tables::entry(2, i & 7));
      }
      table0 = vld1q_u8(t0);
      table1 = vld1q_u8(t1);
      table2 = vld1q_u8(t2);
    }
  };
  const uint8_t* unit;
  const uint8x16_t table0, table1, table2;
  Bytes low1, high1, high2;  // indices of the pair before, and the upper one of the pair before that

  static HRUN_HD Bytes upper(Bytes x) { return both(down<3>(x), 15); }
  static HRUN_HD Bytes spare(Bytes a, Bytes b, Bytes c) {
    return join_bits(down<6>(a), join_bits(both(down<4>(b), 0x0c), both(down<2>(c), 0x30)));
  }

  HRUN_HD UnitDecoder(const Constants& tables, const uint8_t* block, int n)
      : unit(block), table0(tables.table0), table1(tables.table1), table2(tables.table2) {
    const uint8_t* last = block + static_cast<size_t>(n / kUnit - 1) * 192;
    const Bytes c = load_bytes(last + 128), t = spare(load_bytes(last), load_bytes(last + 64), c);
    // Before a segment come the last codes of the segment before it, one byte lane down; before the first come zeros.
    const auto segment_before = [](Bytes x) {
      const auto shift = [](uint8x16_t v) { return vreinterpretq_u8_u32(vshlq_n_u32(vreinterpretq_u32_u8(v), 8)); };
      const Bytes codes = both(x, 7);
      return Bytes{shift(codes.lo), shift(codes.hi)};
    };
    low1 = segment_before(t);
    high1 = segment_before(down<3>(t));
    high2 = segment_before(down<3>(c));
  }

  HRUN_HD void pair(Bytes now, CodeBytes& first, CodeBytes& second) {
    const Bytes low = both(now, 15), high = upper(now);
    const Bytes newest1 = lookup(table0, exclusive_or(low, high2)), newest2 = lookup(table0, exclusive_or(high, low1));
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
    pair(spare(a, b, c), out[6], out[7]);
    unit += 192;
  }
};

}  // namespace
}  // namespace hrun
