// Makes the input of a matmul ready: normed or gated, turned into the basis of the weights, and
// rounded to int8.
#pragma once

#include "backend/backend.h"
#include "formats/format.h"
#include "cuda/gpu.h"

namespace hrun::gpu {

// int8 activations on the device, as every integer matmul reads them.
struct QuantizedRows {
  int8_t* codes;  // [n_tokens][stride]: columns in order, zeros beyond cols
  float* scales;  // [n_tokens][n_blocks], one per input_form_columns(kind) columns
  int16_t* sums;  // [n_tokens][stride / 16]: of 16 codes each, for formats with an offset
  int64_t n_tokens;
  int64_t cols;
  int64_t stride;    // cols rounded up to a multiple of 256
  int64_t n_blocks;  // per token: cols over input_form_columns(kind), rounded up
  // The codes once more for formats whose weights are packed in transposed order (device/packed.h):
  // every 256 as 16 x 16 bytes, transposed.  Null: not wanted.
  int8_t* transposed;
};

// Returns some of the rows.
inline QuantizedRows rows_of(const QuantizedRows& all, int64_t first, int64_t n) {
  QuantizedRows rows = all;
  rows.codes += first * all.stride;
  rows.scales += first * all.n_blocks;
  rows.sums += first * (all.stride / kGroup);
  if (rows.transposed) rows.transposed += first * all.stride;
  rows.n_tokens = n;
  return rows;
}

// The kind whose codes matmul() (matmul.h) reads transposed.
constexpr bool wants_transposed(InputForm kind) { return kind == InputForm::kRotatedSigned; }

// Sizes for QuantizedRows of this shape; no memory yet.
QuantizedRows quantized_shape(InputForm kind, int64_t n_tokens, int64_t cols);

// The row of the source that becomes row r: of a list on the device, or of heads that lie side by
// side in rows, which become rows head by head.
struct RowMap {
  const int32_t* list = nullptr;
  int64_t n_rows = 0, n_heads = 0;

  HRUN_HD int64_t at(int64_t r) const {
    return list ? list[r] : n_heads > 0 ? r % n_rows * n_heads + r / n_rows : r;
  }
};

// The values that are quantized: x, or x / sqrt(mean(x^2) + eps) * norm, or gate * sigmoid(gate) *
// x.
struct QuantizeSource {
  FloatView x;
  const float* norm = nullptr;  // [cols]
  float eps = 0;
  const float* gate = nullptr;  // rows with x's stride `gate_stride`
  int64_t gate_stride = 0;
  RowMap rows{};  // without a norm: x.rows counts what is made
};

// kind: any but InputForm::kFloat.  The codes and scales are what the CPU computes from the same
// floats: scale = largest magnitude / 127 of a block, codes rounded to nearest even.
void quantize(Gpu& gpu, const QuantizeSource& from, InputForm kind, const QuantizedRows& to);

// The same source in fp32, rotated as the kind says but not rounded: out [n_tokens, cols].
void prepare_floats(Gpu& gpu, const QuantizeSource& from, InputForm kind, FloatView out);

}  // namespace hrun::gpu
