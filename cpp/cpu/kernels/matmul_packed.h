// y[t, r] = <x[t], w[r]> over packed panels (panels/layout.h), for tiers that have decoders for
// them (panels/tier.h).
//
// A tier gives its register types, a dozen operations on them and one decoder per kind of codes,
// which yields a unit of 32 columns as 8 vectors of unsigned bytes.  A register holds kPartRows of
// a panel's 16 rows.
#pragma once

#include "cpu/matrix_kernels.h"
#include "cpu/kernels/matmul_few.h"
#include "cpu/kernels/matmul_matrix_short.h"
#include "cpu/kernels/matmul_stream.h"
#include "cpu/kernels/matmul_tile.h"

namespace hrun {
namespace {

template <PackableFormat F>
void matmul_packed_kernel(const PackedWeights& w, int64_t first_panel, int n_panels,
                          const PackedActivations& x, float* y, int64_t y_stride, float* scratch) {
  if constexpr (matrix_unit_fits<F, MatrixTiles>())
    if (x.n_tokens >= kFewestMatrixTokens && x.n_tokens <= kTileRows) {
      for (int p = 0; p < n_panels; p += kMatrixPanels)
        multiply_few_by_matrix_unit<F, MatrixTiles>(w, first_panel + p, x, y, y_stride);
      return;
    }
  if constexpr (short_matrix_unit_fits<F, MatrixTiles>())
    if (x.n_tokens > kStreamedTokens<F>) {
      for (int p = 0; p < n_panels; p += kMatrixPanels)
        multiply_short_blocks<F, MatrixTiles>(w, first_panel + p, x, y, y_stride, scratch);
      return;
    }
  if constexpr (few_tokens<F>() > 0)
    if (x.n_tokens > 2 && x.n_tokens <= few_tokens<F>())
      return multiply_few_tokens<F>(w, first_panel, n_panels, x, y, y_stride);
  if constexpr (!short_matrix_unit_fits<F, MatrixTiles>())
    if (x.n_tokens > kStreamedTokens<F>) {
      for (int p = 0; p < n_panels; p += kTilePanels<tile_registers<F>()>)
        multiply_tokens<F>(w, first_panel + p, x, y, y_stride, scratch);
      return;
    }
  for (int p = 0; p < n_panels; ++p) {
    const int64_t row = (first_panel + p) * kPanelRows;
    const int rows = static_cast<int>(w.rows - row < kPanelRows ? w.rows - row : kPanelRows);
    stream_tokens<F>(w.data + static_cast<size_t>(first_panel + p) * w.panel_bytes, w.cols,
                     w.prefetch, x, y + row, y_stride, rows);
  }
}

// Repeats the tier's dot product on registers, for measurements.  Returns the number of operations
// done.
[[maybe_unused]] int64_t multiply_registers_kernel(int64_t iterations) {
  constexpr int kChains = kPartRows == 16 ? 16 : 8;
  RowInts sums[kChains];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) sums[i] = all_rows(i);
  // The operands are as in the kernel for many tokens: two vectors of weights, and activations from
  // memory.  Products of equal operands would be made only once.
  alignas(64) uint8_t weights[2][kPartBytes];
  memset(weights[0], 3, kPartBytes);
  memset(weights[1], 5, kPartBytes);
  const CodeBytes w[2] = {load_codes(weights[0]), load_codes(weights[1])};
  constexpr int kWindows = 16;  // a power of two
  int8_t activations[4 * (kWindows + kChains / 2)];
  for (size_t i = 0; i < sizeof activations; ++i)
    activations[i] = static_cast<int8_t>(i * static_cast<size_t>(iterations));
  for (int64_t n = 0; n < iterations; ++n) {
    const int8_t* const x = activations + 4 * (n % kWindows);
#pragma GCC unroll 8
    for (int i = 0; i < kChains / 2; ++i) {
      const RowInts four = four_activations(x + 4 * i);
      sums[2 * i] = dot_codes(sums[2 * i], w[0], four);
      sums[2 * i + 1] = dot_codes(sums[2 * i + 1], w[1], four);
    }
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
