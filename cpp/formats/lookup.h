// Sixteen look-ups in a table of at most sixteen bytes at once: one byte shuffle where the CPU has
// it.
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
HRUN_HD void operator+=(Lookups& a, const Lookups& b) {
  for (int i = 0; i < kLookups; ++i) a.v[i] = static_cast<uint8_t>(a.v[i] + b.v[i]);
}
HRUN_HD Lookups look_up(const Lookups& table, const Lookups& index) {
  Lookups r;
  for (int i = 0; i < kLookups; ++i) r.v[i] = table.v[index.v[i]];
  return r;
}
#else
typedef uint8_t Lookups __attribute__((vector_size(kLookups)));
HRUN_HD Lookups look_up(Lookups table, Lookups index) {
  return __builtin_shuffle(table, index);
}  // index below 16
#endif

HRUN_HD Lookups load_lookups(const uint8_t* from) {
  Lookups v;
  memcpy(&v, from, sizeof v);
  return v;
}

HRUN_HD void store_lookups(int8_t* to, const Lookups& v) { memcpy(to, &v, sizeof v); }

// A table of `entries` int8 values; the rest is 0.
HRUN_HD Lookups lookup_table(const int8_t* values, int entries) {
  uint8_t bytes[kLookups] = {};
  for (int i = 0; i < entries; ++i) bytes[i] = static_cast<uint8_t>(values[i]);
  return load_lookups(bytes);
}

// Eight k-bit codes, the first in the lowest bits of k bytes, one per byte.
template <int k>
HRUN_HD Bytes8 spread_codes(const uint8_t* packed) {
  Bytes8 v = 0;
  for (int i = 0; i < k; ++i) v |= static_cast<Bytes8>(packed[i]) << (8 * i);
  constexpr Bytes8 kCode = (1u << k) - 1;
  v = (v | v << (32 - 4 * k)) &
      (((Bytes8{1} << 4 * k) - 1) * 0x0000000100000001ull);  // four codes per 32 bits
  v = (v | v << (16 - 2 * k)) &
      (((Bytes8{1} << 2 * k) - 1) * 0x0001000100010001ull);  // two per 16 bits
  return (v | v << (8 - k)) & (kCode * 0x0101010101010101ull);
}

}  // namespace hrun
