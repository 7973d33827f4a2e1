// Lanes as four 128-bit registers: Arm NEON, 64-bit.
#pragma once

#include <arm_neon.h>

#include "cpu/kernel_constants.h"
#include "formats/list.h"

namespace hrun {
namespace {

inline constexpr int kTokenTile = 4;         // 16 registers of sums
inline constexpr bool kSixteenSums = false;  // registers for sixteen sums at once?

inline constexpr int kQuads = kLanes / 4;
struct Lanes {
  float32x4_t v[kQuads];
};
struct IntLanes {
  int32x4_t v[kQuads];
};

template <class Function>
HRUN_HD Lanes each(Function&& f) {
  return {{f(0), f(1), f(2), f(3)}};
}
template <class Function>
HRUN_HD IntLanes each_int(Function&& f) {
  return {{f(0), f(1), f(2), f(3)}};
}

HRUN_HD Lanes splat(float x) {
  return each([&](int) { return vdupq_n_f32(x); });
}
HRUN_HD Lanes load(const float* p) {
  return each([&](int i) { return vld1q_f32(p + 4 * i); });
}
HRUN_HD void store(float* p, Lanes x) {
  for (int i = 0; i < kQuads; ++i) vst1q_f32(p + 4 * i, x.v[i]);
}
HRUN_HD uint8x16_t load_16_bytes(const uint8_t* p) { return vld1q_u8(p); }
HRUN_HD Lanes load_f32(const uint8_t* p) {
  return each([&](int i) { return vreinterpretq_f32_u8(load_16_bytes(p + 16 * i)); });
}
HRUN_HD Lanes load_f16(const uint8_t* p) {
  const float16x8_t low = vreinterpretq_f16_u8(load_16_bytes(p)),
                    high = vreinterpretq_f16_u8(load_16_bytes(p + 16));
  return {{vcvt_f32_f16(vget_low_f16(low)), vcvt_high_f32_f16(low),
           vcvt_f32_f16(vget_low_f16(high)), vcvt_high_f32_f16(high)}};
}
HRUN_HD Lanes load_bf16(const uint8_t* p) {
  const auto widen = [](uint16x4_t x) { return vreinterpretq_f32_u32(vshll_n_u16(x, 16)); };
  const uint16x8_t low = vreinterpretq_u16_u8(load_16_bytes(p)),
                   high = vreinterpretq_u16_u8(load_16_bytes(p + 16));
  return {{widen(vget_low_u16(low)), widen(vget_high_u16(low)), widen(vget_low_u16(high)),
           widen(vget_high_u16(high))}};
}
HRUN_HD void store_f16(uint16_t* p, Lanes x) {
  for (int i = 0; i < kQuads; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.v[i])));
}

