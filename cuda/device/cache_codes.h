// The layout of the codes of a block of 64 positions in a page on the device, and how codes become
// levels.
//
// A position's codes follow each other by dimension, as fields of 2, 4 or 8 bits.  A field is the
// whole code of rtq2, rtq4 and rtq8, and it is m of rtq3 and rtq5.  The u of these two are a plane
// of single bits behind the fields of all positions.  64 fp16 scales follow.  A unit is 16
// dimensions, whose fields are one, two or four words.  A thread turns them into levels and needs
// no more than the end of the unit before.
#pragma once

#include "backend/cache.h"
#include "cuda/device/math.h"
#include "formats/cache_codes.h"

namespace hrun::gpu {

inline constexpr int kBlockPositions = static_cast<int>(kPagePositions);
inline constexpr int kUnitDims = 16;

// A page's part that the trellis reads by: sorted levels of the type.
struct CacheLevelBytes {
  int8_t v[64];
};
inline CacheLevelBytes cache_levels(CacheType type) {
  CacheLevelBytes out{};
  const auto copy = [&](const auto& table) { memcpy(out.v, table.values, sizeof table.values); };
  if (type == CacheType::rtq5) copy(CacheLevels<5>::kTable);
  if (type == CacheType::rtq4) copy(CacheLevels<4>::kTable);
  if (type == CacheType::rtq3) copy(CacheLevels<3>::kTable);
  if (type == CacheType::rtq2) copy(CacheLevels<2>::kTable);
  return out;
}

HRUN_HD int field_bits(CacheType type) {
  return type == CacheType::rtq8 ? 8 : type == CacheType::rtq5 || type == CacheType::rtq4 ? 4 : 2;
}
HRUN_HD bool has_plane(CacheType type) {
  return type == CacheType::rtq5 || type == CacheType::rtq3;
}

// Keys or values of a head in a page.
struct CodedBlock {
  CacheType type;
  int dim;
  HRUN_HD int fields_bytes() const { return dim * field_bits(type) / 8; }  // of a position
  HRUN_HD int plane_at() const { return kBlockPositions * fields_bytes(); }
  HRUN_HD int scales_at() const {
    return plane_at() + (has_plane(type) ? kBlockPositions * dim / 8 : 0);
  }
  HRUN_HD int bytes() const { return scales_at() + kBlockPositions * 2; }
};

// Moves four fields of f bits to the low bits of four bytes.
HRUN_HD uint32_t spread_nibbles(uint32_t x) {
  x = (x | x << 8) & 0x00ff00ffu;
  return (x | x << 4) & 0x0f0f0f0fu;
}
HRUN_HD uint32_t spread_pairs(uint32_t x) {
  x = (x | x << 12) & 0x000f000fu;
  return (x | x << 6) & 0x03030303u;
}
HRUN_HD uint32_t spread_bits(uint32_t x) { return (x * 0x00204081u) & 0x01010101u; }

HRUN_HD uint32_t load_word(const uint8_t* p) { return *reinterpret_cast<const uint32_t*>(p); }
HRUN_HD uint32_t load_short(const uint8_t* p) { return *reinterpret_cast<const uint16_t*>(p); }

// The levels of unit `unit` of a position, four to a word.  table: cache_levels() in shared memory.
HRUN_HD void levels_of_unit(const uint8_t* block, CodedBlock shape, int position, int unit,
                            const int8_t* table, uint32_t (&levels)[4]) {
  const int bits = field_bits(shape.type);
  const uint8_t* const fields =
      block + position * shape.fields_bytes() + unit * (kUnitDims / 8) * bits;
  if (bits == 8) {
#pragma unroll
    for (int j = 0; j < 4; ++j) levels[j] = load_word(fields + 4 * j);
    return;
  }
  const bool plane = has_plane(shape.type);
  const uint8_t* const ones =
      block + shape.plane_at() + position * (shape.dim / 8) + unit * (kUnitDims / 8);
  // The last two u of the unit before, in the upper bytes.
  uint32_t before = 0;
  if (unit > 0) {
    if (plane)
      before = spread_bits(load_short(ones - 2) >> 12);
    else
      before = (bits == 4 ? spread_nibbles(load_word(fields - 4) >> 16)
                          : spread_pairs(load_word(fields - 4) >> 24)) &
               0x01010101u;
  }
  const uint32_t low = load_word(fields), high = bits == 4 ? load_word(fields + 4) : 0,
                 us = plane ? load_short(ones) : 0;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const uint32_t four = bits == 4
                              ? spread_nibbles((j < 2 ? low : high) >> (16 * (j % 2)) & 0xffff)
                              : spread_pairs(low >> (8 * j) & 0xff);
    const uint32_t u = plane ? spread_bits(us >> (4 * j) & 15) : four & 0x01010101u,
                   m = plane ? four << 2 : four << 1 & 0x1c1c1c1cu;
    const uint32_t one = u << 8 | before >> 24, two = u << 16 | before >> 16;
    const uint32_t index = m | (u ^ two) << 1 | one;
    before = u;
    const auto level = [&](int i) {
      return static_cast<uint32_t>(static_cast<uint8_t>(table[index >> (8 * i) & 63])) << (8 * i);
    };
    levels[j] = level(0) | level(1) | level(2) | level(3);
  }
}

