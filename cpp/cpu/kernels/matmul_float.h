// y[t, r] = <x[t], w[r]> in fp32.
//
// The numeric contract: 16 running sums, acc[l] = fma(x[16 i + l], w[16 i + l], acc[l]), columns
// beyond the end being 0, then the tree of reduce_add().  Tiles of rows and tokens only share
// loads.
#pragma once

#include "cpu/matrix_kernels.h"
#include "cpu/lanes/lanes.h"

namespace hrun {
namespace {

template <int kRows, int kTokens, FloatFormat F>
HRUN_HD void float_tile(const uint8_t* w, size_t row_bytes, const float* x, int64_t x_stride,
                        int64_t cols, float* y, int64_t y_stride) {
  Lanes acc[kRows][kTokens];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) acc[r][t] = splat(0.0f);
  for_lanes(cols, [&](int64_t i, int n) {
    Lanes xs[kTokens];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) xs[t] = load_n(x + t * x_stride + i, n);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Lanes ws = load_weights<F>(
          w + static_cast<size_t>(r) * row_bytes + static_cast<size_t>(i) * F::kBlockBytes, n);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) acc[r][t] = fma(xs[t], ws, acc[r][t]);
    }
  });
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) y[t * y_stride + r] = reduce_add(acc[r][t]);
}

template <int kTokens, FloatFormat F>
HRUN_HD void float_rows(const WeightRows& w, const float* x, int64_t x_stride, float* y,
                        int64_t y_stride) {
  int r = 0;
  // Four rows at once give a single token enough independent sums to hide the latency of fma.
  for (; r + 4 <= w.n_rows; r += 4)
    float_tile<4, kTokens, F>(w.data + static_cast<size_t>(r) * w.row_bytes, w.row_bytes, x,
                              x_stride, w.cols, y + r, y_stride);
  for (; r < w.n_rows; ++r)
    float_tile<1, kTokens, F>(w.data + static_cast<size_t>(r) * w.row_bytes, w.row_bytes, x,
                              x_stride, w.cols, y + r, y_stride);
}

template <FloatFormat F>
void matmul_float_kernel(const WeightRows& w, FloatView x, float* y, int64_t y_stride) {
  constexpr int kTokens = kTokenTile == 8 ? 4 : 2;  // 16 or 8 sums
  int64_t t = 0;
  for (; t + kTokens <= x.rows; t += kTokens)
    float_rows<kTokens, F>(w, x.row(t), x.stride, y + t * y_stride, y_stride);
  for (; t < x.rows; ++t) float_rows<1, F>(w, x.row(t), x.stride, y + t * y_stride, y_stride);
}

void matmul_decoded_kernel(const float* w, int64_t w_stride, int n_rows, FloatView x, float* y,
                           int64_t y_stride) {
  const WeightRows rows{reinterpret_cast<const uint8_t*>(w),
                        static_cast<size_t>(w_stride) * sizeof(float), n_rows, x.cols};
  matmul_float_kernel<F32>(rows, x, y, y_stride);
}

}  // namespace
}  // namespace hrun
