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
// In memory, a byte has codes of several vectors, in the order in which a table is looked up with
// the fewest operations (FourLevels).
//
//   rtq2  of four vectors, c_t from the lowest bits on
//   rtq3  of two vectors m_t, u_t, u_(t+1), m_(t+1), in 6 bits.  Of eight vectors the last two have
//         no byte of their own: m_6, m_7, and u_6 with u_7 are the upper bits of the other three.
//   rtq4  of two vectors m_t, u_t, u_(t+1), m_(t+1)
//   rtq5  of two vectors m_t, m_(t+1); then a plane with u_t of eight vectors
//   rtq8  of one
//
// 64 fp16 scales follow.
#pragma once

#include "backend/cache.h"
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

// Three bytes have the codes of eight vectors of rtq3.
inline constexpr int kEightBytes = 3 * kLaneBytes;
HRUN_HD const uint8_t* eight_vectors(const uint8_t* codes, size_t v) {
  return codes + v / 8 * kEightBytes;
}

// u of vector v.
template <int kBits>
HRUN_HD ByteLanes last_bits(const uint8_t* codes, int dim, int v) {
  const auto bit = [](const uint8_t* at, int i) { return byte_field(load_byte_lanes(at), i, 1); };
  if constexpr (kBits == 2) return bit(codes + v / 4 * kLaneBytes, v % 4 * 2);
  if constexpr (kBits == 3) {
    const uint8_t* const at = eight_vectors(codes, static_cast<size_t>(v));
    return v % 8 < 6 ? bit(at + v % 8 / 2 * kLaneBytes, 2 + v % 2)
                     : bit(at + 2 * kLaneBytes, v % 8);
  }
  if constexpr (kBits == 4) return bit(codes + v / 2 * kLaneBytes, 3 + v % 2);
  return bit(codes + dim * kLaneBytes / 2 + v / 8 * kLaneBytes, v % 8);
}

// 4 m + 2 u and u of eight vectors from v on, a multiple of 8.
template <int kBits>
struct EightVectors {
  ByteLanes twice[8], u[8];

  HRUN_HD EightVectors(const uint8_t* codes, int dim, int v) {
    const auto bytes = [&](int i) { return load_byte_lanes(codes + i * kLaneBytes); };
    if constexpr (kBits == 2) {
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const ByteLanes x = bytes(v / 4 + i);
        put(4 * i, byte_bits<-1>(x, 6), byte_bits<0>(x, 1));
        put(4 * i + 1, byte_bits<1>(x, 6), byte_bits<2>(x, 1));
        put(4 * i + 2, byte_bits<3>(x, 6), byte_bits<4>(x, 1));
        put(4 * i + 3, byte_bits<5>(x, 6), byte_bits<6>(x, 1));
      }
    } else if constexpr (kBits == 3) {
      const uint8_t* const at = eight_vectors(codes, static_cast<size_t>(v));
      const ByteLanes x = load_byte_lanes(at), y = load_byte_lanes(at + kLaneBytes),
                      z = load_byte_lanes(at + 2 * kLaneBytes);
      put_pair<2>(0, x), put_pair<2>(2, y), put_pair<2>(4, z);
      put_pair<2>(6, add(add(byte_bits<6>(x, 3), byte_bits<2>(y, 48)), byte_bits<4>(z, 12)));
    } else if constexpr (kBits == 4) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) put_pair<3>(2 * i, bytes(v / 2 + i));
    } else {
      const ByteLanes ones = load_byte_lanes(codes + dim * kLaneBytes / 2 + v / 8 * kLaneBytes);
      take_bits(ones);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const ByteLanes x = bytes(v / 2 + i);
        add_m(2 * i, byte_bits<-2>(x, 60)), add_m(2 * i + 1, byte_bits<2>(x, 60));
      }
    }
  }

 private:
  HRUN_HD void put(int i, ByteLanes both, ByteLanes ones) { twice[i] = both, u[i] = ones; }
  HRUN_HD void add_m(int i, ByteLanes m) { twice[i] = add(m, add(u[i], u[i])); }
  // m of kM bits, u, u, m
  template <int kM>
  HRUN_HD void put_pair(int i, ByteLanes x) {
    constexpr int kMask = ((1 << kM) - 1) << 2;
    u[i] = byte_bits<kM>(x, 1), u[i + 1] = byte_bits<kM + 1>(x, 1);
    add_m(i, byte_bits<-2>(x, kMask)), add_m(i + 1, byte_bits<kM>(x, kMask));
  }
  HRUN_HD void take_bits(ByteLanes x) {
    u[0] = byte_bits<0>(x, 1), u[1] = byte_bits<1>(x, 1), u[2] = byte_bits<2>(x, 1);
    u[3] = byte_bits<3>(x, 1), u[4] = byte_bits<4>(x, 1), u[5] = byte_bits<5>(x, 1);
    u[6] = byte_bits<6>(x, 1), u[7] = byte_bits<7>(x, 1);
  }
};

