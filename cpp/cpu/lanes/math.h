// exp and the functions made of it, sixteen at a time, the same bits in every tier.
#pragma once

#include "cpu/lanes/lanes.h"

namespace hrun {
namespace {

// The sums, or the largest, of several vectors.  A tier may do four side by side.
template <int n>
HRUN_HD void reduce_add_each(const Lanes (&x)[n], float* out) {
#pragma GCC unroll 4
  for (int i = 0; i < n; ++i) out[i] = reduce_add(x[i]);
}
template <int n>
HRUN_HD void reduce_max_each(const Lanes (&x)[n], float* out) {
#pragma GCC unroll 4
  for (int i = 0; i < n; ++i) out[i] = reduce_max(x[i]);
}

// p 2^n for a whole n of -150 to 128, rounded once: in two factors, each a normal number.  A tier
// may have its own.
template <class Lanes>
HRUN_HD Lanes times_power_of_2(Lanes p, Lanes n) {
  const auto whole = round_to_int(n), half = shift_right<1>(whole);
  const auto power = [](auto e) { return as_float(shift_left<23>(add(e, splat_int(127)))); };
  return mul(mul(p, power(half)), power(sub(whole, half)));
}

// e^x: x = n ln 2 + r with |r| <= ln 2 / 2 and a Taylor polynomial of degree 7, whose remainder is
// below r^8 / 8!, a tenth of a unit in the last place.  exp(-inf) = 0, results below the smallest
// subnormal are 0, overflow is infinity, NaN stays NaN.
//
// exp_up_to_one() is the same for x <= 0, or NaN.
HRUN_HD Lanes exp_up_to_one(Lanes x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  // Below this the result is 0 anyway.  A NaN passes because it is the second operand.
  x = max(splat(-104.0f), x);
  const Lanes shifted = fma(x, splat(1.44269504088896341f), splat(kMagic));
  const Lanes n = sub(shifted, splat(kMagic));
  Lanes r = fma(n, splat(-0.693359375f),
                x);  // ln 2 in two parts; the first has 9 bits, so the product is exact
  r = fma(n, splat(2.12194440e-4f), r);
  Lanes p = splat(1.0f / 5040);
  p = fma(p, r, splat(1.0f / 720));
  p = fma(p, r, splat(1.0f / 120));
  p = fma(p, r, splat(1.0f / 24));
  p = fma(p, r, splat(1.0f / 6));
  p = fma(p, r, splat(0.5f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  return times_power_of_2(p, n);
}
HRUN_HD Lanes exp(Lanes x) {
  return exp_up_to_one(min(splat(89.0f), x));  // beyond that it is infinity anyway
}

// exp(x) in lanes of ones, 0 in lanes of zeros, whatever x is there: x86 takes 90 ns for a vector
// with results below the smallest normal number.
HRUN_HD Lanes exp_in(IntLanes lanes, Lanes x) {
  return as_float(bit_and(as_int(exp(as_float(bit_and(as_int(x), lanes)))), lanes));
}

// exp where -infinity means "not there".
HRUN_HD Lanes exp_or_zero(Lanes x) {
  const auto distance =
      sub(as_int(x),
          splat_int(static_cast<int32_t>(0xff800000u)));  // of the bits, to those of -infinity
  return exp_in(shift_right<31>(sub(splat_int(0), max(distance, sub(splat_int(0), distance)))), x);
}

// 1 / (1 + e^-x)
HRUN_HD Lanes sigmoid(Lanes x) {
  return div(splat(1.0f), add(splat(1.0f), exp(sub(splat(0.0f), x))));
}

// e^(-e^(-1/2) / (1 + e^-x))
HRUN_HD Lanes slow_decay(Lanes x) { return exp(mul(splat(-0.60653066f), sigmoid(x))); }

// ln(1 + e^x) = max(x, 0) + ln(1 + u), u = e^-|x|;  ln(1 + u) = 2 atanh(u / (2 + u)) as a series
// whose remainder is below 1e-8.
HRUN_HD Lanes softplus(Lanes x) {
  const Lanes zero = splat(0.0f);
  const Lanes u = exp(sub(zero, max(sub(zero, x), x)));
  const Lanes s = div(u, add(splat(2.0f), u)), t = mul(s, s);
  Lanes p = splat(1.0f / 15);
  p = fma(p, t, splat(1.0f / 13));
  p = fma(p, t, splat(1.0f / 11));
  p = fma(p, t, splat(1.0f / 9));
  p = fma(p, t, splat(1.0f / 7));
  p = fma(p, t, splat(1.0f / 5));
  p = fma(p, t, splat(1.0f / 3));
  p = fma(p, t, splat(1.0f));
  return add(max(zero, x), mul(add(s, s), p));
}

// x / (1 + e^-x)
HRUN_HD Lanes silu(Lanes x) { return div(x, add(splat(1.0f), exp(sub(splat(0.0f), x)))); }

// x / (1 + e^-2u), u = sqrt(2/pi) (x + 0.044715 x^3): the tanh form of GELU.
HRUN_HD Lanes gelu(Lanes x) {
  const Lanes cubic = fma(mul(mul(x, x), splat(0.044715f)), x, x);
  return div(x, add(splat(1.0f), exp(mul(cubic, splat(-1.5957691216057308f)))));
}

// x Phi(x), Phi the distribution function of the normal distribution: GELU as it is defined.  With
// z = |x| / sqrt(2) and t = 1 / (1 + z / 2) it is max(x, 0) - |x| t e^(P(t) - z^2) / 2; P, of
// degree 9, is fitted to the complementary error function on 0 <= z <= 9.5, within 5e-8.  Beyond 13
// the second part is below 1e-36.
HRUN_HD Lanes gelu_erf(Lanes x) {
  const Lanes zero = splat(0.0f), y = max(splat(-13.0f), x);
  const Lanes size = min(splat(13.0f), max(sub(zero, y), y));
  const Lanes z = mul(size, splat(0.70710678f));
  const Lanes t = div(splat(1.0f), fma(z, splat(0.5f), splat(1.0f)));
  Lanes p = splat(0.14050713364850675f);
  p = fma(p, t, splat(-0.6566158302483989f));
  p = fma(p, t, splat(1.0994384609802506f));
  p = fma(p, t, splat(-0.6195233273292629f));
  p = fma(p, t, splat(-0.14417350705618032f));
  p = fma(p, t, splat(0.035467864881156275f));
  p = fma(p, t, splat(0.022874142446800985f));
  p = fma(p, t, splat(0.3891171467874744f));
  p = fma(p, t, splat(0.9983414489249967f));
  p = fma(p, t, splat(-1.2654334892479913f));
  const Lanes tail = mul(mul(t, splat(0.5f)), exp(sub(p, mul(z, z))));
  return sub(max(zero, y), mul(size, tail));
}

// (1 + clamp(up, -7, 7)) g / (1 + e^-1.702 g), g = min(gate, 7)
HRUN_HD Lanes clamped_silu(Lanes gate, Lanes up) {
  const Lanes g = min(splat(7.0f), gate), u = max(splat(-7.0f), min(splat(7.0f), up));
  return mul(add(u, splat(1.0f)), div(g, add(splat(1.0f), exp(mul(g, splat(-1.702f))))));
}

// alpha_p x^2 + beta x for x >= 0, else alpha_n (e^min(x, eps) - 1 - x) + beta x.
HRUN_HD Lanes xielu(Lanes x, Lanes alpha_p, Lanes alpha_n, Lanes beta, Lanes eps) {
  const Lanes positive = max(splat(0.0f), x);
  const Lanes below = sub(sub(exp(min(eps, x)), splat(1.0f)), x);
  const auto is_below = shift_right<31>(as_int(x));
  const Lanes negative = as_float(bit_and(as_int(below), is_below));
  return fma(beta, x, fma(alpha_p, mul(positive, positive), mul(alpha_n, negative)));
}

// c tanh(x / c) = c (1 - 2 / (1 + e^(2 x / c)))
HRUN_HD Lanes soft_cap(Lanes x, Lanes cap) {
  const Lanes e = exp(mul(splat(2.0f), div(x, cap)));
  return mul(cap, sub(splat(1.0f), div(splat(2.0f), add(splat(1.0f), e))));
}

}  // namespace
}  // namespace hrun
