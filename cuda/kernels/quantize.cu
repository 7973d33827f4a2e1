#include "cuda/kernels/quantize.h"

#include "cuda/device/math.h"
#include "cuda/device/rotate.h"

namespace hrun::gpu {
namespace {

// A warp works on 256 columns of a token, eight per lane.  With a norm one block of threads has the
// whole token, since all of it must be summed first; without, a token is spread over as many blocks
// as there are columns for.  The order of the sum depends on the columns alone.
//
// For a single token the latency counts: what needs no other thread (the loads of a warp's first
// 256 columns, the hash of their signs, about 150 instructions) comes before the sum of squares.
// Rows up to 4096 columns are read once, what is beyond that again from L1.
template <bool kNorm, bool kCodes>
struct Prepare {
  static constexpr int kThreads = kNorm ? 512 : 128, kBlocks = kNorm ? 2 : 8;
  static constexpr int kWarps = kThreads / kWarp;
  static constexpr const char* kName = kCodes ? "quantize" : "prepare_floats";
  static constexpr size_t kSharedBytes = kNorm ? kWarps * sizeof(float) : 0;

  const float* x;
  int64_t x_stride;
  const float* norm;  // kNorm
  float eps;
  const float* gate;  // or null
  int64_t gate_stride;
  int64_t cols;
  int blocks_per_token;  // of threads
  bool rotated, with_signs;
  bool wide;  // rows begin at multiples of 16 bytes
  int log2_lanes_per_scale;
  // kCodes
  QuantizedRows to;
  // else
  float* out;
  int64_t out_stride;

  static_assert(kPerLane == 8, "the shift of store_codes()");

  // What is known of eight columns before the norm is.
  struct Columns {
    float x[kPerLane];
    float factor[kPerLane];  // weight of the norm, or gate
    uint32_t negative;       // bit i: the sign of column i is -1
  };

  HRUN_HD void load(int64_t token, int64_t c, Columns& columns) const {
    load_eight(x + token * x_stride, c, cols, wide, columns.x);
    if constexpr (kNorm)
      load_eight(norm, c, cols, wide, columns.factor);
    else if (gate)
      load_eight(gate + token * gate_stride, c, cols, wide, columns.factor);
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

  // 1 / sqrt(mean of squares + eps), in every thread the same bits.
  HRUN_HD float inverse_of(float squares) const {
    squares = warp_sum(squares);
    auto* const sums = reinterpret_cast<float*>(shared());
    if (lane() == 0) sums[warp()] = squares;
    sync_block();
    const float sum = warp_sum(lane() < kWarps ? sums[lane()] : 0.0f);
    return 1.0f / square_root(sum / static_cast<float>(cols) + eps);
  }

  HRUN_HD void operator()() const {
    const int64_t token = block_x() / blocks_per_token;
    const int first_block = block_x() % blocks_per_token * kWarps + warp();
    const int64_t first = static_cast<int64_t>(first_block) * kRotationBlock + lane() * kPerLane;
    constexpr int64_t kStep = kWarps * kRotationBlock;  // with a norm

    Columns columns;
    load(token, first, columns);
    float inverse = 1;
    if constexpr (kNorm) {
      float squares = add_squares(columns.x, 0.0f);
      for (int64_t c = first + kStep; c < cols; c += kStep) {
        float v[kPerLane];
        load_eight(x + token * x_stride, c, cols, wide, v);
        squares = add_squares(v, squares);
      }
      inverse = inverse_of(squares);
    }
    if (static_cast<int64_t>(first_block) * kRotationBlock < cols)
      prepare(token, first, inverse, columns);
    if constexpr (kNorm)
      for (int64_t c = first + kStep; c - lane() * kPerLane < cols; c += kStep) {
        load(token, c, columns);
        prepare(token, c, inverse, columns);
      }
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

bool rows_of_words4(const float* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % 4 == 0;
}

template <bool kNorm, bool kCodes>
void launch(Gpu& gpu, const QuantizeSource& from, Activation kind, const QuantizedRows& to,
            FloatView out) {
  using Kernel = Prepare<kNorm, kCodes>;
  const FloatView& x = from.x;
  if (x.rows == 0) return;
  const int64_t n_blocks = (x.cols + kRotationBlock - 1) / kRotationBlock;
  Kernel k{};
  k.x = x.data;
  k.x_stride = x.stride;
  k.norm = from.norm;
  k.eps = from.eps;
  k.gate = from.gate;
  k.gate_stride = from.gate_stride;
  k.cols = x.cols;
  k.blocks_per_token =
      kNorm ? 1 : static_cast<int>((n_blocks + Kernel::kWarps - 1) / Kernel::kWarps);
  k.rotated = is_rotated(kind);
  k.with_signs = kind == Activation::kRotatedSigned;
  k.wide = rows_of_words4(x.data, x.stride) && (!from.norm || rows_of_words4(from.norm, 0)) &&
           (!from.gate || rows_of_words4(from.gate, from.gate_stride)) &&
           (kCodes || rows_of_words4(out.data, out.stride));
  while (kPerLane << k.log2_lanes_per_scale < activation_columns(kind)) ++k.log2_lanes_per_scale;
  k.to = to;
  k.out = out.data;
  k.out_stride = out.stride;
  gpu.launch(k, Grid{static_cast<int>(x.rows * k.blocks_per_token)}, Kernel::kSharedBytes);
}

}  // namespace

QuantizedRows quantized_shape(Activation kind, int64_t n_tokens, int64_t cols) {
  QuantizedRows to{};
  to.n_tokens = n_tokens;
  to.cols = cols;
  to.stride = (cols + kRotationBlock - 1) / kRotationBlock * kRotationBlock;
  to.n_blocks = (cols + activation_columns(kind) - 1) / activation_columns(kind);
  return to;
}

void quantize(Gpu& gpu, const QuantizeSource& from, Activation kind, const QuantizedRows& to) {
  if (from.norm)
    launch<true, true>(gpu, from, kind, to, {});
  else
    launch<false, true>(gpu, from, kind, to, {});
}

void prepare_floats(Gpu& gpu, const QuantizeSource& from, Activation kind, FloatView out) {
  if (from.norm)
    launch<true, false>(gpu, from, kind, {}, out);
  else
    launch<false, false>(gpu, from, kind, {}, out);
}

}  // namespace hrun::gpu
