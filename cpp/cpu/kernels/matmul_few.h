// y[t, r] = <x[t], w[r]> over packed panels for three to eight tokens, on tiers with 32 registers.
//
// Two registers of rows go side by side, so that a token's activations are broadcast once for both:
// a 512-bit load a cycle is all that some processors do, and with one register of rows every dot
// product would need its own.  The codes are decoded straight into the products, a few vectors at a
// time, between whose decoding and products the processor finds enough to do for both its ports.
#pragma once

#include <utility>

#include "cpu/panels/read.h"

namespace hrun {
namespace {

inline constexpr int kFewRegisters = 2;

// A decoder that yields its unit a step of kVectors vectors at a time; others yield all of it.
template <class Decoder>
concept DecodesSteps = requires(Decoder decoder, CodeBytes* out) {
  { Decoder::kStepVectors };
  decoder.template step<0>(out);
};

template <class Decoder>
constexpr int step_vectors() {
  if constexpr (DecodesSteps<Decoder>)
    return Decoder::kStepVectors;
  else
    return kUnitVectors;
}

template <int i, class Decoder>
HRUN_HD void decode_step(Decoder& decoder, CodeBytes (&out)[step_vectors<Decoder>()]) {
  if constexpr (DecodesSteps<Decoder>)
    decoder.template step<i>(out);
  else
    decoder.next(out);
}

// Two panels, n_tokens tokens: kTokens or one less, of which the last is then multiplied twice.
// totals: [token][register][kPartRows].
template <PackableFormat F, int kTokens>
__attribute__((noinline)) void multiply_few(const uint8_t* const (&panel)[kFewRegisters],
                                            size_t to_next, int64_t cols,
                                            const PackedActivations& x, int n_tokens,
                                            float* totals) {
  using Layout = PanelLayout<F>;
  using Decoder = UnitDecoder<F>;
  static_assert(!Layout::kGroups && kPartRows == kPanelRows);
  constexpr int kVectors = step_vectors<Decoder>();
  constexpr size_t kPrefetched = 6144;
  const auto token = [&](int t) -> int64_t { return t < kTokens - 1 ? t : n_tokens - 1; };
  for (int i = 0; i < kTokens * kFewRegisters; ++i) store_rows(totals + i * kPartRows, zero_rows());
  const typename Decoder::Constants constants;
  const size_t codes_end = Layout::panel_bytes(cols);
  size_t at = Layout::codes_at(cols);
  for (int64_t b = 0; b < n_blocks<F>(cols); ++b) {
    const int n = block_length<F>(cols, b);
    RowInts sum[kTokens][kFewRegisters];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      sum[t][0] = start_of_group<F>(x, token(t), b, 0);
      sum[t][1] = sum[t][0];
    }
    Decoder decoder[kFewRegisters] = {{constants, panel[0] + at, n}, {constants, panel[1] + at, n}};
    const int8_t* codes = block_codes<F>(x, 0, b);
    const int8_t* const last = block_codes<F>(x, n_tokens - 1, b);
    // Beyond the panel's end come those of the next two.
    const size_t ahead = kPrefetched + (at + kPrefetched < codes_end ? 0 : to_next - codes_end);
    for (int u = 0; u < n / kUnit; ++u) {
      const auto multiply_step = [&]<int i>() {
        constexpr int kSteps = kUnitVectors / kVectors;
#pragma GCC unroll 8
        for (size_t line = i; line < Layout::kUnitBytes / 64; line += kSteps)
#pragma GCC unroll 2
          for (int p = 0; p < kFewRegisters; ++p)
            __builtin_prefetch(panel[p] + at + ahead + 64 * line, 0, 2);
        CodeBytes w[kFewRegisters][kVectors];
        decode_step<i>(decoder[0], w[0]);
        decode_step<i>(decoder[1], w[1]);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v)
#pragma GCC unroll 8
          for (int t = 0; t < kTokens; ++t) {
            const int8_t* const own =
                t < kTokens - 1 ? codes + t * F::kBlockValues : last + u * kUnit;
            const RowInts four = four_activations(own + 4 * (i * kVectors + v));
            sum[t][0] = dot_codes<signed_codes<F>()>(sum[t][0], w[0][v], four);
            sum[t][1] = dot_codes<signed_codes<F>()>(sum[t][1], w[1][v], four);
          }
      };
      [&]<size_t... i>(std::index_sequence<i...>) {
        (multiply_step.template operator()<static_cast<int>(i)>(), ...);
      }(std::make_index_sequence<kUnitVectors / kVectors>());
      codes += kUnit;
      at += Layout::kUnitBytes;
    }
#pragma GCC unroll 2
    for (int p = 0; p < kFewRegisters; ++p) {
      const PartMeta meta = part_meta<F>(panel[p], b, 0);
      const RowFloats scale = block_scale<F>(meta);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        float* const total = totals + (t * kFewRegisters + p) * kPartRows;
        store_rows(total,
                   add_block_sum<F>(load_rows(total), sum[t][p], scale, meta, x, token(t), b));
      }
    }
  }
}

// Has the format this kernel?
template <PackableFormat F>
constexpr bool kFewTokens = kPartRows == kPanelRows && !PanelLayout<F>::kGroups;
inline constexpr int kMostFewTokens = 8;

// One panel or two from first_panel on.
template <PackableFormat F>
void multiply_few_tokens(const PackedWeights& w, int64_t first_panel, int n_panels,
                         const PackedActivations& x, float* y, int64_t y_stride) {
  constexpr int kRows = kFewRegisters * kPartRows;
  const uint8_t* const first = w.data + static_cast<size_t>(first_panel) * w.panel_bytes;
  const uint8_t* const panel[] = {first, n_panels > 1 ? first + w.panel_bytes : first};
  alignas(64) float totals[kMostFewTokens * kRows];
  const int n = static_cast<int>(x.n_tokens);
  const size_t to_next = kFewRegisters * w.panel_bytes;
  if (n <= 4)
    multiply_few<F, 4>(panel, to_next, w.cols, x, n, totals);
  else if (n <= 6)
    multiply_few<F, 6>(panel, to_next, w.cols, x, n, totals);
  else
    multiply_few<F, 8>(panel, to_next, w.cols, x, n, totals);
  const int64_t first_row = first_panel * kPanelRows, left = w.rows - first_row,
                most = static_cast<int64_t>(n_panels) * kPanelRows;
  const auto bytes = static_cast<size_t>(left < most ? left : most) * sizeof(float);
  for (int t = 0; t < n; ++t) memcpy(y + t * y_stride + first_row, totals + t * kRows, bytes);
}

}  // namespace
}  // namespace hrun
