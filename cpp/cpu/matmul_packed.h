// y[t, r] = <x[t], w[r]> over packed panels (packed.h), for tiers that have decoders for them (fast_<tier>.h).
//
// A tier gives its register types, a dozen operations on them and one decoder per kind of codes, which yields a unit of 32
// columns as 8 vectors of unsigned bytes.  A register holds kPartRows of a panel's 16 rows; the parts are done one after the
// other.  Up to 8 tokens, the vectors go straight from the decoder into the dot products: the weights are read once, at
// memory speed.  For more tokens a block is decoded into the first-level cache and multiplied tile by tile.
#pragma once

#include "cpu/packed.h"

namespace hrun {
namespace {

inline constexpr int kPanelParts = kPanelRows / kPartRows;
inline constexpr int kPartBytes = 4 * kPartRows;
inline constexpr int kTileRegisters = 2;  // of rows: panels or parts of one
inline constexpr int kTilePanels = kTileRegisters * kPartRows / kPanelRows;
static_assert(kTilePanels >= 1 && kPackedPanels % kTilePanels == 0);

template <class F>
struct UnitDecoder<F, PackedCodes::byte> {
  using Constants = NoTables;
  const uint8_t* unit;
  HRUN_HD UnitDecoder(const Constants&, const uint8_t* block, int) : unit(block) {}
  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
#pragma GCC unroll 8
    for (int i = 0; i < kUnitVectors; ++i) out[i] = load_codes(unit + 64 * i);
    unit += 512;
  }
};

// Can the tier multiply codes of this format exactly?
template <PackableFormat F>
constexpr bool codes_fit() {
  if constexpr (PackRule<F>::kCodes == PackedCodes::byte) return kMaxLevel >= 255;
  else if constexpr (PackRule<F>::kCodes == PackedCodes::six) return kMaxLevel >= 63;
  else if constexpr (PackRule<F>::kCodes == PackedCodes::rtq3) return kMaxLevel >= F::kLargestLevel + PackRule<F>::kBias;
  else return kMaxLevel >= PackRule<F>::kHighest;
}

// The bytes of 16 rows that belong to one part.
struct PartMeta {
  const uint8_t* scale;
  const uint8_t* offset;
  const uint8_t* group_scale;
  const uint8_t* group_offset;
};

template <PackableFormat F>
HRUN_HD PartMeta part_meta(const uint8_t* panel, int64_t b, int part) {
  using Layout = PanelLayout<F>;
  const uint8_t* meta = panel + static_cast<size_t>(b) * Layout::kMetaBytes;
  const int rows = part * kPartRows;
  return {meta + 2 * rows, meta + Layout::kOffsetAt + 2 * rows, meta + Layout::kGroupScaleAt + rows,
          meta + Layout::kGroupOffsetAt + 2 * rows};
}

HRUN_HD RowInts four_activations(const int8_t* p) {
  int32_t x;
  memcpy(&x, p, sizeof x);
  return all_rows(x);
}

// Sum over groups of offset * sum of x, exact.
template <PackableFormat F>
HRUN_HD RowInts offset_sums(const PartMeta& meta, const PackedActivations& x, int64_t t, int64_t b) {
  using Layout = PanelLayout<F>;
  if constexpr (!Layout::kGroups) {
    return all_rows(x.block_sums[t * x.n_blocks + b]);
  } else {
    const int16_t* sums = Layout::kScaleColumns == 32 ? x.sums32 + t * x.n_units + b * Layout::kGroupCount
                                                      : x.sums16 + t * 2 * x.n_units + b * Layout::kGroupCount;
    RowInts total = all_rows(0);
    for (int g = 0; g < Layout::kGroupCount; g += 2) {
      int32_t pair;
      memcpy(&pair, sums + g, sizeof pair);
      total = dot_offsets(total, meta.group_offset + g * kPanelRows, pair);
    }
    return total;
  }
}

// What the biased dot products of a block (or group) start from: -bias * sum of x.
template <PackableFormat F>
HRUN_HD RowInts start_of_group(const PackedActivations& x, int64_t t, int64_t b, int g) {
  using Layout = PanelLayout<F>;
  constexpr int kBias = PackRule<F>::kBias;
  if constexpr (kBias == 0) return all_rows(0);
  int32_t sum;
  if constexpr (!Layout::kGroups) sum = x.block_sums[t * x.n_blocks + b];
  else if constexpr (Layout::kScaleColumns == 32) sum = x.sums32[t * x.n_units + b * Layout::kGroupCount + g];
  else sum = x.sums16[t * 2 * x.n_units + b * Layout::kGroupCount + g];
  return all_rows(-kBias * sum);
}

// total = the running sum after block b: one or two fma, as the numeric contract has it.
template <PackableFormat F>
HRUN_HD RowFloats add_block_sum(RowFloats total, RowInts isum, const PartMeta& meta, const PackedActivations& x, int64_t t,
                                int64_t b) {
  const float dx = x.scale[t * x.n_blocks + b];
  total = fma_rows(scale_rows(load_halves(meta.scale), dx), isum, total);
  if constexpr (F::kHasOffset)
    total = fma_rows(negative(scale_rows(load_halves(meta.offset), dx)), offset_sums<F>(meta, x, t, b), total);
  return total;
}

// One part of a panel, kTokens tokens (those beyond n_tokens repeat the last and are thrown away).
template <PackableFormat F, int kTokens>
HRUN_HD void stream_part(const uint8_t* panel, int part, int64_t cols, const PackedActivations& x, int n_tokens, float* y,
                         int64_t y_stride, int n_rows) {
  using Layout = PanelLayout<F>;
  constexpr int kChains = kTokens == 1 ? 4 : kTokens == 2 ? 2 : 1;
  constexpr int kVectorsPerGroup = Layout::kScaleColumns == 16 ? 4 : 8;
  int64_t token[kTokens];
  RowFloats total[kTokens];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    token[t] = t < n_tokens ? t : n_tokens - 1;
    total[t] = zero_rows();
  }
  const typename UnitDecoder<F>::Constants constants;
  const uint8_t* codes = panel + Layout::codes_at(cols) + part * kPartBytes;
  for (int64_t b = 0; b < n_blocks<F>(cols); ++b) {
    const int n = block_length<F>(cols, b);
    const PartMeta meta = part_meta<F>(panel, b, part);
    UnitDecoder<F> decoder(constants, codes, n);
    RowInts acc[kTokens][kChains], isum[kTokens];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      isum[t] = all_rows(0);
#pragma GCC unroll 4
      for (int c = 0; c < kChains; ++c) acc[t][c] = c == 0 && !Layout::kGroups ? start_of_group<F>(x, token[t], b, 0) : isum[t];
    }
    for (int u = 0; u < n / kUnit; ++u) {
      CodeBytes w[kUnitVectors];
      decoder.next(w);
      // A panel is one stream; this far ahead covers the latency of memory at 20 GB/s a core.
      for (size_t line = 0; line < Layout::kUnitBytes; line += 64) __builtin_prefetch(decoder.unit + 4096 + line);
#pragma GCC unroll 8
      for (int i = 0; i < kUnitVectors; ++i) {
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) {
          const int g = u * kUnitVectors / kVectorsPerGroup + i / kVectorsPerGroup;
          if constexpr (Layout::kGroups) {
            if (i % kVectorsPerGroup == 0) {
              acc[t][0] = start_of_group<F>(x, token[t], b, g);
#pragma GCC unroll 4
              for (int c = 1; c < kChains; ++c) acc[t][c] = all_rows(0);
            }
          }
          const int8_t* xs = x.codes + token[t] * x.stride + b * F::kBlockValues + u * kUnit + 4 * i;
          acc[t][i % kChains] = dot_codes(acc[t][i % kChains], w[i], four_activations(xs));
          if constexpr (Layout::kGroups) {
            if (i % kVectorsPerGroup == kVectorsPerGroup - 1) {
              RowInts sum = acc[t][0];
#pragma GCC unroll 4
              for (int c = 1; c < kChains; ++c) sum = add_rows(sum, acc[t][c]);
              isum[t] = add_rows(isum[t], multiply_rows(sum, load_group_scales(meta.group_scale + g * kPanelRows)));
            }
          }
        }
      }
    }
    codes += static_cast<size_t>(n / kUnit) * Layout::kUnitBytes;
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      if constexpr (!Layout::kGroups) {
        isum[t] = acc[t][0];
#pragma GCC unroll 4
        for (int c = 1; c < kChains; ++c) isum[t] = add_rows(isum[t], acc[t][c]);
      }
      total[t] = add_block_sum<F>(total[t], isum[t], meta, x, token[t], b);
    }
  }
  const int first = part * kPartRows;
  alignas(64) float rows[kPartRows];
  for (int t = 0; t < n_tokens; ++t) {
    store_rows(rows, total[t]);
    for (int r = 0; r < kPartRows && first + r < n_rows; ++r) y[t * y_stride + first + r] = rows[r];
  }
}

