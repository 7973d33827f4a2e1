#include "engine/step_cost.h"

#include <algorithm>
#include <cmath>

namespace hrun {
namespace {

constexpr double kForget = 0.98;  // weight of the past at each step

}  // namespace

void StepCost::observe(int64_t n_rows, double attended, double seconds) {
  if (n_rows < 1 || !(seconds > 0) || !std::isfinite(seconds)) return;
  // Relative errors count, so that the short steps of decoding are not lost beside long ones.
  const double weight = 1 / (seconds * seconds);
  const std::array<double, 3> x = {1, static_cast<double>(n_rows), attended};
  for (size_t i = 0; i < 3; ++i) {
    for (size_t j = 0; j < 3; ++j) moments_[i][j] = kForget * moments_[i][j] + weight * x[i] * x[j];
    products_[i] = kForget * products_[i] + weight * x[i] * seconds;
  }
  ++n_observed_;
  most_rows_ = std::max(most_rows_, n_rows);
  solve();
}

// Least squares with no coefficient below 0: of the sets of coefficients the one that is solvable,
// not negative and fits best.  Rows always cost something: after steps of one size alone nothing
// else would tell a fixed cost from theirs.
void StepCost::solve() {
  double best = 0;
  coefficients_ = {};
  for (const unsigned set : {2u, 3u, 6u, 7u}) {
    std::array<double, 3> c{};
    std::array<std::array<double, 4>, 3> a{};
    for (size_t i = 0; i < 3; ++i) {
      const bool in = set >> i & 1u;
      for (size_t j = 0; j < 3; ++j) a[i][j] = in && (set >> j & 1u) ? moments_[i][j] : 0;
      a[i][3] = in ? products_[i] : 0;
      if (!in) a[i][i] = 1;
    }
    // Cholesky-like elimination; the columns have very unlike scales, so pivots are relative.
    bool solvable = true;
    for (size_t k = 0; k < 3 && solvable; ++k) {
      const double scale = set >> k & 1u ? moments_[k][k] : 1;
      solvable = a[k][k] > 1e-9 * scale;
      for (size_t i = k + 1; i < 3 && solvable; ++i) {
        const double f = a[i][k] / a[k][k];
        for (size_t j = k; j < 4; ++j) a[i][j] -= f * a[k][j];
      }
    }
    if (!solvable) continue;
    for (size_t i = 3; i-- > 0;) {
      c[i] = a[i][3];
      for (size_t j = i + 1; j < 3; ++j) c[i] -= a[i][j] * c[j];
      c[i] /= a[i][i];
    }
    if (*std::min_element(c.begin(), c.end()) < 0) continue;
    // The fit explains this much of the sum of squares: c . products.
    double explained = 0;
    for (size_t i = 0; i < 3; ++i) explained += c[i] * products_[i];
    if (explained > best) {
      best = explained;
      coefficients_ = c;
    }
  }
}

double StepCost::seconds(int64_t n_rows, double attended) const {
  return coefficients_[0] + coefficients_[1] * static_cast<double>(n_rows) +
         coefficients_[2] * attended;
}

int64_t StepCost::rows_within(double limit, int64_t n_rows, double attended, int64_t first,
                              int64_t at_most) const {
  int64_t fits = 0, too_many = at_most + 1;
  while (too_many - fits > 1) {
    const int64_t n = fits + (too_many - fits) / 2;
    (seconds(n_rows + n, attended + attended_by(first, n)) <= limit ? fits : too_many) = n;
  }
  return fits;
}

}  // namespace hrun
