// The definition of a weight format.
//
// A *quantized* format is its integer view.  One block of up to 256 weights decodes to int8 codes,
// small integer scales and offsets per group of 16 weights, and two floats per block:
//
//   weight[i] = fl(fl(scale * group_scale[i / 16]) * codes[i]) - fl(offset * group_offset[i / 16])
//
// with every operation in fp32, unfused (fl = one rounding).  This reproduces GGML's own decoders
// bit for bit, and it is all that a matmul needs: with int8 activations x and their scale dx,
//
//   block dot = fma(scale * dx, float(sum_g group_scale[g] * sum_i codes[i] * x[i]), acc) exact
//   int32 inside
//               fma(-(offset * dx), float(sum_g group_offset[g] * sum_i x[i]), acc) only if
//               kHasOffset
//
// Kernels rely on |codes[i] * group_scale[g]| < 2^15 and on block sums of 127 times that, and of
// 127 * group_offset, being below 2^31, whatever the bytes.
//
// A *float* format (F32, F16, BF16) is a widening to fp32.  A *decoded* format is a rule that gives
// the floats of a block, for what fits neither: matmuls multiply its decoded rows in fp32.
//
// To add a format: one header with a struct that satisfies the concept below, its name in list.h.
// Everything else (sizes, generic kernels of every tier and backend, Python, CLI choices, tests,
// tables) enumerates the list.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/half.h"
#include "base/host_device.h"
#include "base/tensor.h"

