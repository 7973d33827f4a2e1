// The layout of the codes of a block of 64 positions in a page, and how codes become levels.
//
// A block of d dimensions is d vectors of 64 codes.  A vector of keys is 16 positions with four
// codes each: lane p, byte j, step i is dimension j d/4 + i of position p, and the vectors of 16
// positions follow each other.  A vector of values is four positions: lane l, byte j, step i is
// dimension l d/16 + i of position j, and the vectors of four positions follow each other.  So the
// products of int8 kernels need no sums across lanes, and the codes before a code are in the
// vectors before it.  The codes before the beginning of a stretch are at the end of the stretch
// before, one byte or one lane further.
//
// In memory, codes are planes.  With 4 bits, two vectors share 64 bytes; with 2 bits four do, and
// with 1 bit eight.  Codes of 3 bits are m in two bits and u in one; codes of 5 bits are m in four
// and u in one.  64 fp16 scales follow.
#pragma once

#include "cpu/lanes/math.h"
#include "formats/cache_codes.h"
#include HRUN_BYTES  // the tier's, named in tiers.cmake

namespace hrun {
namespace {

// The bytes of a block, without its scales, which follow.
HRUN_HD size_t codes_bytes(CacheType type, int dim) {
  return static_cast<size_t>(dim) * kAttentionBlock * static_cast<size_t>(cache_code_bits(type)) /
         8;
}

// Levels of all vectors of a block: [d][64] bytes.  `bias` is added to each.
using LevelsOfBlock = void (*)(const uint8_t* codes, int dim, int bias, uint8_t* levels);

template <bool kKeys>
HRUN_HD ByteLanes stretch_before(ByteLanes x) {
  if constexpr (kKeys)
    return from_byte_before(x);
  else
    return from_lane_before(x);
}
template <bool kKeys>
HRUN_HD int stretch_steps(int dim) {
  return kKeys ? dim / 4 : dim / kLanes;
}

struct LevelBytes {
  uint8_t v[64];
};
template <int kBits>
constexpr LevelBytes sorted_levels() {
  LevelBytes out{};
  for (int i = 0; i < 2 << kBits; ++i)
    out.v[i] = static_cast<uint8_t>(CacheLevels<kBits>::kTable.values[i]);
  return out;
}

// u of vector v.
template <int kBits>
HRUN_HD ByteLanes last_bits(const uint8_t* codes, int dim, int v) {
  constexpr bool kOneField = kBits == 2 || kBits == 4;
  constexpr int kPerByte = kOneField ? 8 / kBits : 8;
  const uint8_t* const plane = kOneField ? codes : codes + dim * kLaneBytes / (kBits == 3 ? 4 : 2);
  return byte_field(load_byte_lanes(plane + v / kPerByte * kLaneBytes),
                    v % kPerByte * (8 / kPerByte), 1);
}

// 4 m + 2 u and u of eight vectors from v on, a multiple of 8.
template <int kBits>
struct EightVectors {
  ByteLanes twice[8], u[8];

  HRUN_HD EightVectors(const uint8_t* codes, int dim, int v) {
    if constexpr (kBits == 2 || kBits == 4) {
      constexpr int kPerByte = 8 / kBits, kMask = (2 << kBits) - 2;
#pragma GCC unroll 4
      for (int first = 0; first < 8; first += kPerByte) {
        const ByteLanes x = load_byte_lanes(codes + (v + first) / kPerByte * kLaneBytes);
        take<kMask, 1>(x, twice + first), take_u(x, u + first);
      }
    } else {
      constexpr int kPerByte = kBits == 3 ? 4 : 2, kMask = kBits == 3 ? 12 : 60;
      const uint8_t* const ones = codes + dim * kLaneBytes / kPerByte;
      const ByteLanes bits = load_byte_lanes(ones + v / 8 * kLaneBytes);
      take_bits(bits);
#pragma GCC unroll 4
      for (int first = 0; first < 8; first += kPerByte) {
        const ByteLanes x = load_byte_lanes(codes + (v + first) / kPerByte * kLaneBytes);
        take_m<kPerByte, kMask>(x, twice + first);
      }
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) twice[i] = xor_all(twice[i], add(u[i], u[i]), splat_byte(0));
    }
  }

