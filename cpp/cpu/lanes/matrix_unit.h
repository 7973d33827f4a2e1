// The matrix unit of a CPU: eight registers ("tiles") of 16 rows of 64 bytes, and the product of
// two of them.  Tiles 0 to 3 are sums, 4 and 5 first operands, 6 and 7 second ones: the number of
// rows of the first (and so of the sums), and of bytes in these, may be less.  Source: Intel SDM
// volume 1, chapter "Programming with Intel AMX"; volume 2, TDPBSUD.
//
// AmxTiles is the instructions, EmulatedTiles their definition in plain C++, for tests on machines
// without them.  A tier without a matrix unit has NoTiles.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/host_device.h"

namespace hrun {
namespace {

inline constexpr int kTileRows = 16;
inline constexpr int kTileRowBytes = 64;

struct NoTiles {
  static constexpr bool kUsable = false;
};

class EmulatedTiles {
 public:
  static constexpr bool kUsable = true;

  explicit EmulatedTiles(int rows = kTileRows, int bytes = kTileRowBytes)
      : rows_(rows), bytes_(bytes) {}

  template <int tile>
  void zero() {
    memset(tiles_[tile], 0, sizeof tiles_[tile]);
  }
  template <int tile>
  void load(const void* from, ptrdiff_t stride) {
    for (int r = 0; r < rows_of(tile); ++r)
      memcpy(tiles_[tile][r], static_cast<const char*>(from) + r * stride, bytes_of(tile));
  }
  template <int tile>
  void store(void* to, ptrdiff_t stride) const {
    for (int r = 0; r < rows_of(tile); ++r)
      memcpy(static_cast<char*>(to) + r * stride, tiles_[tile][r], kTileRowBytes);
  }
  // sums[m, n] += sum over k, i of signed a[m, 4 k + i] times unsigned b[k, 4 n + i]; sums are
  // int32 [16, 16].
  template <int sums, int a, int b>
  void multiply() {
    for (int m = 0; m < rows_of(sums); ++m)
      for (int n = 0; n < kTileRowBytes / 4; ++n) {
        int32_t sum;
        memcpy(&sum, tiles_[sums][m] + 4 * n, sizeof sum);
        for (int k = 0; k < bytes_ / 4; ++k)
          for (int i = 0; i < 4; ++i)
            sum += static_cast<int8_t>(tiles_[a][m][4 * k + i]) * tiles_[b][k][4 * n + i];
        memcpy(tiles_[sums][m] + 4 * n, &sum, sizeof sum);
      }
  }

 private:
  int rows_of(int tile) const { return tile < 6 ? rows_ : bytes_ / 4; }
  size_t bytes_of(int tile) const {
    return static_cast<size_t>(tile == 4 || tile == 5 ? bytes_ : kTileRowBytes);
  }

  int rows_, bytes_;
  uint8_t tiles_[8][kTileRows][kTileRowBytes] = {};
};

#if defined(__AMX_INT8__)

// The registers hold state from construction to destruction; the process must have the system's
// permission (tiers.cpp). In assembly, because GCC's intrinsics want the numbers of tiles as
// literals.
class AmxTiles {
 public:
  static constexpr bool kUsable = true;

  explicit AmxTiles(int rows = kTileRows, int bytes = kTileRowBytes) {
    struct {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    static_assert(sizeof config == 64);
    for (int i = 0; i < 8; ++i) {
      config.row_bytes[i] = static_cast<uint16_t>(i == 4 || i == 5 ? bytes : kTileRowBytes);
      config.rows[i] = static_cast<uint8_t>(i < 6 ? rows : bytes / 4);
    }
    asm volatile("ldtilecfg %0" : : "m"(config));
  }
  ~AmxTiles() { asm volatile("tilerelease"); }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;

  template <int tile>
  HRUN_HD void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(tile));
  }
  template <int tile>
  HRUN_HD void load(const void* from, ptrdiff_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(tile) : "memory");
  }
  template <int tile>
  HRUN_HD void store(void* to, ptrdiff_t stride) const {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(tile) : "memory");
  }
  template <int sums, int a, int b>
  HRUN_HD void multiply() {
    asm volatile("tdpbsud %%tmm%c0, %%tmm%c1, %%tmm%c2" : : "i"(b), "i"(a), "i"(sums));
  }
};
using MatrixTiles = AmxTiles;

// One product against its definition: a unit that computes anything else is not used.
bool tiles_compute_right() {
  alignas(64) int8_t a[kTileRows][kTileRowBytes];
  alignas(64) uint8_t b[kTileRows][kTileRowBytes];
  for (int r = 0; r < kTileRows; ++r)
    for (int i = 0; i < kTileRowBytes; ++i) {
      a[r][i] = static_cast<int8_t>(29 * r + 7 * i - 128);
      b[r][i] = static_cast<uint8_t>(13 * r + 31 * i + 5);
    }
  const auto product = [&](auto& tiles, int32_t(&out)[kTileRows][kTileRows]) {
    tiles.template load<1>(a, kTileRowBytes);
    tiles.template load<2>(b, kTileRowBytes);
    tiles.template zero<0>();
    tiles.template multiply<0, 1, 2>();
    tiles.template multiply<0, 1, 2>();
    tiles.template store<0>(out, sizeof out[0]);
  };
  int32_t wanted[kTileRows][kTileRows], found[kTileRows][kTileRows];
  EmulatedTiles definition;
  product(definition, wanted);
  AmxTiles unit;
  product(unit, found);
  return memcmp(wanted, found, sizeof wanted) == 0;
}

// Repeats products on registers, for measurements.  Returns the number of operations done.
int64_t multiply_tiles_kernel(int64_t iterations) {
  AmxTiles unit;
  unit.zero<0>(), unit.zero<1>(), unit.zero<2>(), unit.zero<3>();
  alignas(64) uint8_t ones[kTileRows][kTileRowBytes];
  memset(ones, 1, sizeof ones);
  unit.load<4>(ones, kTileRowBytes), unit.load<5>(ones, kTileRowBytes);
  unit.load<6>(ones, kTileRowBytes), unit.load<7>(ones, kTileRowBytes);
  for (int64_t n = 0; n < iterations; ++n) {
    unit.multiply<0, 4, 6>();
    unit.multiply<1, 4, 7>();
    unit.multiply<2, 5, 6>();
    unit.multiply<3, 5, 7>();
  }
  return iterations * 4 * kTileRows * kTileRows * kTileRowBytes * 2;
}

#else
using MatrixTiles = NoTiles;
#endif

}  // namespace
}  // namespace hrun
