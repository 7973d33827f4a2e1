// ALiBi (Press, Smith, Lewis 2021): attention without positions, whose scores shrink with distance.
#pragma once

#include "base/math64.h"

namespace hrun {

// The slopes of the first 2^n heads, as many as there are of a power of two, are the powers of
// 2^(-max_bias / 2^n).  The other heads have every second power of that number's square root.
HRUN_HD float alibi_slope(int head, int n_heads, double max_bias) {
  constexpr double kLn2 = 0.693147180559945309417232;
  int whole = 1;
  while (2 * whole <= n_heads) whole *= 2;
  const double power = head < whole ? head + 1 : head - whole + 0.5;
  return static_cast<float>(math64::exp(-kLn2 * max_bias / whole * power));
}

}  // namespace hrun
