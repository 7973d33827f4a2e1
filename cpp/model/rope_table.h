// Cosines and sines of the rotary embedding for every position, with the frequency scalings.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/spec/spec.h"

namespace hrun {

struct RopeTable {
  std::vector<float> cos;  // [n_positions, n_rot / 2]
  std::vector<float> sin;
  std::vector<float> block_cos;  // means of 64 positions, [n_positions / 64, n_rot / 2]
  std::vector<float> block_sin;
};

// Angular frequency per pair, [n_rot / 2], scaling included; `factors` are those of
// rope_freqs.weight, or empty.
std::vector<double> rope_frequencies(const RopeParams& params, std::span<const float> factors);

RopeTable make_rope_table(const RopeParams& params, std::span<const float> factors,
                          int64_t n_positions);

}  // namespace hrun
