// Sixty-four bytes, four per lane, in plain loops: for tiers without byte shuffles of their own
// here, and the definition of what the others compute.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/lanes/lanes.h"

namespace hrun {
namespace {

inline constexpr int kLaneBytes = 64;
inline constexpr bool kWideLookup = false;  // of 64 bytes in one instruction?
// The bias that is added to levels of keys, so that products take them: 128 where products want
// unsigned bytes.
inline constexpr int kKeyBias = 0;

struct ByteLanes {
  uint8_t v[kLaneBytes];
};

template <class Function>
HRUN_HD ByteLanes each_byte(Function&& f) {
  ByteLanes out;
  for (int i = 0; i < kLaneBytes; ++i) out.v[i] = static_cast<uint8_t>(f(i));
  return out;
}

HRUN_HD ByteLanes load_byte_lanes(const uint8_t* p) {
  ByteLanes out;
  memcpy(&out, p, sizeof out);
  return out;
}
HRUN_HD void store(uint8_t* p, ByteLanes x) { memcpy(p, &x, sizeof x); }
// (each byte >> from) & mask
HRUN_HD ByteLanes byte_field(ByteLanes x, int from, int mask) {
  return each_byte([&](int i) { return (x.v[i] >> from) & mask; });
}
// (each byte >> from) & mask, or << -from; the mask has no bits that come from beyond the byte.
template <int from>
HRUN_HD ByteLanes byte_bits(ByteLanes x, int mask) {
  return each_byte([&](int i) { return (from < 0 ? x.v[i] << -from : x.v[i] >> from) & mask; });
}
// Each byte >> n, or << -n.  Places for which a byte has no bits may get any.
template <int n>
HRUN_HD ByteLanes shift_bytes(ByteLanes x) {
  return each_byte([&](int i) { return n < 0 ? x.v[i] << -n : x.v[i] >> n; });
}
// Takes the bits of `yes` where the mask has ones, else those of `no`.
template <int mask>
HRUN_HD ByteLanes select_bits(ByteLanes yes, ByteLanes no) {
  return each_byte([&](int i) { return (yes.v[i] & mask) | (no.v[i] & ~mask); });
}
// a + b per byte
HRUN_HD ByteLanes add(ByteLanes a, ByteLanes b) {
  return each_byte([&](int i) { return a.v[i] + b.v[i]; });
}
HRUN_HD ByteLanes xor_all(ByteLanes a, ByteLanes b, ByteLanes c) {
  return each_byte([&](int i) { return a.v[i] ^ b.v[i] ^ c.v[i]; });
}
HRUN_HD ByteLanes splat_byte(int x) {
  return each_byte([&](int) { return x; });
}
// Byte 4 l + j takes byte 4 (l - 1) + j; lane 0 gets zeros.
HRUN_HD ByteLanes from_lane_before(ByteLanes x) {
  return each_byte([&](int i) { return i < 4 ? 0 : x.v[i - 4]; });
}
// Byte 4 l + j takes byte 4 l + j - 1; byte 0 of a lane gets zero.
HRUN_HD ByteLanes from_byte_before(ByteLanes x) {
  return each_byte([&](int i) { return i % 4 == 0 ? 0 : x.v[i - 1]; });
}

// Looks up entries of a table of kEntries bytes.
template <int kEntries>
struct ByteLookup {
  uint8_t table[64];
  // `more` is added to each.
  HRUN_HD ByteLookup(const uint8_t (&entries)[64], int more) {
    for (int i = 0; i < 64; ++i) table[i] = static_cast<uint8_t>(entries[i] + more);
  }
  HRUN_HD ByteLanes operator()(ByteLanes index) const {
    return each_byte([&](int i) { return table[index.v[i] & (kEntries - 1)]; });
  }
};

// 64 numbers; those below 0 become 0, those above 255 become 255.
HRUN_HD void store_uint8(uint8_t* p, const IntLanes (&x)[4]) {
  int32_t v[4 * kLanes];
  memcpy(v, &x, sizeof v);
  for (int l = 0; l < 4 * kLanes; ++l)
    p[l] = static_cast<uint8_t>(v[l] < 0 ? 0 : v[l] > 255 ? 255 : v[l]);
}

// sums[l] + the products of a lane's four levels (and kKeyBias) and four int8 of a query.
HRUN_HD void add_key_products(IntLanes& sums, ByteLanes levels, const int32_t& query) {
  int32_t s[kLanes];
  memcpy(s, &sums, sizeof s);
  for (int l = 0; l < kLanes; ++l)
    for (int j = 0; j < 4; ++j)
      s[l] += static_cast<int8_t>(levels.v[4 * l + j]) * static_cast<int8_t>(query >> 8 * j);
  memcpy(&sums, s, sizeof s);
}
// sums[l] + the products of a lane's four levels and four weights of 0 to 255.
HRUN_HD void add_value_products(IntLanes& sums, ByteLanes levels, const int32_t& weights) {
  int32_t s[kLanes];
  memcpy(s, &sums, sizeof s);
  for (int l = 0; l < kLanes; ++l)
    for (int j = 0; j < 4; ++j)
      s[l] += static_cast<int8_t>(levels.v[4 * l + j]) * static_cast<uint8_t>(weights >> 8 * j);
  memcpy(&sums, s, sizeof s);
}

}  // namespace
}  // namespace hrun