template <PackableFormat F>
void stream_tokens(const uint8_t* panel, int64_t cols, const PackedActivations& x, float* y, int64_t y_stride, int n_rows) {
  const int n = static_cast<int>(x.n_tokens);
  for (int part = 0; part < kPanelParts; ++part) {
    if (n == 1) stream_part<F, 1>(panel, part, cols, x, n, y, y_stride, n_rows);
    else if (n == 2) stream_part<F, 2>(panel, part, cols, x, n, y, y_stride, n_rows);
    else if (n <= 4) stream_part<F, 4>(panel, part, cols, x, n, y, y_stride, n_rows);
    else if constexpr (kStreamTokens > 4) stream_part<F, 8>(panel, part, cols, x, n, y, y_stride, n_rows);
  }
}

// Block b of kTileRegisters decoded registers of rows times kTokens tokens from t on.
// decoded: [vector][register][kPartBytes]; acc: [token][register][kPartRows].
template <PackableFormat F, int kTokens>
HRUN_HD void multiply_tile(const uint8_t* decoded, const PartMeta (&meta)[kTileRegisters], int n, const PackedActivations& x,
                           int64_t t, int64_t b, float* acc) {
  using Layout = PanelLayout<F>;
  RowInts isum[kTokens][kTileRegisters], sum[kTokens][kTileRegisters];
#pragma GCC unroll 16
  for (int k = 0; k < kTokens; ++k)
#pragma GCC unroll 2
    for (int p = 0; p < kTileRegisters; ++p) isum[k][p] = all_rows(0);
  const int8_t* xs = x.codes + t * x.stride + b * F::kBlockValues;
  const uint8_t* w = decoded;
  const int groups = Layout::kGroups ? Layout::kGroupCount : 1, vectors = n / 4 / groups;
  for (int g = 0; g < groups; ++g) {
#pragma GCC unroll 16
    for (int k = 0; k < kTokens; ++k)
#pragma GCC unroll 2
      for (int p = 0; p < kTileRegisters; ++p) sum[k][p] = start_of_group<F>(x, t + k, b, g);
    for (int i = 0; i < vectors; ++i, xs += 4, w += kPartBytes * kTileRegisters) {
      CodeBytes weights[kTileRegisters];
#pragma GCC unroll 2
      for (int p = 0; p < kTileRegisters; ++p) weights[p] = load_codes(w + kPartBytes * p);
#pragma GCC unroll 16
      for (int k = 0; k < kTokens; ++k) {
        const RowInts four = four_activations(xs + k * x.stride);
#pragma GCC unroll 2
        for (int p = 0; p < kTileRegisters; ++p) sum[k][p] = dot_codes(sum[k][p], weights[p], four);
      }
    }
    if constexpr (Layout::kGroups) {
#pragma GCC unroll 2
      for (int p = 0; p < kTileRegisters; ++p) {
        const RowInts scale = load_group_scales(meta[p].group_scale + g * kPanelRows);
#pragma GCC unroll 16
        for (int k = 0; k < kTokens; ++k) isum[k][p] = add_rows(isum[k][p], multiply_rows(sum[k][p], scale));
      }
    }
  }
#pragma GCC unroll 16
  for (int k = 0; k < kTokens; ++k)
#pragma GCC unroll 2
    for (int p = 0; p < kTileRegisters; ++p) {
      float* const total = acc + ((t + k) * kTileRegisters + p) * kPartRows;
      store_rows(total, add_block_sum<F>(load_rows(total), Layout::kGroups ? isum[k][p] : sum[k][p], meta[p], x, t + k, b));
    }
}

