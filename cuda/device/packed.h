// Weights as the fast matmuls read them.
//
// A chunk is 16 rows and 256 columns.  A warp decodes one chunk at a time, straight into the A
// fragments of m16n8k32 (lane l = 4 g + q holds rows g and g + 8).  A row tile of a matrix is its
// chunks in the order of the columns.  A chunk is
//
//   codes   kLoads runs of 512 bytes, 16 bytes per lane: word w of a lane is component w % 4 of run
//           w / 4
//   scales  of the 16 rows, kScaleBytes
//
// Product number s of a chunk, s = 0 ... 7, takes columns in one of two orders.
//
//   natural      columns 32 s ... 32 s + 31, of which a lane has 4 q + j and 16 + 4 q + j
//                (j = 0 ... 3, bytes of a register)
//   transposed   columns i + 16 r for i = 2 s and 2 s + 1 and all r, of which a lane has
//                r = 4 q + j.  So byte j of a lane's registers runs along 16 neighbouring columns,
//                and the codes before a code are those of the step before: a trellis needs no
//                shifts but where one run meets the next.  The activations of a block are the
//                transposed 16 x 16 bytes.
//
// Rows beyond the matrix and columns beyond a row have zero codes and scales.
#pragma once

#include "cuda/device/thread.h"
#include "formats/list.h"

namespace hrun::gpu {

inline constexpr int kTileRows = 16;
inline constexpr int kChunkColumns = 256;

// The rule by which a format is packed and decoded.  To make a format fast: a specialisation of
// this, and of Decoder (decoder.h).
//   kLoads, kScaleBytes
//   kTransposed      the order of the columns
//   kGroup           columns per scale: 256, 32 or 16
//   pack_row(row, cols, chunk_index, row_of_tile, chunk)
//                    the share of one row of a chunk; row: as in the file, or null
template <class F>
struct Packed;

template <class F>
inline constexpr int kChunkBytes = 512 * Packed<F>::kLoads + Packed<F>::kScaleBytes;

template <class F>
HRUN_HD int64_t n_chunks(int64_t cols) {
  return (cols + kChunkColumns - 1) / kChunkColumns;
}

// Word `index` of the lane that holds row `row` of the tile.
HRUN_HD uint8_t* word_of_lane(uint8_t* chunk, int lane_index, int index) {
  return chunk + 512 * (index / 4) + 16 * lane_index + 4 * (index % 4);
}

HRUN_HD void store_u16(uint8_t* to, uint32_t value) {
  *reinterpret_cast<uint16_t*>(to) = static_cast<uint16_t>(value);
}
HRUN_HD void store_u32(uint8_t* to, uint32_t value) { *reinterpret_cast<uint32_t*>(to) = value; }

// Trellis codes are nibbles: four runs of row g in the lower half of a word and four of row g + 8
// in the upper half.
//
//   k = 4   word i: step i
//   k = 3   words 3 u ... 3 u + 2: steps 4 u ... 4 u + 2; bit 3 of their nibbles are bits 0 ... 2
//           of step 4 u + 3
//   k = 2   word i: steps 2 i (lower bits of the nibble) and 2 i + 1
//   k = 5   words 0 ... 15: step i without the fifth bits; word 16 + u: bit j of a nibble is the
//           fifth bit of step 4 u + j
//   k = 6   words 0 ... 15: step i without the upper two bits; word 16 + u: bits 2 j and 2 j + 1 of
//           a nibble are those of step 2 u + j
template <class F>
struct PackedRtq {
  static constexpr int kLoads = F::kCodeBits;
  static constexpr int kScaleBytes = 32;  // fp16 of rows g and g + 8 in word g
  static constexpr bool kTransposed = true;
  static constexpr int kGroup = 256;

  static HRUN_HD void pack_row(const uint8_t* row, int64_t cols, int64_t index, int row_of_tile,
                               uint8_t* chunk) {
    constexpr int k = F::kCodeBits;
    const int g = row_of_tile % 8, half = row_of_tile / 8;
    const uint8_t* const block = row ? row + static_cast<size_t>(index) * F::kBlockBytes : nullptr;
    const int n = row ? block_length<F>(cols, index) : 0;
    store_u16(chunk + 512 * kLoads + 4 * g + 2 * half, row ? block[0] | block[1] << 8 : 0);
    for (int q = 0; q < 4; ++q) {
      // The codes of step i, or what is above their lower four bits.
      const auto bits_of_step = [&](int i, int above) {
        uint32_t nibbles = 0;
        for (int j = 0; j < 4; ++j) {
          const int t = 16 * (4 * q + j) + i;
          if (t < n) nibbles |= ((F::code_at(block + 2, t) >> above) & 15u) << (4 * j);
        }
        return nibbles;
      };
      const auto step = [&](int i) { return bits_of_step(i, 0); };
      const auto store = [&](int word, uint32_t nibbles) {
        store_u16(word_of_lane(chunk, 4 * g + q, word) + 2 * half, nibbles);
      };
      if constexpr (k >= 4) {
        for (int i = 0; i < 16; ++i) store(i, step(i));
        for (int u = 0; k == 5 && u < 4; ++u) {
          uint32_t fifth = 0;
          for (int j = 0; j < 4; ++j) fifth |= bits_of_step(4 * u + j, 4) << j;
          store(16 + u, fifth);
        }
        for (int u = 0; k == 6 && u < 8; ++u)
          store(16 + u, bits_of_step(2 * u, 4) | bits_of_step(2 * u + 1, 4) << 2);
      } else if constexpr (k == 2) {
        for (int i = 0; i < 8; ++i) store(i, step(2 * i) | step(2 * i + 1) << 2);
      } else {
        for (int u = 0; u < 4; ++u) {
          const uint32_t spread = step(4 * u + 3);
          for (int v = 0; v < 3; ++v)
            store(3 * u + v, step(4 * u + v) | ((spread >> v) & 0x1111u) << 3);
        }
      }
    }
  }
};
template <>
struct Packed<RTQ2> : PackedRtq<RTQ2> {};
template <>
struct Packed<RTQ3> : PackedRtq<RTQ3> {};
template <>
struct Packed<RTQ4> : PackedRtq<RTQ4> {};
template <>
struct Packed<RTQ5> : PackedRtq<RTQ5> {};
template <>
struct Packed<RTQ6> : PackedRtq<RTQ6> {};

}  // namespace hrun::gpu
