// y[t, r] = <x[t], w[r]> over packed panels for three to eight tokens, on tiers with 32 registers.
//
// Two registers of rows go side by side, so that a token's activations are broadcast once for both:
// a 512-bit load a cycle is all that some processors do, and with one register of rows every dot
// product would need its own.  The codes are decoded straight into the products, a few vectors at a
// time, between whose decoding and products the processor finds enough to do for both its ports.
#pragma once

#include <type_traits>
#include <utility>

#include "cpu/matrix_kernels.h"
#include "cpu/panels/group_sums.h"

namespace hrun {
namespace {

inline constexpr int kFewRegisters = 2;

// A decoder that yields its unit a step of kStepVectors vectors at a time.
template <class Decoder>
concept DecodesSteps = requires(Decoder decoder, CodeBytes* out) {
  { Decoder::kStepVectors };
  decoder.template step<0>(out);
};

struct NoGroups {
  HRUN_HD NoGroups(auto&&...) {}
};

// The sums of a block with group scales.  The sum of each part of a group starts from -centre * the
// sum of its activations, and is then multiplied by the scale (panels/group_sums.h).
template <PackableFormat F, int kTokens>
struct FewGroups {
  using Sums = GroupSums<F>;
  static constexpr int kPairs = PanelLayout<F>::kGroupCount / 2;
  alignas(64) int32_t start[kTokens][Sums::kParts];

  HRUN_HD FewGroups(const PackedActivations& x, auto token, int64_t b) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const int16_t* const sums = column_sums<Sums::kRule.columns>(x, token(t), b);
      for (int i = 0; i < Sums::kParts; ++i) start[t][i] = -Sums::kRule.centre * sums[i];
    }
  }
  HRUN_HD RowInts first(int t, int part) const {
    return all_rows(Sums::kRule.centre == 0 ? 0 : start[t][part]);
  }
  // total += the correction that the centre needs beyond the bias.
  HRUN_HD static void add_centres(const PartMeta& meta, const PackedActivations& x, auto token,
                                  int64_t b, int p, RowInts (&total)[kTokens][kFewRegisters]) {
    if constexpr (Sums::kBeyondBias != 0)
      for (int g = 0; g < kPairs; ++g) {
        const RowInts centre = centre_pairs<F>(meta, 2 * g);
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t)
          total[t][p] = dot_row_pairs(
              total[t][p], centre,
              all_pairs(column_sums<PanelLayout<F>::kScaleColumns>(x, token(t), b) + 2 * g));
      }
  }
};

// Multiplies two panels by n_tokens tokens, which are kTokens or one less; in that case the last
// token is multiplied twice.  totals: [token][register][kPartRows].
template <PackableFormat F, int kTokens>
__attribute__((noinline)) void multiply_few(const uint8_t* const (&panel)[kFewRegisters],
                                            size_t to_next, int64_t cols,
                                            const PackedActivations& x, int n_tokens,
                                            float* totals) {
  using Layout = PanelLayout<F>;
  using Decoder = UnitDecoder<F>;
  constexpr int kVectors = Decoder::kStepVectors, kSteps = kUnitVectors / kVectors;
  constexpr size_t kPrefetched = 6144;
  const auto token = [&](int t) -> int64_t { return t < kTokens - 1 ? t : n_tokens - 1; };
  for (int i = 0; i < kTokens * kFewRegisters; ++i) store_rows(totals + i * kPartRows, zero_rows());
  const typename Decoder::Constants constants;
  const size_t codes_end = Layout::panel_bytes(cols);
  size_t at = Layout::codes_at(cols);
  for (int64_t b = 0; b < n_blocks<F>(cols); ++b) {
    const int n = block_length<F>(cols, b);
    const PartMeta meta[kFewRegisters] = {part_meta<F>(panel[0], b, 0),
                                          part_meta<F>(panel[1], b, 0)};
#pragma GCC unroll 2
    for (int p = 0; p < kFewRegisters; ++p) prefetch_meta<F>(panel[p] + to_next, b);
    RowInts sum[kTokens][kFewRegisters], total[kTokens][kFewRegisters];
    [[maybe_unused]] std::conditional_t<Layout::kGroups, FewGroups<F, kTokens>, NoGroups> groups(
        x, token, b);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t)
#pragma GCC unroll 2
      for (int p = 0; p < kFewRegisters; ++p) {
        if constexpr (Layout::kGroups)
          total[t][p] = all_rows(0);
        else
          sum[t][p] = start_of_group<F>(x, token(t), b, 0);
      }
    Decoder decoder[kFewRegisters] = {{constants, panel[0] + at, n}, {constants, panel[1] + at, n}};
    const int8_t* codes = block_codes<F>(x, 0, b);
    const int8_t* const last = block_codes<F>(x, n_tokens - 1, b);
    // The codes beyond the panel's end are those of the next two panels.
    const size_t ahead = kPrefetched + (at + kPrefetched < codes_end ? 0 : to_next - codes_end);
    for (int u = 0; u < n / kUnit; ++u) {
      // Vector v of the unit, times all tokens.
      const auto multiply_vector = [&](int v, CodeBytes w0, CodeBytes w1) {
        if constexpr (Layout::kGroups) {
          constexpr int kOfSum = GroupSums<F>::kRule.columns / 4;
          const int part = u * kUnitVectors / kOfSum + v / kOfSum;
          if (v % kOfSum == 0)
#pragma GCC unroll 8
            for (int t = 0; t < kTokens; ++t) sum[t][0] = sum[t][1] = groups.first(t, part);
        }
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) {
          const int8_t* const own =
              t < kTokens - 1 ? codes + t * F::kBlockValues : last + u * kUnit;
          const RowInts four = four_activations(own + 4 * v);
          sum[t][0] = dot_codes<signed_codes<F>()>(sum[t][0], w0, four);
          sum[t][1] = dot_codes<signed_codes<F>()>(sum[t][1], w1, four);
        }
        if constexpr (Layout::kGroups) {
          using Sums = GroupSums<F>;
          constexpr int kOfSum = Sums::kRule.columns / 4;
          const int part = u * kUnitVectors / kOfSum + v / kOfSum;
          if (v % kOfSum == kOfSum - 1)
#pragma GCC unroll 2
            for (int p = 0; p < kFewRegisters; ++p) {
              const RowInts scale = prepared_scales<F>(meta[p], part / Sums::kPartsOfGroup);
#pragma GCC unroll 8
              for (int t = 0; t < kTokens; ++t)
                total[t][p] = add_scaled<F>(total[t][p], sum[t][p], scale);
            }
        }
      };
      const auto multiply_step = [&]<int i>() {
#pragma GCC unroll 8
        for (size_t line = i; line < Layout::kUnitBytes / 64; line += kSteps)
#pragma GCC unroll 2
          for (int p = 0; p < kFewRegisters; ++p)
            __builtin_prefetch(panel[p] + at + ahead + 64 * line, 0, 2);
        CodeBytes w[kFewRegisters][kVectors];
        decoder[0].template step<i>(w[0]);
        decoder[1].template step<i>(w[1]);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) multiply_vector(i * kVectors + v, w[0][v], w[1][v]);
      };
      [&]<size_t... i>(std::index_sequence<i...>) {
        (multiply_step.template operator()<static_cast<int>(i)>(), ...);
      }(std::make_index_sequence<kSteps>());
      codes += kUnit;
      at += Layout::kUnitBytes;
    }
