// A row of activations made ready for a product: normed or gated, turned, rounded to int8 or left
// in fp32.  A warp works on 256 columns of a token at a time, eight per lane.
#pragma once

#include "cuda/device/math.h"
#include "cuda/device/rotate.h"
#include "cuda/kernels/quantize.h"

namespace hrun::gpu {

struct PrepareTask {
  const float* x;
  int64_t x_stride;
  const float* norm;  // or null
  float eps;
  const float* gate;  // or null
  int64_t gate_stride;
  RowMap rows;
  int64_t cols;
  bool rotated, with_signs;
  bool wide;  // rows begin at multiples of 16 bytes
  int log2_lanes_per_scale;
  // Codes
  QuantizedRows to;
  // or floats
  float* out;
  int64_t out_stride;
};

// The sum of a norm's squares is the sum of this many warps.  Their order depends on the columns
// alone: warp w has the blocks of 256 columns w, w + 16, ...
inline constexpr int kNormWarps = 16;

template <bool kNorm, bool kCodes>
struct PrepareRow : PrepareTask {
  static_assert(kPerLane == 8, "the shift of store_codes()");

  // The values of eight columns that are known before the norm is.
  struct Columns {
    float x[kPerLane];
    float factor[kPerLane];  // weight of the norm, or gate
    uint32_t negative;       // bit i: the sign of column i is -1
  };

  HRUN_HD void load(int64_t token, int64_t c, Columns& columns) const {
    const int64_t row = kNorm ? token : rows.at(token);
    load_eight(x + row * x_stride, c, cols, wide, columns.x);
    if constexpr (kNorm)
      load_eight(norm, c, cols, wide, columns.factor);
    else if (gate)
      load_eight(gate + row * gate_stride, c, cols, wide, columns.factor);
    columns.negative = 0;
    if (with_signs) {
#pragma unroll
      for (int i = 0; i < kPerLane; ++i)
        columns.negative |= (rotation_sign(c + i) < 0 ? 1u : 0u) << i;
    }
  }

  HRUN_HD float add_squares(const float (&v)[kPerLane], float sum) const {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) sum = fused_multiply_add(v[i], v[i], sum);
    return sum;
  }

  // 1 / sqrt(mean of squares + eps), from the sums of each warp.  Needs a whole warp.
  HRUN_HD float inverse_of(const float* sums) const {
    const float sum = warp_sum(lane() < kNormWarps ? sums[lane()] : 0.0f);
    return 1.0f / square_root(sum / static_cast<float>(cols) + eps);
  }

  // Prepares a whole row with a block of kWarps warps; sums: kNormWarps numbers in shared memory.
  template <int kWarps>
  HRUN_HD void row(int64_t token, float* sums) const {
    float inverse = 1;
    if constexpr (kNorm) {
      for (int w = warp(); w < kNormWarps; w += kWarps) {
        float squares = 0;
        for (int64_t c = w * kRotationBlock + lane() * kPerLane; c < cols;
             c += kNormWarps * kRotationBlock) {
          float v[kPerLane];
          load_eight(x + token * x_stride, c, cols, wide, v);
          squares = add_squares(v, squares);
        }
        squares = warp_sum(squares);
        if (lane() == 0) sums[w] = squares;
      }
      sync_block();
      inverse = inverse_of(sums);
    }
    for (int64_t c = warp() * kRotationBlock; c < cols; c += kWarps * kRotationBlock)
      block(token, c, inverse);
    sync_block();
  }
  // Prepares 256 columns of the row with one warp.
  HRUN_HD void block(int64_t token, int64_t first, float inverse) const {
    Columns columns;
    load(token, first + lane() * kPerLane, columns);
    prepare(token, first + lane() * kPerLane, inverse, columns);
  }