namespace hrun {

inline constexpr int kMaxBlock = 256;  // values per block, at most
inline constexpr int kGroup = 16;      // weights per integer group scale
inline constexpr int kMaxGroups = kMaxBlock / kGroup;

// The form in which a matmul wants its activations.
enum class InputForm : uint8_t {
  kFloat,    // fp32, 16-lane dot product
  kInt8x32,  // int8, one fp32 scale per 32 columns
  kInt8x64,
  kInt8x128,
  kInt8x256,  // int8, one fp32 scale per 256 columns
  kRotated,   // H256 per 256 columns (tail: 128/64/32-point pieces), then int8 with one scale per
              // block
  kRotatedSigned,  // the same with the fixed sign per column applied first
};

inline constexpr int kActivations =
    static_cast<int>(InputForm::kRotatedSigned) + 1;  // how many there are

// Columns per scale of an int8 activation.
constexpr int input_form_columns(InputForm a) {
  return a == InputForm::kInt8x32    ? 32
         : a == InputForm::kInt8x64  ? 64
         : a == InputForm::kInt8x128 ? 128
                                     : 256;
}
constexpr bool is_rotated(InputForm a) {
  return a == InputForm::kRotated || a == InputForm::kRotatedSigned;
}

// One decoded block: see the head of this file.  Entries beyond the block's length are unspecified.
struct IntBlock {
  alignas(64) int8_t codes[kMaxBlock];
  alignas(32) int16_t group_scale[kMaxGroups];
  alignas(32) int16_t group_offset[kMaxGroups];  // written only by formats with kHasOffset
  float scale;
  float offset;
};

// Common to all formats:
//   kId, kName               GGML's id and lower-case name, or ours
//   kBlockValues, kBlockBytes
//   kInputForm
//   row_ok(cols)             can a row have this many columns?
//   row_bytes(cols)          bytes of a row; only for cols that row_ok() accepts
template <class F>
concept AnyFormat = requires(int64_t cols) {
  { F::kId } -> std::convertible_to<FormatId>;
  { F::kName } -> std::convertible_to<std::string_view>;
  { F::kBlockValues } -> std::convertible_to<int>;
  { F::kBlockBytes } -> std::convertible_to<size_t>;
  { F::kInputForm } -> std::convertible_to<InputForm>;
  { F::row_ok(cols) } -> std::same_as<bool>;
  { F::row_bytes(cols) } -> std::same_as<size_t>;
};

// A quantized format also has
//   kHasOffset
//   unpack(block, n, out)    decodes the block at `block`, which holds n values (n < kBlockValues
//   only in a row's tail)
template <class F>
concept QuantizedFormat = AnyFormat<F> && requires(const uint8_t* block, int n, IntBlock& out) {
  { F::kHasOffset } -> std::convertible_to<bool>;
  F::unpack(block, n, out);
};

// A float format has widen(bytes) -> float, of kBlockBytes bytes each.
template <class F>
concept FloatFormat = AnyFormat<F> && requires(const uint8_t* value) {
  { F::widen(value) } -> std::same_as<float>;
};

// A decoded format has decode(block, out), which writes kBlockValues floats.
template <class F>
concept DecodedFormat =
    AnyFormat<F> && requires(const uint8_t* block, float* out) { F::decode(block, out); };

// Rows that are a whole number of blocks: the rule of all GGML formats.
template <int kValues, size_t kBytes>
struct WholeBlocks {
  static constexpr int kBlockValues = kValues;
  static constexpr size_t kBlockBytes = kBytes;
  static constexpr bool row_ok(int64_t cols) { return cols > 0 && cols % kValues == 0; }
  static constexpr size_t row_bytes(int64_t cols) {
    return static_cast<size_t>(cols / kValues) * kBytes;
  }
};

// GGML's blocks of 256 weights, for int8 activations with a scale per 256.
template <size_t kBytes, bool with_offset = false>
struct BlockOf256 : WholeBlocks<256, kBytes> {
  static constexpr InputForm kInputForm = InputForm::kInt8x256;
  static constexpr bool kHasOffset = with_offset;
};

// Values in block `b` of a row of `cols` columns, for blocks of 256 with a short tail or whole
// blocks alike.
template <AnyFormat F>
HRUN_HD int block_length(int64_t cols, int64_t b) {
  const int64_t left = cols - b * F::kBlockValues;
  return static_cast<int>(left < F::kBlockValues ? left : F::kBlockValues);
}

template <AnyFormat F>
HRUN_HD int64_t n_blocks(int64_t cols) {
  return (cols + F::kBlockValues - 1) / F::kBlockValues;
}

// fp16 at an unaligned address.
HRUN_HD float load_fp16(const uint8_t* p) {
  return fp16_to_fp32(static_cast<uint16_t>(p[0] | (p[1] << 8)));
}
HRUN_HD void store_fp16(uint8_t* p, float value) {
  const uint16_t h = fp32_to_fp16(value);
  p[0] = static_cast<uint8_t>(h);
  p[1] = static_cast<uint8_t>(h >> 8);
}

// The weights of a block from its integer view, in the format's own (for rotated formats: rotated)
// basis.
template <QuantizedFormat F>
HRUN_HD void to_floats(const IntBlock& block, int n, float* out) {
  for (int i = 0; i < n; ++i) {
    const int g = i / kGroup;
    const float scaled = block.scale * static_cast<float>(block.group_scale[g]);
    out[i] = scaled * static_cast<float>(block.codes[i]);
    if constexpr (F::kHasOffset) out[i] -= block.offset * static_cast<float>(block.group_offset[g]);
  }
}

// The run-time view of a format, built from its struct in list.h, never typed by hand.
struct FormatInfo {
  FormatId id;
  std::string_view name;
  int block_values;
  size_t block_bytes;
  InputForm input_form;
  int version;  // kVersion of formats that may change, written into each file; else 1
  bool has_offset;
  bool is_float;
  bool (*row_ok)(int64_t cols);
  size_t (*row_bytes)(int64_t cols);
  // One row to floats in the original basis (inverse-rotated where the format is rotated).
  void (*decode_row)(const uint8_t* row, int64_t cols, float* out);
  // The same in the format's own basis; equal to decode_row for formats that are not rotated.
  void (*decode_row_own_basis)(const uint8_t* row, int64_t cols, float* out);

  double bits_per_weight() const { return 8.0 * static_cast<double>(block_bytes) / block_values; }
};

}  // namespace hrun