 private:
  // The fields of a byte, shifted `up` from their place in an index of one.
  template <int kMask, int up>
  static HRUN_HD void take(ByteLanes x, ByteLanes* to) {
    to[0] = byte_bits<-up>(x, kMask);
    to[1] = byte_bits<kBits - up>(x, kMask);
    if constexpr (kBits == 2) {
      to[2] = byte_bits<2 * kBits - up>(x, kMask);
      to[3] = byte_bits<3 * kBits - up>(x, kMask);
    }
  }
  static HRUN_HD void take_u(ByteLanes x, ByteLanes* to) {
    to[0] = byte_bits<0>(x, 1);
    to[1] = byte_bits<kBits>(x, 1);
    if constexpr (kBits == 2) {
      to[2] = byte_bits<4>(x, 1);
      to[3] = byte_bits<6>(x, 1);
    }
  }
  template <int kPerByte, int kMask>
  static HRUN_HD void take_m(ByteLanes x, ByteLanes* to) {
    constexpr int kField = 8 / kPerByte;
    to[0] = byte_bits<-2>(x, kMask);
    to[1] = byte_bits<kField - 2>(x, kMask);
    if constexpr (kPerByte == 4) {
      to[2] = byte_bits<2 * kField - 2>(x, kMask);
      to[3] = byte_bits<3 * kField - 2>(x, kMask);
    }
  }
  HRUN_HD void take_bits(ByteLanes x) {
    u[0] = byte_bits<0>(x, 1), u[1] = byte_bits<1>(x, 1), u[2] = byte_bits<2>(x, 1);
    u[3] = byte_bits<3>(x, 1), u[4] = byte_bits<4>(x, 1), u[5] = byte_bits<5>(x, 1);
    u[6] = byte_bits<6>(x, 1), u[7] = byte_bits<7>(x, 1);
  }
};

// Where a look-up in a table of 64 is one instruction, the table is read by the bits as they lie in
// the planes: m, u_t, u_(t-1), u_(t-2).  For the most part they are neighbours already.  The bits
// above them are ignored, because the table repeats.  Stretches must not begin in the middle of a
// byte of codes.
template <int kBits>
HRUN_HD bool has_windows(int steps) {
  return kWideLookup && (kBits == 4   ? steps % 2 == 0
                         : kBits == 3 ? steps % 8 == 0 || steps == 4
                                      : kBits == 2 && steps % 4 == 0);
}
// The level of m, u_t, u_(t-1) and u_(t-2), given the places of these in an index.
template <int kBits>
constexpr LevelBytes window_levels() {
  LevelBytes out{};
  for (int i = 0; i < 64; ++i) {
    const int m = kBits == 4 ? i >> 1 & 7 : kBits == 3 ? i >> 3 & 3 : i >> 5;
    const int u = kBits == 4 ? i & 1 : kBits == 3 ? i >> 2 & 1 : i >> 4 & 1;
    const int one = kBits == 4 ? i >> 4 & 1 : kBits == 3 ? i >> 1 & 1 : i >> 2 & 1;
    const int two = kBits == 4 ? i >> 5 : i & 1;
    out.v[i] = static_cast<uint8_t>(CacheLevels<kBits>::kTable.values[4 * m + 2 * (u ^ two) + one]);
  }
  return out;
}

// Makes four or two vectors of one byte of codes x; `before` are the bytes before.
HRUN_HD void windows_of_pairs(const ByteLookup<64>& lookup, ByteLanes x, ByteLanes before,
                              uint8_t* levels) {
  store(levels, lookup(select_bits<15>(x, select_bits<16>(before, shift_bytes<-5>(before)))));
  store(levels + kLaneBytes,
        lookup(select_bits<15>(shift_bytes<4>(x),
                               select_bits<16>(shift_bytes<-4>(x), shift_bytes<-1>(before)))));
}
HRUN_HD void windows_of_fours(const ByteLookup<64>& lookup, ByteLanes x, ByteLanes before,
                              uint8_t* levels) {
  store(levels, lookup(select_bits<15>(shift_bytes<4>(before), shift_bytes<-4>(x))));
  store(levels + kLaneBytes, lookup(select_bits<3>(shift_bytes<6>(before), shift_bytes<-2>(x))));
  store(levels + 2 * kLaneBytes, lookup(x));
  store(levels + 3 * kLaneBytes, lookup(shift_bytes<2>(x)));
}
// Makes four of the eight vectors whose u are in `ones`, from bit kFirst on; m of the four are in
// `twos`.  Where kBegins, the first two of them follow the bytes `before`.
template <int kFirst, bool kBegins>
HRUN_HD void windows_of_planes(const ByteLookup<64>& lookup, ByteLanes ones, ByteLanes before,
                               ByteLanes twos, uint8_t* levels) {
  const auto put = [&](int i, ByteLanes u, ByteLanes m) {
    store(levels + i * kLaneBytes, lookup(select_bits<7>(u, m)));
  };
  if constexpr (kBegins) {
    put(0, select_bits<3>(shift_bytes<6>(before), shift_bytes<kFirst - 2>(ones)),
        shift_bytes<-3>(twos));
    put(1, select_bits<1>(shift_bytes<7>(before), shift_bytes<kFirst - 1>(ones)),
        shift_bytes<-1>(twos));
  } else {
    put(0, shift_bytes<kFirst - 2>(ones), shift_bytes<-3>(twos));
    put(1, shift_bytes<kFirst - 1>(ones), shift_bytes<-1>(twos));
  }
  put(2, shift_bytes<kFirst>(ones), shift_bytes<1>(twos));
  put(3, shift_bytes<kFirst + 1>(ones), shift_bytes<3>(twos));
}

template <int kBits, bool kKeys>
HRUN_HD void levels_by_windows(const uint8_t* codes, int dim, int bias, uint8_t* levels) {
  static constexpr LevelBytes kLevels = window_levels<kBits>();
  const ByteLookup<64> lookup(kLevels.v, bias);
  const int steps = stretch_steps<kKeys>(dim);
  if constexpr (kBits != 3) {
    constexpr int kPerByte = 8 / kBits;
    const int bytes = steps / kPerByte;
    for (int first = 0; first < dim; first += steps) {
      const uint8_t* const from = codes + first / kPerByte * kLaneBytes;
      uint8_t* to = levels + first * kLaneBytes;
      ByteLanes before = stretch_before<kKeys>(load_byte_lanes(from + (bytes - 1) * kLaneBytes));
      for (int i = 0; i < bytes; ++i, to += kPerByte * kLaneBytes) {
        const ByteLanes x = load_byte_lanes(from + i * kLaneBytes);
        if constexpr (kBits == 4)
          windows_of_pairs(lookup, x, before, to);
        else
          windows_of_fours(lookup, x, before, to);
        before = x;
      }
    }
  } else {
    const uint8_t* const planes = codes + dim * kLaneBytes / 4;
    const auto eight = [&](int v, auto&& store_eight) {
      store_eight(load_byte_lanes(planes + v / 8 * kLaneBytes),
                  load_byte_lanes(codes + v / 4 * kLaneBytes),
                  load_byte_lanes(codes + (v / 4 + 1) * kLaneBytes), levels + v * kLaneBytes);
    };
    if (steps == 4) {
      for (int v = 0; v < dim; v += 8)
        eight(v, [&](ByteLanes ones, ByteLanes low, ByteLanes high, uint8_t* to) {
          const ByteLanes ends = stretch_before<kKeys>(ones);
          windows_of_planes<0, true>(lookup, ones, shift_bytes<-4>(ends), low, to);
          windows_of_planes<4, true>(lookup, ones, ends, high, to + 4 * kLaneBytes);
        });
      return;
    }
    for (int first = 0; first < dim; first += steps) {
      ByteLanes before =
          stretch_before<kKeys>(load_byte_lanes(planes + (first + steps - 8) / 8 * kLaneBytes));
      for (int v = first; v < first + steps; v += 8)
        eight(v, [&](ByteLanes ones, ByteLanes low, ByteLanes high, uint8_t* to) {
          windows_of_planes<0, true>(lookup, ones, before, low, to);
          windows_of_planes<4, false>(lookup, ones, before, high, to + 4 * kLaneBytes);
          before = ones;
        });
    }
  }
}

template <int kBits, bool kKeys>
[[gnu::noinline]] void levels_of_trellis(const uint8_t* codes, int dim, int bias, uint8_t* levels) {
  if constexpr (kWideLookup && kBits <= 4)
    if (has_windows<kBits>(stretch_steps<kKeys>(dim)))
      return levels_by_windows<kBits, kKeys>(codes, dim, bias, levels);
  constexpr int kEntries = 2 << kBits;
  static constexpr LevelBytes kLevels = sorted_levels<kBits>();
  const ByteLookup<kEntries> lookup(kLevels.v, bias);
  const int steps = stretch_steps<kKeys>(dim);
  ByteLanes before = splat_byte(0), twice_two = before;  // u_(t-1), 2 u_(t-2)
  for (int v = 0, left = 0; v < dim; v += 8) {
    const EightVectors<kBits> code(codes, dim, v);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      if (left == 0) {  // another stretch begins
        left = steps;
        before = stretch_before<kKeys>(last_bits<kBits>(codes, dim, v + i + steps - 1));
        const ByteLanes two =
            steps > 1 ? stretch_before<kKeys>(last_bits<kBits>(codes, dim, v + i + steps - 2))
                      : stretch_before<kKeys>(before);
        twice_two = add(two, two);
      }
      --left;
      store(levels + (v + i) * kLaneBytes, lookup(xor_all(code.twice[i], twice_two, before)));
      twice_two = add(before, before);
      before = code.u[i];
    }
  }
}

