// Random numbers of the tests that do not need good ones: xorshift, the same in every run.
#pragma once

#include <cmath>
#include <cstdint>

inline uint32_t random_state = 1;
inline uint32_t random_bits() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 17;
  return random_state ^= random_state << 5;
}
// 24 random bits with a sign, times 2^exponent.
inline float random_float(int exponent) {
  return std::ldexp(static_cast<float>(static_cast<int32_t>(random_bits()) >> 8), exponent);
}
