// NEON with the dot-product instructions for the packed kernels: half a panel, 8 rows, in two
// registers.
//
// Without I8MM a dot product is s8 x s8, and unsigned codes of 7 bits are the same numbers signed.
#pragma once

#include <arm_neon.h>

#include "cpu/panels/layout.h"
#include "cpu/lanes/lanes.h"

namespace hrun {
namespace {

inline constexpr int kPartRows = 8;
inline constexpr int kStreamTokens =
    4;                                 // at most, in the kernel that does not store decoded weights
inline constexpr int kTileTokens = 4;  // of the kernel that stores decoded weights
inline constexpr int kTileRegisters = 2, kWideTileTokens = 4;
inline constexpr int kGroupTileTokens =
    4;  // of formats with group scales, which need twice the sums
inline constexpr int kLargestSum = INT32_MAX;  // of a group (panels/group_sums.h)
inline constexpr int kSumLanes = 1;            // of a row, that a group's sum is spread over
#if defined(__ARM_FEATURE_MATMUL_INT8)
inline constexpr int kMaxLevel = 255;
#else
inline constexpr int kMaxLevel = 127;
#endif

struct Bytes {
  uint8x16_t lo, hi;
};
struct CodeBytes {
  Bytes v;
};
struct RowInts {
  int32x4_t lo, hi;
};
struct RowFloats {
  float32x4_t lo, hi;
};

HRUN_HD Bytes load_bytes(const uint8_t* p) { return {vld1q_u8(p), vld1q_u8(p + 16)}; }
HRUN_HD CodeBytes load_codes(const uint8_t* p) { return {load_bytes(p)}; }
HRUN_HD void store_codes(uint8_t* p, CodeBytes x) { vst1q_u8(p, x.v.lo), vst1q_u8(p + 16, x.v.hi); }
HRUN_HD RowInts all_rows(int32_t x) { return {vdupq_n_s32(x), vdupq_n_s32(x)}; }
HRUN_HD RowInts add_rows(RowInts a, RowInts b) {
  return {vaddq_s32(a.lo, b.lo), vaddq_s32(a.hi, b.hi)};
}
HRUN_HD RowInts multiply_rows(RowInts a, RowInts b) {
  return {vmulq_s32(a.lo, b.lo), vmulq_s32(a.hi, b.hi)};
}
template <bool kSigned>
HRUN_HD int32x4_t dot_four(int32x4_t sums, uint8x16_t w, int32x4_t x) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
  static_assert(!kSigned);
  return vusdotq_s32(sums, w, vreinterpretq_s8_s32(x));
#else
  return vdotq_s32(sums, vreinterpretq_s8_u8(w), vreinterpretq_s8_s32(x));
#endif
}
template <bool kSigned = false>
HRUN_HD RowInts dot_codes(RowInts sums, CodeBytes w, RowInts x) {
  return {dot_four<kSigned>(sums.lo, w.v.lo, x.lo), dot_four<kSigned>(sums.hi, w.v.hi, x.hi)};
}
template <bool kSigned = false>
HRUN_HD RowInts dot_codes_at(RowInts sums, CodeBytes w, const int8_t* x) {
  int32_t four;
  memcpy(&four, x, sizeof four);
  return dot_codes<kSigned>(sums, w, all_rows(four));
}
template <bool kSigned = false>
HRUN_HD RowInts dot_codes_narrow(RowInts sums, CodeBytes w, RowInts x) {
  return dot_codes<kSigned>(sums, w, x);
}
// sums + products of each row's pairs of int16.
HRUN_HD RowInts dot_row_pairs(RowInts sums, RowInts a, RowInts b) {
  const auto four_rows = [](int32x4_t sum, int32x4_t p, int32x4_t q) {
    const int16x8_t w = vreinterpretq_s16_s32(p), x = vreinterpretq_s16_s32(q);
    return vaddq_s32(sum,
                     vpaddq_s32(vmull_s16(vget_low_s16(w), vget_low_s16(x)), vmull_high_s16(w, x)));
  };
  return {four_rows(sums.lo, a.lo, b.lo), four_rows(sums.hi, a.hi, b.hi)};
}
HRUN_HD RowInts pair_rows(RowInts low, RowInts high) {
  return {vsliq_n_s32(low.lo, high.lo, 16), vsliq_n_s32(low.hi, high.hi, 16)};
}
HRUN_HD RowInts byte_pairs(const uint8_t* p) {
  const uint8x16_t bytes = vld1q_u8(p);
  return {vreinterpretq_s32_u16(vmovl_u8(vget_low_u8(bytes))),
          vreinterpretq_s32_u16(vmovl_high_u8(bytes))};
}
HRUN_HD RowInts load_ints(const int32_t* p) { return {vld1q_s32(p), vld1q_s32(p + 4)}; }
HRUN_HD void store_ints(int32_t* p, RowInts x) { vst1q_s32(p, x.lo), vst1q_s32(p + 4, x.hi); }
HRUN_HD RowInts load_group_scales(const uint8_t* p) {
  const int16x8_t wide = vmovl_s8(vreinterpret_s8_u8(vld1_u8(p)));
  return {vmovl_s16(vget_low_s16(wide)), vmovl_high_s16(wide)};
}
// (byte >> shift) & 15 of each row.
HRUN_HD RowInts load_nibbles(const uint8_t* p, int shift) {
  const uint8x8_t four_bits =
      vand_u8(vshl_u8(vld1_u8(p), vdup_n_s8(static_cast<int8_t>(-shift))), vdup_n_u8(15));
  const int16x8_t wide = vreinterpretq_s16_u16(vmovl_u8(four_bits));
  return {vmovl_s16(vget_low_s16(wide)), vmovl_high_s16(wide)};
}
// Each row's two nibbles as a pair of int16.
HRUN_HD RowInts nibble_pairs(const uint8_t* p) {
  const uint8x8_t bytes = vld1_u8(p), low = vand_u8(bytes, vdup_n_u8(15)),
                  high = vshr_n_u8(bytes, 4);
  return {vreinterpretq_s32_u16(vmovl_u8(vzip1_u8(low, high))),
          vreinterpretq_s32_u16(vmovl_u8(vzip2_u8(low, high)))};
}
HRUN_HD RowFloats zero_rows() { return {vdupq_n_f32(0), vdupq_n_f32(0)}; }
HRUN_HD RowFloats load_rows(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
HRUN_HD void store_rows(float* p, RowFloats x) { vst1q_f32(p, x.lo), vst1q_f32(p + 4, x.hi); }
HRUN_HD RowFloats load_halves(const uint8_t* p) {
  const float16x8_t halves = vreinterpretq_f16_u8(vld1q_u8(p));
  return {vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)};
}
HRUN_HD RowFloats scale_rows(RowFloats a, float x) {
  return {vmulq_n_f32(a.lo, x), vmulq_n_f32(a.hi, x)};
}
HRUN_HD RowFloats negative(RowFloats a) {
  const float32x4_t zero = vdupq_n_f32(0);
  return {vsubq_f32(zero, a.lo), vsubq_f32(zero, a.hi)};
}
HRUN_HD RowFloats fma_rows(RowFloats a, RowInts b, RowFloats c) {
  return {vfmaq_f32(c.lo, a.lo, vcvtq_f32_s32(b.lo)), vfmaq_f32(c.hi, a.hi, vcvtq_f32_s32(b.hi))};
}

HRUN_HD Bytes both(Bytes a, uint8_t mask) {
  return {vandq_u8(a.lo, vdupq_n_u8(mask)), vandq_u8(a.hi, vdupq_n_u8(mask))};
}
HRUN_HD Bytes by_top_bit(Bytes x, Bytes a, Bytes b) {
  const auto choose = [](uint8x16_t bits, uint8x16_t set, uint8x16_t clear) {
    return vbslq_u8(vreinterpretq_u8_s8(vshrq_n_s8(vreinterpretq_s8_u8(bits), 7)), set, clear);
  };
  return {choose(x.lo, a.lo, b.lo), choose(x.hi, a.hi, b.hi)};
}
HRUN_HD Bytes join_bits(Bytes a, Bytes b) { return {vorrq_u8(a.lo, b.lo), vorrq_u8(a.hi, b.hi)}; }
HRUN_HD Bytes exclusive_or(Bytes a, Bytes b) {
  return {veorq_u8(a.lo, b.lo), veorq_u8(a.hi, b.hi)};
}
HRUN_HD Bytes add_bytes(Bytes a, Bytes b) { return {vaddq_u8(a.lo, b.lo), vaddq_u8(a.hi, b.hi)}; }
template <int n>
HRUN_HD Bytes down(Bytes a) {
  return {vshrq_n_u8(a.lo, n), vshrq_n_u8(a.hi, n)};
}
template <int n>
HRUN_HD Bytes up(Bytes a) {
  return {vshlq_n_u8(a.lo, n), vshlq_n_u8(a.hi, n)};
}
template <int n>
HRUN_HD Bytes top(Bytes a) {
  return down<8 - n>(a);
}
HRUN_HD Bytes lane_below(Bytes a) {
  const auto shift = [](uint8x16_t v) {
    return vreinterpretq_u8_u32(vshlq_n_u32(vreinterpretq_u32_u8(v), 8));
  };
  return {shift(a.lo), shift(a.hi)};
}
using Table = uint8x16_t;
HRUN_HD Table table_of_16(const uint8_t (&bytes)[16]) { return vld1q_u8(bytes); }
HRUN_HD Bytes lookup(Table table, Bytes index) {
  return {vqtbl1q_u8(table, index.lo), vqtbl1q_u8(table, index.hi)};
}

template <class At>
HRUN_HD Bytes words_of(At at) {
  const auto eight = [&](int from) {
    uint16x8_t v = vld1q_dup_u16(at(from));
    v = vld1q_lane_u16(at(from + 1), v, 1), v = vld1q_lane_u16(at(from + 2), v, 2),
    v = vld1q_lane_u16(at(from + 3), v, 3);
    v = vld1q_lane_u16(at(from + 4), v, 4), v = vld1q_lane_u16(at(from + 5), v, 5),
    v = vld1q_lane_u16(at(from + 6), v, 6);
    return vreinterpretq_u8_u16(vld1q_lane_u16(at(from + 7), v, 7));
  };
  return {eight(0), eight(8)};
}
HRUN_HD Bytes spread_bits(const uint8_t* p) {
  const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201u));
  const auto two = [&](int i) {
    return vtstq_u8(vcombine_u8(vdup_n_u8(p[i]), vdup_n_u8(p[i + 1])), bit);
  };
  return {two(0), two(2)};
}
HRUN_HD void store_words(uint16_t* out, Bytes low, Bytes high) {
  vst2q_u8(reinterpret_cast<uint8_t*>(out), (uint8x16x2_t{low.lo, high.lo}));
  vst2q_u8(reinterpret_cast<uint8_t*>(out + 16), (uint8x16x2_t{low.hi, high.hi}));
}
HRUN_HD Bytes even_twice(Bytes a) { return {vtrn1q_u8(a.lo, a.lo), vtrn1q_u8(a.hi, a.hi)}; }
HRUN_HD Bytes odd_twice(Bytes a) { return {vtrn2q_u8(a.lo, a.lo), vtrn2q_u8(a.hi, a.hi)}; }

}  // namespace
}  // namespace hrun
