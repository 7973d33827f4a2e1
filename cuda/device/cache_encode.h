// Finds the best path through the trellis of a position with one thread.  It does what
// cpp/cpu/kernels/cache_encode.h does for a lane, operation by operation, so the same rows give the
// same codes and scales.
#pragma once

#include "cuda/device/coded_layer.h"

namespace hrun::gpu {

// Sums over a path: the squares of its levels, and the products with the values that they stand
// for.
struct PathSums {
  float squares, products;
};

// A column of values that becomes codes: value t of z, and what step t chose, are `step` further.
struct CodeColumn {
  const float* z;
  uint32_t* choices;
  int step, dim;
  const int8_t* table;  // sorted levels, in shared memory
};

// Calls put(t, code) from the last to the first.
template <int kBits, class Put>
HRUN_HD PathSums best_path(const CodeColumn& column, float factor, const Put& put) {
  constexpr int kCount = 1 << (kBits - 1);  // levels of one of the four subsets
  constexpr int kField = kBits;             // of a choice: m, and u_(t-2) above it
  constexpr uint32_t kMask = (1u << kField) - 1;
  constexpr auto kLevels = CacheLevels<kBits>::kTable;
  // State u_t + 2 u_(t-1).
  float cost[4] = {0.0f, 1e30f, 1e30f, 1e30f};
  for (int t = 0; t < column.dim; ++t) {
    const float x = column.z[t * column.step] * factor;
    float error[4];
    uint32_t choice[4];
#pragma unroll
    for (int a = 0; a < 4; ++a) {
      uint32_t m = 0;
      float level = kLevels.values[a];
#pragma unroll
      for (int i = 1; i < kCount; ++i) {
        const int low = kLevels.values[4 * i - 4 + a], high = kLevels.values[4 * i + a];
        const bool above = x > static_cast<float>(low + high) / 2;
        m += above ? 1 : 0;
        level = above ? static_cast<float>(high) : level;
      }
      const float e = x - level;
      error[a] = e * e;
      choice[a] = m;
    }
    uint32_t word = 0;
    float next[4];
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      const int u = s & 1, p = s >> 1;
      const float straight = cost[p] + error[2 * u + p],
                  crossed = cost[p + 2] + error[2 * (u ^ 1) + p];
      const bool better = crossed < straight;
      next[s] = better ? crossed : straight;
      word |= (better ? choice[2 * (u ^ 1) + p] | 1u << (kBits - 1) : choice[2 * u + p])
              << (s * kField);
    }
    column.choices[t * column.step] = word;
#pragma unroll
    for (int s = 0; s < 4; ++s) cost[s] = next[s];
  }
  int state = 0;
  float best = cost[0];
#pragma unroll
  for (int s = 1; s < 4; ++s) {
    state = cost[s] < best ? s : state;
    best = smaller(cost[s], best);
  }
  PathSums sums{0, 0};
  for (int t = column.dim - 1; t >= 0; --t) {
    const uint32_t choice = column.choices[t * column.step] >> (state * kField) & kMask;
    const int m = static_cast<int>(choice) & (kCount - 1),
              older = static_cast<int>(choice) >> (kBits - 1), u = state & 1, p = state >> 1;
    const float level = column.table[4 * m + 2 * (u ^ older) + p];
    sums.squares = fused_multiply_add(level, level, sums.squares);
    sums.products = fused_multiply_add(level, column.z[t * column.step], sums.products);
    put(t, 2 * m + u);
    state = p + 2 * older;
  }
  return sums;
}

// a / b where both are positive, else 0.
HRUN_HD float positive_ratio(float a, float b) { return a > 0 && b > 0 ? a / b : 0.0f; }
HRUN_HD uint16_t scale_as_half(float scale) { return fp32_to_fp16(scale * kCacheScaleUnit); }
// Rounds to the nearest integer, ties to even; |x| < 2^22.
HRUN_HD int to_nearest(float x) {
  return static_cast<int>(float_to_bits(x + 12582912.0f) - 0x4b400000u);
}

// Returns the scale as it is stored.
template <int kBits>
HRUN_HD uint16_t code_trellis(const CodeColumn& column, bool keys, CodeWriter& writer) {
  float squares = 0;
  for (int t = 0; t < column.dim; ++t) {
    const float x = column.z[t * column.step];
    squares = fused_multiply_add(x, x, squares);
  }
  const float length = square_root(squares);
  float factor = positive_ratio(
      CacheLevels<kBits>::kPerSigma * square_root(static_cast<float>(column.dim)), length);
  PathSums sums{};
  for (int round = keys ? 1 : 0; round < 2; ++round) {
    sums = best_path<kBits>(column, factor, [&](int t, int code) {
      if (round == 1) writer.put(t, code);
    });
    factor = positive_ratio(sums.squares, sums.products);
  }
  return scale_as_half(keys ? positive_ratio(length, square_root(sums.squares))
                            : positive_ratio(sums.products, sums.squares));
}
// Codes values as int8, relative to the largest.
HRUN_HD uint16_t code_bytes(const CodeColumn& column, CodeWriter& writer) {
  float top = 0;
  for (int t = 0; t < column.dim; ++t)
    top = larger(bits_to_float(float_to_bits(column.z[t * column.step]) & 0x7fffffffu), top);
  const uint16_t scale = scale_as_half(top / 127.0f);
  const float factor = positive_ratio(kCacheScaleUnit, fp16_to_fp32(scale));
  for (int t = column.dim - 1; t >= 0; --t) {
    const float x = column.z[t * column.step] * factor;
    writer.put(t, to_nearest(smaller(larger(x, -127.0f), 127.0f)));
  }
  return scale;
}

}  // namespace hrun::gpu
