// The softmax of attention: the numbers that a block of 64 positions has for its queries, and how
// blocks are joined (attention.h has the contract).
#pragma once

#include "cpu/lanes/math.h"

namespace hrun {
namespace {

inline constexpr int kTileQueries = 4;
inline constexpr int kBlockVectors = kAttentionBlock / kLanes;

// Running or block-wise maximum and sum of up to 16 queries, a lane each.
struct SoftmaxState {
  alignas(64) float largest[kLanes];
  alignas(64) float sum[kLanes];
};
// The factors for earlier values and for those of the block when the two are joined.
struct JoinFactors {
  alignas(64) float before[kLanes];
  alignas(64) float block[kLanes];
};

HRUN_HD void join(SoftmaxState& state, const SoftmaxState& block, JoinFactors& factors) {
  const Lanes largest = load(state.largest), top = load(block.largest);
  const Lanes now = max(top, largest);
  const Lanes before = exp_or_zero(sub(largest, now)), here = exp(sub(top, now));
  store(state.sum, fma(load(state.sum), before, mul(load(block.sum), here)));
  store(state.largest, now);
  store(factors.before, before);
  store(factors.block, here);
}

// Positions of a block that a query sees: begin .. end - 1.
struct Visible {
  int begin, end;
  bool operator==(const Visible&) const = default;

  int first_vector() const { return begin / kLanes; }
  int end_vector() const { return (end + kLanes - 1) / kLanes; }
  bool whole_vector(int c) const { return begin <= c * kLanes && (c + 1) * kLanes <= end; }
};

// All ones in the lanes of vector c that are seen, else zeros.
HRUN_HD IntLanes seen_lanes(Visible seen, int c) {
  alignas(64) static constexpr int16_t kNumbers[2 * kLanes] = {
      0, 0, 1, 0, 2,  0, 3,  0, 4,  0, 5,  0, 6,  0, 7,  0,
      8, 0, 9, 0, 10, 0, 11, 0, 12, 0, 13, 0, 14, 0, 15, 0};
  const IntLanes position = add(load_pairs(kNumbers), splat_int(c * kLanes));
  return shift_right<31>(
      bit_and(sub(position, splat_int(seen.end)), sub(splat_int(seen.begin - 1), position)));
}

// Makes scores exponentials, in the vectors that are seen at least in part.
template <int kQueries>
[[gnu::noinline]] void softmax_of_block(float (&scores)[kTileQueries][kAttentionBlock],
                                        Visible seen, SoftmaxState& state) {
  const bool whole = seen == Visible{0, kAttentionBlock};
  const int first = seen.first_vector(), end = seen.end_vector();
  Lanes total[kQueries], tops[kQueries];
#pragma GCC unroll 4
  for (int h = 0; h < kQueries; ++h) {
    Lanes& top = tops[h];
    top = load(&scores[h][first * kLanes]);
    if (whole) {
#pragma GCC unroll 4
      for (int c = 1; c < kBlockVectors; ++c) top = max(load(&scores[h][c * kLanes]), top);
    } else {
      for (int c = first + 1; c < end; ++c) top = max(load(&scores[h][c * kLanes]), top);
    }
    total[h] = splat(0.0f);
  }
  reduce_max_each(tops, state.largest);
  if (whole) {
#pragma GCC unroll 4
    for (int h = 0; h < kQueries; ++h) {
      const Lanes largest = splat(state.largest[h]);
      for (int c = 0; c < kBlockVectors; ++c) {
        const Lanes e = exp_up_to_one(sub(load(&scores[h][c * kLanes]), largest));
        store(&scores[h][c * kLanes], e);
        total[h] = add(total[h], e);
      }
    }
  } else {
    for (int c = first; c < end; ++c) {
      const IntLanes lanes = seen_lanes(seen, c);
#pragma GCC unroll 4
      for (int h = 0; h < kQueries; ++h) {
        const Lanes e = exp_in(lanes, sub(load(&scores[h][c * kLanes]), splat(state.largest[h])));
        store(&scores[h][c * kLanes], e);
        total[h] = add(total[h], e);
      }
    }
  }
  reduce_add_each(total, state.sum);
}

}  // namespace
}  // namespace hrun
