// The scratch memory of a block: views one after the other, given up together.
//
// Without memory an arena counts: what a block needs is what it takes in a dry run.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/tensor.h"

namespace hrun {

class Arena {
 public:
  Arena() = default;
  explicit Arena(float* memory) : memory_(memory) {}

  FloatView take(int64_t rows, int64_t cols) {
    constexpr int64_t kStep = 64;  // floats: views begin with cache lines
    if (rows * cols == 0) return {};
    const FloatView view{memory_ ? memory_ + used_ : nullptr, rows, cols, cols};
    used_ += (rows * cols + kStep - 1) / kStep * kStep;
    return view;
  }
  size_t used_floats() const { return static_cast<size_t>(used_); }

 private:
  float* memory_ = nullptr;
  int64_t used_ = 0;
};

}  // namespace hrun
