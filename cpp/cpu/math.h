// exp and what is made of it, sixteen at a time, the same bits in every tier.
#pragma once

#include "cpu/simd.h"

namespace hrun {
namespace {

// e^x: x = n ln 2 + r with |r| <= ln 2 / 2 and a Taylor polynomial of degree 7, whose remainder is below r^8 / 8!, a
// tenth of a unit in the last place.  exp(-inf) = 0, results below the smallest subnormal are 0, overflow is infinity, NaN
// stays NaN.
HRUN_HD Lanes exp(Lanes x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  // Beyond these the result is 0 or infinity anyway.  A NaN passes because it is the second operand.
  x = min(splat(89.0f), max(splat(-104.0f), x));
  const Lanes shifted = fma(x, splat(1.44269504088896341f), splat(kMagic));
  const Lanes n = sub(shifted, splat(kMagic));
  Lanes r = fma(n, splat(-0.693359375f), x);  // ln 2 in two parts; the first has 9 bits, so the product is exact
  r = fma(n, splat(2.12194440e-4f), r);
  Lanes p = splat(1.0f / 5040);
  p = fma(p, r, splat(1.0f / 720));
  p = fma(p, r, splat(1.0f / 120));
  p = fma(p, r, splat(1.0f / 24));
  p = fma(p, r, splat(1.0f / 6));
  p = fma(p, r, splat(0.5f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  // 2^n in two factors, each a normal number, so that subnormal results round once.
  const IntLanes whole = sub(as_int(shifted), splat_int(0x4b400000));
  const IntLanes half = shift_right<1>(whole);
  const auto power = [](IntLanes e) { return as_float(shift_left<23>(add(e, splat_int(127)))); };
  return mul(mul(p, power(half)), power(sub(whole, half)));
}

// x / (1 + e^-x)
HRUN_HD Lanes silu(Lanes x) { return div(x, add(splat(1.0f), exp(sub(splat(0.0f), x)))); }

}  // namespace
}  // namespace hrun