[[gnu::noinline]] void levels_of_bytes(const uint8_t* codes, int dim, int bias, uint8_t* levels) {
  const ByteLanes more = splat_byte(bias);
  for (int v = 0; v < dim; ++v)
    store(levels + v * kLaneBytes, add(load_byte_lanes(codes + v * kLaneBytes), more));
}

template <bool kKeys>
LevelsOfBlock levels_of(CacheType type) {
  switch (type) {
    case CacheType::rtq8:
      return levels_of_bytes;
    case CacheType::rtq5:
      return levels_of_trellis<5, kKeys>;
    case CacheType::rtq4:
      return levels_of_trellis<4, kKeys>;
    case CacheType::rtq3:
      return levels_of_trellis<3, kKeys>;
    case CacheType::rtq2:
      return levels_of_trellis<2, kKeys>;
    default:
      return nullptr;
  }
}

// Turns codes [d][64 positions] into vectors of keys or values, in place of `vectors` [d][64].
template <bool kKeys>
void arrange_codes(const uint8_t* codes, int dim, uint8_t* vectors) {
  const int steps = stretch_steps<kKeys>(dim);
  if constexpr (kKeys) {
    for (int group = 0; group < kAttentionBlock / kLanes; ++group)
      for (int i = 0; i < steps; ++i) {
        uint8_t* const to = vectors + (group * steps + i) * kLaneBytes;
        for (int j = 0; j < 4; ++j) {
          const uint8_t* const from = codes + (j * steps + i) * kAttentionBlock + group * kLanes;
          for (int p = 0; p < kLanes; ++p) to[4 * p + j] = from[p];
        }
      }
  } else {
    for (int group = 0; group < kAttentionBlock / 4; ++group)
      for (int i = 0; i < steps; ++i)
        for (int l = 0; l < kLanes; ++l)
          memcpy(vectors + (group * steps + i) * kLaneBytes + 4 * l,
                 codes + (l * steps + i) * kAttentionBlock + 4 * group, 4);
  }
}

