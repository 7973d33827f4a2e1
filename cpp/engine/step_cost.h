// The cost of a step, learnt from the steps before it: seconds = fixed + rows * a + attended * b.
//
// attended: the sum over rows of the positions that each row attends to.  Older steps count less,
// so the model follows a machine whose speed changes.
#pragma once

#include <array>
#include <cstdint>

namespace hrun {

class StepCost {
 public:
  void observe(int64_t n_rows, double attended, double seconds);
  // False until enough steps were seen for rows_within() to mean something.
  bool known() const { return n_observed_ >= 2; }
  // Rows of a step up to which the model may be believed: twice those of the largest step seen, so
  // that the first steps of a prompt find out what rows cost instead of guessing it.
  int64_t rows_believed() const { return 2 * most_rows_; }
  double seconds(int64_t n_rows, double attended) const;
  // The number of rows from position `first` on that can join a step of n_rows and `attended` so
  // that it takes at most `limit` seconds; between 0 and at_most.
  int64_t rows_within(double limit, int64_t n_rows, double attended, int64_t first,
                      int64_t at_most) const;

  // The `attended` of the rows [first, first + n) of one sequence.
  static double attended_by(int64_t first, int64_t n) {
    return static_cast<double>(n) * static_cast<double>(first) +
           0.5 * static_cast<double>(n) * static_cast<double>(n + 1);
  }

 private:
  void solve();

  int64_t n_observed_ = 0, most_rows_ = 0;
  std::array<std::array<double, 3>, 3> moments_{};
  std::array<double, 3> products_{};
  std::array<double, 3> coefficients_{};
};

}  // namespace hrun
