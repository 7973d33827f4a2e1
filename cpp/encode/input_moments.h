// The second moments H = E[x x^T] of a matmul's input, factored for coding columns one after the
// other.
//
// The error of a coded row, e = w - w', costs e H e^T.  With H = M D M^T, M unit upper triangular,
// that is
//
//   sum_t d_t (e_t + sum_(s<t) e_s A[s, t])^2          A the part of M above the diagonal
//
// so a coder that goes through the columns in order aims at w_t + sum_(s<t) e_s A[s, t] and pays
// d_t for what it misses (LDLQ, the same as GPTQ).  Everything is in the basis of the coded
// weights, here the rotated one.
#pragma once

#include <cstdint>
#include <vector>

namespace hrun {

// Block diagonal in groups of `width` columns (the last may be shorter); width = cols for the whole
// matrix.  Both are multiples of kWidthStep.
class InputFactor {
 public:
  // `moments`: one matrix of width x width per group, row-major; the last group uses the leading
  // part of its own. `damping`: multiple of the group's mean diagonal that is added to its
  // diagonal, > 0.  n_threads: as of a ThreadPool; the result is the same.  Throws ConversionError
  // if the matrix is not finite or not positive definite then.
  InputFactor(const float* moments, int64_t cols, int64_t width, double damping, int n_threads = 1);

  static constexpr int kWidthStep = 32;
  static constexpr int kPadding = 96;  // readable zeros after the last column of a group

  int64_t cols() const { return cols_; }
  int64_t width() const { return width_; }
  int64_t group_end(int64_t t) const;  // first column after t's group
  // A[t, c] for columns c of t's group, from c = 0 of the whole row: only [group begin, group end +
  // kPadding) may be read. Zero for c <= t.
  const float* row(int64_t t) const { return feedback_.data() + t * stride_ - t / width_ * width_; }
  float weight(int64_t t) const { return weights_[static_cast<std::size_t>(t)]; }
  // tr of the whole matrix / cols: the mean power of an input.
  double mean_power() const { return mean_power_; }

 private:
  int64_t cols_, width_, stride_;
  std::vector<float> feedback_;  // [cols][stride]
  std::vector<float> weights_;   // d
  double mean_power_ = 0;
};

}  // namespace hrun
