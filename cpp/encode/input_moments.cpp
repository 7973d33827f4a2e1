#include "encode/input_moments.h"

#include <algorithm>
#include <cmath>

#include "base/cpu_features.h"
#include "base/error.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors never cross a call

namespace hrun {
namespace {

constexpr int64_t kPanel = 32;

typedef double Doubles __attribute__((vector_size(64)));
constexpr int64_t kLane = 8;

// y[0..n) -= c * x[0..n), a whole number of vectors: reads and writes up to 7 places more.
[[gnu::always_inline]] inline void subtract_scaled(double* y, const double* x, double c,
                                                   int64_t n) {
  for (int64_t i = 0; i < n; i += kLane) {
    Doubles a, b;
    __builtin_memcpy(&a, y + i, sizeof a);
    __builtin_memcpy(&b, x + i, sizeof b);
    a -= b * c;
    __builtin_memcpy(y + i, &a, sizeof a);
  }
}

// In place: the lower triangle of the symmetric h [n][stride] becomes the transpose of M's upper
// one, M D M^T = h; the rest of h is scratch.  d: [n].  Column by column from the last, in panels
// so that the matrix is read once per panel.  False if a pivot is not positive.
[[gnu::always_inline]] inline bool factor_body(double* h, int64_t n, int64_t stride, double* d) {
  for (int64_t end = n; end > 0; end -= std::min(end, kPanel)) {
    const int64_t begin = std::max<int64_t>(end - kPanel, 0);
    // Row j of the lower triangle is column j of the upper one.
    for (int64_t j = end - 1; j >= begin; --j) {
      double* row = h + j * stride;
      d[j] = row[j];
      if (!(d[j] > 0) || !std::isfinite(d[j])) return false;
      const double inverse = 1.0 / d[j];
      for (int64_t i = begin; i < j; ++i)
        subtract_scaled(h + i * stride, row, row[i] * inverse, i + 1);
      for (int64_t i = 0; i < j; ++i) row[i] *= inverse;
      row[j] = 1;
    }
    for (int64_t i = 0; i < begin; ++i)
      for (int64_t j = end - 1; j >= begin; --j) {
        const double* row = h + j * stride;
        subtract_scaled(h + i * stride, row, row[i] * d[j], i + 1);
      }
  }
  return true;
}

using Factor = bool (*)(double* h, int64_t n, int64_t stride, double* d);

bool factor_baseline(double* h, int64_t n, int64_t stride, double* d) {
  return factor_body(h, n, stride, d);
}
#if defined(__x86_64__)
__attribute__((target("avx2"))) bool factor_avx2(double* h, int64_t n, int64_t stride, double* d) {
  return factor_body(h, n, stride, d);
}
__attribute__((target("avx512f,prefer-vector-width=512"))) bool factor_avx512(double* h, int64_t n,
                                                                              int64_t stride,
                                                                              double* d) {
  return factor_body(h, n, stride, d);
}
#endif

Factor pick_factor() {
#if defined(__x86_64__)
  if (cpu_may_use("avx512f")) return factor_avx512;
  if (cpu_may_use("avx2")) return factor_avx2;
#endif
  return factor_baseline;
}

}  // namespace

InputFactor::InputFactor(const float* moments, int64_t cols, int64_t width, double damping)
    : cols_(cols), width_(width), stride_(width + kPadding) {
  if (cols < 1 || width < 1 || width > cols)
    throw ArgumentError("{} columns in groups of {}", cols, width);
  if (!(damping > 0)) throw ArgumentError("damping is {}, must be positive", damping);
  feedback_.assign(static_cast<size_t>(cols * stride_), 0.0f);
  weights_.resize(static_cast<size_t>(cols));
  double trace = 0;
  std::vector<double> h, d(static_cast<size_t>(width));
  for (int64_t first = 0; first < cols; first += width) {
    const int64_t n = std::min(width, cols - first);
    const float* source = moments + first * width;
    double diagonal = 0;
    for (int64_t i = 0; i < n; ++i) diagonal += static_cast<double>(source[i * width + i]);
    trace += diagonal;
    if (!std::isfinite(diagonal))
      throw ConversionError("the second moments of an input are not finite");
    // If an input is always zero, any error is free, and any positive weight will do.
    const double ridge = diagonal > 0 ? damping * diagonal / static_cast<double>(n) : 1.0;
    const int64_t stride = n + kLane;
    h.assign(static_cast<size_t>(n * stride), 0.0);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j <= i; ++j)
        h[static_cast<size_t>(i * stride + j)] =
            static_cast<double>(source[i * width + j]) + (i == j ? ridge : 0.0);
    if (!pick_factor()(h.data(), n, stride, d.data()))
      throw ConversionError(
          "the second moments of an input are not positive definite; more calibration text or more "
          "damping is needed");
    for (int64_t t = 0; t < n; ++t) {
      weights_[static_cast<size_t>(first + t)] = static_cast<float>(d[static_cast<size_t>(t)]);
      float* out = feedback_.data() + (first + t) * stride_;
      for (int64_t c = t + 1; c < n; ++c)
        out[c] = static_cast<float>(h[static_cast<size_t>(c * stride + t)]);
    }
  }
  mean_power_ = trace / static_cast<double>(cols);
}

int64_t InputFactor::group_end(int64_t t) const {
  return std::min(cols_, (t / width_ + 1) * width_);
}

}  // namespace hrun
