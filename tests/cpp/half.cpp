// fp16 and bf16 conversions against a double-precision model, on every pattern.
#include "base/half.h"

#include <cmath>
#include <cstdio>

namespace {
int failures = 0;
void check(bool ok, const char* what, unsigned value) {
  if (!ok && ++failures < 10) std::printf("%s: %#x\n", what, value);
}

double model(unsigned h) {
  const double sign = h & 0x8000u ? -1 : 1;
  const int exponent = static_cast<int>((h >> 10) & 31u), mantissa = static_cast<int>(h & 1023u);
  return sign *
         (exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25));
}
}  // namespace

int main() {
  for (unsigned h = 0; h < 0x10000; ++h) {
    const float f = hrun::fp16_to_fp32(static_cast<uint16_t>(h));
    if ((h & 0x7c00u) == 0x7c00u) {
      check((h & 0x3ffu) ? std::isnan(f) : std::isinf(f), "special", h);
      continue;
    }
    check(f == model(h), "widen", h);
    check(hrun::fp32_to_fp16(f) == h, "round trip", h);
    if ((h & 0x7fffu) == 0x7bffu) continue;
    // Between two halves the nearer one wins, and a tie goes to the even one.
    const double next = model(h + 1);
    const float middle = static_cast<float>((model(h) + next) / 2);
    const auto even = static_cast<uint16_t>(h & 1u ? h + 1 : h);
    check(hrun::fp32_to_fp16(middle) == even, "tie", h);
    check(hrun::fp32_to_fp16(std::nextafterf(middle, static_cast<float>(next))) == h + 1,
          "above tie", h);
    check(hrun::fp32_to_fp16(std::nextafterf(middle, f)) == h, "below tie", h);
  }
  check(hrun::fp32_to_fp16(65519.0f) == 0x7bff && hrun::fp32_to_fp16(65520.0f) == 0x7c00,
        "overflow", 0);
  for (unsigned b = 0; b < 0x10000; ++b) {
    const float f = hrun::bf16_to_fp32(static_cast<uint16_t>(b));
    if (!std::isnan(f)) check(hrun::fp32_to_bf16(f) == b, "bf16", b);
  }
  return failures != 0;
}
