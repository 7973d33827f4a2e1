// What the kernels over packed panels share: a panel's parts, and the numeric contract's start and end of a block's sum.
#pragma once

#include "cpu/packed.h"

namespace hrun {
namespace {

inline constexpr int kPanelParts = kPanelRows / kPartRows;
inline constexpr int kPartBytes = 4 * kPartRows;

}  // namespace
}  // namespace hrun

#include "cpu/points.h"

namespace hrun {
namespace {

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

// Of the unsigned codes.
template <PackableFormat F>
constexpr int highest_code() {
  if constexpr (PackRule<F>::kCodes == PackedCodes::byte) return 255;
  else if constexpr (PackRule<F>::kCodes == PackedCodes::six) return 63;
  else if constexpr (PackRule<F>::kCodes == PackedCodes::three) return 7;
  else if constexpr (PackRule<F>::kCodes == PackedCodes::two) return 3;
  else if constexpr (RtqFormat<F>) return F::kLargestLevel + PackRule<F>::kBias;
  else return PackRule<F>::kHighest;
}

// Are the codes signed in this tier, because its unsigned products do not take the highest of them?
template <PackableFormat F>
constexpr bool signed_codes() {
  constexpr bool kSigned = highest_code<F>() > kMaxLevel;
  constexpr PackedCodes kCodes = PackRule<F>::kCodes;
  static_assert(!kSigned || kCodes == PackedCodes::byte || kCodes == PackedCodes::nibble);  // others have no sign in panels
  return kSigned;
}

template <PackableFormat F>
constexpr int code_bias() { return signed_codes<F>() ? 0 : PackRule<F>::kBias; }

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
          meta + Layout::kGroupOffsetAt + (PackRule<F>::kGroupScales == GroupScales::bytes ? 2 : 1) * rows};
}

template <PackableFormat F>
HRUN_HD RowInts group_scales(const PartMeta& meta, int g) {
  using Rule = PackRule<F>;
  if constexpr (Rule::kGroupScales == GroupScales::bytes) return load_group_scales(meta.group_scale + g * kPanelRows);
  const RowInts s = load_nibbles(meta.group_scale + g / 2 * kPanelRows, g % 2 * 4);
  if constexpr (Rule::kGroupScales == GroupScales::nibbles) return s;
  return add_rows(add_rows(s, s), all_rows(1));
}

template <PackableFormat F>
HRUN_HD RowFloats block_scale(const PartMeta& meta) {
  const RowFloats stored = load_halves(meta.scale);
  if constexpr (PackRule<F>::kScaleFactor == 1.0f) return stored;
  else return scale_rows(stored, PackRule<F>::kScaleFactor);
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
      if constexpr (PackRule<F>::kGroupScales == GroupScales::bytes)
        total = dot_offsets(total, meta.group_offset + g * kPanelRows, pair);
      else total = dot_nibbles(total, meta.group_offset + g / 2 * kPanelRows, pair);
    }
    return total;
  }
}

// What the biased dot products of a block (or group) start from: -bias * sum of x.
template <PackableFormat F>
HRUN_HD RowInts start_of_group(const PackedActivations& x, int64_t t, int64_t b, int g) {
  using Layout = PanelLayout<F>;
  constexpr int kBias = code_bias<F>();
  if constexpr (kBias == 0) return all_rows(0);
  int32_t sum;
  if constexpr (!Layout::kGroups) sum = x.block_sums[t * x.n_blocks + b];
  else if constexpr (Layout::kScaleColumns == 32) sum = x.sums32[t * x.n_units + b * Layout::kGroupCount + g];
  else sum = x.sums16[t * 2 * x.n_units + b * Layout::kGroupCount + g];
  return all_rows(-kBias * sum);
}

// total = the running sum after block b: one or two fma, as the numeric contract has it.
template <PackableFormat F>
HRUN_HD RowFloats add_block_sum(RowFloats total, RowInts isum, RowFloats scale, const PartMeta& meta,
                                const PackedActivations& x, int64_t t, int64_t b) {
  const float dx = x.scale[t * x.n_blocks + b];
  total = fma_rows(scale_rows(scale, dx), isum, total);
  if constexpr (F::kHasOffset)
    total = fma_rows(negative(scale_rows(load_halves(meta.offset), dx)), offset_sums<F>(meta, x, t, b), total);
  return total;
}

}  // namespace
}  // namespace hrun