// kTilePanels panels from first_panel on.
template <PackableFormat F>
void multiply_tokens(const PackedWeights& w, int64_t first_panel, const PackedActivations& x, float* y, int64_t y_stride,
                     float* acc) {
  using Layout = PanelLayout<F>;
  const int64_t last_panel = (w.rows - 1) / kPanelRows;
  memset(acc, 0, static_cast<size_t>(x.n_tokens) * kTileRegisters * kPartRows * sizeof(float));
  const uint8_t* panel[kTileRegisters];
  for (int p = 0; p < kTileRegisters; ++p) {  // a panel beyond the last is a copy of it, multiplied and not stored
    const int64_t wanted = first_panel + p / kPanelParts;
    panel[p] = w.data + static_cast<size_t>(wanted < last_panel ? wanted : last_panel) * w.panel_bytes;
  }
  alignas(64) uint8_t decoded[kTileRegisters * kMaxBlock / 4 * kPartBytes];
  const typename UnitDecoder<F>::Constants constants;
  size_t codes_at = Layout::codes_at(w.cols);
  for (int64_t b = 0; b < n_blocks<F>(w.cols); ++b) {
    const int n = block_length<F>(w.cols, b);
    PartMeta meta[kTileRegisters];
    for (int p = 0; p < kTileRegisters; ++p) {
      meta[p] = part_meta<F>(panel[p], b, p % kPanelParts);
      UnitDecoder<F> decoder(constants, panel[p] + codes_at + p % kPanelParts * kPartBytes, n);
      for (int u = 0; u < n / kUnit; ++u) {
        CodeBytes vectors[kUnitVectors];
        decoder.next(vectors);
#pragma GCC unroll 8
        for (int i = 0; i < kUnitVectors; ++i)
          store_codes(decoded + ((u * kUnitVectors + i) * kTileRegisters + p) * kPartBytes, vectors[i]);
      }
    }
    codes_at += static_cast<size_t>(n / kUnit) * Layout::kUnitBytes;
    int64_t t = 0;
    constexpr int kTokens = Layout::kGroups ? kGroupTileTokens : kTileTokens;
    for (; t + kTokens <= x.n_tokens; t += kTokens) multiply_tile<F, kTokens>(decoded, meta, n, x, t, b, acc);
    for (; t + 4 <= x.n_tokens; t += 4) multiply_tile<F, 4>(decoded, meta, n, x, t, b, acc);
    for (; t < x.n_tokens; ++t) multiply_tile<F, 1>(decoded, meta, n, x, t, b, acc);
  }
  for (int64_t t = 0; t < x.n_tokens; ++t)
    for (int r = 0; r < kTileRegisters * kPartRows; ++r) {
      const int64_t row = first_panel * kPanelRows + r;
      if (row < w.rows) y[t * y_stride + row] = acc[t * kTileRegisters * kPartRows + r];
    }
}