// The level of m, u_t, u_(t-1) and u_(t-2), given the places of these in an index.
struct IndexPlaces {
  int m, u, one, two;
};
inline constexpr int kNowhere = 8;  // it is in u already
template <int kBits, IndexPlaces at>
constexpr LevelBytes window_levels() {
  LevelBytes out{};
  for (int i = 0; i < 64; ++i) {
    const int m = i >> at.m & ((1 << (kBits - 1)) - 1), u = i >> at.u & 1, one = i >> at.one & 1,
              two = i >> at.two & 1;
    out.v[i] = static_cast<uint8_t>(CacheLevels<kBits>::kTable.values[4 * m + 2 * (u ^ two) + one]);
  }
  return out;
}

// Bytes from a block to those whose codes are fetched while it is read: that of the next to the
// first-level cache, that after it to the second, which has more lines under way.  They are in
// other pages, where the processor's own prefetching does not look.
struct CodesAhead {
  ptrdiff_t next = 0, later = 0;

  HRUN_HD void fetch(const uint8_t* p) const {
    __builtin_prefetch(p + next, 0, 3);
    __builtin_prefetch(p + later, 0, 2);
  }
};

// Makes the levels of four vectors at a time.  Stretches must be multiples of four vectors.
//
// A table is read by the bits as they lie in the bytes: m, u_t, u_(t-1), u_(t-2).  For the most
// part they are neighbours already.  Where a look-up in a table of 64 is one instruction, each has
// a place in the index, and the bits above them are ignored, because the table repeats.  Else
// u_(t-2) is added to u_t without carry, so that tables are half as long.
template <int kBits, bool kKeys>
class FourLevels {
 public:
  HRUN_HD FourLevels(const uint8_t* codes, int dim, int bias, CodesAhead ahead = {})
      : codes_(codes),
        steps_(static_cast<size_t>(stretch_steps<kKeys>(dim))),
        ahead_(ahead),
        low_(kLow.v, bias),
        high_(kHigh.v, bias) {}

  // Those from vector i on, a multiple of 4, of the stretch that begins at vector `first`.
  HRUN_HD void operator()(size_t first, size_t i, ByteLanes (&to)[4]) const {
    const size_t v = first + i, before = i == 0 ? v + steps_ - 4 : v - 4;  // the four before these
    if constexpr (kBits == 2) {
      const ByteLanes x = fetch(codes_ + v / 4 * kLaneBytes),
                      p = ends(load_byte_lanes(codes_ + before / 4 * kLaneBytes), i);
      to[0] = low_(select_bits<15>(shift_bytes<4>(p), shift_bytes<-4>(x)));
      to[1] = low_(select_bits<3>(shift_bytes<6>(p), shift_bytes<-2>(x)));
      to[2] = low_(x);
      to[3] = low_(shift_bytes<2>(x));
    } else if constexpr (kBits == 3) {
      const uint8_t* const at = eight_vectors(codes_, v);
      const ByteLanes p = ends(last_of_three(before), i), y = load_byte_lanes(at + kLaneBytes);
      if (v % 8 == 0) {
        const ByteLanes x = fetch(at);
        pair(x, p, to), pair(y, x, to + 2);
        ahead_.fetch(at + kLaneBytes);
      } else {
        const ByteLanes x = load_byte_lanes(at), z = fetch(at + 2 * kLaneBytes);
        pair(z, p, to);
        // m_6, u_6, u_7, m_7
        pair(select_bits<3>(shift_bytes<6>(x),
                            select_bits<12>(shift_bytes<4>(z), shift_bytes<2>(y))),
             z, to + 2);
      }
    } else {
      const uint8_t* const at = codes_ + v / 2 * kLaneBytes;
      const ByteLanes x = fetch(at), y = fetch(at + kLaneBytes),
                      p = ends(load_byte_lanes(codes_ + (before / 2 + 1) * kLaneBytes), i);
      pair(x, p, to), pair(y, x, to + 2);
    }
  }

