// The kernels over packed panels share this: a panel's parts, and the numeric contract's start and
// end of a block's sum.
#pragma once

#include "cpu/matrix_kernels.h"
#include "cpu/panels/layout.h"
#include "cpu/panels/tier.h"
#include HRUN_DECODERS  // the tier's, named in tiers.cmake

namespace hrun {
namespace {

template <class F>
struct UnitDecoder<F, PackedCodes::byte> {
  using Constants = NoTables;
  const uint8_t* unit;
  HRUN_HD UnitDecoder(const Constants&, const uint8_t* block, int) : unit(block) {}
  static constexpr int kStepVectors = 2;
  template <int>
  HRUN_HD void step(CodeBytes* out) {
    out[0] = load_codes(unit);
    out[1] = load_codes(unit + 64);
    unit += 128;
  }
  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) step<0>(out + 2 * i);
  }
};

// Plain bits.  A tier gives field<bits, from> of every byte, and spare_bits, the codes in bits 6
// and 7 of three vectors.
template <class F>
struct UnitDecoder<F, PackedCodes::two> {
  using Constants = NoTables;
  const uint8_t* unit;
  HRUN_HD UnitDecoder(const Constants&, const uint8_t* block, int) : unit(block) {}
  static constexpr int kStepVectors = 4;
  template <int>
  HRUN_HD void step(CodeBytes* out) {
    const auto four = load_bytes(unit);
    out[0].v = field<2, 0>(four);
    out[1].v = field<2, 2>(four);
    out[2].v = field<2, 4>(four);
    out[3].v = field<2, 6>(four);
    unit += 64;
  }
  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
    step<0>(out);
    step<1>(out + 4);
  }
};

template <class F>
struct UnitDecoder<F, PackedCodes::three> {
  using Constants = NoTables;
  const uint8_t* unit;
  HRUN_HD UnitDecoder(const Constants&, const uint8_t* block, int) : unit(block) {}
  HRUN_HD void next(CodeBytes (&out)[kUnitVectors]) {
    step<0>(out);
    step<1>(out + 2);
    step<2>(out + 4);
    step<3>(out + 6);
  }
  static constexpr int kStepVectors = 2;
  template <int i>
  HRUN_HD void step(CodeBytes* out) {
    const auto pair =
        i < 3 ? load_bytes(unit + 64 * i)
              : spare_bits(load_bytes(unit), load_bytes(unit + 64), load_bytes(unit + 128));
    out[0].v = field<3, 0>(pair);
    out[1].v = field<3, 3>(pair);
    if constexpr (i == 3) unit += 192;
  }
};

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
          meta + Layout::kGroupOffsetAt +
              (PackRule<F>::kGroupScales == GroupScales::bytes ? 2 : 1) * rows};
}

// The scales and offsets of block b of a panel that is read later.  They lie before its codes,
// where a fixed distance from other codes does not find them.
template <PackableFormat F>
HRUN_HD void prefetch_meta(const uint8_t* panel, int64_t b) {
  constexpr size_t kBytes = PanelLayout<F>::kMetaBytes;
  const uint8_t* const meta = panel + static_cast<size_t>(b) * kBytes;
#pragma GCC unroll 8
  for (size_t at = 0; at < kBytes; at += 64) __builtin_prefetch(meta + at);
}

template <PackableFormat F>
HRUN_HD RowInts group_scales(const PartMeta& meta, int g) {
  using Rule = PackRule<F>;
  if constexpr (Rule::kGroupScales == GroupScales::bytes)
    return load_group_scales(meta.group_scale + g * kPanelRows);
  const RowInts s = load_nibbles(meta.group_scale + g / 2 * kPanelRows, g % 2 * 4);
  if constexpr (Rule::kGroupScales == GroupScales::nibbles) return s;
  return add_rows(add_rows(s, s), all_rows(1));
}

// Pairs of int16: the offsets of groups g and g + 1.
template <PackableFormat F>
HRUN_HD RowInts offset_pairs(const PartMeta& meta, int g) {
  if constexpr (PackRule<F>::kGroupScales == GroupScales::bytes)
    return byte_pairs(meta.group_offset + g * kPanelRows);
  else
    return nibble_pairs(meta.group_offset + g / 2 * kPanelRows);
}

template <PackableFormat F>
HRUN_HD RowFloats block_scale(const PartMeta& meta) {
  const RowFloats stored = load_halves(meta.scale);
  if constexpr (PackRule<F>::kScaleFactor == 1.0f)
    return stored;
  else
    return scale_rows(stored, PackRule<F>::kScaleFactor);
}

HRUN_HD RowInts four_activations(const int8_t* p) {
  int32_t x;
  memcpy(&x, p, sizeof x);
  return all_rows(x);
}

HRUN_HD RowInts all_pairs(const int16_t* p) {
  int32_t pair;
  memcpy(&pair, p, sizeof pair);
  return all_rows(pair);
}

// A token's activations of a block.
template <PackableFormat F>
HRUN_HD const int8_t* block_codes(const PackedActivations& x, int64_t t, int64_t b) {
  return x.codes + x.at(t, b) * F::kBlockValues;
}

// The sums of x over kColumns columns each.
template <int kColumns>
HRUN_HD const int16_t* column_sums(const PackedActivations& x, int64_t t, int64_t b) {
  static_assert(kColumns == 8 || kColumns == 16 || kColumns == 32);
  return (kColumns == 8    ? x.sums8
          : kColumns == 16 ? x.sums16
                           : x.sums32) +
         x.at(t, b) * (kMaxBlock / kColumns);
}

// Sum over groups of offset * sum of x, exact.
template <PackableFormat F>
HRUN_HD RowInts offset_sums(const PartMeta& meta, const PackedActivations& x, int64_t t,
                            int64_t b) {
  using Layout = PanelLayout<F>;
  if constexpr (!Layout::kGroups) {
    return all_rows(x.block_sums[x.at(t, b)]);
  } else {
    const int16_t* sums = column_sums<Layout::kScaleColumns>(x, t, b);
    RowInts total = all_rows(0);
    for (int g = 0; g < Layout::kGroupCount; g += 2)
      total = dot_row_pairs(total, offset_pairs<F>(meta, g), all_pairs(sums + g));
    return total;
  }
}

// The value from which the biased dot products of a block (or group) start: -bias * sum of x.
template <PackableFormat F>
HRUN_HD RowInts start_of_group(const PackedActivations& x, int64_t t, int64_t b, int g) {
  using Layout = PanelLayout<F>;
  constexpr int kBias = code_bias<F>();
  if constexpr (kBias == 0) return all_rows(0);
  if constexpr (!Layout::kGroups)
    return all_rows(-kBias * x.block_sums[x.at(t, b)]);
  else
    return all_rows(-kBias * column_sums<Layout::kScaleColumns>(x, t, b)[g]);
}

// total = the running sum after block b: one or two fma, as the numeric contract has it.
template <PackableFormat F>
HRUN_HD RowFloats add_block_sum(RowFloats total, RowInts isum, RowFloats scale,
                                const PartMeta& meta, const PackedActivations& x, int64_t t,
                                int64_t b) {
  const float dx = x.scale[x.at(t, b)];
  total = fma_rows(scale_rows(scale, dx), isum, total);
  if constexpr (F::kHasOffset)
    total = fma_rows(negative(scale_rows(load_halves(meta.offset), dx)),
                     offset_sums<F>(meta, x, t, b), total);
  return total;
}

}  // namespace
}  // namespace hrun