template <PackableFormat F>
void matmul_packed_kernel(const PackedWeights& w, int64_t first_panel, int n_panels, const PackedActivations& x, float* y,
                          int64_t y_stride, float* scratch) {
  if (x.n_tokens > kStreamTokens) {
    for (int p = 0; p < n_panels; p += kTilePanels) multiply_tokens<F>(w, first_panel + p, x, y, y_stride, scratch);
    return;
  }
  for (int p = 0; p < n_panels; ++p) {
    const int64_t row = (first_panel + p) * kPanelRows;
    const int rows = static_cast<int>(w.rows - row < kPanelRows ? w.rows - row : kPanelRows);
    stream_tokens<F>(w.data + static_cast<size_t>(first_panel + p) * w.panel_bytes, w.cols, x, y + row, y_stride, rows);
  }
}

// For measurements: the tier's dot product on registers, over and over; the number of operations done.
int64_t multiply_registers_kernel(int64_t iterations) {
  constexpr int kChains = kPartRows == 16 ? 16 : 8;
  RowInts sums[kChains];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) sums[i] = all_rows(i);
  alignas(64) uint8_t threes[kPartBytes];
  memset(threes, 3, sizeof threes);
  const CodeBytes w = load_codes(threes);
  for (int64_t n = 0; n < iterations; ++n) {
    const RowInts x = all_rows(static_cast<int>(n));
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) sums[i] = dot_codes(sums[i], w, x);
  }
  RowInts total = sums[0];
  for (int i = 1; i < kChains; ++i) total = add_rows(total, sums[i]);
  const volatile float used = [&] {
    alignas(64) float out[kPartRows];
    store_rows(out, fma_rows(zero_rows(), total, zero_rows()));
    return out[0];
  }();
  (void)used;
  return iterations * kChains * kPartBytes * 2;
}

}  // namespace
}  // namespace hrun