#pragma GCC unroll 2
    for (int p = 0; p < kFewRegisters; ++p) {
      if constexpr (Layout::kGroups) groups.add_centres(meta[p], x, token, b, p, total);
      const RowFloats scale = block_scale<F>(meta[p]);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        float* const to = totals + (t * kFewRegisters + p) * kPartRows;
        store_rows(to, add_block_sum<F>(load_rows(to), Layout::kGroups ? total[t][p] : sum[t][p],
                                        scale, meta[p], x, token(t), b));
      }
    }
  }
}

// The largest number of tokens that this kernel takes; 0: none.  Decoders of four vectors at a time
// leave no registers for the sums of groups of more than six tokens.
template <PackableFormat F>
constexpr int few_tokens() {
  if constexpr (kPartRows == kPanelRows && DecodesSteps<UnitDecoder<F>>)
    return PanelLayout<F>::kGroups && UnitDecoder<F>::kStepVectors > 2 ? 6 : kFewTokensAtMost;
  else
    return 0;
}

// Multiplies n_panels panels from first_panel on.
template <PackableFormat F>
void multiply_few_tokens(const PackedWeights& w, int64_t first_panel, int n_panels,
                         const PackedActivations& x, float* y, int64_t y_stride) {
  constexpr int kRows = kFewRegisters * kPartRows;
  alignas(64) float totals[kFewTokensAtMost * kRows];
  const int n = static_cast<int>(x.n_tokens);
  const size_t to_next = kFewRegisters * w.panel_bytes;
  for (int p = 0; p < n_panels; p += kFewRegisters) {
    const uint8_t* const first = w.data + static_cast<size_t>(first_panel + p) * w.panel_bytes;
    const bool two = p + 1 < n_panels;
    const uint8_t* const panel[] = {first, two ? first + w.panel_bytes : first};
    if (n <= 4)
      multiply_few<F, 4>(panel, to_next, w.cols, x, n, totals);
    else if (n <= 6)
      multiply_few<F, 6>(panel, to_next, w.cols, x, n, totals);
    else if constexpr (few_tokens<F>() == 8)
      multiply_few<F, 8>(panel, to_next, w.cols, x, n, totals);
    const int64_t first_row = (first_panel + p) * kPanelRows, left = w.rows - first_row,
                  most = two ? kRows : kPartRows;
    const auto bytes = static_cast<size_t>(left < most ? left : most) * sizeof(float);
    for (int t = 0; t < n; ++t) memcpy(y + t * y_stride + first_row, totals + t * kRows, bytes);
  }
}

}  // namespace
}  // namespace hrun
