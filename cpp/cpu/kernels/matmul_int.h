// y[t, r] = <x[t], w[r]> for quantized weights and int8 activations.
//
// Sixteen weight rows at a time: block by block they are unpacked once and turned into a panel of
// int16 numbers code * group_scale in the order [pair of columns][row][2], so that one multiply-add
// of int16 pairs serves 16 rows and needs no horizontal sum.  The panel is then used by every token
// of the call.  The block sums are exact integers, so only the order of the floating-point steps is
// part of the numeric contract: one or two fma per block, in column order.
//
// To make a format faster in a tier, specialise Unpack (kernels/unpack.h) for it.
#pragma once

#include "cpu/matrix_kernels.h"
#include "cpu/kernels/unpack.h"

namespace hrun {
namespace {

struct Panel {
  alignas(64)
      int16_t weights[kMaxBlock * kPanelRows];  // [column / 2][row][column % 2], code * group_scale
  alignas(64) int16_t
      offsets[2 * kGroup * kPanelRows];  // [group / 2][row][group % 2]; only formats with an offset
  alignas(64) float scale[kPanelRows];
  alignas(64) float offset[kPanelRows];
};

[[gnu::noinline]] void transpose_block(const int16_t* rows, int64_t stride, int n, int16_t* out) {
  for (int i = 0; i < n; i += 2 * kLanes) transpose_pairs(rows + i, stride, out + i * kPanelRows);
}

template <QuantizedFormat F>
struct PanelDecoder {
  Unpack<F> unpack;

  // Block `b`, of n values, of the given rows.  Rows that are missing are zeros.
  HRUN_HD void operator()(const WeightRows& w, int64_t b, int n, Panel& panel) const {
    constexpr int kStride = F::kBlockValues;
    alignas(64) int16_t rows[kPanelRows * kStride];
    alignas(64) int16_t offsets[kPanelRows * 2 * kGroup] =
        {};  // 16 groups and as many zeros, to fill 16 pairs
    for (int r = 0; r < kPanelRows; ++r) {
      int16_t* row = rows + r * kStride;
      if (r >= w.n_rows) {
        for (int i = 0; i < n; ++i) row[i] = 0;
        panel.scale[r] = panel.offset[r] = 0;
        continue;
      }
      IntBlock block;
      unpack(
          w.data + static_cast<size_t>(r) * w.row_bytes + static_cast<size_t>(b) * F::kBlockBytes,
          n, block);
      for (int g = 0; g < n / kGroup; ++g)
        scale_codes(block.codes + g * kGroup, block.group_scale[g], row + g * kGroup);
      panel.scale[r] = block.scale;
      if constexpr (F::kHasOffset) {
        panel.offset[r] = block.offset;
        for (int g = 0; g < n / kGroup; ++g) offsets[r * 2 * kGroup + g] = block.group_offset[g];
      }
    }
    transpose_block(rows, kStride, n, panel.weights);
    if constexpr (F::kHasOffset) transpose_pairs(offsets, 2 * kGroup, panel.offsets);
  }
};

HRUN_HD int32_t load_pair(const int16_t* p) {
  int32_t pair;
  memcpy(&pair, p, sizeof pair);
  return pair;
}

// The sums over n_pairs pairs of 16 rows, for kTokens tokens whose numbers are x_stride apart.
template <int kTokens>
HRUN_HD void dot_panel(const int16_t* panel, int n_pairs, const int16_t* x, int64_t x_stride,
                       IntLanes (&sums)[kTokens]) {
  constexpr int kParts =
      kTokens >= 4 ? 1
                   : 4 / kTokens;  // independent chains, to hide the latency of the multiply-add
  IntLanes part[kTokens][kParts];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t)
#pragma GCC unroll 4
    for (int k = 0; k < kParts; ++k) part[t][k] = splat_int(0);
  for (int p = 0; p < n_pairs; p += kParts) {
#pragma GCC unroll 4
    for (int k = 0; k < kParts; ++k) {
      const IntLanes w = load_pairs(panel + (p + k) * 2 * kPanelRows);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t)
        part[t][k] = dot_pairs(part[t][k], w, load_pair(x + t * x_stride + 2 * (p + k)));
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    sums[t] = part[t][0];
#pragma GCC unroll 4
    for (int k = 1; k < kParts; ++k) sums[t] = add(sums[t], part[t][k]);
  }
}

// Adds block `b` to the running sums acc[t][row] of kTokens tokens from t on.
template <int kTokens, bool kHasOffset>
HRUN_HD void add_block(const Panel& panel, int64_t b, int64_t first, int n, const QuantizedRows& x,
                       int64_t t, float* acc) {
  IntLanes sums[kTokens], offset_sums[kTokens];
  dot_panel<kTokens>(panel.weights, n / 2, x.codes + t * x.cols + first, x.cols, sums);
  if constexpr (kHasOffset) {
    // A block may have an odd number of pairs of groups (32 columns: one), so no unrolling over
    // pairs here.
#pragma GCC unroll 8
    for (int k = 0; k < kTokens; ++k) {
      offset_sums[k] = splat_int(0);
      for (int p = 0; p < n / (2 * kGroup); ++p)
        offset_sums[k] =
            dot_pairs(offset_sums[k], load_pairs(panel.offsets + p * 2 * kPanelRows),
                      load_pair(x.sums + (t + k) * x.n_groups + first / kGroup + 2 * p));
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < kTokens; ++k) {
    const Lanes dx = splat(x.scale[(t + k) * x.n_blocks + b]);
    float* const out = acc + (t + k) * kPanelRows;
    Lanes sum = fma(mul(load(panel.scale), dx), to_float(sums[k]), load(out));
    if constexpr (kHasOffset)
      sum = fma(sub(splat(0.0f), mul(load(panel.offset), dx)), to_float(offset_sums[k]), sum);
    store(out, sum);
  }
}

// Shared by the formats, not inlined into the kernel of each: they would take minutes to compile.
template <bool kHasOffset>
[[gnu::noinline]] void add_block_to_all(const Panel& panel, int64_t b, int64_t first, int n,
                                        const QuantizedRows& x, float* acc) {
  int64_t t = 0;
  for (; t + kTokenTile <= x.n_tokens; t += kTokenTile)
    add_block<kTokenTile, kHasOffset>(panel, b, first, n, x, t, acc);
  for (; t < x.n_tokens; ++t) add_block<1, kHasOffset>(panel, b, first, n, x, t, acc);
}

template <QuantizedFormat F>
void matmul_int_kernel(const WeightRows& w, const QuantizedRows& x, float* y, int64_t y_stride,
                       float* acc) {
  for (int64_t i = 0; i < x.n_tokens * kPanelRows; ++i) acc[i] = 0;
  Panel panel;
  const PanelDecoder<F> decode;
  const int64_t blocks = n_blocks<F>(w.cols);
  for (int64_t b = 0; b < blocks; ++b) {
    const int n = block_length<F>(w.cols, b);
    const int64_t first = b * F::kBlockValues;
    if (n == F::kBlockValues)
      decode(w, b, F::kBlockValues, panel);  // a constant, for the unrolling
    else if constexpr (is_rotated(F::kInputForm))
      decode(w, b, n, panel);
    add_block_to_all<F::kHasOffset>(panel, b, first, n, x, acc);
  }
  for (int64_t t = 0; t < x.n_tokens; ++t)
    for (int r = 0; r < w.n_rows; ++r) y[t * y_stride + r] = acc[t * kPanelRows + r];
}

}  // namespace
}  // namespace hrun
