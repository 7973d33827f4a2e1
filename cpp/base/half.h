// IEEE binary16 and bfloat16 as bit patterns: exact widening, round-to-nearest-even narrowing.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/host_device.h"

namespace hrun {

HRUN_HD float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

HRUN_HD uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Exact for every pattern, subnormals, infinities and NaN included.
HRUN_HD float fp16_to_fp32(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t rest = static_cast<uint32_t>(h & 0x7fffu)
                        << 13;  // exponent and mantissa at fp32's place
  if ((h & 0x7c00u) == 0x7c00u) return bits_to_float(sign | 0x7f800000u | rest);
  // Multiplying by 2^112 rebiases the exponent and normalises subnormals in one exact step.
  return bits_to_float(sign | float_to_bits(bits_to_float(rest) * bits_to_float(0x77800000u)));
}

// Round to nearest even; overflow gives infinity, NaN stays NaN.
HRUN_HD uint16_t fp32_to_fp16(float value) {
  const uint32_t bits = float_to_bits(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x7f800000u)
    return static_cast<uint16_t>(sign | 0x7c00u | (magnitude > 0x7f800000u ? 0x200u : 0u));
  if (magnitude >= 0x477ff000u)
    return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65536 or more
  if (magnitude < 0x38800000u) {                   // subnormal half, or zero
    // Adding 0.5 puts the unit in the last place of a half subnormal (2^-24) at the fp32 unit in
    // the last place.
    const uint32_t rounded = float_to_bits(bits_to_float(magnitude) + 0.5f);
    return static_cast<uint16_t>(sign | (rounded - 0x3f000000u));
  }
  const uint32_t odd = (magnitude >> 13) & 1u;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

HRUN_HD float bf16_to_fp32(uint16_t b) { return bits_to_float(static_cast<uint32_t>(b) << 16); }

HRUN_HD uint16_t fp32_to_bf16(float value) {
  const uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    return static_cast<uint16_t>((bits >> 16) | 0x40u);  // keep NaN a NaN
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace hrun