  HRUN_HD void prepare(int64_t token, int64_t c, float inverse, const Columns& columns) const {
    float v[kPerLane];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      v[i] = columns.x[i];
      if constexpr (kNorm)
        v[i] = (v[i] * inverse) * columns.factor[i];
      else if (gate)
        v[i] = silu(columns.factor[i]) * v[i];
      v[i] = bits_to_float(float_to_bits(v[i]) ^ (columns.negative >> i) << 31);
    }
    const int64_t left = cols - (c - lane() * kPerLane);
    if (rotated) rotate_lanes(v, left < kRotationBlock ? static_cast<int>(left) : kRotationBlock);
    if constexpr (kCodes)
      store_codes(token, c, v);
    else
      store_floats(token, c, v);
  }

  HRUN_HD void store_codes(int64_t token, int64_t c, const float (&v)[kPerLane]) const {
    // Compared as integers, infinities and NaN are the largest magnitudes.
    uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const uint32_t magnitude = float_to_bits(v[i]) & 0x7fffffffu;
      if (magnitude > bits) bits = magnitude;
    }
#pragma unroll
    for (int mask = 1; mask < kWarp; mask *= 2) {
      const uint32_t other = shuffle_xor_bits(bits, mask);
      if (mask >> log2_lanes_per_scale == 0 && other > bits) bits = other;
    }
    const bool finite = bits < 0x7f800000u;
    const float largest = bits_to_float(bits);
    float factor = finite && bits != 0 ? 127.0f / largest : 0.0f;
    if (float_to_bits(factor) == 0x7f800000u)
      factor = 0.0f;  // the largest magnitude is below 127 / FLT_MAX
    const float scale = !finite          ? bits_to_float(0x7fc00000u)
                        : factor != 0.0f ? largest / 127.0f
                                         : 0.0f;

    constexpr float kMagic =
        12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, ties to even
    uint32_t packed[2] = {};
    int sum = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int code =
          finite ? static_cast<int>(float_to_bits(v[i] * factor + kMagic) - 0x4b400000u) : 0;
      sum += code;
      packed[i / 4] |= static_cast<uint32_t>(code & 255) << (8 * (i % 4));
    }
    sum += shuffle_xor(sum, 1);
    *reinterpret_cast<Words2*>(to.codes + token * to.stride + c) = {{packed[0], packed[1]}};
    if (to.transposed) {  // column 16 r + i of a block to 16 i + r
      int8_t* const at = to.transposed + token * to.stride + c / kRotationBlock * kRotationBlock +
                         c % 16 * 16 + c % kRotationBlock / 16;
#pragma unroll
      for (int i = 0; i < kPerLane; ++i)
        at[16 * i] = static_cast<int8_t>(packed[i / 4] >> (8 * (i % 4)));
    }
    if (lane() % 2 == 0)
      to.sums[token * (to.stride / kGroup) + c / kGroup] = static_cast<int16_t>(sum);
    if ((lane() & ((1 << log2_lanes_per_scale) - 1)) == 0 && c < cols)
      to.scales[token * to.n_blocks + (c >> (log2_lanes_per_scale + 3))] = scale;
  }

  HRUN_HD void store_floats(int64_t token, int64_t c, const float (&v)[kPerLane]) const {
    float* const row = out + token * out_stride;
    if (wide && c + kPerLane <= cols) {
      Words4 a, b;
#pragma unroll
      for (int i = 0; i < 4; ++i) a.v[i] = float_to_bits(v[i]), b.v[i] = float_to_bits(v[4 + i]);
      reinterpret_cast<Words4*>(row + c)[0] = a;
      reinterpret_cast<Words4*>(row + c)[1] = b;
    } else {
#pragma unroll
      for (int i = 0; i < kPerLane; ++i)
        if (c + i < cols) row[c + i] = v[i];
    }
  }
};

// Makes the task for a source of any kind.
PrepareTask prepare_task(const QuantizeSource& from, InputForm kind, const QuantizedRows& to,
                         FloatView out);

}  // namespace hrun::gpu
