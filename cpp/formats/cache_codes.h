// Codes of cached keys and values: a trellis of four states at 2 to 5 bits, or int8.
//
// A vector of d values, rotated (cpu/kernels/cache_rotation.h), is d codes and one scale.  A code
// of b bits is c_t = 2 m_t + u_t, u_t one bit, and its level is entry
//
//   4 m_t + 2 (u_t xor u_(t-2)) + u_(t-1)
//
// of a table of 2^(b+1) sorted levels (Ungerboeck's trellis in one dimension); u before the first
// code is 0.  Relative squared error on N(0,1) 0.0869, 0.0236, 0.0063 and 0.0017 at 2 to 5 bits,
// where scalar codes have 0.1148, 0.0330, 0.0090.
//
// Levels were trained for N(0,1) by Lloyd rounds over the best paths, and rounded to int8.
#pragma once

#include <cstdint>

#include "base/host_device.h"

namespace hrun {

// Positions at a sequence's beginning that coded caches keep as they are: attention leans on them.
inline constexpr int kExactPositions = 4;
// A stored scale is this many times the scale of a level, so that fp16 holds small ones precisely.
inline constexpr float kCacheScaleUnit = 64;

template <int kCount>
struct CacheLevelTable {
  int8_t values[kCount];
};

// The levels of codes of kBits bits.  kPerSigma: levels per standard deviation of the coded
// numbers.
template <int kBits>
struct CacheLevels;
template <>
struct CacheLevels<2> {
  static constexpr float kPerSigma = 67.888275f;
  static constexpr CacheLevelTable<8> kTable = {{-127, -72, -43, -12, 12, 43, 72, 127}};
};
template <>
struct CacheLevels<3> {
  static constexpr float kPerSigma = 50.829384f;
  static constexpr CacheLevelTable<16> kTable = {
      {-127, -91, -69, -53, -40, -27, -17, -5, 5, 17, 27, 40, 53, 69, 91, 127}};
};
template <>
struct CacheLevels<4> {
  static constexpr float kPerSigma = 39.90264f;
  static constexpr CacheLevelTable<32> kTable = {
      {-127, -102, -86, -74, -65, -57, -50, -44, -38, -32, -27, -22, -17, -12, -7,  -2,
       2,    7,    12,  17,  22,  27,  32,  38,  44,  50,  57,  65,  74,  86,  102, 127}};
};
template <>
struct CacheLevels<5> {
  static constexpr float kPerSigma = 34.121254f;
  static constexpr CacheLevelTable<64> kTable = {
      {-127, -109, -97, -88, -81, -75, -70, -65, -61, -57, -54, -51, -48, -44, -42, -39,
       -36,  -33,  -31, -28, -26, -24, -21, -19, -17, -14, -12, -10, -8,  -5,  -3,  -1,
       1,    3,    5,   8,   10,  12,  14,  17,  19,  21,  24,  26,  28,  31,  33,  36,
       39,   42,   44,  48,  51,  54,  57,  61,  65,  70,  75,  81,  88,  97,  109, 127}};
};

}  // namespace hrun
