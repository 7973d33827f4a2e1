// Sixteen look-ups at once in a table of at most sixteen bytes, one byte shuffle where the CPU has
// it, or of thirty-two.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/host_device.h"
#include "formats/bytes.h"

namespace hrun {

inline constexpr int kLookups = 16;

#if defined(__CUDACC__)
// Device compilers have no vectors; kernels that want speed have their own byte permutations.
struct Lookups {
  uint8_t v[kLookups];
};
HRUN_HD Lookups operator^(const Lookups& a, const Lookups& b) {
  Lookups r;
  for (int i = 0; i < kLookups; ++i) r.v[i] = a.v[i] ^ b.v[i];
  return r;
}
HRUN_HD Lookups operator|(const Lookups& a, const Lookups& b) {
  Lookups r;
  for (int i = 0; i < kLookups; ++i) r.v[i] = a.v[i] | b.v[i];
  return r;
}
HRUN_HD Lookups operator<<(const Lookups& a, int bits) {
  Lookups r;
  for (int i = 0; i < kLookups; ++i) r.v[i] = static_cast<uint8_t>(a.v[i] << bits);
  return r;
}
HRUN_HD Lookups operator>>(const Lookups& a, int bits) {
  Lookups r;
  for (int i = 0; i < kLookups; ++i) r.v[i] = static_cast<uint8_t>(a.v[i] >> bits);
  return r;
}
HRUN_HD void operator+=(Lookups& a, const Lookups& b) {
  for (int i = 0; i < kLookups; ++i) a.v[i] = static_cast<uint8_t>(a.v[i] + b.v[i]);
}
HRUN_HD Lookups look_up(const Lookups& table, const Lookups& index) {
  Lookups r;
  for (int i = 0; i < kLookups; ++i) r.v[i] = table.v[index.v[i] % kLookups];
  return r;
}
HRUN_HD Lookups look_up(const Lookups& low, const Lookups& high, const Lookups& index) {
  Lookups r;
  for (int i = 0; i < kLookups; ++i)
    r.v[i] = index.v[i] < kLookups ? low.v[index.v[i]] : high.v[index.v[i] - kLookups];
  return r;
}
#else
typedef uint8_t Lookups __attribute__((vector_size(kLookups)));
HRUN_HD Lookups look_up(Lookups table, Lookups index) {
  return __builtin_shuffle(table, index);
}  // by the lower four bits
HRUN_HD Lookups look_up(Lookups low, Lookups high, Lookups index) {
  return __builtin_shuffle(low, high, index);
}  // index below 32
#endif

HRUN_HD Lookups load_lookups(const uint8_t* from) {
  Lookups v;
  memcpy(&v, from, sizeof v);
  return v;
}

HRUN_HD void store_lookups(int8_t* to, const Lookups& v) { memcpy(to, &v, sizeof v); }

// A table of kEntries int8 values, at most 32; what a shuffle reads beyond them is 0.
template <int kEntries>
struct LookupTable {
  Lookups low, high;
  HRUN_HD explicit LookupTable(const int8_t* values) {
    uint8_t bytes[2 * kLookups] = {};
    for (int i = 0; i < kEntries; ++i) bytes[i] = static_cast<uint8_t>(values[i]);
    low = load_lookups(bytes);
    high = load_lookups(bytes + kLookups);
  }
  HRUN_HD Lookups operator[](const Lookups& index) const {
    if constexpr (kEntries <= kLookups)
      return look_up(low, index);
    else
      return look_up(low, high, index);
  }
};

// Eight k-bit codes, the first in the lowest bits of k bytes, one per byte.
template <int k>
HRUN_HD Bytes8 spread_codes(const uint8_t* packed) {
  Bytes8 v = 0;
  for (int i = 0; i < k; ++i) v |= static_cast<Bytes8>(packed[i]) << (8 * i);
  // The upper half of each field goes to the upper half of one of twice the width.  Above 4 bits it
  // would meet the lower half on its way there, which is therefore cut out first.
  const auto spread = [](Bytes8 codes, int width, Bytes8 lower) {
    const int shift = width - k * width / 8;
    if constexpr (k <= 4)
      return (codes | codes << shift) & (lower | lower << width);
    else
      return (codes & lower) | (codes << shift & lower << width);
  };
  v = spread(v, 32, (Bytes8{1} << 4 * k) - 1);                            // four codes per 32 bits
  v = spread(v, 16, ((Bytes8{1} << 2 * k) - 1) * 0x0000000100000001ull);  // two per 16 bits
  return spread(v, 8, ((Bytes8{1} << k) - 1) * 0x0001000100010001ull);
}

}  // namespace hrun