// Writes a position's codes, from the last dimension to the first.
class CodeWriter {
 public:
  HRUN_HD CodeWriter(uint8_t* block, CodedBlock shape, int position)
      : bits_(field_bits(shape.type)),
        plane_(has_plane(shape.type)),
        fields_(block + position * shape.fields_bytes()),
        ones_(block + shape.plane_at() + position * (shape.dim / 8)) {}

  HRUN_HD void put(int t, int code) {
    const auto field = static_cast<uint32_t>(plane_ ? code >> 1 : code) & ((1u << bits_) - 1);
    word_ = word_ << bits_ | field;
    us_ = us_ << 1 | (static_cast<uint32_t>(code) & 1);
    const int in_word = 32 / bits_;
    if (t % in_word == 0) *reinterpret_cast<uint32_t*>(fields_ + t * bits_ / 8) = word_;
    if (plane_ && t % kUnitDims == 0)
      *reinterpret_cast<uint16_t*>(ones_ + t / 8) = static_cast<uint16_t>(us_);
  }

 private:
  int bits_;
  bool plane_;
  uint8_t *fields_, *ones_;
  uint32_t word_ = 0, us_ = 0;
};

// The rotation of cached keys and values (cpp/cpu/kernels/cache_rotation.h) by one thread, value i
// at x[i * step]: the CPU's order, so its bits.
HRUN_HD void rotate_column(float* x, int step, int dim) {
  const int piece = dim & -dim, n_pieces = dim / piece;
  for (int half = 1; half < piece; half *= 2)
    for (int i = 0; i < dim; i += 2 * half)
      for (int j = i; j < i + half; ++j) {
        float &low = x[j * step], &high = x[(j + half) * step];
        const float a = low, b = high;
        low = a + b;
        high = a - b;
      }
  const float factor = 1.0f / square_root(static_cast<float>(piece));
  for (int i = 0; i < dim; ++i) x[i * step] *= factor;
  if (n_pieces == 1) return;
  const float reflection = 2.0f / static_cast<float>(n_pieces);
  for (int i = 0; i < piece; ++i) {
    float sum = x[i * step];
    for (int m = 1; m < n_pieces; ++m) sum += x[(m * piece + i) * step];
    sum *= reflection;
    for (int m = 0; m < n_pieces; ++m) x[(m * piece + i) * step] -= sum;
  }
}
// The same of a row in shared memory, by a warp.
HRUN_HD void rotate_row(float* x, int dim) {
  const int piece = dim & -dim, n_pieces = dim / piece;
  sync_warp();
  for (int half = 1; half < piece; half *= 2) {
    for (int pair = lane(); pair < dim / 2; pair += kWarp) {
      const int at = pair / half * 2 * half + pair % half;
      const float a = x[at], b = x[at + half];
      x[at] = a + b;
      x[at + half] = a - b;
    }
    sync_warp();
  }
  const float factor = 1.0f / square_root(static_cast<float>(piece));
  for (int i = lane(); i < dim; i += kWarp) x[i] *= factor;
  sync_warp();
  if (n_pieces == 1) return;
  const float reflection = 2.0f / static_cast<float>(n_pieces);
  for (int i = lane(); i < piece; i += kWarp) {
    float sum = x[i];
    for (int m = 1; m < n_pieces; ++m) sum += x[m * piece + i];
    sum *= reflection;
    for (int m = 0; m < n_pieces; ++m) x[m * piece + i] -= sum;
  }
  sync_warp();
}

}  // namespace hrun::gpu
