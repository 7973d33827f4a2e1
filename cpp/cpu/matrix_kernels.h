// Kernels of matrices: rows decoded, activations quantized, products.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/tensor.h"
#include "cpu/kernel_constants.h"
#include "formats/format.h"

namespace hrun {

// Activations of a matmul as int8, held in int16.  A block is 32 or 256 columns (less in a row's
// tail).
//   x[t, c] ~ scale[t, c / block] * codes[t, c]
// A block with an infinity or a NaN has codes 0 and scale NaN; one whose largest magnitude is below
// 127/FLT_MAX counts as 0.
struct QuantizedRows {
  int16_t* codes = nullptr;  // [n_tokens, cols]
  float* scale = nullptr;    // [n_tokens, n_blocks]
  int16_t* sums = nullptr;   // [n_tokens, ceil(cols / 16)], of the codes of a group
  int64_t n_tokens = 0;
  int64_t cols = 0;
  int64_t n_blocks = 0;
  int64_t n_groups = 0;
};

// The values that are quantized: x; or x * inverse[t] * weight, the norm; or silu(gate) * x.
struct ActivationSource {
  FloatView x;
  const float* weight = nullptr;   // [cols]
  const float* inverse = nullptr;  // [n_tokens]
  FloatView gate{};
};

// Up to kPanelRows weight rows as the file holds them.
struct WeightRows {
  const uint8_t* data = nullptr;
  size_t row_bytes = 0;
  int n_rows = 0;
  int64_t cols = 0;
};

// Activations for packed weights (panels/layout.h): int8, in the order that the codes of the format
// are packed in.  The tokens of a block lie side by side, so that kernels reach those of a tile
// from one address.
struct PackedActivations {
  int8_t* codes = nullptr;        // [n_blocks, stride, columns of a block]
  float* scale = nullptr;         // [n_blocks, stride]
  int32_t* block_sums = nullptr;  // [n_blocks, stride], of the codes
  int16_t* sums8 = nullptr;  // [n_blocks, stride, 32], of 8 columns; these only of blocks of 256 in
                             // natural order
  int16_t* sums16 = nullptr;  // [n_blocks, stride, 16]
  int16_t* sums32 = nullptr;  // [n_blocks, stride, 8]
  int64_t n_tokens = 0;
  int64_t stride = 0;  // tokens from a block to the next
  int64_t n_blocks = 0;

  int64_t at(int64_t t, int64_t b) const { return b * stride + t; }
};

// The order in which panels are fetched ahead for one or two tokens.  Either the halves of a window
// of 8 KiB are fetched side by side, line by line in turns, or line after line.
enum class Prefetch : uint8_t { halves, linear };

// A tensor in panels of 16 rows.
struct PackedWeights {
  const uint8_t* data = nullptr;
  size_t panel_bytes = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  Prefetch prefetch = Prefetch::halves;
};
inline constexpr int kPackedPanels = 4;     // per call of a packed matmul, at most
inline constexpr int kFewTokensAtMost = 8;  // beyond, a packed matmul stores decoded weights

struct FormatKernels {
  // Decodes one row to floats, in the original basis or in the format's own.  `signs` holds
  // rotation_sign() per column.
  void (*decode_row)(const uint8_t* row, int64_t cols, const float* signs, bool own_basis,
                     float* out);
  // Quantized formats: y[t, r] for all tokens of x.  y points at row 0 of the panel; scratch:
  // kPanelRows floats per token.
  void (*matmul_int)(const WeightRows& w, const QuantizedRows& x, float* y, int64_t y_stride,
                     float* scratch);
  // The same for float formats, with fp32 activations.
  void (*matmul_float)(const WeightRows& w, FloatView x, float* y, int64_t y_stride);
  // These are null where the tier has no kernel for packed weights of this format.
  size_t (*packed_panel_bytes)(int64_t cols);
  bool (*pack_panel)(const uint8_t* rows, size_t row_bytes, int n_rows, int64_t cols,
                     uint8_t* panel);
  // Multiplies rows of panels first_panel .. first_panel + n_panels - 1 by all tokens; y points at
  // row 0 of the tensor.  scratch: kPackedPanels * kPanelRows floats per token, 64-aligned.
  void (*matmul_packed)(const PackedWeights& w, int64_t first_panel, int n_panels,
                        const PackedActivations& x, float* y, int64_t y_stride, float* scratch);
};

struct MatrixKernels {
  const FormatKernels* formats;  // in the order of formats()

  // Rotates the block of n columns at column `first` in place (rotation.h).
  void (*rotate_block)(float* x, int64_t first, int n, const float* signs, bool with_signs);
  // Quantizes block `block` of token t of x into `to`; x is in the original basis.
  void (*quantize_block)(const ActivationSource& x, int64_t t, int64_t block, InputForm kind,
                         const float* signs, const QuantizedRows& to);
  // The same for packed weights.
  void (*quantize_packed)(const ActivationSource& x, int64_t t, int64_t block, InputForm kind,
                          const float* signs, const PackedActivations& to);
  // y[t, r] = <x[t], w[r]> over decoded rows [n_rows, cols] that are w_stride apart.
  void (*matmul_decoded)(const float* w, int64_t w_stride, int n_rows, FloatView x, float* y,
                         int64_t y_stride);
  // The tier's int8 (or int16) multiply-add on registers, over and over; returns the number of
  // operations done.
  int64_t (*multiply_registers)(int64_t iterations);
  // Does the CPU compute what this tier relies on?  Null: nothing that CPUID does not settle.
  bool (*self_check)();
};

}  // namespace hrun