HRUN_HD Lanes fma(Lanes a, Lanes b, Lanes c) {
  return each([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
HRUN_HD Lanes add(Lanes a, Lanes b) {
  return each([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
}
HRUN_HD Lanes sub(Lanes a, Lanes b) {
  return each([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
}
HRUN_HD Lanes mul(Lanes a, Lanes b) {
  return each([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
}
HRUN_HD Lanes div(Lanes a, Lanes b) {
  return each([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
}
// a > b ? a : b, so b where either is NaN; the processor's own maximum would be NaN.
HRUN_HD float32x4_t larger(float32x4_t a, float32x4_t b) {
  return vbslq_f32(vcgtq_f32(a, b), a, b);
}
HRUN_HD Lanes max(Lanes a, Lanes b) {
  return each([&](int i) { return larger(a.v[i], b.v[i]); });
}
HRUN_HD Lanes min(Lanes a, Lanes b) {
  return each([&](int i) { return vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}

// The fixed tree: lane l takes lane l + 8, then l + 4, l + 2, l + 1.
HRUN_HD float reduce_add(Lanes x) {
  const float32x4_t four = vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
HRUN_HD float reduce_max(Lanes x) {
  const float32x4_t four = larger(larger(x.v[0], x.v[2]), larger(x.v[1], x.v[3]));
  const float32x4_t two = larger(four, vextq_f32(four, four, 2));
  return vgetq_lane_f32(larger(two, vrev64q_f32(two)), 0);
}
// Lane i of the result is reduce_add(x[i]).
HRUN_HD Lanes reduce_add_16(const Lanes (&x)[kLanes]) {
  float sums[kLanes];
  for (int i = 0; i < kLanes; ++i) sums[i] = reduce_add(x[i]);
  return load(sums);
}
HRUN_HD float first_lane(Lanes x) { return vgetq_lane_f32(x.v[0], 0); }

HRUN_HD IntLanes splat_int(int32_t x) {
  return each_int([&](int) { return vdupq_n_s32(x); });
}
HRUN_HD IntLanes as_int(Lanes x) {
  return each_int([&](int i) { return vreinterpretq_s32_f32(x.v[i]); });
}
HRUN_HD Lanes as_float(IntLanes x) {
  return each([&](int i) { return vreinterpretq_f32_s32(x.v[i]); });
}
HRUN_HD Lanes to_float(IntLanes x) {
  return each([&](int i) { return vcvtq_f32_s32(x.v[i]); });
}
HRUN_HD IntLanes add(IntLanes a, IntLanes b) {
  return each_int([&](int i) { return vaddq_s32(a.v[i], b.v[i]); });
}
HRUN_HD IntLanes sub(IntLanes a, IntLanes b) {
  return each_int([&](int i) { return vsubq_s32(a.v[i], b.v[i]); });
}
HRUN_HD IntLanes bit_and(IntLanes a, IntLanes b) {
  return each_int([&](int i) { return vandq_s32(a.v[i], b.v[i]); });
}
HRUN_HD IntLanes max(IntLanes a, IntLanes b) {
  return each_int([&](int i) { return vmaxq_s32(a.v[i], b.v[i]); });
}
template <int n>
HRUN_HD IntLanes shift_left(IntLanes x) {
  return each_int([&](int i) { return vshlq_n_s32(x.v[i], n); });
}
template <int n>
HRUN_HD IntLanes shift_right(IntLanes x) {
  return each_int([&](int i) { return vshrq_n_s32(x.v[i], n); });
}
HRUN_HD int32_t reduce_add(IntLanes x) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(x.v[0], x.v[2]), vaddq_s32(x.v[1], x.v[3])));
}
HRUN_HD int32_t reduce_max(IntLanes x) {
  return vmaxvq_s32(vmaxq_s32(vmaxq_s32(x.v[0], x.v[2]), vmaxq_s32(x.v[1], x.v[3])));
}

HRUN_HD IntLanes round_to_int(Lanes x) {
  return each_int([&](int i) { return vcvtnq_s32_f32(x.v[i]); });
}
HRUN_HD void store_int8(int8_t* p, IntLanes x) {
  const int16x8_t low = vcombine_s16(vmovn_s32(x.v[0]), vmovn_s32(x.v[1])),
                  high = vcombine_s16(vmovn_s32(x.v[2]), vmovn_s32(x.v[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
// The sums of each group of eight of 32 codes.
HRUN_HD void sum_eights(const int8_t* codes, int16_t* sums) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) sums[i] = vaddlv_s8(vld1_s8(codes + 8 * i));
}

// Sixteen pairs of int16.
HRUN_HD IntLanes load_pairs(const int16_t* p) {
  return each_int([&](int i) { return vreinterpretq_s32_s16(vld1q_s16(p + 8 * i)); });
}
// Each lane is a pair of int16; `x` is one for all.
HRUN_HD IntLanes dot_pairs(IntLanes sums, IntLanes w, int32_t x) {
  const auto first = static_cast<int16_t>(x), second = static_cast<int16_t>(x >> 16);
#pragma GCC unroll 2
  for (int i = 0; i < kQuads; i += 2) {
    const int16x8_t a = vreinterpretq_s16_s32(w.v[i]), b = vreinterpretq_s16_s32(w.v[i + 1]);
    const int16x8_t even = vuzp1q_s16(a, b), odd = vuzp2q_s16(a, b);
    sums.v[i] =
        vmlal_n_s16(vmlal_n_s16(sums.v[i], vget_low_s16(even), first), vget_low_s16(odd), second);
    sums.v[i + 1] = vmlal_high_n_s16(vmlal_high_n_s16(sums.v[i + 1], even, first), odd, second);
  }
  return sums;
}

// The 16 codes of a group times its scale.
HRUN_HD void scale_codes(const int8_t* codes, int16_t scale, int16_t* out) {
  const int8x16_t bytes = vld1q_s8(codes);
  vst1q_s16(out, vmulq_n_s16(vmovl_s8(vget_low_s8(bytes)), scale));
  vst1q_s16(out + 8, vmulq_n_s16(vmovl_high_s8(bytes), scale));
}

// Lane l and lane l ^ half become their sum (lower lane) and difference, lower minus upper.
template <int half>
HRUN_HD Lanes butterfly(Lanes x) {
  if constexpr (half >= 4) {
    constexpr int kStep = half / 4;
    return each([&](int i) {
      return i & kStep ? vsubq_f32(x.v[i ^ kStep], x.v[i]) : vaddq_f32(x.v[i], x.v[i ^ kStep]);
    });
  } else {
    const uint32x4_t upper = half == 2 ? uint32x4_t{0, 0, ~0u, ~0u} : uint32x4_t{0, ~0u, 0, ~0u};
    return each([&](int i) {
      const float32x4_t other = half == 2 ? vextq_f32(x.v[i], x.v[i], 2) : vrev64q_f32(x.v[i]);
      return vbslq_f32(upper, vsubq_f32(other, x.v[i]), vaddq_f32(x.v[i], other));
    });
  }
}

// rows: 16 rows of 16 pairs, `stride` int16 apart; out: [pair][row].
HRUN_HD void transpose_pairs(const int16_t* rows, int64_t stride, int16_t* out) {
  for (int row = 0; row < kLanes; row += 4)
    for (int pair = 0; pair < kLanes; pair += 4) {
      const auto in = [&](int r) {
        return vreinterpretq_s32_s16(vld1q_s16(rows + (row + r) * stride + 2 * pair));
      };
      const int32x4_t a = in(0), b = in(1), c = in(2), d = in(3);
      const auto wide = [](int32x4_t x) { return vreinterpretq_s64_s32(x); };
      const int64x2_t ab_even = wide(vtrn1q_s32(a, b)), ab_odd = wide(vtrn2q_s32(a, b));
      const int64x2_t cd_even = wide(vtrn1q_s32(c, d)), cd_odd = wide(vtrn2q_s32(c, d));
      const auto put = [&](int p, int64x2_t x) {
        vst1q_s16(out + 2 * ((pair + p) * kLanes + row), vreinterpretq_s16_s64(x));
      };
      put(0, vtrn1q_s64(ab_even, cd_even));
      put(1, vtrn1q_s64(ab_odd, cd_odd));
      put(2, vtrn2q_s64(ab_even, cd_even));
      put(3, vtrn2q_s64(ab_odd, cd_odd));
    }
}

}  // namespace
}  // namespace hrun
