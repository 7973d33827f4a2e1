// exp and the functions made of it, one value at a time: the same operations as the sixteen lanes
// of cpp/cpu/lanes/math.h, so the same bits as the CPU.  Divisions and square roots are IEEE's
// (nvcc's default, no fast-math flags).
#pragma once

#include "cuda/device/thread.h"

namespace hrun::gpu {

// The second value where either is a NaN.
HRUN_HD float smaller(float a, float b) { return a < b ? a : b; }
HRUN_HD float larger(float a, float b) { return a > b ? a : b; }

HRUN_HD float square_root(float x) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(x);
#else
  return __builtin_sqrtf(x);
#endif
}

// e^x; cpp/cpu/lanes/math.h has the reasons.
HRUN_HD float exponential(float x) {
  constexpr float kMagic = 12582912.0f;
  x = smaller(89.0f, larger(-104.0f, x));
  const float shifted = fused_multiply_add(x, 1.44269504088896341f, kMagic);
  const float n = shifted - kMagic;
  float r = fused_multiply_add(n, -0.693359375f, x);
  r = fused_multiply_add(n, 2.12194440e-4f, r);
  float p = 1.0f / 5040;
  p = fused_multiply_add(p, r, 1.0f / 720);
  p = fused_multiply_add(p, r, 1.0f / 120);
  p = fused_multiply_add(p, r, 1.0f / 24);
  p = fused_multiply_add(p, r, 1.0f / 6);
  p = fused_multiply_add(p, r, 0.5f);
  p = fused_multiply_add(p, r, 1.0f);
  p = fused_multiply_add(p, r, 1.0f);
  const int whole = static_cast<int>(float_to_bits(shifted) - 0x4b400000u), half = whole >> 1;
  const auto power = [](int e) { return bits_to_float(static_cast<uint32_t>(e + 127) << 23); };
  return (p * power(half)) * power(whole - half);
}

// 1 / (1 + e^-x)
HRUN_HD float sigmoid(float x) { return 1.0f / (1.0f + exponential(0.0f - x)); }

// e^(-e^(-1/2) / (1 + e^-x))
HRUN_HD float slow_decay(float x) { return exponential(-0.60653066f * sigmoid(x)); }

// ln(1 + e^x)
HRUN_HD float softplus(float x) {
  const float u = exponential(0.0f - larger(0.0f - x, x));
  const float s = u / (2.0f + u), t = s * s;
  float p = 1.0f / 15;
  p = fused_multiply_add(p, t, 1.0f / 13);
  p = fused_multiply_add(p, t, 1.0f / 11);
  p = fused_multiply_add(p, t, 1.0f / 9);
  p = fused_multiply_add(p, t, 1.0f / 7);
  p = fused_multiply_add(p, t, 1.0f / 5);
  p = fused_multiply_add(p, t, 1.0f / 3);
  p = fused_multiply_add(p, t, 1.0f);
  return larger(0.0f, x) + (s + s) * p;
}

// x / (1 + e^-x)
HRUN_HD float silu(float x) { return x / (1.0f + exponential(0.0f - x)); }

// x / (1 + e^-2u), u = sqrt(2/pi) (x + 0.044715 x^3): the tanh form of GELU.
HRUN_HD float gelu(float x) {
  const float cubic = fused_multiply_add((x * x) * 0.044715f, x, x);
  return x / (1.0f + exponential(cubic * -1.5957691216057308f));
}

// x Phi(x), the distribution function of the normal distribution.
HRUN_HD float gelu_erf(float x) {
  const float y = larger(-13.0f, x), size = smaller(13.0f, larger(0.0f - y, y));
  const float z = size * 0.70710678f, t = 1.0f / fused_multiply_add(z, 0.5f, 1.0f);
  float p = 0.14050713364850675f;
  p = fused_multiply_add(p, t, -0.6566158302483989f);
  p = fused_multiply_add(p, t, 1.0994384609802506f);
  p = fused_multiply_add(p, t, -0.6195233273292629f);
  p = fused_multiply_add(p, t, -0.14417350705618032f);
  p = fused_multiply_add(p, t, 0.035467864881156275f);
  p = fused_multiply_add(p, t, 0.022874142446800985f);
  p = fused_multiply_add(p, t, 0.3891171467874744f);
  p = fused_multiply_add(p, t, 0.9983414489249967f);
  p = fused_multiply_add(p, t, -1.2654334892479913f);
  const float tail = (t * 0.5f) * exponential(p - z * z);
  return larger(0.0f, y) - size * tail;
}

// alpha_p x^2 + beta x for x >= 0, else alpha_n (e^min(x, eps) - 1 - x) + beta x
HRUN_HD float xielu(float x, float alpha_p, float alpha_n, float beta, float eps) {
  const float positive = larger(0.0f, x);
  const float below = exponential(smaller(eps, x)) - 1.0f - x;
  const float negative = float_to_bits(x) >> 31 ? below : 0.0f;
  return fused_multiply_add(beta, x,
                            fused_multiply_add(alpha_p, positive * positive, alpha_n * negative));
}

// (1 + clamp(up, -7, 7)) g / (1 + e^-1.702 g), g = min(gate, 7)
HRUN_HD float clamped_silu(float gate, float up) {
  const float g = smaller(7.0f, gate), u = larger(-7.0f, smaller(7.0f, up));
  return (u + 1.0f) * (g / (1.0f + exponential(g * -1.702f)));
}

// c tanh(x / c) = c (1 - 2 / (1 + e^(2 x / c)))
HRUN_HD float soft_cap(float x, float cap) {
  const float e = exponential(2.0f * (x / cap));
  return cap * (1.0f - 2.0f / (1.0f + e));
}

}  // namespace hrun::gpu
