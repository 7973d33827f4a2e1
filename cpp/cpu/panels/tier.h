// The vocabulary of panels in the tier being compiled: its registers, and what follows from them.
#pragma once

#include <concepts>
#include <cstdint>

#include "cpu/panels/layout.h"
#include HRUN_PANELS  // the tier's, named in tiers.cmake

namespace hrun {
namespace {

// A register of codes, of sums and of floats, for kPartRows rows of a panel, and the operations
// that the kernels do on them.  A tier also gives field<bits, from> of every byte and spare_bits.
template <class Codes, class Ints, class Floats>
concept PanelTier = requires(Codes codes, Ints ints, Floats floats, const uint8_t* bytes,
                             uint8_t* to, const float* values, float* out, int32_t* whole) {
  { load_codes(bytes) } -> std::same_as<Codes>;
  { store_codes(to, codes) };
  { all_rows(int32_t{}) } -> std::same_as<Ints>;
  { add_rows(ints, ints) } -> std::same_as<Ints>;
  { multiply_rows(ints, ints) } -> std::same_as<Ints>;
  { dot_codes(ints, codes, ints) } -> std::same_as<Ints>;
  { dot_row_pairs(ints, ints, ints) } -> std::same_as<Ints>;
  { load_group_scales(bytes) } -> std::same_as<Ints>;
  { load_nibbles(bytes, 4) } -> std::same_as<Ints>;
  { byte_pairs(bytes) } -> std::same_as<Ints>;
  { nibble_pairs(bytes) } -> std::same_as<Ints>;
  { load_ints(whole) } -> std::same_as<Ints>;
  { store_ints(whole, ints) };
  { zero_rows() } -> std::same_as<Floats>;
  { load_rows(values) } -> std::same_as<Floats>;
  { store_rows(out, floats) };
  { load_halves(bytes) } -> std::same_as<Floats>;
  { scale_rows(floats, 1.0f) } -> std::same_as<Floats>;
  { negative(floats) } -> std::same_as<Floats>;
  { fma_rows(floats, ints, floats) } -> std::same_as<Floats>;
};
static_assert(PanelTier<CodeBytes, RowInts, RowFloats>);

inline constexpr int kPanelParts = kPanelRows / kPartRows;
inline constexpr int kPartBytes = 4 * kPartRows;

// Are the codes signed in this tier, because its unsigned products do not take the highest of them?
template <PackableFormat F>
constexpr bool signed_codes() {
  constexpr bool kSigned = PackRule<F>::kHighest > kMaxLevel;
  constexpr PackedCodes kCodes = PackRule<F>::kCodes;
  static_assert(!kSigned || kCodes == PackedCodes::byte ||
                kCodes == PackedCodes::nibble);  // others have no sign in panels
  return kSigned;
}

template <PackableFormat F>
constexpr int code_bias() {
  return signed_codes<F>() ? 0 : PackRule<F>::kBias;
}

}  // namespace
}  // namespace hrun
