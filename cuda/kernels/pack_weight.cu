// Packs rows as the file has them into the layout of the weight-domain product
// (device/weight_layout.h).
#include "base/error.h"
#include "cuda/device/weight_layout.h"
#include "cuda/kernels/matmul_weight.h"
#include "formats/rotation.h"

namespace hrun::gpu {
namespace {

// One warp per tile.
template <class F>
struct Pack {
  static constexpr int kThreads = 64, kBlocks = 1;
  static constexpr const char* kName = "pack_weight_domain";
  using Codes = TileCodes<F>;

  const uint8_t* from;  // of the rows first ... rows - 1
  size_t row_bytes;
  int64_t first, rows, cols;
  uint8_t* to;
  TileLayout layout;

  HRUN_HD const uint8_t* block_of(int64_t row, int64_t b) const {
    return from + static_cast<size_t>(row - first) * row_bytes +
           static_cast<size_t>(b) * F::kBlockBytes;
  }

  // The exponent e of a row: the largest finite scale is in [2^(e-1), 2^e).
  HRUN_HD int row_exponent(int64_t row) const {
    uint32_t largest = 0;
    if (row < rows)
      for (int64_t b = 0; b * kTileCols < cols; ++b) {
        const uint32_t bits = float_to_bits(load_fp16(block_of(row, b))) & 0x7fffffffu;
        if (bits < 0x7f800000u && bits > largest) largest = bits;
      }
    return largest == 0 ? 0 : static_cast<int>(largest >> 23) - 126;
  }
  static HRUN_HD float power_of_two(int e) {
    return bits_to_float(static_cast<uint32_t>(e + 127) << 23);
  }

  HRUN_HD void operator()() const {
    const int64_t tile =
        first / kTileRows + static_cast<int64_t>(block_x()) * (kThreads / kWarp) + warp();
    const int group = lane() / 4, quad = lane() % 4;
    const int64_t tile_row = tile * kTileRows;
    if (tile_row >= rows) return;
    const int exponents[2] = {row_exponent(tile_row + group), row_exponent(tile_row + group + 8)};
    auto* const row_scale = reinterpret_cast<float*>(to) + tile_row;
    uint8_t* const out = to + layout.first_tile + tile * layout.tile_bytes;
    if (quad == 0)
      for (int i = 0; i < 2; ++i) row_scale[group + 8 * i] = power_of_two(exponents[i] - 2);

    for (int64_t b = 0; b < layout.n_blocks; ++b) {
      uint8_t* const block = out + b * layout.block_bytes;
      uint32_t words[4 * Codes::kLoads] = {};
      uint32_t scale = 0;
      for (int i = 0; i < 2; ++i) {
        const int64_t row = tile_row + group + 8 * i;
        uint8_t integer_scales = 0;
        if (row < rows) {
          const uint8_t* const source = block_of(row, b);
          uint32_t mine[Codes::kRowWords];
          Codes::pack(source, quad, mine, &integer_scales);
          for (int w = 0; w < Codes::kRowWords; ++w) words[i * Codes::kRowWords + w] = mine[w];
          scale |=
              static_cast<uint32_t>(fp32_to_fp16(load_fp16(source) * power_of_two(-exponents[i])))
              << (16 * i);
        }
        if constexpr (Codes::kScaleBytes > 0)
          block[Codes::kLoads * 512 + 32 + 2 * lane() + i] = integer_scales;
      }
      for (int l = 0; l < Codes::kLoads; ++l)
        reinterpret_cast<Words4*>(block)[l * kWarp + lane()] = {
            {words[4 * l], words[4 * l + 1], words[4 * l + 2], words[4 * l + 3]}};
      if (quad == 0) reinterpret_cast<uint32_t*>(block + Codes::kLoads * 512)[group] = scale;
    }
    if (layout.tail_steps > 0)
      pack_tail(tile_row, exponents, out + layout.n_blocks * layout.block_bytes);
  }

  // Lanes 0 .. 15 pack a row each, in the order of its columns.
  HRUN_HD void pack_tail(int64_t tile_row, const int (&exponents)[2], uint8_t* out) const {
    const int r = lane() & 15, n = static_cast<int>(cols % kTileCols);
    const int low = static_cast<int>(shuffle_bits(static_cast<uint32_t>(exponents[0]), r % 8 * 4));
    const int high = static_cast<int>(shuffle_bits(static_cast<uint32_t>(exponents[1]), r % 8 * 4));
    if (lane() >= 16) return;
    const float unit = power_of_two(2 - (r < 8 ? low : high));
    float values[kTileCols] = {};
    if (tile_row + r < rows) {
      IntBlock ints;
      F::unpack(block_of(tile_row + r, layout.n_blocks), n, ints);
      to_floats<F>(ints, n, values);
      unrotate_block(values, 0, n, false);
    }
    for (int c = 0; c < layout.tail_steps * 16; ++c) {
      const int p = c % 16, word = (r / 8) + 2 * (p / 8), owner = r % 8 * 4 + p % 8 / 2;
      const uint16_t h = fp32_to_fp16(c < n ? values[c] * unit : 0.0f);
      memcpy(out + static_cast<size_t>(c / 16) * kTailStepBytes +
                 static_cast<size_t>(owner * 16 + word * 4 + p % 2 * 2),
             &h, sizeof h);
    }
  }
};

}  // namespace

size_t weight_domain_bytes(FormatId format, int64_t rows, int64_t cols) {
  size_t bytes = 0;
  TileFormats::visit(format, [&]<class F>() {
    if (rows > 0 && F::row_ok(cols)) bytes = TileLayout::of<F>(rows, cols).bytes();
  });
  return bytes;
}

void pack_weight_domain(Gpu& gpu, FormatId format, const uint8_t* from, size_t row_bytes,
                        int64_t first, int64_t n_rows, int64_t rows, int64_t cols, uint8_t* to) {
  const bool known = TileFormats::visit(format, [&]<class F>() {
    gpu.launch(
        Pack<F>{from, row_bytes, first, first + n_rows, cols, to, TileLayout::of<F>(rows, cols)},
        Grid{static_cast<int>((n_rows + 2 * kTileRows - 1) / (2 * kTileRows))});
  });
  if (!known) throw ArgumentError("format id {} has no kernel in the weight domain", format);
}

}  // namespace hrun::gpu