// Puts bits from .. from + kBits - 1 of each code of d vectors into a plane.
template <int kBits>
void pack_plane(const uint8_t* vectors, int dim, int from, uint8_t* plane) {
  constexpr int kPerByte = 8 / kBits, kMask = (1 << kBits) - 1;
  for (int v = 0; v < dim; v += kPerByte) {
    uint8_t* const to = plane + v / kPerByte * kLaneBytes;
    for (int i = 0; i < kLaneBytes; ++i) {
      int byte = 0;
      for (int k = 0; k < kPerByte; ++k)
        byte |= (vectors[(v + k) * kLaneBytes + i] >> from & kMask) << (k * kBits);
      to[i] = static_cast<uint8_t>(byte);
    }
  }
}

// Puts the codes of vectors where they stay.
inline __attribute__((always_inline)) void pack_codes(CacheType type, const uint8_t* vectors,
                                                      int dim, uint8_t* to) {
  switch (type) {
    case CacheType::rtq8:
      memcpy(to, vectors, static_cast<size_t>(dim) * kLaneBytes);
      break;
    case CacheType::rtq5:
      pack_plane<4>(vectors, dim, 1, to);
      pack_plane<1>(vectors, dim, 0, to + dim * kLaneBytes / 2);
      break;
    case CacheType::rtq4:
      pack_plane<4>(vectors, dim, 0, to);
      break;
    case CacheType::rtq3:
      pack_plane<2>(vectors, dim, 1, to);
      pack_plane<1>(vectors, dim, 0, to + dim * kLaneBytes / 4);
      break;
    case CacheType::rtq2:
      pack_plane<2>(vectors, dim, 0, to);
      break;
    default:
      break;
  }
}

}  // namespace
}  // namespace hrun
