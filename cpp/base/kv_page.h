// The unit in which the caches of keys and values are shared, moved and given out.
#pragma once

#include <cstdint>

namespace hrun {

// Attention takes positions by blocks of 64 aligned to position 0, each on its own, so that a page
// may lie anywhere without a change of any bit.
inline constexpr int64_t kPagePositions = 64;

// Pages that hold n positions.
constexpr int64_t pages_of(int64_t n_positions) {
  return (n_positions + kPagePositions - 1) / kPagePositions;
}

}  // namespace hrun
