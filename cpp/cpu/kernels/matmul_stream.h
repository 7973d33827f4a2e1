// y[t, r] = <x[t], w[r]> over packed panels for a few tokens: the decoded weights go straight into
// the dot products, so each weight is read once, at memory speed.
#pragma once

#include "cpu/matrix_kernels.h"
#include "cpu/panels/read.h"

namespace hrun {
namespace {

// Panels lie one after the other.  There are two distances, because the second-level cache has more
// lines under way than the first.
template <size_t kBytes>
HRUN_HD void prefetch_panels(const uint8_t* here, Prefetch to_second_level) {
  constexpr size_t kLine = 64, kWindow = 8192, kLinear = 16384;
  for (size_t at = 0; at < kBytes; at += kLine) __builtin_prefetch(here + 2048 + at);
  if (to_second_level == Prefetch::linear) {
    for (size_t at = 0; at < kBytes; at += kLine) __builtin_prefetch(here + kLinear + at, 0, 2);
  } else {
    for (size_t at = 0; at < kBytes; at += 2 * kLine) {
      const size_t inside = reinterpret_cast<uintptr_t>(here + at) % kWindow;
      const uint8_t* const ahead = here + at - inside + kWindow + inside / 2;
      __builtin_prefetch(ahead, 0, 2);
      __builtin_prefetch(ahead + kWindow / 2, 0, 2);
    }
  }
}

// Multiplies one part of a panel by kTokens tokens; those beyond n_tokens repeat the last one, and
// their results are thrown away.
template <PackableFormat F, int kTokens>
HRUN_HD void stream_part(const uint8_t* panel, int part, int64_t cols, Prefetch prefetch,
                         const PackedActivations& x, int n_tokens, float* y, int64_t y_stride,
                         int n_rows) {
  using Layout = PanelLayout<F>;
  constexpr int kChains = kTokens == 1 ? 4 : kTokens <= 4 ? 2 : 1;  // a dot product takes 5 cycles
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
    if (part == kPanelParts - 1) prefetch_meta<F>(panel + Layout::panel_bytes(cols), b);
    UnitDecoder<F> decoder(constants, codes, n);
    RowInts acc[kTokens][kChains], isum[kTokens];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      isum[t] = all_rows(0);
#pragma GCC unroll 4
      for (int c = 0; c < kChains; ++c)
        acc[t][c] = c == 0 && !Layout::kGroups ? start_of_group<F>(x, token[t], b, 0) : isum[t];
    }
    for (int u = 0; u < n / kUnit; ++u) {
      CodeBytes w[kUnitVectors];
      decoder.next(w);
      prefetch_panels<Layout::kUnitBytes>(codes + static_cast<size_t>(u) * Layout::kUnitBytes,
                                          prefetch);
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
          const int8_t* xs = block_codes<F>(x, token[t], b) + u * kUnit + 4 * i;
          acc[t][i % kChains] = dot_codes_at<signed_codes<F>()>(acc[t][i % kChains], w[i], xs);
          if constexpr (Layout::kGroups) {
            if (i % kVectorsPerGroup == kVectorsPerGroup - 1) {
              RowInts sum = acc[t][0];
#pragma GCC unroll 4
              for (int c = 1; c < kChains; ++c) sum = add_rows(sum, acc[t][c]);
              isum[t] = add_rows(isum[t], multiply_rows(sum, group_scales<F>(meta, g)));
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
      total[t] = add_block_sum<F>(total[t], isum[t], block_scale<F>(meta), meta, x, token[t], b);
    }
  }
  const int first = part * kPartRows;
  alignas(64) float rows[kPartRows];
  for (int t = 0; t < n_tokens; ++t) {
    store_rows(rows, total[t]);
    for (int r = 0; r < kPartRows && first + r < n_rows; ++r) y[t * y_stride + first + r] = rows[r];
  }
}

// Looking points up takes longer than some products, and fewer kernels compile sooner.  So, for
// points, the kernel of four tokens also serves two, and more tokens go to the other kernel.
template <PackableFormat F>
constexpr bool kSlowToDecode = PackRule<F>::kCodes == PackedCodes::points;
template <PackableFormat F>
constexpr int kStreamedTokens = kSlowToDecode<F> && kStreamTokens > 4 ? 4 : kStreamTokens;

template <PackableFormat F>
void stream_tokens(const uint8_t* panel, int64_t cols, Prefetch prefetch,
                   const PackedActivations& x, float* y, int64_t y_stride, int n_rows) {
  const int n = static_cast<int>(x.n_tokens);
  for (int part = 0; part < kPanelParts; ++part) {
    if (n == 1) {
      stream_part<F, 1>(panel, part, cols, prefetch, x, n, y, y_stride, n_rows);
      continue;
    }
    if constexpr (!kSlowToDecode<F>)
      if (n == 2) {
        stream_part<F, 2>(panel, part, cols, prefetch, x, n, y, y_stride, n_rows);
        continue;
      }
    if constexpr (kStreamedTokens<F> > 2 || kSlowToDecode<F>)
      if (n <= 4) {
        stream_part<F, 4>(panel, part, cols, prefetch, x, n, y, y_stride, n_rows);
        continue;
      }
    if constexpr (kStreamedTokens<F> > 4)
      stream_part<F, 8>(panel, part, cols, prefetch, x, n, y, y_stride, n_rows);
  }
}

}  // namespace
}  // namespace hrun
