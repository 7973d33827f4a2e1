// Lanes for the baseline of every CPU, and the definition of what the other tiers must compute.
//
// Four vectors of four in the compiler's own vector type, which it lowers to what the target has.
// A fused multiply-add is a call of the C library, which is exact with and without hardware for it.
#pragma once

#include "cpu/kernel_constants.h"
#include "formats/list.h"

namespace hrun {
namespace {

inline constexpr int kTokenTile = 4;         // tokens of a matmul whose sums are held at a time
inline constexpr bool kSixteenSums = false;  // registers for sixteen sums at once?

typedef float Quad __attribute__((vector_size(16)));
typedef int32_t IntQuad __attribute__((vector_size(16)));
inline constexpr int kQuads = kLanes / 4;

struct Lanes {
  Quad v[kQuads];
};
struct IntLanes {
  IntQuad v[kQuads];
};

template <class Function>
HRUN_HD Lanes each(Function&& f) {
  Lanes out;
  for (int i = 0; i < kQuads; ++i) out.v[i] = f(i);
  return out;
}
template <class Function>
HRUN_HD IntLanes each_int(Function&& f) {
  IntLanes out;
  for (int i = 0; i < kQuads; ++i) out.v[i] = f(i);
  return out;
}

HRUN_HD Lanes load(const float* p) {
  Lanes out;
  memcpy(&out, p, sizeof out);
  return out;
}
HRUN_HD void store(float* p, Lanes x) { memcpy(p, &x, sizeof x); }
HRUN_HD Lanes splat(float x) {
  return each([&](int) { return Quad{x, x, x, x}; });
}
template <FloatFormat F>
HRUN_HD Lanes widen(const uint8_t* p) {
  float values[kLanes];
  for (int i = 0; i < kLanes; ++i)
    values[i] = F::widen(p + F::kBlockBytes * static_cast<size_t>(i));
  return load(values);
}
HRUN_HD Lanes load_f32(const uint8_t* p) { return widen<F32>(p); }
HRUN_HD Lanes load_f16(const uint8_t* p) { return widen<F16>(p); }
HRUN_HD Lanes load_bf16(const uint8_t* p) { return widen<BF16>(p); }
HRUN_HD void store_f16(uint16_t* p, Lanes x) {
  for (int i = 0; i < kLanes; ++i) p[i] = fp32_to_fp16(x.v[i / 4][i % 4]);
}

// Not inlined: sixteen calls at each use would be a large program.
__attribute__((noinline)) Lanes fma(Lanes a, Lanes b, Lanes c) {
  float x[kLanes], y[kLanes], z[kLanes];
  store(x, a), store(y, b), store(z, c);
  for (int i = 0; i < kLanes; ++i) z[i] = __builtin_fmaf(x[i], y[i], z[i]);
  return load(z);
}
HRUN_HD Lanes add(Lanes a, Lanes b) {
  return each([&](int i) { return a.v[i] + b.v[i]; });
}
HRUN_HD Lanes sub(Lanes a, Lanes b) {
  return each([&](int i) { return a.v[i] - b.v[i]; });
}
HRUN_HD Lanes mul(Lanes a, Lanes b) {
  return each([&](int i) { return a.v[i] * b.v[i]; });
}
HRUN_HD Lanes div(Lanes a, Lanes b) {
  return each([&](int i) { return a.v[i] / b.v[i]; });
}
// a > b ? a : b, so b where either is NaN.
HRUN_HD Lanes max(Lanes a, Lanes b) {
  return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
HRUN_HD Lanes min(Lanes a, Lanes b) {
  return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}

// The fixed tree: lane l takes lane l + 8, then l + 4, l + 2, l + 1.
HRUN_HD float reduce_add(Lanes x) {
  const Quad four = (x.v[0] + x.v[2]) + (x.v[1] + x.v[3]);
  return (four[0] + four[2]) + (four[1] + four[3]);
}
HRUN_HD float reduce_max(Lanes x) {
  const auto larger = [](auto a, auto b) { return a > b ? a : b; };
  const Quad four = larger(larger(x.v[0], x.v[2]), larger(x.v[1], x.v[3]));
  return larger(larger(float{four[0]}, float{four[2]}), larger(float{four[1]}, float{four[3]}));
}
// Lane i of the result is reduce_add(x[i]).
HRUN_HD Lanes reduce_add_16(const Lanes (&x)[kLanes]) {
  float sums[kLanes];
  for (int i = 0; i < kLanes; ++i) sums[i] = reduce_add(x[i]);
  return load(sums);
}
HRUN_HD float first_lane(Lanes x) { return x.v[0][0]; }

HRUN_HD IntLanes splat_int(int32_t x) {
  return each_int([&](int) { return IntQuad{x, x, x, x}; });
}
HRUN_HD IntLanes as_int(Lanes x) {
  return each_int([&](int i) { return reinterpret_cast<IntQuad>(x.v[i]); });
}
HRUN_HD Lanes as_float(IntLanes x) {
  return each([&](int i) { return reinterpret_cast<Quad>(x.v[i]); });
}
HRUN_HD Lanes to_float(IntLanes x) {
  return each([&](int i) { return __builtin_convertvector(x.v[i], Quad); });
}
HRUN_HD IntLanes add(IntLanes a, IntLanes b) {
  return each_int([&](int i) { return a.v[i] + b.v[i]; });
}
HRUN_HD IntLanes sub(IntLanes a, IntLanes b) {
  return each_int([&](int i) { return a.v[i] - b.v[i]; });
}
HRUN_HD IntLanes bit_and(IntLanes a, IntLanes b) {
  return each_int([&](int i) { return a.v[i] & b.v[i]; });
}
HRUN_HD IntLanes max(IntLanes a, IntLanes b) {
  return each_int([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
template <int n>
HRUN_HD IntLanes shift_left(IntLanes x) {
  return each_int([&](int i) { return x.v[i] << n; });
}
template <int n>
HRUN_HD IntLanes shift_right(IntLanes x) {
  return each_int([&](int i) { return x.v[i] >> n; });
}  // arithmetic
HRUN_HD int32_t reduce_add(IntLanes x) {
  const IntQuad four = (x.v[0] + x.v[2]) + (x.v[1] + x.v[3]);
  return four[0] + four[1] + four[2] + four[3];
}
HRUN_HD int32_t reduce_max(IntLanes x) {
  const auto larger = [](auto a, auto b) { return a > b ? a : b; };
  const IntQuad four = larger(larger(x.v[0], x.v[2]), larger(x.v[1], x.v[3]));
  return larger(larger(int32_t{four[0]}, int32_t{four[2]}),
                larger(int32_t{four[1]}, int32_t{four[3]}));
}

// Rounds to the nearest integer, ties to even; |x| < 2^22.  Adding 1.5 * 2^23 leaves the integer in
// the low mantissa bits.
HRUN_HD IntLanes round_to_int(Lanes x) {
  return sub(as_int(add(x, splat(12582912.0f))), splat_int(0x4b400000));
}
HRUN_HD void store_int8(int8_t* p, IntLanes x) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<int8_t>(x.v[i / 4][i % 4]);
}
// The sums of each group of eight of 32 codes.
HRUN_HD void sum_eights(const int8_t* codes, int16_t* sums) {
  for (int g = 0; g < 4; ++g) {
    int sum = 0;
    for (int i = 0; i < 8; ++i) sum += codes[8 * g + i];
    sums[g] = static_cast<int16_t>(sum);
  }
}

// Sixteen pairs of int16.
HRUN_HD IntLanes load_pairs(const int16_t* p) {
  IntLanes out;
  memcpy(&out, p, sizeof out);
  return out;
}
// sums[l] + w[l].low * x.low + w[l].high * x.high, x being one pair for all lanes.
HRUN_HD IntLanes dot_pairs(IntLanes sums, IntLanes w, int32_t x) {
#if defined(__SSE2__)
  typedef short Shorts __attribute__((vector_size(16)));
  const auto both = reinterpret_cast<Shorts>(IntQuad{x, x, x, x});
  return each_int([&](int i) {
    return sums.v[i] + reinterpret_cast<IntQuad>(
                           __builtin_ia32_pmaddwd128(reinterpret_cast<Shorts>(w.v[i]), both));
  });
#else
  const int32_t low = static_cast<int16_t>(x), high = x >> 16;
  return each_int(
      [&](int i) { return sums.v[i] + ((w.v[i] << 16) >> 16) * low + (w.v[i] >> 16) * high; });
#endif
}

// The 16 codes of a group times its scale.
HRUN_HD void scale_codes(const int8_t* codes, int16_t scale, int16_t* out) {
  for (int i = 0; i < kGroup; ++i) out[i] = static_cast<int16_t>(codes[i] * scale);
}

// Lane l and lane l ^ half become their sum (lower lane) and difference, lower minus upper.
template <int half>
HRUN_HD Lanes butterfly(Lanes x) {
  if constexpr (half >= 4) {
    constexpr int kStep = half / 4;
    return each(
        [&](int i) { return i & kStep ? x.v[i ^ kStep] - x.v[i] : x.v[i] + x.v[i ^ kStep]; });
  } else {
    return each([&](int i) {
      const Quad a = x.v[i];
      const Quad b = half == 2 ? Quad{a[2], a[3], a[0], a[1]} : Quad{a[1], a[0], a[3], a[2]};
      const Quad sum = a + b, difference = b - a;
      return half == 2 ? Quad{sum[0], sum[1], difference[2], difference[3]}
                       : Quad{sum[0], difference[1], sum[2], difference[3]};
    });
  }
}

// rows: 16 rows of 16 pairs, `stride` int16 apart; out: [pair][row], a pair being two neighbours of
// a row.
HRUN_HD void transpose_pairs(const int16_t* rows, int64_t stride, int16_t* out) {
  for (int pair = 0; pair < kLanes; ++pair)
    for (int row = 0; row < kLanes; ++row)
      memcpy(out + 2 * (pair * kLanes + row), rows + row * stride + 2 * pair, 2 * sizeof(int16_t));
}

}  // namespace
}  // namespace hrun