 private:
  static constexpr int kM = kBits - 1;  // bits of m
  static constexpr int kEntries = kWideLookup ? 64 : 2 << kBits;
  // IndexPlaces of m, u_t, u_(t-1), u_(t-2) in an index.
  static constexpr IndexPlaces kLowPlaces = kBits == 2    ? IndexPlaces{5, 4, 2, 0}
                                            : kWideLookup ? IndexPlaces{0, kM, kM + 2, kM + 1}
                                                          : IndexPlaces{0, kM, kM + 1, kNowhere},
                               kHighPlaces = {2, 1, 0, kWideLookup ? kM + 2 : kNowhere};
  static constexpr LevelBytes kLow = window_levels<kBits, kLowPlaces>(),
                              kHigh = window_levels<kBits, kHighPlaces>();

  HRUN_HD ByteLanes fetch(const uint8_t* p) const {
    ahead_.fetch(p);
    return load_byte_lanes(p);
  }
  // The codes before the first of a stretch are at the end of another.
  static HRUN_HD ByteLanes ends(ByteLanes x, size_t i) {
    return i == 0 ? stretch_before<kKeys>(x) : x;
  }
  // A byte with u of the last two of the four vectors from v on, at their places.
  HRUN_HD ByteLanes last_of_three(size_t v) const {
    const uint8_t* const at = eight_vectors(codes_, v);
    return v % 8 == 0 ? load_byte_lanes(at + kLaneBytes)
                      : shift_bytes<4>(load_byte_lanes(at + 2 * kLaneBytes));
  }
  // Two vectors of a byte of codes.
  HRUN_HD void pair(ByteLanes x, ByteLanes before, ByteLanes* to) const {
    if constexpr (kWideLookup) {
      const ByteLanes ones = shift_bytes<-1>(before);
      to[0] = low_(select_bits<(2 << kM) - 1>(x, ones));
      to[1] = high_(select_bits<(4 << kM) - 1>(shift_bytes<kM>(x), ones));
    } else {
      const ByteLanes low = byte_bits<0>(x, (2 << kM) - 1), last = byte_bits<0>(before, 2 << kM);
      to[0] = low_(xor_all(low, byte_bits<0>(before, 3 << kM), splat_byte(0)));
      to[1] = high_(byte_bits<kM>(xor_all(x, last, splat_byte(0)), (4 << kM) - 1));
    }
  }

  const uint8_t* codes_;
  size_t steps_;
  CodesAhead ahead_;
  ByteLookup<kEntries> low_, high_;  // of the first and the second of a pair
};
template <bool kKeys>
class FourLevels<8, kKeys> {
 public:
  HRUN_HD FourLevels(const uint8_t* codes, int /*dim*/, int bias, CodesAhead ahead = {})
      : codes_(codes), ahead_(ahead), more_(splat_byte(bias)) {}
  HRUN_HD void operator()(size_t first, size_t i, ByteLanes (&to)[4]) const {
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; ++j) {
      const uint8_t* const at = codes_ + (first + i + j) * kLaneBytes;
      ahead_.fetch(at);
      to[j] = add(load_byte_lanes(at), more_);
    }
  }

 private:
  const uint8_t* codes_;
  CodesAhead ahead_;
  ByteLanes more_;
};
template <bool kKeys>
HRUN_HD bool has_four_levels(CacheType type, int dim) {
  return kWideLookup && is_coded(type) && type != CacheType::rtq5 &&
         stretch_steps<kKeys>(dim) % 4 == 0;
}
// Calls f<bits>() for a type of which that may be true.
template <class Function>
HRUN_HD void call_with_four_levels(CacheType type, Function&& f) {
  if constexpr (kWideLookup) {
    switch (type) {
      case CacheType::rtq8:
        return f.template operator()<8>();
      case CacheType::rtq4:
        return f.template operator()<4>();
      case CacheType::rtq3:
        return f.template operator()<3>();
      default:
        return f.template operator()<2>();
    }
  }
}

