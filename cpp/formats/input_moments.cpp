#include "formats/input_moments.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace hrun {
namespace {

constexpr int64_t kPanel = 32;

// y[0..n) -= c * x[0..n)
void subtract_scaled(double* __restrict y, const double* __restrict x, double c, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] -= c * x[i];
}

// In place: the lower triangle of the symmetric h [n][n] becomes the transpose of M's upper one, M D M^T = h.  d: [n].
// Column by column from the last, in panels so that the matrix is read once per panel.  False if a pivot is not positive.
bool factor(std::vector<double>& h, int64_t n, double* d) {
  const auto at = [&](int64_t i) { return h.data() + i * n; };
  for (int64_t end = n; end > 0; end -= std::min(end, kPanel)) {
    const int64_t begin = std::max<int64_t>(end - kPanel, 0);
    // Row j of the lower triangle is column j of the upper one.
    for (int64_t j = end - 1; j >= begin; --j) {
      double* row = at(j);
      d[j] = row[j];
      if (!(d[j] > 0) || !std::isfinite(d[j])) return false;
      const double inverse = 1.0 / d[j];
      for (int64_t i = begin; i < j; ++i) subtract_scaled(at(i), row, row[i] * inverse, i + 1);
      for (int64_t i = 0; i < j; ++i) row[i] *= inverse;
      row[j] = 1;
    }
    for (int64_t i = 0; i < begin; ++i)
      for (int64_t j = end - 1; j >= begin; --j) subtract_scaled(at(i), at(j), at(j)[i] * d[j], i + 1);
  }
  return true;
}

}  // namespace

InputFactor::InputFactor(const float* moments, int64_t cols, int64_t width, double damping)
    : cols_(cols), width_(width), stride_(width + kPadding) {
  if (cols < 1 || width < 1 || width > cols) throw ArgumentError("{} columns in groups of {}", cols, width);
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
    if (!std::isfinite(diagonal)) throw ConversionError("the second moments of an input are not finite");
    // An input that is always zero: any error is free, and any positive weight will do.
    const double ridge = diagonal > 0 ? damping * diagonal / static_cast<double>(n) : 1.0;
    h.assign(static_cast<size_t>(n * n), 0.0);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j <= i; ++j)
        h[static_cast<size_t>(i * n + j)] = static_cast<double>(source[i * width + j]) + (i == j ? ridge : 0.0);
    if (!factor(h, n, d.data()))
      throw ConversionError("the second moments of an input are not positive definite; more calibration text or more "
                            "damping is needed");
    for (int64_t t = 0; t < n; ++t) {
      weights_[static_cast<size_t>(first + t)] = static_cast<float>(d[static_cast<size_t>(t)]);
      float* out = feedback_.data() + (first + t) * stride_;
      for (int64_t c = t + 1; c < n; ++c) out[c] = static_cast<float>(h[static_cast<size_t>(c * n + t)]);
    }
  }
  mean_power_ = trace / static_cast<double>(cols);
}

int64_t InputFactor::group_end(int64_t t) const { return std::min(cols_, (t / width_ + 1) * width_); }

}  // namespace hrun
