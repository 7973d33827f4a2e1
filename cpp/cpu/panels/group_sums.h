// The sums of the groups of a block, each times the group's scale, become the block's exact sum.
//
// A product of 32-bit numbers and an addition are three instructions' work on x86.  Where a sum
// provably fits 16 bits, one multiply-add of int16 pairs does it: (sum, 0) x (scale, 0).  So that
// it fits, sums start from -centre * sum of x.  They are then sums of (code - centre) x, and a
// group may be summed in several parts.  Where the centre is not the format's bias, (centre - bias)
// * scale * sum of x is added to the block for two groups at a time, as pairs of scales times pairs
// of sums.
//
// Plain AVX2 has no dot product to 32 bits; its products come as int16 pairs, (columns 0 and 1,
// columns 2 and 3).  They are added as such and widened by the multiplication by (scale, scale).
// Such sums cannot start from a number.  Of signed codes a sum holds no more than one product,
// whose widening is then by the scale instead of by ones.
#pragma once

#include "cpu/panels/read.h"

namespace hrun {
namespace {

struct GroupRule {
  int columns;  // of a sum, a whole group or a part of one
  int centre;
  bool is_narrow;  // does the sum fit kLargestSum?
};

inline constexpr int kLargestActivation = 127;

template <PackableFormat F>
constexpr GroupRule group_rule() {
  using Rule = PackRule<F>;
  constexpr int kColumns = PanelLayout<F>::kScaleColumns, kBias = code_bias<F>(),
                kMiddle = (Rule::kHighest + 1) / 2;
  const auto fits = [](int columns, int centre) {
    const int below = centre, above = Rule::kHighest - centre;
    return int64_t{below > above ? below : above} * kLargestActivation * columns <=
           int64_t{kLargestSum} * kSumLanes;
  };
  if (signed_codes<F>())
    return kSumLanes > 1 ? GroupRule{4, 0, true} : GroupRule{kColumns, 0, false};
  // A sum costs a multiply-add, and a centre costs half of one for each group: fewer than three are
  // a gain.
  for (int parts = 1; parts <= 2; parts *= 2) {
    if (kSumLanes > 1) {
      if (fits(kColumns / parts, 0)) return {kColumns / parts, 0, true};
    } else {
      for (const int centre : {kBias, kMiddle})
        if (fits(kColumns / parts, centre)) return {kColumns / parts, centre, true};
    }
  }
  return {kColumns, kBias, false};
}

template <PackableFormat F>
struct GroupSums {
  using Layout = PanelLayout<F>;
  static constexpr GroupRule kRule = group_rule<F>();
  static constexpr int kParts = F::kBlockValues / kRule.columns;
  static constexpr int kPartsOfGroup = kParts / Layout::kGroupCount;
  static constexpr int kBeyondBias = kRule.centre - code_bias<F>();
};

// The scales of a group as add_scaled wants them.
template <PackableFormat F>
HRUN_HD RowInts prepared_scales(const PartMeta& meta, int g) {
  const RowInts scale = group_scales<F>(meta, g);
  if constexpr (!GroupSums<F>::kRule.is_narrow || kLargestSum > INT16_MAX)
    return scale;
  else
    return pair_rows(scale, kSumLanes == 2 ? scale : all_rows(0));
}

// total += sum * scale
template <PackableFormat F>
HRUN_HD RowInts add_scaled(RowInts total, RowInts sum, RowInts scale) {
  if constexpr (!GroupSums<F>::kRule.is_narrow || kLargestSum > INT16_MAX)
    return add_rows(total, multiply_rows(sum, scale));
  else
    return dot_row_pairs(total, sum, scale);
}

// Pairs of scales of groups g and g + 1, times what the centre takes off beyond the bias.
template <PackableFormat F>
HRUN_HD RowInts centre_pairs(const PartMeta& meta, int g) {
  const RowInts factor = all_rows(GroupSums<F>::kBeyondBias);
  return pair_rows(multiply_rows(group_scales<F>(meta, g), factor),
                   multiply_rows(group_scales<F>(meta, g + 1), factor));
}

}  // namespace
}  // namespace hrun
