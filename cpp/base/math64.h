// exp, log, sin and cos in double precision, the same bits on every machine and C library.
//
// For tables and probabilities, not for hot loops.  Plain IEEE additions, multiplications and
// divisions (contraction is off for the whole project), so the result depends on nothing but the
// argument.  Errors are a few 1e-16 relative for exp and log, and absolute for sin and cos up to
// |x| = 1e6: far below the fp32 values they are rounded to.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/host_device.h"

namespace hrun::math64 {

inline constexpr double kLn2High =
    6.93147180369123816490e-01;  // 32 leading bits: n * kLn2High is exact for |n| < 2^20
inline constexpr double kLn2Low = 1.90821492927058770002e-10;

HRUN_HD double exp(double x) {
  if (!(x > -745.0)) return x != x ? x : 0.0;
  if (x > 709.0) return HUGE_VAL;
  const double n = std::nearbyint(x * 1.4426950408889634074);
  const double r = (x - n * kLn2High) - n * kLn2Low;  // |r| <= ln(2) / 2
  double sum = 1.0;
  for (int i = 14; i >= 1; --i)
    sum = 1.0 + sum * r / i;  // Taylor by Horner; the next term is below 1e-18
  return std::ldexp(sum, static_cast<int>(n));
}

// Natural logarithm of a positive finite number.
inline double log(double x) {
  int e = 0;
  double m = std::frexp(x, &e);  // [0.5, 1)
  if (m < 0.70710678118654752440) {
    m *= 2;
    --e;
  }
  const double t = (m - 1) / (m + 1), t2 = t * t;  // log(m) = 2 atanh(t), |t| < 0.1716
  double sum = 0;
  for (int k = 23; k >= 1; k -= 2) sum = sum * t2 + 1.0 / k;
  return e * kLn2High + (2 * t * sum + e * kLn2Low);
}

inline double pow(double base, double exponent) { return exp(exponent * log(base)); }

// cos and sin of x, |x| <= 1e6.
inline void cos_sin(double x, double& cosine, double& sine) {
  // pi/2 in three parts of 33 bits: products with the quadrant number are exact.
  constexpr double kHalfPi1 = 1.57079632673412561417e+00;
  constexpr double kHalfPi2 = 6.07710050630396597660e-11;
  constexpr double kHalfPi3 = 2.02226624879595063154e-21;
  const double n = std::nearbyint(x * 0.63661977236758134308);
  const double r = ((x - n * kHalfPi1) - n * kHalfPi2) - n * kHalfPi3;  // |r| <= pi/4
  const double r2 = r * r;
  double s = 1, c = 1;
  for (int i = 8; i >= 1; --i) {
    s = 1 - s * r2 / ((2 * i) * (2 * i + 1));
    c = 1 - c * r2 / ((2 * i - 1) * (2 * i));
  }
  s *= r;
  switch (static_cast<int64_t>(n) & 3) {
    case 0:
      cosine = c;
      sine = s;
      break;
    case 1:
      cosine = -s;
      sine = c;
      break;
    case 2:
      cosine = -c;
      sine = -s;
      break;
    default:
      cosine = s;
      sine = -c;
      break;
  }
}

}  // namespace hrun::math64