template <int kBits, bool kKeys>
[[gnu::noinline]] void levels_of_trellis(const uint8_t* codes, int dim, int bias, uint8_t* levels) {
  if constexpr (kBits == 3 || kBits == 4 || (kWideLookup && kBits == 2))
    if (stretch_steps<kKeys>(dim) % 4 == 0) {
      const FourLevels<kBits, kKeys> four(codes, dim, bias);
      const auto steps = static_cast<size_t>(stretch_steps<kKeys>(dim));
      ByteLanes found[4];
      for (size_t first = 0; first < static_cast<size_t>(dim); first += steps)
        for (size_t i = 0; i < steps; i += 4) {
          four(first, i, found);
#pragma GCC unroll 4
          for (size_t j = 0; j < 4; ++j) store(levels + (first + i + j) * kLaneBytes, found[j]);
        }
      return;
    }
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

// Makes bytes for the places 0 .. n - 1 of a plane: f(code, byte) gives byte of it, where code(v)
// is that of vector v.
template <class Function>
void pack_bytes(const uint8_t* vectors, int n, uint8_t* plane, Function&& f) {
  for (int at = 0; at < n; ++at)
    for (int i = 0; i < kLaneBytes; ++i)
      plane[at * kLaneBytes + i] =
          static_cast<uint8_t>(f([&](int v) { return int{vectors[v * kLaneBytes + i]}; }, at));
}

// Puts the codes of vectors where they stay.
inline __attribute__((always_inline)) void pack_codes(CacheType type, const uint8_t* vectors,
                                                      int dim, uint8_t* to) {
  // m of kM bits, u, u, m
  const auto pair = [](int c, int d, int m_bits) {
    return c >> 1 | (c & 1) << m_bits | d << (m_bits + 1);
  };
  switch (type) {
    case CacheType::rtq8:
      memcpy(to, vectors, static_cast<size_t>(dim) * kLaneBytes);
      break;
    case CacheType::rtq5:
      pack_bytes(vectors, dim / 2, to, [](auto&& code, int at) {
        return code(2 * at) >> 1 | code(2 * at + 1) >> 1 << 4;
      });
      pack_bytes(vectors, dim / 8, to + dim * kLaneBytes / 2, [](auto&& code, int at) {
        int ones = 0;
        for (int k = 0; k < 8; ++k) ones |= (code(8 * at + k) & 1) << k;
        return ones;
      });
      break;
    case CacheType::rtq4:
      pack_bytes(vectors, dim / 2, to,
                 [&](auto&& code, int at) { return pair(code(2 * at), code(2 * at + 1), 3); });
      break;
    case CacheType::rtq3:
      pack_bytes(vectors, dim / 8 * 3, to, [&](auto&& code, int at) {
        const int v = at / 3 * 8, k = at % 3, c = code(v + 6), d = code(v + 7);
        const int more = k == 0 ? c >> 1 : k == 1 ? d >> 1 : (c & 1) | (d & 1) << 1;
        return pair(code(v + 2 * k), code(v + 2 * k + 1), 2) | more << 6;
      });
      break;
    case CacheType::rtq2:
      pack_bytes(vectors, dim / 4, to, [](auto&& code, int at) {
        int fours = 0;
        for (int k = 0; k < 4; ++k) fours |= code(4 * at + k) << (2 * k);
        return fours;
      });
      break;
    default:
      break;
  }
}

}  // namespace
}  // namespace hrun
