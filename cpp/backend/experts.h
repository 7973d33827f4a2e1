// What a backend needs to know of a layer's experts to choose them itself.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/math64.h"
#include "base/tensor.h"

namespace hrun {

class DeviceTensor;
enum class Nonlinearity : uint8_t;

// The slices of a tensor (experts, heads), of one shape and format; empty: there is no such tensor.
using Slices = std::span<const std::unique_ptr<DeviceTensor>>;

// The function from a router's logits to scores.
enum class Gating : uint8_t {
  softmax = 1,
  sigmoid = 2,
  softmax_of_selected = 3,  // GGUF's numbers to here
  sparse_mixer = 255        // two experts, each weighted among those that come near it
};

// SparseMixer (Liu, Gao, Chen 2023) without its noise: the weight of the expert whose score is
// `best` is its softmax among the experts that are left and near.  An expert is near if its score
// is below the best by at most `margin` of the larger of its own magnitude and the best.
// before: the expert that was chosen first; -1: none was.
HRUN_HD double sparse_mixer_weight(const double* scores, int n, double best, int before,
                                   double margin) {
  double sum = 0;
  for (int e = 0; e < n; ++e) {
    if (e == before) continue;
    const double s = scores[e], magnitude = s < 0 ? -s : s;
    const bool far = (best - s) / (magnitude < best ? best : magnitude) > margin;
    if (!far) sum += math64::exp(s - best);
  }
  return 1 / sum;
}

// The rule by which a token chooses its experts and weighs what they give.
struct ExpertRule {
  Gating gating;
  int n_experts, n_used;
  int n_groups, n_groups_used;               // only experts of the best groups are chosen
  bool normed;                               // the weights sum to 1
  double scale;                              // of the weights
  double mixer_margin;                       // of a sparse mixer
  const DeviceTensor* correction = nullptr;  // of the scores, for the choice alone: per expert
  const DeviceTensor* factor = nullptr;      // of the weights: per expert
};

// The experts of a layer: rows of f(gate) * up, or without gates f(up), times down.
struct ExpertBlock {
  ExpertRule rule;
  Slices gate, up, down;
  Slices gate_bias, up_bias, down_bias;
  Nonlinearity f;
};

// Memory for experts(), a row per pair of token and expert: [n_tokens * n_used, rows of the matrix]
struct ExpertScratch {
  FloatView gate, up, mixed;
};

}  // namespace hrun
